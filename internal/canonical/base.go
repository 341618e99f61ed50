package canonical

import "strings"

// Under reports whether a canonical path lies under a canonical prefix, and returns what lies below it: "", or a path that
// starts with a slash. Whole segments are compared, byte for byte: "/ds1x" and "/DS1" are not under "/ds1". A slash at the
// end of the prefix makes no difference; everything is under "/" and "".
func Under(path, prefix string) (string, bool) {
	prefix = strings.TrimSuffix(prefix, "/")
	rest, found := strings.CutPrefix(path, prefix)
	if !found || rest != "" && rest[0] != '/' {
		return "", false
	}
	return rest, true
}

// Join appends to a canonical base path what Under returned. An empty rest and "/" give the base as it is written, so that
// a base without a final slash gets none (observed on Tractus-X 0.12.1). The result is canonical and under the base: both
// are checked again here, because this is the last step before a backend that holds more than this consumer may see. The
// error is ErrNotCanonicalBase, ErrOutsideBase, or one of Path's.
//
// Base paths come from the provider's own side and may hold every form that Options allow; get one from Path with all of
// them set.
func Join(base, rest string) (string, error) {
	all := Options{AllowEncodedSlash: true, AllowEncodedPercent: true, AllowDoubleSlash: true}
	clean, err := canonical(base, all, MaxBytes)
	if err != nil {
		return "", ErrNotCanonicalBase
	}
	if base != "" && clean != base {
		return "", ErrNotCanonicalBase
	}
	if rest == "" || rest == "/" {
		return clean, nil
	}
	if rest[0] != '/' {
		return "", ErrNotAbsolute
	}
	joined := strings.TrimSuffix(clean, "/") + rest
	again, err := canonical(joined, all, 2*MaxBytes)
	if err != nil {
		return "", err
	}
	if again != joined {
		return "", ErrOutsideBase // a rest that is not canonical: its dot segments would climb into the base
	}
	_, ok := Under(again, clean)
	if !ok {
		return "", ErrOutsideBase
	}
	return again, nil
}
