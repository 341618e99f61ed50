package hostile

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/edrgate/edrgate/internal/testkit"
)

// braces are what Caddy, or a route, would replace if it took what a message says for a configuration (CVE-2026-30852).
var braces = []string{
	"{env.HOME}", "{env.PATH}", "{file./etc/hostname}", "{file.{env.HOME}/Caddyfile}", "{system.hostname}", "{http.request.header.Authorization}", "{http.auth.user.id}", "{http.vars.root}", "{edr.flow}", "{edr.metadata.tenant}", "{{env.HOME}}", "{$HOME}",
	`\{env.HOME\}`, "{http.reverse_proxy.upstream.address}", "%7Benv.HOME%7D", "{env.HOME", "{time.now}",
}

// placeholderShapes have placeholders in ids, claims, metadata, credentials, headers and URLs, and values that a header or a path
// cannot hold. What the backend gets is what was said, or the start is refused.
func placeholderShapes(*world) []shape {
	return append(append(identityShapes(), tenantShapes()...), append(requestBraces(), sourceBraces()...)...)
}

// opened starts a flow whose message was changed, and asks for data with its token.
func (w *world) opened(path string, message map[string]any, address, target string) (reply, error) {
	answer, err := exchange(w.signaling, w.message(path, message))
	if err != nil || answer.status != http.StatusOK {
		return answer, err
	}
	f := w.readEDR(message, testkit.NewWallet("did:web:of.no.use"), answer)
	return exchange(address, get(address, target, bearer(f.access)))
}

// identityShapes have odd agreement ids, which go into a header.
func identityShapes() []shape {
	var shapes []shape
	add := func(name, agreement, want string) {
		shapes = append(shapes, shape{name: "agreement " + name, status: http.StatusOK, backend: true, ask: func(w *world) (reply, error) {
			message := with(w.dpsStart("weather", w.dps.wallet.DID), "agreementId", agreement)
			return w.opened("/dataflows/start", message, w.data, "/x")
		}, also: func(w *world, _ reply) string {
			got := w.lastSeen(data).header.Values("Edc-Contract-Agreement-Id")
			if strings.Join(got, "|") != want || want == "" && len(got) > 0 {
				return "the backend got the agreement " + strings.Join(got, "|")
			}
			return ""
		}})
	}
	for _, text := range braces {
		add(text, text, text)
	}
	// One that a header cannot hold as it is, is left out: a changed one could be somebody else's.
	for name, agreement := range map[string]string{"not ASCII": "agreement-\u00e4", "of another script": "\u5951\u7d04", "with a space behind": "agreement "} {
		add(name, agreement, "")
	}
	for name, agreement := range map[string]string{"with commas": "a,b", "with a colon": "X: y", "with quotes": `"a"`, "a list in JSON": `["a","b"]`, "of 900 characters": strings.Repeat("a", 900)} {
		add(name, agreement, agreement)
	}
	for name, agreement := range map[string]string{"with a line break": "a\r\nX-Injected: y", "with NUL": "a\x00", "with a tab": "a\tb", "of 8 kB": strings.Repeat("a", 8<<10), "with DEL": "a\x7f", "with an escape": "a\x1b[31m", "right to left": "\u202eagreement"} {
		shapes = append(shapes, shape{
			name: "agreement " + name, to: signaling, status: http.StatusBadRequest, code: "agreementId",
			send: func(w *world) string {
				return w.message("/dataflows/start", with(w.dpsStart("weather", w.dps.wallet.DID), "agreementId", agreement))
			},
		})
	}
	return shapes
}

// tenantShapes fill the placeholders of a route, in the path of its backend and in headers.
func tenantShapes() []shape {
	var shapes []shape
	message := func(w *world, changes ...any) map[string]any {
		return with(w.dpsStart("tenants", w.dps.wallet.DID), append([]any{"metadata", map[string]any{"tenant": "a"}}, changes...)...)
	}
	good := func(name, tenant string) {
		shapes = append(shapes, shape{name: "tenant " + name, to: proxied, status: http.StatusOK, backend: true, ask: func(w *world) (reply, error) {
			return w.opened("/dataflows/start", message(w, "metadata", map[string]any{"tenant": tenant}), w.proxied, "/tenants/x")
		}, also: func(w *world, _ reply) string {
			sent := w.lastSeen(proxied)
			path, err := url.PathUnescape(strings.TrimSuffix(strings.TrimPrefix(sent.target, "/of/"), "/x"))
			if err != nil || path != tenant || strings.Count(sent.target, "/") != 3 {
				return "the backend was asked for " + sent.target
			}
			if sent.header.Get("X-Tenant") != tenant {
				return "the backend got the tenant " + sent.header.Get("X-Tenant")
			}
			return ""
		}})
	}
	for _, text := range braces {
		if !strings.ContainsAny(text, `/\%`) {
			good(text, text)
		}
	}
	for _, text := range []string{"a?b", "a#b", "a;b", "a&b=c", "a:b", "a@b", "...", "a..b", "~", "'a'"} {
		good(text, text)
	}
	refused := func(name string, changes ...any) {
		shapes = append(shapes, shape{name: "refused, " + name, to: signaling, status: http.StatusBadRequest, code: `"status":400`, send: func(w *world) string {
			return w.message("/dataflows/start", message(w, changes...))
		}})
	}
	for name, tenant := range map[string]any{
		"missing": nil, "empty": "", "dots": "..", "a dot": ".", "dots and a semicolon": "..;", "dots and a slash": "../x", "behind a slash": "x/../../y", "dots and a backslash": `..\x`, "with a line break": "a\r\nX-Injected: y", "with NUL": "a\x00",
		"with a space behind": "a ", "not ASCII": "\u00e4", "too long": strings.Repeat("a", 5000), "a list": []string{"a"}, "an object": map[string]any{"a": "b"}, "an escape": "a\x1b",
	} {
		refused("tenant "+name, "metadata", map[string]any{"tenant": tenant})
	}
	for name, id := range map[string]any{"missing": absent{}, "with a line break": "a\r\nX: y", "a list": []string{"a"}, "not ASCII": "\u00e4", "null": nil} {
		refused("client_id "+name, "claims", with(map[string]any{}, "client_id", id))
	}
	refused("no metadata", "metadata", absent{})
	return shapes
}

// requestBraces are in the consumer's request.
func requestBraces() []shape {
	var shapes []shape
	for _, text := range braces {
		shapes = append(shapes,
			shape{name: "header " + text, status: http.StatusOK, backend: true, send: func(w *world) string {
				return get(w.data, "/x", bearer(w.dps.access), "X-Text: "+text)
			}, also: func(w *world, _ reply) string {
				if got := w.lastSeen(data).header.Get("X-Text"); got != text {
					return "the backend got " + got
				}
				return ""
			}},
			shape{name: "query " + text, status: http.StatusOK, backend: true, target: "/x?y=" + text, send: func(w *world) string {
				return get(w.data, "/x?y="+text, bearer(w.dps.access))
			}},
			shape{name: "query at edr_proxy " + text, to: proxied, status: http.StatusOK, backend: true, target: "/base/x?y=" + text, send: func(w *world) string {
				return get(w.proxied, "/api/x?y="+text, bearer(w.classic.access))
			}})
		if !strings.ContainsAny(text, `\%/$`) {
			shapes = append(shapes, shape{name: "path " + text, status: http.StatusOK, backend: true, send: func(w *world) string {
				return get(w.data, "/"+text, bearer(w.dps.access))
			}, also: func(w *world, _ reply) string {
				got, err := url.PathUnescape(w.lastSeen(data).target)
				if err != nil || got != "/"+text {
					return "the backend got " + got
				}
				return ""
			}})
		}
	}
	return shapes
}

// sourceBraces are in a classic source address: its credentials are the provider's, and none of ours.
func sourceBraces() []shape {
	var shapes []shape
	for _, text := range braces {
		shapes = append(shapes, shape{name: "source address " + text, to: proxied, status: http.StatusOK, backend: true, ask: func(w *world) (reply, error) {
			message := w.classicStart("orders", w.classic.wallet.DID, "http://"+w.orders.address()+"/base",
				sourceProperty(edc+"authKey", "X-Api-Key"), sourceProperty(edc+"authCode", text), sourceProperty("header:X-Text", text))
			return w.opened("/v1/dataflows/start", message, w.proxied, "/api/x")
		}, also: func(w *world, _ reply) string {
			sent := w.lastSeen(proxied).header
			if sent.Get("X-Api-Key") != text || sent.Get("X-Text") != text {
				return "the backend got " + sent.Get("X-Api-Key") + " and " + sent.Get("X-Text")
			}
			return ""
		}})
	}
	return shapes
}
