// Package oauth is the OAuth wire: how token requests and bearer tokens are read, how tokens and refusals are written.
//
// It takes no decision about a token. What it reads it reads strictly, since the parties before and behind us may read the
// same bytes in another way; what it writes is one of a few shapes that deployed consumers are known to understand.
package oauth

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/edrgate/edrgate/tokens"
)

// DefaultFormLimit is the largest form body and the longest query, in bytes, where a caller passes 0.
const DefaultFormLimit = 64 << 10 // 64 KiB

const grantRefresh = "refresh_token"

// TokenRequest is a request to a token endpoint (RFC 6749 §3.2), as far as it has been read. A parameter that is absent or
// empty is empty here (RFC 6749 §3.2: one without a value counts as omitted).
type TokenRequest struct {
	GrantType    string
	RefreshToken tokens.Secret

	// TokenInQuery says that the request's query may hold a token: nobody may log it. It is set beside an error too.
	TokenInQuery bool
}

// ParseTokenRequest reads the parameters of a token request from its form body and from its query, the latter because
// consumers up to Tractus-X 0.12.1 send them there and nowhere else, and later ones in both places. The limit is in bytes,
// for body and query each; 0 means DefaultFormLimit.
//
// The error is a Refusal. A parameter that is given twice, or with two values in body and query, is refused: the party
// that checked the request before us may have looked at the other one (RFC 6749 §3.2). A body that breaks off is "cannot
// tell", not "no".
func ParseTokenRequest(r *http.Request, limit int64) (TokenRequest, error) {
	if limit <= 0 {
		limit = DefaultFormLimit
	}
	t := TokenRequest{TokenInQuery: QueryMayHoldToken(r.URL.RawQuery)}
	if int64(len(r.URL.RawQuery)) > limit {
		return t, Refusal{Status: http.StatusRequestURITooLong, Code: CodeInvalidRequest, Message: "query is too long"}
	}
	body, err := readForm(r, limit)
	if err != nil {
		return t, err
	}
	query, err := parseParameters(r.URL.RawQuery, "query")
	if err != nil {
		return t, err
	}
	t.GrantType, err = merge("grant_type", body, query)
	if err != nil {
		return t, err
	}
	token, err := merge("refresh_token", body, query)
	if err != nil {
		return t, err
	}
	t.RefreshToken = tokens.Secret(token)
	return t, nil
}

// CheckRefresh refuses a request that is not a complete refresh request (RFC 6749 §6). The messages are those of Tractus-X
// EDC, which its tests look for.
func (t TokenRequest) CheckRefresh() error {
	if t.GrantType == "" {
		return badRequest("Grant type MUST be 'refresh_token' but was 'null'")
	}
	if t.GrantType != grantRefresh {
		message := "Grant type MUST be 'refresh_token'"
		if slices.Contains(knownGrants, t.GrantType) {
			message += " but was '" + t.GrantType + "'"
		}
		return Refusal{Status: http.StatusBadRequest, Code: CodeUnsupportedGrantType, Message: message}
	}
	if t.RefreshToken == "" {
		return badRequest("Parameter 'refresh_token' cannot be null")
	}
	return nil
}

// knownGrants may be quoted in an answer. Anything else may be a token in the wrong place.
var knownGrants = []string{
	"authorization_code", "client_credentials", "password",
	"urn:ietf:params:oauth:grant-type:device_code",
	"urn:ietf:params:oauth:grant-type:jwt-bearer",
	"urn:ietf:params:oauth:grant-type:saml2-bearer",
	"urn:ietf:params:oauth:grant-type:token-exchange",
}

// QueryMayHoldToken reports whether a raw query may hold a token, so that it must not be logged: whether it has the word
// "token", in any case and any encoding. It errs on the side of silence, since a request that is refused, for its method or
// for a broken escape, is logged as well.
func QueryMayHoldToken(rawQuery string) bool {
	return queryHas(rawQuery, "token")
}

// QueryNamesToken is QueryMayHoldToken for requests whose query is somebody else's business, and may have a page token:
// whether it names an access_token or a refresh_token (RFC 6750 §2.3).
func QueryNamesToken(rawQuery string) bool {
	return queryHas(rawQuery, "access_token", "refresh_token")
}

// queryHas looks for lower-case words in a query, decoded once and in any case. It does not allocate for queries of a usual
// length.
func queryHas(rawQuery string, words ...string) bool {
	var buffer [512]byte
	plain := buffer[:0]
	for i := 0; i < len(rawQuery); i++ {
		c := rawQuery[i]
		if c == '%' && i+2 < len(rawQuery) {
			value, err := strconv.ParseUint(rawQuery[i+1:i+3], 16, 8)
			if err == nil {
				c = byte(value)
				i += 2
			}
		}
		if 'A' <= c && c <= 'Z' {
			c |= 0x20
		}
		plain = append(plain, c)
	}
	for _, word := range words {
		if bytes.Contains(plain, []byte(word)) {
			return true
		}
	}
	return false
}

// parameters are the non-empty parameters that the package reads, each with all its values.
type parameters map[string][]string

// known are the parameters that are read. All others are ignored (RFC 6749 §3.2), so they may repeat.
var known = []string{"grant_type", "refresh_token"}

// parseParameters reads application/x-www-form-urlencoded. Values without any escape are read as they are, since consumers
// of Tractus-X do not percent-encode.
func parseParameters(raw, where string) (parameters, error) {
	p := parameters{}
	for raw != "" {
		var pair string
		pair, raw, _ = strings.Cut(raw, "&")
		rawName, rawValue, _ := strings.Cut(pair, "=")
		// url.ParseQuery drops a broken pair and goes on, so that a parameter could be there for another reader only.
		name, err := url.QueryUnescape(rawName)
		if err != nil {
			return nil, badRequest(fmt.Sprintf("broken percent-encoding in the %s", where))
		}
		value, err := url.QueryUnescape(rawValue)
		if err != nil {
			return nil, badRequest(fmt.Sprintf("broken percent-encoding in the %s", where))
		}
		if value == "" || !slices.Contains(known, name) {
			continue
		}
		if !isVisible(value) {
			return nil, badRequest(fmt.Sprintf("parameter '%s' has characters that are not allowed", name))
		}
		if len(p[name]) > 0 {
			return nil, badRequest(fmt.Sprintf("parameter '%s' is given more than once in the %s", name, where))
		}
		p[name] = append(p[name], value)
	}
	return p, nil
}

// merge returns the one value of a parameter.
func merge(name string, body, query parameters) (string, error) {
	values := slices.Concat(body[name], query[name])
	if len(values) == 0 {
		return "", nil
	}
	if len(values) == 2 && values[0] != values[1] {
		// Tractus-X takes the body's. Then whoever logs, limits or caches by the query sees another request.
		return "", badRequest(fmt.Sprintf("parameter '%s' differs between body and query", name))
	}
	return values[0], nil
}

// isVisible reports whether a value consists of the characters of tokens and grant types: %x20-7E (RFC 6749 appendix A.10
// and A.17).
func isVisible(value string) bool {
	for i := range len(value) {
		if value[i] < 0x20 || value[i] > 0x7e {
			return false
		}
	}
	return true
}

// readForm returns the parameters of the body, if there is one.
func readForm(r *http.Request, limit int64) (parameters, error) {
	hasType, err := checkMediaType(r.Header)
	if err != nil {
		return nil, err
	}
	tooLarge := Refusal{Status: http.StatusRequestEntityTooLarge, Code: CodeInvalidRequest, Message: "body is too large"}
	if r.ContentLength > limit {
		return nil, tooLarge
	}
	if r.Body == nil {
		return parameters{}, nil
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, limit+1))
	if err != nil {
		return nil, unreadable(err)
	}
	if int64(len(body)) > limit {
		return nil, tooLarge
	}
	if len(body) == 0 {
		return parameters{}, nil // the consumer of Tractus-X 0.12.1 puts everything into the query
	}
	if !hasType {
		return nil, unsupported("body has no Content-Type, want application/x-www-form-urlencoded")
	}
	for _, mark := range []string{"\xef\xbb\xbf", "\xfe\xff", "\xff\xfe"} {
		if bytes.HasPrefix(body, []byte(mark)) {
			return nil, badRequest("body starts with a byte order mark")
		}
	}
	return parseParameters(string(body), "body")
}

// checkMediaType returns whether the request names the type of its body, and refuses another type than that of a form, as
// Tractus-X does. The parameters of the type are ignored: a charset has no meaning for this type.
func checkMediaType(h http.Header) (bool, error) {
	for _, encoding := range h.Values("Content-Encoding") {
		if encoding != "" && !strings.EqualFold(encoding, "identity") {
			return false, unsupported("body is compressed") // RFC 9110 §15.5.16
		}
	}
	types := h.Values("Content-Type")
	if len(types) > 1 {
		return false, badRequest("more than one Content-Type")
	}
	if len(types) == 0 || types[0] == "" {
		return false, nil
	}
	media, _, err := mime.ParseMediaType(types[0])
	if err != nil && !errors.Is(err, mime.ErrInvalidMediaParameter) || media != "application/x-www-form-urlencoded" {
		return false, unsupported("want Content-Type application/x-www-form-urlencoded")
	}
	return true, nil
}

func unsupported(message string) Refusal {
	return Refusal{Status: http.StatusUnsupportedMediaType, Code: CodeInvalidRequest, Message: message}
}

// unreadable tells a body that broke off or came too slowly, which says nothing about the request, from one that is not
// HTTP. A consumer takes a 4xx for final and gives the transfer up.
func unreadable(err error) Refusal {
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return Refusal{Status: http.StatusRequestEntityTooLarge, Code: CodeInvalidRequest, Message: "body is too large"}
	}
	var network net.Error
	if errors.As(err, &network) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return Refusal{Status: http.StatusServiceUnavailable, Code: CodeTemporarilyUnavailable, Message: "body could not be read"}
	}
	return badRequest("body could not be read")
}
