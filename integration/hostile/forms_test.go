package hostile

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

// formShapes are token requests that two readers may read differently, or that are none (RFC 6749 §3.2, §6; the refresh
// endpoint of Tractus-X takes the parameters from the query). The proof and the refresh token in them are good.
func formShapes(*world) []shape {
	return append(append(bodyShapes(), queryShapes()...), endpointShapes()...)
}

const (
	wrongGrant   = "Grant type MUST be 'refresh_token'"
	missingGrant = "Grant type MUST be 'refresh_token' but was 'null'"
	missingToken = "Parameter 'refresh_token' cannot be null"
	givenTwice   = "is given more than once"
	differs      = "differs between body and query"
	brokenEscape = "broken percent-encoding"
	notAllowed   = "has characters that are not allowed"
	wantForm     = "want Content-Type application/x-www-form-urlencoded"
	bodyTooLarge = "body is too large"
)

// rt stands for the refresh token in the tables.
const rt = "{rt}"

func bodyShapes() []shape {
	var shapes []shape
	for name, c := range map[string]struct {
		body   string
		status int
		code   string
	}{
		"empty":                            {"", 400, missingGrant},
		"grant_type missing":               {"refresh_token=" + rt, 400, missingGrant},
		"grant_type empty":                 {"grant_type=&refresh_token=" + rt, 400, missingGrant},
		"grant_type without a value":       {"grant_type&refresh_token=" + rt, 400, missingGrant},
		"grant_type password":              {"grant_type=password&refresh_token=" + rt, 400, wrongGrant},
		"grant_type in capitals":           {"grant_type=REFRESH_TOKEN&refresh_token=" + rt, 400, wrongGrant},
		"grant_type with a space":          {"grant_type=refresh_token+&refresh_token=" + rt, 400, wrongGrant},
		"grant_type client_credentials":    {"grant_type=client_credentials&refresh_token=" + rt, 400, wrongGrant},
		"grant_type token-exchange":        {"grant_type=urn:ietf:params:oauth:grant-type:token-exchange&refresh_token=" + rt, 400, wrongGrant},
		"grant_type jwt-bearer":            {"grant_type=urn:ietf:params:oauth:grant-type:jwt-bearer&refresh_token=" + rt, 400, wrongGrant},
		"grant_type a token":               {"grant_type=" + rt + "&refresh_token=" + rt, 400, wrongGrant}, // and it is not quoted back
		"grant_type a script":              {"grant_type=%3Cscript%3E&refresh_token=" + rt, 400, wrongGrant},
		"grant_type with NUL":              {"grant_type=refresh_token%00&refresh_token=" + rt, 400, notAllowed},
		"grant_type with a line break":     {"grant_type=refresh_token%0d%0aX:1&refresh_token=" + rt, 400, notAllowed},
		"grant_type not ASCII":             {"grant_type=refresh_token%C3%A4&refresh_token=" + rt, 400, notAllowed},
		"grant_type twice, the same":       {"grant_type=refresh_token&grant_type=refresh_token&refresh_token=" + rt, 400, givenTwice},
		"grant_type twice, different":      {"grant_type=password&grant_type=refresh_token&refresh_token=" + rt, 400, givenTwice},
		"name in capitals":                 {"GRANT_TYPE=refresh_token&refresh_token=" + rt, 400, missingGrant},
		"name as of a list":                {"grant_type[]=refresh_token&refresh_token=" + rt, 400, missingGrant},
		"names with spaces":                {"grant_type =refresh_token&refresh_token=" + rt, 400, missingGrant},
		"refresh_token missing":            {"grant_type=refresh_token", 400, missingToken},
		"refresh_token empty":              {"grant_type=refresh_token&refresh_token=", 400, missingToken},
		"refresh_token twice, the same":    {"grant_type=refresh_token&refresh_token=" + rt + "&refresh_token=" + rt, 400, givenTwice},
		"refresh_token twice, different":   {"grant_type=refresh_token&refresh_token=x&refresh_token=" + rt, 400, givenTwice},
		"refresh_token twice, one encoded": {"grant_type=refresh_token&%72efresh_token=x&refresh_token=" + rt, 400, givenTwice},
		"refresh-token":                    {"grant_type=refresh_token&refresh-token=" + rt, 400, missingToken},
		"refreshToken":                     {"grant_type=refresh_token&refreshToken=" + rt, 400, missingToken},
		"semicolons":                       {"grant_type=refresh_token;refresh_token=" + rt, 400, wrongGrant},
		"a broken escape":                  {"grant_type=refresh_token&refresh_token=" + rt + "%zz", 400, brokenEscape},
		"a cut escape":                     {"grant_type=refresh_token&refresh_token=" + rt + "%2", 400, brokenEscape},
		"a broken escape elsewhere":        {"x=%&grant_type=refresh_token&refresh_token=" + rt, 400, brokenEscape},
		"a broken escape in a name":        {"%g1=x&grant_type=refresh_token&refresh_token=" + rt, 400, brokenEscape},
		"a byte order mark":                {"\xef\xbb\xbfgrant_type=refresh_token&refresh_token=" + rt, 400, "byte order mark"},
		"UTF-16":                           {"\xff\xfeg\x00r\x00", 400, "byte order mark"},
		"JSON, called a form":              {`{"grant_type":"refresh_token","refresh_token":"` + rt + `"}`, 400, missingGrant},
		"XML, called a form":               {`<grant_type>refresh_token</grant_type>`, 400, missingGrant},
		"64 KiB and a byte":                {"x=" + strings.Repeat("a", 64<<10) + "&grant_type=refresh_token", 413, bodyTooLarge},
		"10 MB":                            {"x=" + strings.Repeat("a", 10<<20), 413, bodyTooLarge},
		"10,000 parameters, no grant":      {strings.Repeat("a=b&", 10_000), 400, missingGrant},
		"ampersands alone":                 {strings.Repeat("&", 1000), 400, missingGrant},
		"equals signs alone":               {strings.Repeat("=", 1000), 400, missingGrant},
		"binary":                           {"\x00\x01\x02\xff", 400, missingGrant},
	} {
		shapes = append(shapes, shape{name: "body: " + name, status: c.status, code: c.code, send: func(w *world) string {
			return post(w.data, "/token", formType, strings.ReplaceAll(c.body, rt, w.dps.refresh), bearer(w.proof(w.dps)))
		}})
	}
	for name, c := range map[string]struct {
		contentType string
		status      int
		code        string
	}{
		"JSON":             {"application/json", 415, wantForm},
		"multipart":        {"multipart/form-data; boundary=x", 415, wantForm},
		"text":             {"text/plain", 415, wantForm},
		"of nothing":       {"x", 415, wantForm},
		"broken":           {"application/x-www-form-urlencoded/x", 415, wantForm},
		"a list":           {"application/x-www-form-urlencoded, application/json", 415, wantForm},
		"binary":           {"application/octet-stream", 415, wantForm},
		"missing":          {"", 415, "body has no Content-Type"},
		"with a wildcard":  {"*/*", 415, wantForm},
		"with a semicolon": {";", 415, wantForm},
	} {
		shapes = append(shapes, shape{name: "type " + name, status: c.status, code: c.code, send: func(w *world) string {
			return post(w.data, "/token", c.contentType, refreshForm(w.dps.refresh), bearer(w.proof(w.dps)))
		}})
	}
	for name, c := range map[string]struct {
		header string
		status int
		code   string
	}{
		"a second Content-Type":         {"Content-Type: application/json", 400, "more than one Content-Type"},
		"compressed":                    {"Content-Encoding: gzip", 415, "body is compressed"},
		"compressed twice":              {"Content-Encoding: identity\r\nContent-Encoding: br", 415, "body is compressed"},
		"a second Authorization":        {"Authorization: Bearer x", 400, "more than one Authorization"},
		"an encoding of no sense":       {"Content-Encoding: x-unheard-of", 415, "body is compressed"},
		"the proof in a cookie as well": {"Authorization: Basic eDp5\r\nCookie: Authorization=x", 400, "more than one Authorization"},
	} {
		shapes = append(shapes, shape{name: "with " + name, status: c.status, code: c.code, send: func(w *world) string {
			return post(w.data, "/token", formType, refreshForm(w.dps.refresh), bearer(w.proof(w.dps)), c.header)
		}})
	}
	return shapes
}

func queryShapes() []shape {
	var shapes []shape
	for name, c := range map[string]struct {
		query, body string
		status      int
		code        string
	}{
		"grant_type missing":                {"refresh_token=" + rt, "", 400, missingGrant},
		"grant_type another":                {"grant_type=password&refresh_token=" + rt, "", 400, wrongGrant},
		"refresh_token missing":             {"grant_type=refresh_token", "", 400, missingToken},
		"refresh_token twice":               {"grant_type=refresh_token&refresh_token=x&refresh_token=" + rt, "", 400, givenTwice},
		"refresh_token twice, the same":     {"grant_type=refresh_token&refresh_token=" + rt + "&refresh_token=" + rt, "", 400, givenTwice},
		"refresh_token differs in the body": {"grant_type=refresh_token&refresh_token=x", "refresh_token=" + rt, 400, differs},
		"grant_type differs in the body":    {"grant_type=password&refresh_token=" + rt, "grant_type=refresh_token", 400, differs},
		"a broken escape":                   {"grant_type=refresh_token&refresh_token=" + rt + "%", "", 400, brokenEscape},
		"a broken escape, body good":        {"x=%zz", "grant_type=refresh_token&refresh_token=" + rt, 400, brokenEscape},
		"a line break":                      {"grant_type=refresh_token&refresh_token=" + rt + "%0a", "", 400, notAllowed},
		"not UTF-8":                         {"grant_type=refresh_token&refresh_token=%ff" + rt, "", 400, notAllowed},
		"semicolons":                        {"grant_type=refresh_token;refresh_token=" + rt, "", 400, wrongGrant},
		"encoded twice":                     {"grant_type=refresh%255ftoken&refresh_token=" + rt, "", 400, wrongGrant},
		"name encoded, and twice":           {"grant_type=refresh_token&refresh%5ftoken=x&refresh_token=" + rt, "", 400, givenTwice},
		"a question mark":                   {"?grant_type=refresh_token&refresh_token=" + rt, "", 400, missingGrant},
		"a placeholder":                     {"grant_type={env.HOME}&refresh_token=" + rt, "", 400, wrongGrant},
	} {
		shapes = append(shapes, shape{name: "query: " + name, status: c.status, code: c.code, send: func(w *world) string {
			fill := func(text string) string { return strings.ReplaceAll(text, rt, w.dps.refresh) }
			return post(w.data, "/token?"+fill(c.query), formType, fill(c.body), bearer(w.proof(w.dps)))
		}})
	}
	return append(shapes, shape{
		name: "query: the proof is there too", status: http.StatusUnauthorized, code: "Authorization header missing",
		send: func(w *world) string {
			query := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {w.dps.refresh}, "access_token": {w.proof(w.dps)}}.Encode()
			return post(w.data, "/token?"+query, "", "")
		},
	})
}

// endpointShapes are other ways to ask at or beside the refresh endpoint. What is not a renewal is a data request.
func endpointShapes() []shape {
	var shapes []shape
	for name, c := range map[string]struct {
		header string
		status int
		code   string
	}{
		"no proof":                     {"X: y", 401, "Authorization header missing"},
		"an empty proof":               {"Authorization: ", 401, "Authorization header missing"},
		"Basic":                        {"Authorization: Basic eDp5", 401, "Authorization header missing"},
		"DPoP":                         {"Authorization: DPoP x.y.z", 401, "Authorization header missing"},
		"the scheme alone":             {"Authorization: Bearer", 400, invalidRequest},
		"two proofs":                   {"Authorization: Bearer a b", 400, invalidRequest},
		"no JWT":                       {"Authorization: Bearer abc", 401, authenticationFailed},
		"a tab":                        {"Authorization: Bearer\tabc", 400, invalidRequest},
		"a token in X-Api-Key":         {"X-Api-Key: {access}", 401, "Authorization header missing"},
		"the refresh token as a proof": {"Authorization: Bearer " + rt, 401, authenticationFailed},
	} {
		shapes = append(shapes, shape{name: "proof: " + name, status: c.status, code: c.code, send: func(w *world) string {
			header := strings.NewReplacer(rt, w.dps.refresh, "{access}", w.dps.access).Replace(c.header)
			return post(w.data, "/token", formType, refreshForm(w.dps.refresh), header)
		}})
	}
	for _, method := range []string{"PUT", "PATCH", "DELETE", "PROPFIND", "BREW"} {
		shapes = append(shapes, shape{
			name: "method " + method + " without a token", status: http.StatusUnauthorized, code: "Bearer realm",
			send: func(w *world) string {
				return lines(method+" /token?"+refreshForm(w.dps.refresh)+" HTTP/1.1", "Host: "+w.data, "Connection: close", "Content-Length: 0")
			},
		})
	}
	for name, target := range map[string]string{
		"below it": "/token/x", "with dots": "/x/../token/y", "beside it": "/tokens", "in capitals": "/TOKEN", "encoded": "/%74oken",
	} {
		shapes = append(shapes, shape{
			name: "path " + name, status: http.StatusUnauthorized, code: `error="invalid_token"`, // data requests, with a proof for a token
			send: func(w *world) string {
				return post(w.data, target, formType, refreshForm(w.dps.refresh), bearer(w.proof(w.dps)))
			},
		})
	}
	chunked := func(body string) func(*world) string {
		return func(w *world) string {
			return lines("POST /token HTTP/1.1", "Host: "+w.data, "Connection: close", "Transfer-Encoding: chunked", "Content-Type: "+formType,
				bearer(w.proof(w.dps))) + body
		}
	}
	return append(shapes,
		shape{name: "chunked, 10 MB", status: 413, code: bodyTooLarge, send: chunked(fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", 10<<20, strings.Repeat("a", 10<<20)))},
		shape{name: "chunked, a size that is none", status: 400, send: chunked("zz\r\nabc\r\n0\r\n\r\n")},
		shape{name: "chunked, a negative size", status: 400, send: chunked("-1\r\n\r\n")},
		shape{name: "chunked, a size of 2^64", status: 400, send: chunked("10000000000000000\r\n")},
		shape{name: "chunked, one million sizes of nothing much", status: 413, code: bodyTooLarge, send: chunked(strings.Repeat("1\r\na\r\n", 100_000) + "0\r\n\r\n")},
	)
}
