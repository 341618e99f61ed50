package hostile

import (
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"
)

// adminAsk sends bytes to the admin API, whose socket is a file.
func adminAsk(send func(w *world) string) func(w *world) (reply, error) {
	return func(w *world) (reply, error) {
		conn, err := net.DialTimeout("unix", w.path("admin.sock"), patience)
		if err != nil {
			return reply{}, err
		}
		defer conn.Close()
		err = conn.SetDeadline(time.Now().Add(patience))
		if err != nil {
			return reply{}, err
		}
		return converse(conn, send(w))
	}
}

// adminShapes are requests to the admin API: by an operator who errs, and by a web page that got to it after all.
func adminShapes(*world) []shape {
	var shapes []shape
	add := func(name string, status int, code, method, target, body string, headers ...string) {
		shapes = append(shapes, shape{name: "admin: " + name, to: edrs, status: status, code: code, ask: adminAsk(func(w *world) string {
			fill := strings.NewReplacer("{flow}", w.dps.id, "{held}", w.held)
			return call("127.0.0.1", method, fill.Replace(target), fill.Replace(body), headers...)
		})})
	}
	get, put := http.MethodGet, http.MethodPost
	for name, path := range map[string]string{
		"nothing": "/edrgate/", "of no meaning": "/edrgate/tokens", "below status": "/edrgate/status/x", "in capitals": "/edrgate/STATUS", "an operation of no meaning": "/edrgate/flows/{flow}/token", "tokens of a flow": "/edrgate/flows/{flow}/revoke/x",
		"an EDR alone": "/edrgate/edrs/{held}", "tokens of an EDR": "/edrgate/edrs/{held}/dataaddress", "encoded slashes": "/edrgate/flows%2F{flow}", "keys of one": "/edrgate/keys/x",
	} {
		add("path "+name, http.StatusNotFound, "no such resource", get, path, "")
	}
	for _, c := range [][2]string{
		{put, "status"},
		{http.MethodDelete, "flows/{flow}"},
		{get, "flows/{flow}/revoke"},
		{get, "accept-restore"},
		{put, "keys"},
		{http.MethodPut, "flows/{flow}/revoke"},
		{get, "edrs/{held}/complete"},
		{http.MethodDelete, "edrs"},
		{http.MethodPatch, "status"},
		{http.MethodOptions, "status"},
		{http.MethodTrace, "status"},
	} {
		add("method "+c[0]+" "+c[1], http.StatusMethodNotAllowed, "method must be", c[0], "/edrgate/"+c[1], "")
	}
	for name, id := range map[string]string{"of nobody": "unheard-of", "dots, encoded": "%2e%2e", "SQL": "%27%20OR%201=1", "a placeholder": "%7Benv.HOME%7D", "in capitals": "FLOW"} {
		add("flow "+name, http.StatusNotFound, "", get, "/edrgate/flows/"+id, "")
	}
	// A tombstone for what is unknown is made by the control plane only.
	for name, id := range map[string]string{"with a slash": "a%2Fb", "that climbs": "..%2F..%2Fx", "with NUL": "a%00", "with a line break": "a%0Ab", "too long": strings.Repeat("a", 256), "not UTF-8": "%FF"} {
		for _, operation := range []string{"", "/revoke"} {
			method := map[string]string{"": get, "/revoke": put}[operation]
			add("flow "+name+operation, http.StatusNotFound, "", method, "/edrgate/flows/"+id+operation, "")
		}
		add("EDR "+name, http.StatusBadRequest, "", put, "/edrgate/edrs/"+id+"/complete", "")
	}
	add("EDR of nobody", http.StatusNotFound, "", put, "/edrgate/edrs/unheard-of/complete", "")
	add("EDR that nobody prepared", http.StatusConflict, "", put, "/edrgate/edrs/{held}/complete", "")
	for _, list := range []string{"flows", "edrs"} {
		for _, limit := range []string{"0", "-1", "1001", "x", "1e3", "", "99999999999999999999", "1%00", "0x10", "%20"} {
			add(list+" limit "+limit, http.StatusBadRequest, "limit must be", get, "/edrgate/"+list+"?limit="+limit, "")
		}
		add(list+" a broken escape", http.StatusBadRequest, "not well encoded", get, "/edrgate/"+list+"?after=%zz", "")
		add(list+" a semicolon", http.StatusBadRequest, "not well encoded", get, "/edrgate/"+list+"?after=x;limit=5", "")
		add(list+" of a participant that is not", http.StatusNotFound, "there is no participant", get, "/edrgate/"+list+"?participant=unheard-of", "")
		add(list+" of a participant in capitals", http.StatusNotFound, "there is no participant", get, "/edrgate/"+list+"?participant=DEFAULT", "")
		for name, after := range map[string]string{"with NUL": "a%00", "of 5,000 characters": strings.Repeat("a", 5000), "of 256 characters": strings.Repeat("a", 256)} {
			add(list+" after one "+name, http.StatusBadRequest, "after", get, "/edrgate/"+list+"?after="+after, "")
		}
	}
	for name, body := range map[string]string{
		"text": `"x"`, "a list": "[]", "not closed": `{"reason":`, "a member of no meaning": `{"why":"x"}`, "reason a number": `{"reason":1}`, "quiet text": `{"quiet":"yes"}`, "reason a list": `{"reason":["x"]}`, "6 KiB": `{"reason":"` + strings.Repeat("a", 6<<10) + `"}`,
		"with something behind": `{"reason":"x"}{"quiet":true}`, "a member twice": `{"quiet":false,"quiet":true}`, "twice, in escapes": `{"quiet":false,"\u0071uiet":true}`, "in capitals": `{"QUIET":true}`, "a number": "1", "null": "null",
		"not UTF-8": "{\"reason\":\"\xff\"}", "deep": `{"reason":` + string(deepJSON(1000)) + `}`,
	} {
		add("revoke, body "+name, http.StatusBadRequest, "the body must be", put, "/edrgate/flows/unheard-of/revoke", body)
	}
	// What a browser sends for a page (Caddy): the socket is a file, so that no page gets here at all.
	for name, header := range map[string]string{
		"Origin": "Origin: https://attacker.example", "Origin null": "Origin: null", "Origin of ourselves": "Origin: http://127.0.0.1", "no CORS": "Sec-Fetch-Mode: no-cors", "WebSocket": "Connection: Upgrade\r\nUpgrade: websocket", "navigation": "Sec-Fetch-Mode: navigate",
	} {
		status := http.StatusForbidden
		if name == "Origin null" || name == "no CORS" || name == "WebSocket" {
			status = http.StatusBadRequest
		}
		for _, target := range []string{"GET /edrgate/status", "POST /edrgate/flows/{flow}/revoke", "GET /config/", "POST /load", "POST /stop"} {
			method, path, _ := strings.Cut(target, " ")
			add(fmt.Sprintf("a page, %s, %s", name, target), status, "", method, path, "", header)
		}
	}
	return shapes
}
