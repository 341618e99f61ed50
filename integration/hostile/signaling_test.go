package hostile

import (
	"fmt"
	"maps"
	"net/http"
	"strings"

	"github.com/edrgate/edrgate/internal/testkit"
)

// signalingShapes are messages of a control plane that is mistaken, or of somebody who can pass for one: whoever may start
// a flow chooses where the gateway connects to, and with which credential.
func signalingShapes(w *world) []shape {
	shapes := append(dpsShapes(w), classicShapes(w)...)
	return append(append(shapes, sourceShapes(w)...), messageShapes(w)...)
}

// deepJSON is an array in an array and so on.
func deepJSON(depth int) rawJSON {
	return rawJSON(strings.Repeat("[", depth) + strings.Repeat("]", depth))
}

// dpsShapes change one member of a start that is good.
func dpsShapes(w *world) []shape {
	var shapes []shape
	add := func(name, code string, changes ...any) {
		shapes = append(shapes, shape{
			name: "DPS start: " + name, to: signaling, status: http.StatusBadRequest, code: code,
			send: func(w *world) string {
				return w.message("/dataflows/start", with(w.dpsStart("weather", w.dps.wallet.DID), changes...))
			},
		})
	}
	const refused = `"error":"member `
	for _, member := range []string{"messageId", "participantId", "counterPartyId", "processId", "datasetId"} {
		add(member+" missing", refused, member, absent{})
		add(member+" empty", refused, member, "")
		add(member+" a number", refused, member, 1)
		add(member+" a list", refused, member, []string{"x"})
		add(member+" an object", refused, member, map[string]any{"@id": "x"})
	}
	for _, member := range []string{"transferType", "callbackAddress", "agreementId", "profile"} {
		add(member+" a list", refused, member, []string{"x"})
		add(member+" true", refused, member, true)
	}
	for _, member := range []string{"claims", "metadata"} {
		add(member+" a list", refused, member, []string{"x"})
		add(member+" text", refused, member, "x")
	}
	add("labels text", refused, "labels", "x")
	add("labels with a number", refused, "labels", []any{1})
	add("labels an object", refused, "labels", map[string]any{})
	add("transferType missing", "member profile is missing", "transferType", absent{})
	add("a push", "push", "transferType", "HttpData-PUSH")
	add("a push by its profile", "push", "profile", "https://w3id.org/dspace-sig/profile/http-push")
	add("a profile that nobody serves", "the profile is not served", "transferType", "Kafka-PULL")
	add("a profile in capitals", "the profile is not served", "transferType", "HTTPDATA-PULL")
	add("a data address in a pull", "must not have a dataAddress", "dataAddress", map[string]any{"endpoint": "http://169.254.169.254/"})
	add("for another participant", "member participantId", "participantId", "did:web:other.example")
	add("for our participant in capitals", "member participantId", "participantId", strings.ToUpper(w.did))
	add("of classic signaling", "", "@type", "DataFlowStartMessage", "@context", map[string]any{"@vocab": edc})
	for name, id := range map[string]string{
		"too long": strings.Repeat("p", 256), "with a slash": "a/b", "with a space": "a b", "with NUL": "a\x00", "with a line break": "a\nb", "not ASCII": "fl\u00f6w",
	} {
		add("processId "+name, refused, "processId", id)
		if name == "with NUL" || name == "with a line break" { // the others are good in a message's id
			add("messageId "+name, refused, "messageId", id)
		}
	}
	add("messageId of 5,000 characters", refused, "messageId", strings.Repeat("m", 5000))
	add("datasetId of nothing", "does not serve the dataset", "datasetId", "unheard-of")
	add("datasetId a glob", "does not serve the dataset", "datasetId", "*")
	add("datasetId with a space", "does not serve the dataset", "datasetId", "weather ")
	add("datasetId in capitals", "does not serve the dataset", "datasetId", "WEATHER")
	add("counterPartyId a number that no DID is known for", "needs a counterparty known by its DID", "counterPartyId", "BPNL000000000009")
	add("counterPartyId with a space", refused, "counterPartyId", w.dps.wallet.DID+" \x01")
	for name, text := range map[string]string{
		"a member twice": `{"messageId":"a","messageId":"b"}`, "a member twice in escapes": `{"messageId":"a","\u006dessageId":"b"}`, "a list": `[{"messageId":"a"}]`,
		"text": `"start"`, "null": "null", "a number": "1", "nothing": "", "white space": "  \n ", "not closed": `{"messageId":"a"`, "with something behind": `{}{}`,
		"not UTF-8": "{\"messageId\":\"\xff\"}", "a byte order mark": "\xef\xbb\xbf{}", "NaN": `{"messageId":NaN}`, "a comment": `{/**/"messageId":"a"}`,
		"an empty object": "{}", "10,000 deep": string(deepJSON(10_000)), "10,000 objects deep": strings.Repeat(`{"a":`, 10_000) + "1" + strings.Repeat("}", 10_000),
		"metadata 10,000 deep": `{"metadata":{"x":` + string(deepJSON(10_000)) + `}}`, "a lone surrogate": `{"messageId":"\ud800"}`, "XML": `<start/>`,
	} {
		shapes = append(shapes, shape{
			name: "DPS body: " + name, to: signaling, status: http.StatusBadRequest, code: `"status":400`,
			send: func(w *world) string { return post(w.signaling, "/dataflows/start", "application/json", text) },
		})
	}
	conflict := func(name string, changes ...any) shape {
		return shape{name: "DPS start: " + name, to: signaling, status: http.StatusConflict, code: "exists with other terms", send: func(w *world) string {
			start := with(w.dpsStart("weather", w.dps.wallet.DID), "processId", w.dps.id, "agreementId", w.dps.agreement)
			return w.message("/dataflows/start", with(start, changes...))
		}}
	}
	return append(shapes,
		conflict("again, for another counterparty", "counterPartyId", w.rain.wallet.DID),
		conflict("again, for another dataset", "datasetId", "rain"),
		conflict("again, under another agreement", "agreementId", "another"))
}

// classicShapes change one member of a start that is good.
func classicShapes(w *world) []shape {
	var shapes []shape
	add := func(name string, changes ...any) {
		shapes = append(shapes, shape{
			name: "classic start: " + name, to: signaling, status: http.StatusBadRequest, code: `"type":"InvalidRequest"`,
			send: func(w *world) string {
				return w.message("/v1/dataflows/start", with(w.classicStart("orders", w.classic.wallet.DID, "http://"+w.orders.address()+"/base"), changes...))
			},
		})
	}
	for _, member := range []string{"@type", "processId", "datasetId", "participantId"} {
		if member != "@type" { // which the path says, too
			add(member+" missing", member, absent{})
		}
		add(member+" empty", member, "")
		add(member+" an object", member, map[string]any{"x": "y"})
		add(member+" two values", member, []string{"x", "y"})
	}
	add("flowType missing", "flowType", absent{}, "transferTypeDestination", absent{})
	add("flowType push", "flowType", "PUSH")
	add("flowType of its own", "flowType", "SIDEWAYS")
	add("transferType push", "transferType", "HttpData-PUSH")
	add("properties text", "properties", "x")
	add("audience a number", "properties", map[string]any{"https://w3id.org/tractusx/auth/audience": 1})
	add("audience two values", "properties", map[string]any{"https://w3id.org/tractusx/auth/audience": []string{"did:web:a", "did:web:b"}})
	add("audience that is not the counterparty", "properties", map[string]any{"https://w3id.org/tractusx/auth/audience": "did:web:other.example"})
	add("audience with a line break", "properties", map[string]any{"https://w3id.org/tractusx/auth/audience": "did:web:a\r\nX: y"})
	add("audience too long", "properties", map[string]any{"https://w3id.org/tractusx/auth/audience": "did:web:" + strings.Repeat("a", 5000)})
	add("source address text", "sourceDataAddress", "http://127.0.0.1/")
	add("source address a list of two", "sourceDataAddress", []any{map[string]any{}, map[string]any{}})
	add("source address empty", "sourceDataAddress", map[string]any{"@type": "dspace:DataAddress"})
	add("processId with a slash", "processId", "a/../b")
	add("processId too long", "processId", strings.Repeat("p", 256))
	add("message of a consumer", "@type", "DataFlowProvisionMessage")
	add("message of another protocol", "@type", "TransferStartMessage")
	for name, text := range map[string]string{
		"a list of two": `[{},{}]`, "an empty list": "[]", "text": `"x"`, "null": "null", "nothing": "", "not closed": `{"@type":`, "a member twice": `{"@type":"a","@type":"b"}`,
		"a remote context": `{"@context":"http://169.254.169.254/latest","@type":"DataFlowStartMessage"}`, "a file for a context": `{"@context":"file:///etc/passwd","@type":"DataFlowStartMessage"}`,
		"a context of a thousand": `{"@context":[` + strings.Repeat(`"https://w3id.org/edc/v0.0.1/ns/",`, 999) + `"x"],"@type":"DataFlowStartMessage"}`,
		"a context in a circle":   `{"@context":{"a":"b:x","b":"a:x"},"@type":"a:DataFlowStartMessage"}`, "10,000 deep": `{"@context":` + string(deepJSON(10_000)) + `}`,
		"@graph": `{"@graph":[{"@type":"DataFlowStartMessage"}]}`, "@reverse": `{"@type":"DataFlowStartMessage","@reverse":{"x":{}}}`, "XML": "<x/>", "not UTF-8": "{\"@type\":\"\xff\"}",
		"of DPS": `{"messageId":"a","counterPartyId":"b"}`,
	} {
		shapes = append(shapes, shape{
			name: "classic body: " + name, to: signaling, status: http.StatusBadRequest, code: `"type":"InvalidRequest"`,
			send: func(w *world) string { return post(w.signaling, "/v1/dataflows/start", "application/json", text) },
		})
	}
	return append(shapes, shape{
		name: "classic start: again, with another source", to: signaling, status: http.StatusConflict, code: `"type":"ObjectConflict"`,
		send: func(w *world) string {
			start := w.classicStart("orders", w.classic.wallet.DID, "http://"+w.orders.address()+"/other")
			return w.message("/v1/dataflows/start", with(start, "processId", w.classic.id, "agreementId", w.classic.agreement))
		},
	})
}

// sourceShapes are source addresses that lead elsewhere (docs/decisions: source addresses).
func sourceShapes(w *world) []shape {
	var shapes []shape
	add := func(name, baseURL string, properties ...map[string]any) {
		for _, p := range properties {
			value := fmt.Sprint(p["dspace:value"])
			if strings.Contains(value, "secret") {
				w.canaries.Credential("a credential in a refused start", value)
			}
		}
		shapes = append(shapes, shape{
			name: "source: " + name, to: signaling, status: http.StatusBadRequest, code: `"type":"InvalidRequest"`,
			send: func(w *world) string {
				return w.message("/v1/dataflows/start", w.classicStart("orders", w.classic.wallet.DID, baseURL, properties...))
			},
			also: func(_ *world, answer reply) string {
				if len(baseURL) > len("baseUrl") && strings.Contains(answer.raw, baseURL) {
					return "the refusal tells the address to the other company"
				}
				return ""
			},
		})
	}
	orders := w.orders.address()
	for _, url := range []string{
		"http://169.254.169.254/latest/meta-data", "http://[fd00:ec2::254]/", "http://metadata.google.internal/", "http://0251.0376.0251.0376/", "http://2852039166/",
		"http://0xa9fea9fe/", "http://[::ffff:169.254.169.254]/", "http://169.254.169.254.nip.io/", "http://127.0.0.1:1/", "http://localhost:22/", "http://[::1]:80/", "http://0.0.0.0/",
		"http://10.0.0.1/", "http://192.168.0.1/", "http://[fe80::1%25eth0]/", "http://100.64.0.1/",
		"file:///etc/passwd", "gopher://" + orders, "unix:///run/docker.sock", "ftp://" + orders, "data:text/plain,x", "javascript:alert(1)", "ws://" + orders, "jar:http://x!/", "dict://x:1/",
		"https://" + orders, "HTTP+UNIX://x/", "//" + orders, "/base", "base", "", "http://", "http:///base", "http:" + orders, "http:\\\\" + orders,
		"http://user:secret-of-nobody@" + orders + "/", "http://" + orders + "@169.254.169.254/", "http://169.254.169.254#@" + orders, "http://169.254.169.254\\@" + orders,
		"http://" + orders + ".attacker.example/", "http://attacker.example?" + orders, "http://" + orders + "/#x", "http://" + orders + ":80/", "http://127.0.0.1:0/",
		"http://127.0.0.1:99999/", "http://127.0.0.1:-1/", "http://127.0.0.1:x/", "http://" + orders + "/%zz", "http://" + orders + "/a b\r\nX: y", "http://" + orders + "/\x00",
		"http://" + orders + "/../x", "http://" + orders + "/%2e%2e/x", "http://" + orders + "/..;/x", " http://" + orders, "http://" + orders + "\n",
		"http://{env.HOME}/", "http://%31%32%37.0.0.1/", "http://\u2460\u2461\u2466.0.0.1/", "http://127.1:" + orders[strings.LastIndexByte(orders, ':')+1:] + "/",
	} {
		add(printable(strings.ReplaceAll(url, orders, "orders")), url)
	}
	good := "http://" + orders + "/base"
	for _, name := range []string{"Host", "Connection", "Transfer-Encoding", "Content-Length", "Upgrade", "Keep-Alive", "TE", "Trailer", "Proxy-Connection"} {
		if name == "Host" {
			add("header Host of another", good, sourceProperty("header:Host", "169.254.169.254"))
			continue
		}
		add("header "+name, good, sourceProperty("header:"+name, "some-secret-of-some-company"))
	}
	for name, p := range map[string]map[string]any{
		"header with a line break":          sourceProperty("header:X-Key", "some-secret\r\nX-Other: value"),
		"header with NUL":                   sourceProperty("header:X-Key", "some-secret\x00of-a-company"),
		"header with no name":               sourceProperty("header:", "some-secret-of-some-company"),
		"header with a name of spaces":      sourceProperty("header:X Key", "some-secret-of-some-company"),
		"header with a colon":               sourceProperty("header:X:Key", "some-secret-of-some-company"),
		"secret that nobody declared":       sourceProperty(edc+"secretName", "unheard-of-secret-name"),
		"secret that is a path":             sourceProperty(edc+"secretName", "../../../../etc/passwd"),
		"token endpoint that is not listed": sourceProperty("oauth2:tokenUrl", "http://169.254.169.254/token-endpoint"),
		"oauth2 of no meaning":              sourceProperty("oauth2:unheard", "some-secret-of-some-company"),
		"type text":                         {"@type": "dspace:EndpointProperty", "dspace:name": []string{"a", "b"}, "dspace:value": "some-secret-of-some-company"},
		"value an object":                   sourceProperty(edc+"authCode", map[string]any{"x": "some-secret-of-some-company"}),
	} {
		properties := []map[string]any{p}
		if strings.HasPrefix(name, "secret") {
			properties = append(properties, sourceProperty(edc+"authKey", "X-Api-Key"))
		}
		add(name, good, properties...)
	}
	add("a property twice", good, sourceProperty(edc+"authKey", "X-Api-Key-Of-Some-Company"), sourceProperty(edc+"authKey", "X-Other-Key-Of-Some-Company"))
	add("a header twice", good, sourceProperty("header:X-Key", "some-secret-of-some-company"), sourceProperty("header:x-key", "some-secret-of-other-company"))
	for _, kind := range []any{"AmazonS3", "HttpProxy", "httpdata", "", 1, []string{"HttpData", "AmazonS3"}} {
		shapes = append(shapes, shape{
			name: fmt.Sprintf("source: type %#v", kind), to: signaling, status: http.StatusBadRequest, code: `"type":"InvalidRequest"`,
			send: func(w *world) string {
				start := w.classicStart("orders", w.classic.wallet.DID, good)
				address := maps.Clone(start["sourceDataAddress"].(map[string]any))
				address["dspace:endpointType"] = kind
				return w.message("/v1/dataflows/start", with(start, "sourceDataAddress", address))
			},
		})
	}
	return shapes
}

// messageShapes are wrong in what is around the body: path, method, type, size.
func messageShapes(w *world) []shape {
	var shapes []shape
	good := func(w *world) string { return string(testkit.JSON(w.t, w.dpsStart("weather", w.dps.wallet.DID))) }
	for name, c := range map[string]struct {
		contentType string
		status      int
	}{"text": {"text/plain", 415}, "a form": {formType, 415}, "XML": {"application/xml", 415}, "broken": {"application", 415}, "missing": {"", 415}, "multipart": {"multipart/mixed", 415}} {
		shapes = append(shapes, shape{name: "message type " + name, to: signaling, status: c.status, send: func(w *world) string {
			return post(w.signaling, "/dataflows/start", c.contentType, good(w))
		}})
	}
	for _, method := range []string{"GET", "PUT", "DELETE", "PATCH", "BREW"} {
		shapes = append(shapes, shape{name: "message by " + method, to: signaling, status: 405, code: "Allow: POST", send: func(w *world) string {
			return strings.Replace(post(w.signaling, "/dataflows/start", "application/json", good(w)), "POST", method, 1)
		}})
	}
	for _, path := range []string{
		"/dataflows/", "/dataflows/x/", "/dataflows/x/unheard", "/dataflows//suspend", "/dataflows/x/suspend/y", "/dataflows/a%2fb/c/suspend", "/v1/dataflows/x/complete", "/v1/dataflows/x/resume",
	} {
		shapes = append(shapes, shape{name: "message to " + path, to: signaling, status: 404, send: func(w *world) string {
			return post(w.signaling, path, "application/json", "{}")
		}})
	}
	for path, c := range map[string]struct {
		status int
		code   string
	}{
		"/dataflows/unheard-of/suspend": {404, "no such data flow"}, "/dataflows/unheard-of/resume": {404, "no such data flow"},
		"/dataflows/%00/suspend": {400, "cannot be that of a data flow"}, "/dataflows/a%2Fb/suspend": {400, "cannot be that of a data flow"},
		"/dataflows/..%2f/resume": {400, "cannot be that of a data flow"}, "/dataflows/" + strings.Repeat("a", 256) + "/terminate": {400, "cannot be that of a data flow"},
	} {
		shapes = append(shapes, shape{name: "message of no flow: " + printable(path), to: signaling, status: c.status, code: c.code, send: func(w *world) string {
			return post(w.signaling, path, "application/json", `{"messageId":"m"}`)
		}})
	}
	return append(shapes,
		shape{name: "message of 64 KiB and more", to: signaling, status: 413, send: func(w *world) string {
			return post(w.signaling, "/dataflows/start", "application/json", `{"x":"`+strings.Repeat("a", 64<<10)+`"}`)
		}},
		shape{name: "message of 10 MB", to: signaling, status: 413, send: func(w *world) string {
			return post(w.signaling, "/dataflows/start", "application/json", `{"x":"`+strings.Repeat("a", 10<<20)+`"}`)
		}},
		shape{name: "an array of 20,000", to: signaling, status: 400, send: func(w *world) string {
			return w.message("/dataflows/start", with(w.dpsStart("weather", w.dps.wallet.DID), "labels", make([]int, 20_000)))
		}},
		shape{name: "status of no flow", to: signaling, status: 404, send: func(w *world) string { return get(w.signaling, "/dataflows/unheard-of/status") }},
	)
}
