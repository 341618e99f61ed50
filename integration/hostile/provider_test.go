package hostile

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/edrgate/edrgate/internal/testkit"
)

func testkitJSON(w *world, v any) []byte { return testkit.JSON(w.t, v) }

// hold keeps an EDR of the world's provider, which answers under the name.
func (w *world) hold(name, asset string, changes ...any) string {
	w.t.Helper()
	id := "transfer-" + name
	body := string(testkit.JSON(w.t, map[string]any{"providerId": "did:web:provider.example", "assetId": asset, "dataAddress": with(w.goodAddress(name), changes...)}))
	w.want(w.edrs, call(w.edrs, http.MethodPut, "/v3/edrs/"+id, body), http.StatusOK)
	return id
}

// plain makes a name for the path of a URL of a name for people.
func plain(name string) string {
	return strings.Map(func(r rune) rune {
		if 'a' <= r && r <= 'z' || '0' <= r && r <= '9' {
			return r
		}
		return '-'
	}, strings.ToLower(name)) + "-" + fmt.Sprint(len(name))
}

// providerShapes are what a provider answers that wants more than to give its data: to renewals, and to requests for data.
func providerShapes(w *world) []shape { return append(renewalAnswers(w), dataAnswers(w)...) }

// renewalAnswer is an answer to a renewal, and what whoever asked for it gets.
type renewalAnswer struct {
	answer http.HandlerFunc
	status int
	code   string
}

func answered(status int, body string, headers ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}
}

// cannotRenew is the answer where it cannot be told whether a token could be renewed.
const cannotRenew = "cannot tell now, ask again later"

// renewalAnswers: a clear refusal is one, whatever else is not the answer of a token endpoint (RFC 6749 §5.1) tells nothing.
func renewalAnswers(w *world) []shape {
	table := map[string]renewalAnswer{}
	unclear := func(name string, answer http.HandlerFunc) {
		table[name] = renewalAnswer{answer, http.StatusServiceUnavailable, cannotRenew}
	}
	const access = `"access_token":"a-new-access-token-that-is-not-good"`
	for name, body := range map[string]string{
		"nothing": "", "HTML": "<!doctype html><title>login</title>", "a list": "[{" + access + "}]", "text": `"x"`, "null": "null", "an empty object": "{}", "not closed": "{" + access, "with something behind": "{" + access + "}x", "twice": "{" + access + "}{" + access + "}",
		"no access token": `{"refresh_token":"a-new-one"}`, "an empty access token": `{"access_token":""}`, "an access token that is a number": `{"access_token":1}`, "an access token that is null": `{"access_token":null}`, "an access token twice": "{" + access + "," + access + "}",
		"an access token twice, in escapes": `{` + access + `,"\u0061ccess_token":"other"}`, "an access token with a line break": `{"access_token":"abc\r\nX-Injected: y"}`, "an access token with a space": `{"access_token":"a b"}`, "an access token not ASCII": `{"access_token":"\u00e4"}`,
		"an access token of 17 KiB": `{"access_token":"` + strings.Repeat("a", 17<<10) + `"}`, "a refresh token that is a number": "{" + access + `,"refresh_token":1}`, "a refresh token with a line break": "{" + access + `,"refresh_token":"a\nb"}`,
		"a refresh token of 17 KiB": "{" + access + `,"refresh_token":"` + strings.Repeat("a", 17<<10) + `"}`, "type mac": "{" + access + `,"token_type":"mac"}`, "type DPoP": "{" + access + `,"token_type":"DPoP"}`, "type a number": "{" + access + `,"token_type":1}`,
		"a life below zero": "{" + access + `,"expires_in":-1}`, "a life of text": "{" + access + `,"expires_in":"soon"}`, "a life without end": "{" + access + `,"expires_in":"Infinity"}`, "a life that is an object": "{" + access + `,"expires_in":{}}`, "a life that is no number": "{" + access + `,"expires_in":"NaN"}`,
		"65 KiB": `{"x":"` + strings.Repeat("a", 65<<10) + `",` + access + "}", "10 MB": `{"x":"` + strings.Repeat("a", 10<<20) + `",` + access + "}", "deep": `{"x":` + string(deepJSON(10_000)) + "," + access + "}", "not UTF-8": "{\"x\":\"\xff\"," + access + "}",
		"a byte order mark": "\xef\xbb\xbf{" + access + "}", "a form": "access_token=a-new-one", "an error with status 200": `{"error":"invalid_grant"}`,
	} {
		unclear("200 with "+name, answered(http.StatusOK, body, "Content-Type", "application/json"))
	}
	for _, status := range []int{204, 300, 301, 302, 303, 304, 307, 308, 408, 425, 429, 500, 501, 502, 503, 504, 599} {
		unclear(fmt.Sprint("status ", status), answered(status, ""))
	}
	for name, place := range map[string]string{"the metadata": "http://169.254.169.254/latest", "a file": "file:///etc/passwd", "itself": "renew", "the admin API": "http://127.0.0.1:2019/config/"} {
		unclear("a redirect to "+name, answered(http.StatusTemporaryRedirect, "", "Location", place))
	}
	unclear("compressed", answered(http.StatusOK, "{"+access+"}", "Content-Encoding", "gzip"))
	unclear("429 and Retry-After of a century", answered(http.StatusTooManyRequests, "", "Retry-After", "3155760000"))
	unclear("503 and Retry-After beyond all numbers", answered(http.StatusServiceUnavailable, "", "Retry-After", strings.Repeat("9", 100)))
	unclear("503 and Retry-After below zero", answered(http.StatusServiceUnavailable, "", "Retry-After", "-1"))
	unclear("20 KiB of headers", answered(http.StatusOK, "{"+access+"}", "X-Large", strings.Repeat("a", 20<<10)))
	for name, text := range map[string]string{
		"no HTTP": "SSH-2.0-x\r\n", "nothing at all": "", "a status of no number": "HTTP/1.1 ok\r\n\r\n", "two lengths": "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}", "a body that is cut": "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{" + access + "}",
		"a chunk of no size": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "a header without a colon": "HTTP/1.1 200 OK\r\nX\r\n\r\n{}", "an upgrade": "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n",
	} {
		unclear("bytes: "+name, rawAnswer(text))
	}
	for _, status := range []int{401, 403} {
		table[fmt.Sprint("status ", status)] = renewalAnswer{answered(status, "<script>"+marker+"</script>"), http.StatusForbidden, `"type":"NotAuthorized"`}
	}
	for _, status := range []int{400, 402, 404, 405, 409, 410, 413, 415, 418, 422, 426, 451} {
		table[fmt.Sprint("status ", status)] = renewalAnswer{
			answered(status, `{"error":"invalid_grant","error_description":"`+marker+`"}`), http.StatusBadRequest, fmt.Sprint("the provider answered ", status),
		}
	}
	var shapes []shape
	for name, c := range table {
		place := plain("renewal " + name)
		w.provider.answer(place, c.answer)
		id := w.hold(place, "renewals")
		// One that cannot tell is tried four times: all at once, or they would take minutes.
		type result struct {
			reply
			err error
		}
		done := make(chan result, 1)
		go func() {
			answer, err := exchange(w.edrs, call(w.edrs, http.MethodPost, "/v3/edrs/"+id+"/refresh", ""))
			done <- result{answer, err}
		}()
		shapes = append(shapes, shape{name: "renewal: " + name, to: edrs, status: c.status, code: c.code, ask: func(*world) (reply, error) {
			r := <-done
			return r.reply, r.err
		}, also: func(w *world, answer reply) string {
			_, last := w.provider.seen(place)
			switch {
			case !strings.HasSuffix(last.target, "/renew"):
				return "the provider saw " + last.target
			case strings.Contains(answer.raw, marker):
				return "the provider's text is in the answer"
			case len(answer.header.Get("Retry-After")) > 3:
				return "Retry-After " + answer.header.Get("Retry-After")
			}
			return ""
		}}, shape{name: "renewal: " + name + ", and it is kept", to: edrs, status: http.StatusOK, code: "authorization", hands: true, send: func(w *world) string {
			return call(w.edrs, http.MethodGet, "/v3/edrs/"+id+"/dataaddress?auto_refresh=false", "")
		}})
	}
	return shapes
}

// dataAnswers are what comes back through edr_egress, whose name stands for the company's own among its browsers.
func dataAnswers(w *world) []shape {
	var shapes []shape
	add := func(name string, status int, code string, answer http.HandlerFunc, also func(reply) string) {
		place := plain("data " + name)
		w.provider.answer(place, answer)
		id := w.hold(place, "answers")
		shapes = append(shapes, shape{name: "data: " + name, to: egress, status: status, code: code, send: func(w *world) string {
			return call(w.egress, http.MethodGet, "/"+id+"/x", "")
		}, also: func(w *world, answer reply) string {
			if also != nil {
				return also(answer)
			}
			return ""
		}})
	}
	for name, text := range map[string]string{
		"no HTTP": "SSH-2.0-x\r\n", "nothing at all": "", "a status of no number": "HTTP/1.1 ok\r\n\r\n", "a status of two digits": "HTTP/1.1 20 OK\r\n\r\n", "two lengths": "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
		"a length below zero": "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "a header without a colon": "HTTP/1.1 200 OK\r\nX\r\n\r\nab", "a header of 20 MB": "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("a", 20<<20) + "\r\n\r\n", "an unknown coding": "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
		"an upgrade": "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n", "a folded status": "HTTP/1.1\r\n 200 OK\r\n\r\n",
	} {
		add("bytes: "+name, http.StatusBadGateway, "data plane", rawAnswer(text), nil)
	}
	for _, name := range []string{
		"Set-Cookie", "Set-Cookie2", "Access-Control-Allow-Origin", "Access-Control-Allow-Credentials", "Access-Control-Expose-Headers", "Alt-Svc", "Clear-Site-Data", "Strict-Transport-Security", "X-Accel-Redirect", "X-Accel-Buffering",
		"Proxy-Authenticate", "Proxy-Connection", "Edrgate-Not-Replayed", "Keep-Alive",
	} {
		drop := func(answer reply) string {
			if strings.Contains(answer.raw, marker) {
				return name + " was passed on"
			}
			return ""
		}
		add("header "+name, http.StatusOK, "", answered(http.StatusOK, "data", name, marker), drop)
		add("header in small letters "+name, http.StatusOK, "", rawAnswer("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n"+strings.ToLower(name)+": "+marker+"\r\n\r\ndata"), drop)
		add("trailer "+name, http.StatusOK, "", rawAnswer("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: "+name+"\r\n\r\n4\r\ndata\r\n0\r\n"+name+": "+marker+"\r\n\r\n"), drop)
		add("early hints "+name, http.StatusOK, "", rawAnswer("HTTP/1.1 103 Early Hints\r\n"+name+": "+marker+"\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndata"), drop)
	}
	for name, place := range map[string]string{"the metadata": "http://169.254.169.254/latest", "a file": "file:///etc/passwd", "another host": "https://attacker.example/"} {
		add("a redirect to "+name, http.StatusFound, "", answered(http.StatusFound, "", "Location", place), nil) // passed on, not followed
	}
	for name, endpoint := range map[string]string{
		"metadata": "https://169.254.169.254/latest", "metadata in IPv6": "https://[fd00:ec2::254]/", "metadata, mapped": "https://[::ffff:169.254.169.254]/", "an inner network": "https://10.0.0.1/", "a carrier's": "https://100.64.0.1/", "no address": "https://0.0.0.0/",
		"metadata in one number": "https://2852039166/", "no such host": "https://no-such-host.invalid/", "a port that is closed": "https://127.0.0.1:9/", "no TLS": "https://" + w.weather.address() + "/",
	} {
		place := plain("endpoint " + name)
		id := w.hold(place, "answers", "endpoint", endpoint)
		shapes = append(shapes, shape{name: "endpoint: " + name, to: egress, status: http.StatusBadGateway, code: "could not be reached", send: func(w *world) string {
			return call(w.egress, http.MethodGet, "/"+id+"/x", "")
		}})
	}
	return shapes
}
