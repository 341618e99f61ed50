package did

import (
	"net/http"
	"strconv"
	"strings"
	"time"
)

// minMaxAge is the shortest time for which a document is taken from the cache, whatever its Cache-Control says. Without
// it a host that answers no-store could be hit once for every proof that somebody makes up. It is the interval of forced
// refetches, so neither way gives more than the other.
const minMaxAge = refetchInterval

// lifetime is what an answer says about its reuse.
type lifetime struct {
	fresh  time.Duration // from the moment the request was sent
	strict bool          // it must not be used later than that, even while the host fails
}

// lifetimeOf reads Cache-Control and Age (RFC 9111 §5.1, §5.2.2). The answer may shorten limit and never lengthens it:
// limit is how long a key that its owner has withdrawn keeps its power.
func lifetimeOf(h http.Header, limit time.Duration) lifetime {
	l := lifetime{fresh: limit}
	for _, directive := range strings.Split(strings.Join(h.Values("Cache-Control"), ","), ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(directive), "=")
		switch strings.ToLower(name) {
		case "no-store", "no-cache":
			l.fresh, l.strict = 0, true
		case "must-revalidate":
			l.strict = true
		case "max-age":
			l.fresh = min(l.fresh, seconds(strings.Trim(value, `"`)))
		}
	}
	l.fresh -= seconds(h.Get("Age"))
	l.fresh = max(l.fresh, min(minMaxAge, limit))
	return l
}

// seconds reads delta-seconds (RFC 9111 §1.2.2). What is not a number counts as none: for max-age that means stale
// (RFC 9111 §4.2.1).
func seconds(s string) time.Duration {
	const most = 1 << 31
	n, err := strconv.ParseUint(s, 10, 63)
	if err != nil {
		return 0
	}
	return time.Duration(min(n, most)) * time.Second
}
