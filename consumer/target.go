package consumer

import (
	"net/url"
	"strings"

	"github.com/edrgate/edrgate/internal/canonical"
)

// asWritten are the forms of a path that the provider's own endpoint and its resources may have.
var asWritten = canonical.Options{AllowEncodedSlash: true, AllowEncodedPercent: true, AllowDoubleSlash: true}

// target returns the URL of a data request. A URL with a host must lie under the EDR's endpoint: the token is for that, and
// no other address of the provider, let alone anybody else's, gets to see it. A URL without a host is appended to the
// endpoint. The result lies under the endpoint in either case, dot segments or not. The queries of both are joined, the
// endpoint's first.
func target(e *EDR, asked *url.URL) (*url.URL, error) {
	base, err := url.Parse(e.Endpoint)
	if err != nil {
		return nil, refuse(CodeInvalid, "endpoint is not a URL")
	}
	root := base.EscapedPath()
	if root != "" {
		root, err = canonical.Path(root, asWritten)
		if err != nil {
			return nil, &Error{Code: CodeInvalid, Detail: "endpoint", cause: err}
		}
	}
	below := asked.EscapedPath()
	if asked.Host != "" {
		below, err = under(base, root, asked)
		if err != nil {
			return nil, err
		}
	}
	if below != "" && below[0] != '/' {
		below = "/" + below
	}
	if below != "" {
		below, err = canonical.Path(below, asWritten)
		if err != nil {
			return nil, &Error{Code: CodeOutside, cause: err}
		}
	}
	path, err := canonical.Join(root, below)
	if err != nil {
		return nil, &Error{Code: CodeOutside, cause: err}
	}
	u := *base
	err = canonical.Set(&u, path)
	if err != nil {
		return nil, &Error{Code: CodeOutside, cause: err}
	}
	switch {
	case asked.RawQuery == "":
	case u.RawQuery == "":
		u.RawQuery = asked.RawQuery
	default:
		u.RawQuery += "&" + asked.RawQuery
	}
	return &u, nil
}

// under returns what of an absolute URL lies below the endpoint.
func under(base *url.URL, root string, asked *url.URL) (string, error) {
	if !strings.EqualFold(asked.Scheme, base.Scheme) || !strings.EqualFold(asked.Hostname(), base.Hostname()) || port(asked) != port(base) || asked.User != nil {
		return "", refuse(CodeOutside, "the request is not for the host of the EDR's endpoint")
	}
	path, err := canonical.Path(asked.EscapedPath(), asWritten)
	if err != nil {
		return "", &Error{Code: CodeOutside, cause: err}
	}
	below, ok := canonical.Under(path, root)
	if !ok {
		return "", refuse(CodeOutside, "the request does not lie under the EDR's endpoint")
	}
	return below, nil
}

// port returns the port of a URL, also where it is the scheme's own.
func port(u *url.URL) string {
	if u.Port() != "" {
		return u.Port()
	}
	if strings.EqualFold(u.Scheme, "http") {
		return "80"
	}
	return "443"
}
