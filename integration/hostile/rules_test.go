package hostile

import (
	"net/http"
	"strings"
)

// ruleShapes are requests to a site with `methods GET POST` and `query page size` (docs/decisions: what is forwarded). The
// token in them is good, but where the name says otherwise.
func ruleShapes(*world) []shape {
	var shapes []shape
	add := func(name string, status int, code, method, target string) {
		shapes = append(shapes, shape{name: name, status: status, code: code, backend: status == http.StatusOK, send: func(w *world) string {
			head := []string{method + " /ruled/x" + target + " HTTP/1.1", "Host: " + w.data, "Connection: close", bearer(w.dps.access)}
			if method != http.MethodGet {
				head = append(head, "Content-Length: 0")
			}
			return lines(append(head, "X-Http-Method-Override: DELETE", "X-Method-Override: DELETE")...)
		}, also: func(w *world, answer reply) string {
			if status == http.StatusMethodNotAllowed && answer.header.Get("Allow") != "GET, HEAD, POST" { // RFC 9110 §15.5.6
				return "Allow: " + answer.header.Get("Allow")
			}
			if status == http.StatusOK && w.lastSeen(data).target != "/ruled/x"+target {
				return "the backend got " + w.lastSeen(data).target
			}
			return ""
		}})
	}
	for _, method := range []string{"PUT", "DELETE", "PATCH", "OPTIONS", "get", "Get", "PROPFIND", "BREW", "GETX", "QUERY"} {
		add("method "+method, http.StatusMethodNotAllowed, "", method, "")
	}
	for _, query := range []string{
		"admin=1", "page=1&admin=1", "admin", "=", "=x", "&admin", "PAGE=1", "page%20=1", "page+=1", "+page=1", "page%00=1", "page[]=1", "page.x=1", "pa%2567e=1", "%ff=1", "size=1&%61dmin=1", "{env.HOME}=1", "page%5b%5d=1", "p\u0430ge=1",
		"page=1&page2=2", "?page=1", "page%3D1=2", "page#x",
		"page=1&" + strings.Repeat("a", 3000),
	} {
		add("query "+printable(query), http.StatusBadRequest, "is not allowed", http.MethodGet, "?"+query)
	}
	for _, query := range []string{"page=1;admin=1", "page;admin", ";", "page=1;", "page=1&size=2;admin=3"} {
		add("query "+query, http.StatusBadRequest, "semicolon", http.MethodGet, "?"+query)
	}
	for _, query := range []string{"pa%zzge=1", "%=1", "page%2=1", "%=%"} {
		add("query "+query, http.StatusBadRequest, "broken percent-encoding", http.MethodGet, "?"+query)
	}
	for _, query := range []string{"", "&&&", "page=1&page=2", "pa%67e=1", "%70age=1", "page", "page=a=b", "page=%zz", "page={env.HOME}", "size=1&page=%26admin=1", "page=1%3Badmin=1"} {
		add("odd but good: query "+printable(query), http.StatusOK, "", http.MethodGet, "?"+query)
	}
	add("odd but good: POST", http.StatusOK, "", http.MethodPost, "?page=1")
	add("odd but good: HEAD", http.StatusOK, "", http.MethodHead, "?page=1")
	return shapes
}
