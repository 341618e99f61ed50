package hostile

import (
	"fmt"
	"maps"
	"net/http"
	"strings"
)

// What edr_consumer answers with, as the EDC APIs do.
const (
	notFound  = `"type":"ObjectNotFound"`
	conflicts = `"type":"ObjectConflict"`
)

// call is a request to one of the doors of the consumer's side, for its own name.
func call(host, method, target, body string, headers ...string) string {
	head := []string{method + " " + target + " HTTP/1.1", "Host: " + host, "Connection: close"}
	if body != "" {
		head = append(head, fmt.Sprintf("Content-Length: %d", len(body)), "Content-Type: application/json")
	}
	return lines(append(head, headers...)...) + body
}

// edrShapes are requests to edr_consumer. Whoever reaches it uses the data of other companies (docs/decisions: the
// consumer's side).
func edrShapes(w *world) []shape {
	shapes := append(doorShapes(edrs, "/v3/edrs/{held}/dataaddress"), doorShapes(egress, "/{held}/x")...)
	return append(append(append(shapes, edrPathShapes()...), queryEDRShapes()...), append(putShapes(w), eventShapes(w)...)...)
}

// doorShapes ask in the name of somebody else: by a name that points here (DNS rebinding), and for a page of another origin.
func doorShapes(to surface, target string) []shape {
	at := map[surface]string{edrs: "edr_consumer", egress: "edr_egress"}[to]
	var shapes []shape
	add := func(name string, status int, code string, method string, head ...string) {
		shapes = append(shapes, shape{
			name: "door of " + at + ": " + name, to: to, status: status, code: code, hands: status == http.StatusOK,
			backend: status == http.StatusOK && to == egress,
			send: func(w *world) string {
				own := to.address(w)
				fill := strings.NewReplacer("{own}", own, "{port}", port(own), "{held}", w.held)
				lines := method + " " + target + " HTTP/1.1\r\n" + strings.Join(head, "\r\n") + "\r\nConnection: close\r\n\r\n"
				return fill.Replace(lines)
			},
			also: func(_ *world, answer reply) string {
				if answer.header.Get("Access-Control-Allow-Origin") != "" {
					return "a page of another origin may read the answer"
				}
				return ""
			},
		})
	}
	const misdirected = "the Host header does not name this site"
	for _, host := range []string{
		"attacker.example", "attacker.example:{port}", "127.0.0.1.attacker.example", "localhost.attacker.example:{port}", "127.0.0.2:{port}", "[::1]:{port}", "0.0.0.0:{port}",
		"2130706433:{port}", "0x7f.0.0.1", "127.1", "127.0.0.1.", "localhost.", "notlocalhost", "127.0.0.1%00", "localhost%2eattacker.example", "[::]", "[127.0.0.1]x",
	} {
		add("Host "+host, http.StatusMisdirectedRequest, misdirected, http.MethodGet, "Host: "+host)
	}
	add("Host of another, our own in X-Forwarded-Host", http.StatusMisdirectedRequest, misdirected, http.MethodGet, "Host: attacker.example", "X-Forwarded-Host: {own}")
	add("Host of another, our own in Forwarded", http.StatusMisdirectedRequest, misdirected, http.MethodGet, "Host: attacker.example", "Forwarded: host={own}")
	add("Host with userinfo", http.StatusBadRequest, noHTTP, http.MethodGet, "Host: user@{own}")
	add("no Host", http.StatusBadRequest, noHTTP, http.MethodGet, "Host:")
	add("two Hosts", http.StatusBadRequest, noHTTP, http.MethodGet, "Host: {own}", "Host: attacker.example")
	for _, host := range []string{"{own}", "localhost:{port}", "LOCALHOST", "127.0.0.1"} {
		add("odd but good: Host "+host, http.StatusOK, "", http.MethodGet, "Host: "+host)
	}
	const foreign = "sent by a web page of another origin"
	for _, origin := range []string{
		"https://attacker.example", "null", "http://localhost:{port}", "http://127.0.0.1:1", "http://127.0.0.1", "http://{own}.attacker.example", "file://", "moz-extension://x", "x",
		"http://{own}, https://attacker.example", "{own}", "//attacker.example", "http://attacker.example#{own}", "%zz",
	} {
		for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodDelete} {
			if method != http.MethodGet && origin != "null" && origin != "https://attacker.example" {
				continue
			}
			add(method+" for Origin "+origin, http.StatusForbidden, foreign, method, "Host: {own}", "Origin: "+origin)
		}
	}
	for _, site := range []string{"cross-site", "same-site", "Cross-Site", "SAME-ORIGIN", "x", "none, cross-site"} {
		add("Sec-Fetch-Site "+site, http.StatusForbidden, foreign, http.MethodGet, "Host: {own}", "Sec-Fetch-Site: "+site)
	}
	add("two Origins, our own first", http.StatusForbidden, foreign, http.MethodGet, "Host: {own}", "Origin: http://{own}", "Origin: https://attacker.example")
	add("two Sec-Fetch-Sites", http.StatusForbidden, foreign, http.MethodGet, "Host: {own}", "Sec-Fetch-Site: none", "Sec-Fetch-Site: cross-site")
	add("a preflight", http.StatusForbidden, foreign, http.MethodOptions, "Host: {own}", "Origin: https://attacker.example", "Access-Control-Request-Method: GET")
	return shapes
}

// edrPathShapes name no EDR, or ask for what cannot be had.
func edrPathShapes() []shape {
	var shapes []shape
	add := func(name string, status int, code, method, target, body string) {
		shapes = append(shapes, shape{name: "EDR API: " + name, to: edrs, status: status, code: code, hands: status == http.StatusOK, send: func(w *world) string {
			return call(w.edrs, method, strings.ReplaceAll(target, "{held}", w.held), body)
		}})
	}
	for name, id := range map[string]string{
		"of nobody": "unheard-of", "dots": "..", "a dot": ".", "a dash": "-", "SQL": "'OR'1'='1'--", "in capitals": "TRANSFER", "a placeholder": "%7Benv.HOME%7D",
		"with a percent sign": "a%25b", "like a table's": "default", "with a semicolon": "a;b",
	} {
		add("id "+name, http.StatusNotFound, notFound, http.MethodGet, "/v3/edrs/"+id+"/dataaddress", "")
		add("id "+name+", to be renewed", http.StatusNotFound, notFound, http.MethodPost, "/v3/edrs/"+id+"/refresh", "")
		add("id "+name+", to be forgotten", http.StatusNotFound, notFound, http.MethodDelete, "/v3/edrs/"+id, "")
		add("id "+name+", to be completed", http.StatusNotFound, notFound, http.MethodPost, "/v3/edrs/"+id+"/complete", "")
	}
	for name, id := range map[string]string{
		"empty": "", "with a slash": "a%2Fb", "that climbs": "..%2F..%2Fx", "of another participant": "default%2Fx", "with NUL": "a%00", "with a line break": "a%0D%0AX:y", "with a space": "a%20b",
		"not ASCII": "%C3%A4", "not UTF-8": "%FF", "too long": strings.Repeat("a", 256), "of 8 KiB": strings.Repeat("a", 8<<10), "DEL": "%7F",
	} {
		const status = http.StatusBadRequest
		add("id "+name, status, "", http.MethodGet, "/v3/edrs/"+id+"/dataaddress", "")
		add("id "+name+", to be renewed", status, "", http.MethodPost, "/v3/edrs/"+id+"/refresh", "")
		add("id "+name+", to be completed", status, "", http.MethodPost, "/v3/edrs/"+id+"/complete", "")
		if id != "" {
			add("id "+name+", to be forgotten", status, "", http.MethodDelete, "/v3/edrs/"+id, "")
		}
	}
	for name, target := range map[string]string{
		"in capitals": "/V3/EDRS/{held}/dataaddress", "two slashes": "/v3//edrs/{held}/dataaddress", "a dot": "/v3/./edrs/{held}/dataaddress", "dots": "/v3/x/../edrs/{held}/dataaddress",
		"a slash behind": "/v3/edrs/{held}/dataaddress/", "another version": "/v4/edrs/{held}/dataaddress", "below": "/v3/edrs/{held}/dataaddress/x", "beside": "/v3/edrs/{held}/token", "encoded slashes": "/v3%2Fedrs/{held}/dataaddress",
		"a prefix in front": "/x/v3/edrs/{held}/dataaddress", "the root": "/", "asterisk": "/*",
	} {
		add("path "+name, http.StatusNotFound, "no such path", http.MethodGet, target, "")
	}
	for _, c := range [][2]string{
		{http.MethodPost, "/v3/edrs/{held}/dataaddress"},
		{http.MethodPut, "/v3/edrs/{held}/dataaddress"},
		{http.MethodDelete, "/v3/edrs/{held}/dataaddress"},
		{http.MethodGet, "/v3/edrs/{held}/refresh"},
		{http.MethodGet, "/v3/edrs/request"},
		{http.MethodDelete, "/v3/edrs/request"},
		{http.MethodPut, "/v3/edrs/request"},
		{http.MethodGet, "/v3/edrs/events"},
		{http.MethodGet, "/v3/edrs/{held}"},
		{http.MethodPost, "/v3/edrs/{held}"},
		{http.MethodGet, "/v3/edrs/{held}/complete"},
		{http.MethodGet, "/v1/token/refresh"},
		{"BREW", "/v3/edrs/{held}/dataaddress"},
		{"get", "/v3/edrs/{held}/dataaddress"},
		{http.MethodTrace, "/v3/edrs/{held}/dataaddress"},
		{http.MethodPatch, "/v3/edrs/{held}"},
	} {
		add("method "+c[0]+" "+c[1], http.StatusMethodNotAllowed, "Allow: ", c[0], c[1], "")
	}
	for name, query := range map[string]string{
		"text": "x", "in capitals": "TRUE", "a number": "1", "with NUL": "true%00", "a broken escape": "%zz", "twice": "false&auto_refresh=true", "with a space": "true%20",
	} {
		add("auto_refresh "+name, http.StatusBadRequest, "auto_refresh must be", http.MethodGet, "/v3/edrs/{held}/dataaddress?auto_refresh="+query, "")
	}
	for name, body := range map[string]string{
		"empty": " ", "no object": "[]", "text": `"x"`, "not closed": `{"transferProcessId":"x"`, "no id": "{}", "a number": `{"transferProcessId":1}`, "null": `{"transferProcessId":null}`,
		"twice": `{"transferProcessId":"a","transferProcessId":"b"}`, "twice, in escapes": `{"transferProcessId":"a","\u0074ransferProcessId":"b"}`, "a list": `{"transferProcessId":["x"]}`,
		"a path": `{"transferProcessId":"../x"}`, "NUL": `{"transferProcessId":"a\u0000"}`, "too long": `{"transferProcessId":"` + strings.Repeat("a", 256) + `"}`, "deep": `{"x":` + string(deepJSON(1000)) + `}`,
		"a lone surrogate": `{"transferProcessId":"\ud800"}`, "empty id": `{"transferProcessId":""}`,
	} {
		add("named refresh, "+name, http.StatusBadRequest, invalidRequest, http.MethodPost, "/v1/token/refresh", body)
	}
	add("named refresh, of nobody", http.StatusNotFound, notFound, http.MethodPost, "/v1/token/refresh", `{"transferProcessId":"unheard-of"}`)
	add("named refresh, 5 KiB", http.StatusRequestEntityTooLarge, "larger than", http.MethodPost, "/v1/token/refresh", `{"transferProcessId":"`+strings.Repeat("a", 5<<10)+`"}`)
	add("complete of what nobody prepared", http.StatusConflict, conflicts, http.MethodPost, "/v3/edrs/{held}/complete", "")
	return shapes
}

// queryEDRShapes are queries that mean nothing here. What is not understood is an error: an answer to another question would
// have a client use other data than it means.
func queryEDRShapes() []shape {
	var shapes []shape
	add := func(name string, status int, code, body string) {
		shapes = append(shapes, shape{name: "EDR query: " + name, to: edrs, status: status, code: code, send: func(w *world) string {
			return call(w.edrs, http.MethodPost, "/v3/edrs/request", body)
		}})
	}
	criterion := func(left, operator, right string) string {
		return fmt.Sprintf(`{"filterExpression":[{"operandLeft":%s,"operator":%s,"operandRight":%s}]}`, left, operator, right)
	}
	for name, body := range map[string]string{
		"a list": "[]", "text": `"x"`, "a number": "1", "null": "null", "not closed": "{", "twice": `{}{}`, "NaN": `{"limit":NaN}`, "a member twice": `{"limit":1,"limit":2}`, "deep": `{"x":` + string(deepJSON(10_000)) + `}`,
		"a member of no meaning": `{"where":"1=1"}`, "offset negative": `{"offset":-1}`, "offset too large": `{"offset":100001}`, "offset 2^64": `{"offset":18446744073709551616}`, "offset a fraction": `{"offset":0.5}`,
		"offset text": `{"offset":"0"}`, "limit 0": `{"limit":0}`, "limit 1001": `{"limit":1001}`, "limit 1e3": `{"limit":1e300}`, "limit null": `{"limit":null}`, "limit negative": `{"limit":-5}`,
		"order DESC": `{"sortOrder":"DESC"}`, "order a number": `{"sortOrder":1}`, "field another": `{"sortField":"createdAt"}`, "field SQL": `{"sortField":"id; DROP TABLE edrs"}`,
		"filter text": `{"filterExpression":"assetId = x"}`, "filter a number": `{"filterExpression":1}`, "filter of text": `{"filterExpression":["x"]}`, "filter of null": `{"filterExpression":[null]}`,
		"an empty criterion": `{"filterExpression":[{}]}`, "operator in": criterion(`"assetId"`, `"in"`, `["x"]`), "operator like": criterion(`"assetId"`, `"like"`, `"%"`), "operator not equal": criterion(`"assetId"`, `"!="`, `"x"`),
		"operator a list": criterion(`"assetId"`, `["="]`, `"x"`), "left unknown": criterion(`"authorization"`, `"="`, `"x"`), "left empty": criterion(`""`, `"="`, `"x"`), "left a list": criterion(`["assetId"]`, `"="`, `"x"`),
		"left of another namespace": criterion(`"https://attacker.example/assetId"`, `"="`, `"x"`), "right a number": criterion(`"assetId"`, `"="`, "1"), "right null": criterion(`"assetId"`, `"="`, "null"), "right a list": criterion(`"assetId"`, `"="`, `["x"]`),
		"right empty": criterion(`"assetId"`, `"="`, `""`), "one operand, two values": `{"filterExpression":[{"operandLeft":"assetId","operator":"=","operandRight":"a"},{"operandLeft":"assetId","operator":"=","operandRight":"b"}]}`,
		"id too long": criterion(`"transferProcessId"`, `"="`, `"`+strings.Repeat("a", 300)+`"`), "id with a slash": criterion(`"transferProcessId"`, `"="`, `"../x"`),
	} {
		add(name, http.StatusBadRequest, invalidRequest, body)
	}
	for name, right := range map[string]string{"SQL": "' OR 1=1 --", "a glob": "*", "a placeholder": "{env.HOME}", "5,000 characters": strings.Repeat("a", 5000), "with a slash": "x/../weather", "in capitals": "WEATHER", "NUL": `\u0000`} {
		for _, left := range []string{"assetId", "providerId", "agreementId"} {
			add("of nothing, "+left+" "+name, http.StatusOK, "\r\n\r\n[]", criterion(`"`+left+`"`, `"="`, `"`+right+`"`))
		}
	}
	add("64 KiB and a byte", http.StatusRequestEntityTooLarge, "larger than", `{"x":"`+strings.Repeat("a", 64<<10)+`"}`)
	return shapes
}

// goodAddress is a data address that is taken, of the world's provider.
func (w *world) goodAddress(name string) map[string]any {
	token := "access-token-of-" + name + "-" + b64([]byte(name)) + "-which-nobody-may-see-in-a-log"
	refresh := "refresh-token-of-" + name + "-" + b64([]byte(name)) + "-which-nobody-may-see-at-all"
	w.canaries.Token("an access token of a provider", token)
	w.canaries.Token("a refresh token of a provider", refresh)
	return map[string]any{
		"endpoint": w.provider.url(name) + "/base", "authorization": token, "authType": "bearer", "refreshToken": refresh,
		"refreshEndpoint": w.provider.url(name) + "/renew", "refreshAudience": w.did, "expiresIn": "3600",
	}
}

// putShapes are data addresses of a provider that has something else in mind: it chooses every text in one.
func putShapes(w *world) []shape {
	var shapes []shape
	put := func(name string, status int, code string, id string, body any) {
		shapes = append(shapes, shape{name: "EDR put: " + name, to: edrs, status: status, code: code, send: func(w *world) string {
			text, isText := body.(string)
			if !isText {
				text = string(testkitJSON(w, body))
			}
			return call(w.edrs, http.MethodPut, "/v3/edrs/"+strings.ReplaceAll(id, "{held}", w.held), text)
		}})
	}
	address := func(name, code string, changes ...any) {
		put(name, http.StatusBadRequest, code, "transfer-of-nothing", map[string]any{
			"providerId": "did:web:provider.example", "dataAddress": with(w.goodAddress("refused"), changes...),
		})
	}
	for _, field := range []string{"endpoint", "refreshEndpoint"} {
		for name, url := range map[string]any{
			"relative": "/x", "a file": "file:///etc/passwd", "ftp": "ftp://127.0.0.1/", "a script": "javascript:alert(1)", "data": "data:,x", "unix": "unix:///run/docker.sock", "without a host": "https:///x",
			"http of another": "http://attacker.example/", "http of the metadata": "http://169.254.169.254/latest", "with userinfo": "https://user:password@provider.example/", "userinfo that looks like a host": "https://127.0.0.1@attacker.example/",
			"with a fragment": "https://provider.example/#x", "with an empty fragment": "https://provider.example/#", "opaque": "https:provider.example", "with a line break": "https://provider.example/\r\nX: y", "with NUL": "https://provider.example/\x00",
			"with a space": "https://provider.example /", "a broken escape": "https://provider.example/%zz", "a port of no number": "https://provider.example:x/", "5 KiB": "https://provider.example/" + strings.Repeat("a", 5<<10),
			"a list": []string{"https://provider.example"}, "an object": map[string]any{"@id": "x"}, "true": true, "in brackets": "<https://provider.example>", "backslashes": `https:\\provider.example`, "a placeholder": "{env.HOME}",
			"a port too large": "https://provider.example:99999/", "a port of 0": "https://provider.example:0/",
		} {
			address(field+" "+name, field, field, url)
		}
	}
	address("endpoint missing", "endpoint is missing", "endpoint", absent{})
	address("endpoint empty", "endpoint is missing", "endpoint", "")
	for _, field := range []string{"authorization", "refreshToken"} {
		for name, token := range map[string]any{
			"with a line break": "some-token\r\nX-Injected: y", "with NUL": "some-token\x00", "with a space": "some token", "not ASCII": "some-tok\u00e4n", "16 KiB and a byte": strings.Repeat("a", 16<<10+1), "a list": []string{"x"},
			"an object": map[string]any{}, "with a tab": "some\ttoken", "with DEL": "some-token\x7f",
		} {
			address(field+" "+name, "", field, token)
		}
	}
	for name, value := range map[string]any{
		"negative": "-1", "text": "soon", "NaN": "NaN", "Infinity": "Infinity", "inf": "inf", "hexadecimal": "0x10", "with a unit": "300s", "with a space": " 300", "underscores": "3_0_0", "a list": []int{1}, "true": true, "not a number": "1e", "binary": "0x1p4",
	} {
		address("expiresIn "+name, "expiresIn", "expiresIn", value)
	}
	for name, value := range map[string]string{"of a stranger": "did:web:attacker.example", "in capitals": strings.ToUpper(w.did), "with a slash": w.did + "/", "a URL": "https://attacker.example"} {
		address("refreshAudience "+name, "refreshAudience", "refreshAudience", value)
	}
	address("authorization twice", "authorization", "edc:authorization", "another", "https://w3id.org/edc/v0.0.1/ns/authorization", "a third", "endpointProperties", []any{
		map[string]any{"name": "authorization", "value": "one"}, map[string]any{"name": "authorization", "value": "two"},
	})
	address("properties and endpointProperties", "both", "properties", map[string]any{}, "endpointProperties", []any{})
	address("a property of 16 KiB and a byte", "longer than", "x", strings.Repeat("a", 16<<10+1))
	many := map[string]any{}
	for i := range 101 {
		many[fmt.Sprint("p", i)] = "x"
	}
	maps.Copy(many, w.goodAddress("refused"))
	put("101 properties", http.StatusBadRequest, "more than", "transfer-of-nothing", map[string]any{"providerId": "x", "dataAddress": many})
	for name, body := range map[string]string{
		"nothing known": "{}", "a list": "[]", "text": `"x"`, "null": "null", "not closed": "{", "a member of no meaning": `{"trust":"everybody"}`, "deep": `{"dataAddress":` + string(deepJSON(10_000)) + `}`,
		"address null": `{"dataAddress":null}`, "address text": `{"dataAddress":"http://127.0.0.1"}`, "address a list": `{"dataAddress":[]}`, "address empty": `{"dataAddress":{}}`, "a member twice": `{"assetId":"a","assetId":"b"}`,
		"address with a member twice": `{"dataAddress":{"endpoint":"https://a","endpoint":"https://b"}}`, "twice, in escapes": `{"dataAddress":{"endpoint":"https://a","\u0065ndpoint":"https://b"}}`,
		"providerId a number": `{"providerId":1}`, "assetId a list": `{"assetId":["x"]}`, "DID of no DID": `{"providerDid":"provider"}`, "providerId too long": `{"providerId":"` + strings.Repeat("p", 901) + `"}`,
		"assetId with NUL": `{"assetId":"a\u0000"}`, "not UTF-8": "{\"assetId\":\"\xff\"}", "a lone surrogate": `{"assetId":"\ud800"}`, "properties text": `{"dataAddress":{"endpoint":"https://a","properties":"x"}}`,
		"property without a name": `{"dataAddress":{"endpoint":"https://a","endpointProperties":[{"value":"x"}]}}`, "property without a value": `{"dataAddress":{"endpoint":"https://a","endpointProperties":[{"name":"x"}]}}`,
		"property text": `{"dataAddress":{"endpoint":"https://a","endpointProperties":["x"]}}`, "property of a name that is none": `{"dataAddress":{"endpoint":"https://a","endpointProperties":[{"name":1,"value":"x"}]}}`,
	} {
		put(name, http.StatusBadRequest, invalidRequest, "transfer-of-nothing", body)
	}
	put("1 MB", http.StatusRequestEntityTooLarge, "larger than", "transfer-of-nothing", `{"assetId":"`+strings.Repeat("a", 1<<20)+`"}`)
	put("terms of what is not there", http.StatusNotFound, notFound, "transfer-unheard-of", `{"assetId":"x"}`)
	put("held, as another provider's", http.StatusConflict, conflicts, "{held}", `{"providerId":"did:web:attacker.example"}`)
	put("held, for another DID", http.StatusConflict, conflicts, "{held}", `{"providerDid":"did:web:attacker.example"}`)
	put("held, of another asset", http.StatusConflict, conflicts, "{held}", `{"assetId":"another"}`)
	for name, id := range map[string]string{"with a slash": "a%2Fb", "with NUL": "a%00", "too long": strings.Repeat("a", 256), "that climbs": "..%2Fx"} {
		put("id "+name, http.StatusBadRequest, "transfer process id", id, map[string]any{"providerId": "x", "dataAddress": w.goodAddress("refused")})
	}
	return shapes
}

// eventShapes are EDC's events, of somebody who can reach the path.
func eventShapes(w *world) []shape {
	var shapes []shape
	add := func(name string, status int, code, body string) {
		shapes = append(shapes, shape{name: "event: " + name, to: edrs, status: status, code: code, send: func(w *world) string {
			return call(w.edrs, http.MethodPost, "/v3/edrs/events", strings.ReplaceAll(body, "{held}", w.held))
		}})
	}
	event := func(kind, payload string) string {
		return `{"id":"x","at":1,"type":"` + kind + `","payload":` + payload + `}`
	}
	const started = "TransferProcessStarted"
	started2 := func(dataAddress string) string {
		return event(started, `{"transferProcessId":"transfer-of-events","type":"CONSUMER","dataAddress":`+dataAddress+`}`)
	}
	for name, body := range map[string]string{
		"a list": "[]", "text": `"x"`, "null": "null", "no type": "{}", "type a number": `{"type":1}`, "type null": `{"type":null}`, "a member twice": `{"type":"x","type":"TransferProcessStarted"}`, "not closed": `{"type":`,
		"no payload": `{"type":"TransferProcessStarted"}`, "payload text": event(started, `"x"`), "payload null": event(started, "null"), "payload a list": event(started, "[]"), "no id": event(started, "{}"),
		"id a number": event(started, `{"transferProcessId":1}`), "id empty": event("TransferProcessTerminated", `{"transferProcessId":"","type":"CONSUMER"}`), "id with a slash": event("TransferProcessTerminated", `{"transferProcessId":"../x","type":"CONSUMER"}`),
		"id with NUL": event("TransferProcessSuspended", `{"transferProcessId":"a\u0000","type":"CONSUMER"}`), "id too long": event("TransferProcessSuspended", `{"transferProcessId":"`+strings.Repeat("a", 256)+`","type":"CONSUMER"}`),
		"at text": `{"type":"x","at":"now"}`, "at a fraction": `{"type":"x","at":1.5}`, "at 1e300": `{"type":"x","at":1e300}`, "at 2^63": `{"type":"x","at":9223372036854775808}`, "at null": `{"type":"x","at":null}`,
		"at of the year 287396": `{"type":"TransferProcessSuspended","at":9007199254740991,"payload":{"transferProcessId":"{held}","type":"CONSUMER"}}`, "at before all time": `{"type":"TransferProcessSuspended","at":-9007199254740991,"payload":{"transferProcessId":"{held}","type":"CONSUMER"}}`,
		"asset a list": event(started, `{"transferProcessId":"x","assetId":[]}`), "side a number": event(started, `{"transferProcessId":"x","type":1}`), "address text": started2(`"x"`), "address a list": started2("[]"), "address empty": started2("{}"),
		"address of a file": started2(`{"properties":{"endpoint":"file:///etc/passwd"}}`), "address of http": started2(`{"properties":{"endpoint":"http://attacker.example"}}`), "address twice": started2(`{"properties":{"endpoint":"https://a","endpoint":"https://b"}}`),
		"deep": event(started, string(deepJSON(10_000))), "not UTF-8": "{\"type\":\"\xff\"}", "a token with a line break": started2(`{"properties":{"endpoint":"https://a.example","authorization":"a\r\nb"}}`),
	} {
		add(name, http.StatusBadRequest, invalidRequest, body)
	}
	add("300 KiB", http.StatusRequestEntityTooLarge, "larger than", `{"type":"`+strings.Repeat("a", 300<<10)+`"}`)
	for name, body := range map[string]string{
		"of nothing that we know": event("ContractNegotiationFinalized", `{}`), "in capitals": event("TRANSFERPROCESSTERMINATED", `{"transferProcessId":"{held}","type":"CONSUMER"}`),
		"of the provider's side": event("TransferProcessTerminated", `{"transferProcessId":"{held}","type":"PROVIDER"}`), "of no side": event("TransferProcessTerminated", `{"transferProcessId":"{held}"}`),
		"side in small letters": event("TransferProcessTerminated", `{"transferProcessId":"{held}","type":"consumer"}`), "older than the EDR": event("TransferProcessStarted", `{"transferProcessId":"{held}","type":"PROVIDER"}`),
		"with a placeholder": event("{env.HOME}", `{}`), "with a script": event("<script>", `{}`),
	} {
		add("without effect, "+name, http.StatusNoContent, "", body) // what follows shows that the EDR is still served
	}
	return shapes
}
