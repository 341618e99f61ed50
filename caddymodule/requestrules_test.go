package caddymodule

import (
	"net/http"
	"strings"
	"testing"

	"github.com/edrgate/edrgate/tokens"
)

func TestQueryRules(t *testing.T) {
	some := newRequestRules(RequestRules{Query: []string{"page", "filter[name]", "a b"}})
	none := newRequestRules(RequestRules{NoQuery: true})
	cases := []struct {
		name, query string
		rules       *requestRules
		want        string // "": passes
	}{
		{"no rules", "a=1", nil, ""},
		{"rules of methods only", "a=1", newRequestRules(RequestRules{Methods: []string{"GET"}}), ""},
		{"no query", "", some, ""},
		{"allowed", "page=1&page=2", some, ""},
		{"without a value", "page", some, ""},
		{"empty pairs", "&&page=1&", some, ""},
		{"allowed, encoded", "p%61ge=1&filter%5Bname%5D=x&a+b=1&a%20b=2", some, ""},
		{"any value", "page=%26evil%3D1%00%zz=?/", some, ""},
		{"another one", "page=1&evil=2", some, `query parameter "evil" is not allowed`},
		{"another one, encoded", "%65vil", some, `query parameter "evil" is not allowed`},
		{"encoded twice", "p%2561ge=1", some, `query parameter "p%61ge" is not allowed`},
		{"other case", "Page=1", some, `query parameter "Page" is not allowed`},
		{"no name", "=1", some, `query parameter "" is not allowed`},
		{"hidden behind a semicolon", "page=1;evil=2", some, "a semicolon in the query must be encoded"},
		{"semicolon, encoded", "page=1%3Bevil=2", some, ""},
		{"broken", "pag%zz=1", some, "broken percent-encoding in the query"},
		{"broken at the end", "page=1&%", some, "broken percent-encoding in the query"},
		{"long", strings.Repeat("x", 1000), some, `query parameter "` + strings.Repeat("x", 64) + `" is not allowed`},
		{"not UTF-8", "%FFx", some, `query parameter "x" is not allowed`},
		{"control character", "%0Ax", some, `query parameter "\nx" is not allowed`},
		{"none allowed", "page=1", none, `query parameter "page" is not allowed`},
		{"none allowed, none there", "&", none, ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got := c.rules.checkQuery(c.query)
			if got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
	allocations := testing.AllocsPerRun(100, func() { some.checkQuery("page=1&page=2") })
	if allocations > 0 {
		t.Errorf("%v allocations", allocations)
	}
}

// FuzzQueryRules: whatever passes has, for a reader that splits at "&" and ";" and decodes, allowed names only.
func FuzzQueryRules(f *testing.F) {
	for _, query := range []string{"a=1&b=2", "a=1;c=2", "%61=1", "a%26c=1", "&&", "=", "a+b", "a=1&c"} {
		f.Add(query)
	}
	rules := newRequestRules(RequestRules{Query: []string{"a", "b"}})
	f.Fuzz(func(t *testing.T, query string) {
		if rules.checkQuery(query) != "" {
			return
		}
		for pair := range strings.FieldsFuncSeq(query, func(r rune) bool { return r == '&' || r == ';' }) {
			name, _, _ := strings.Cut(pair, "=")
			name = strings.NewReplacer("%61", "a", "%62", "b").Replace(name)
			if name != "a" && name != "b" {
				t.Errorf("%q lets %q pass", query, name)
			}
		}
	})
}

// TestRequestRules of a site and of a flow's route.
func TestRequestRules(t *testing.T) {
	w := newDataWorld(t)
	backend := newRecordingBackend(t, nil)
	w.app.routes["reading"] = &routeTarget{Backend: backend.URL}
	w.app.rules = map[string]*requestRules{
		"reading": newRequestRules(RequestRules{Methods: []string{"GET", "OPTIONS"}, Query: []string{"page"}}),
		"gone":    newRequestRules(RequestRules{NoQuery: true}),
	}
	rules := RequestRules{Methods: []string{"GET", "POST"}, Query: []string{"page", "size"}}
	w.run(object{"routes": []object{
		{"match": []object{{"header": object{"X-Site": []string{"open"}}}}, "handle": []object{
			w.auth("open", &Auth{AnyDataset: true}), reverseProxyTo(backend.hostport()),
		}},
		{"match": []object{{"header": object{"X-Site": []string{"ruled"}}}}, "handle": []object{
			w.auth("ruled", &Auth{AnyDataset: true, GateOptions: GateOptions{RequestRules: rules}}), reverseProxyTo(backend.hostport()),
		}},
		{"handle": []object{w.proxy("proxy", &Proxy{Backends: []string{backend.hostport()}})}},
	}})
	token := map[string]string{}
	for _, route := range []string{"", "reading", "other", "gone"} {
		_, token[route] = w.flow(func(r *tokens.StartRequest) { r.Route = route })
	}
	cases := []struct {
		name, site, route, method, path string
		status                          int
		told                            string // Allow, or a part of the body
	}{
		{"open", "open", "", "DELETE", "/x?evil=1", 200, ""},
		{"a route without rules", "open", "other", "DELETE", "/x?evil=1", 200, ""},
		{"method of the site", "ruled", "", "POST", "/x?size=1", 200, ""},
		{"HEAD with GET", "ruled", "", "HEAD", "/x", 200, ""},
		{"another method", "ruled", "", "DELETE", "/x", 405, "GET, HEAD, POST"},
		{"another parameter", "ruled", "", "GET", "/x?page=1&evil=1", 400, `Query not allowed: query parameter \"evil\" is not allowed`},
		{"the route's method", "open", "reading", "OPTIONS", "/x?page=1", 200, ""},
		{"not the route's", "open", "reading", "POST", "/x", 405, "GET, HEAD, OPTIONS"},
		{"not the route's parameter", "open", "reading", "GET", "/x?size=1", 400, `parameter \"size\"`},
		{"both: neither alone is enough", "ruled", "reading", "POST", "/x", 405, "GET, HEAD, OPTIONS"},
		{"both: the site's", "ruled", "reading", "OPTIONS", "/x", 405, "GET, HEAD, POST"},
		{"both: the narrower query", "ruled", "reading", "GET", "/x?size=1", 400, `parameter \"size\"`},
		{"no query", "open", "gone", "GET", "/x?page=1", 400, `parameter \"page\"`},
		{"no query is there", "open", "gone", "GET", "/x", 200, ""},
		{"edr_proxy", "proxy", "reading", "GET", "/x?page=1", 200, ""},
		{"edr_proxy, another method", "proxy", "reading", "PUT", "/x", 405, "GET, HEAD, OPTIONS"},
		{"edr_proxy, another parameter", "proxy", "reading", "GET", "/x?page=1&size=1", 400, `parameter \"size\"`},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got := w.send(c.method, c.path, token[c.route], "", "X-Site: "+c.site)
			if got.StatusCode != c.status {
				t.Fatalf("got %d %s, want %d", got.StatusCode, got.body, c.status)
			}
			switch c.status {
			case http.StatusOK:
				backend.last(t)
				return
			case http.StatusMethodNotAllowed:
				if got.Header.Get("Allow") != c.told {
					t.Errorf("Allow %q, want %q", got.Header.Get("Allow"), c.told)
				}
			default:
				if !strings.Contains(got.body, c.told) {
					t.Errorf("got %s, want %s in it", got.body, c.told)
				}
			}
			backend.none(t)
		})
	}
	t.Run("rules of a route are told to its consumers only", func(t *testing.T) {
		if got := w.send("POST", "/x?evil=1", "abc", "", "X-Site: open"); got.StatusCode != 401 {
			t.Errorf("got %d %s", got.StatusCode, got.body)
		}
	})
	counted := w.app.counted()
	if counted["edr_auth refused method"] == 0 || counted["edr_auth refused query"] == 0 || counted["edr_proxy refused query"] == 0 {
		t.Errorf("%v", counted)
	}
}

// TestRulesOfARouteByConfiguration: what a route says of methods and query holds for the flows that take it, whichever site
// they come to.
func TestRulesOfARouteByConfiguration(t *testing.T) {
	g := newLiveGateway(t)
	app := g.app()
	app["routes"] = object{"reading": object{"datasets": []string{"asset-1"}, "methods": []string{"GET"}, "query": []string{"page"}}}
	g.load(app, g.servers())
	e := g.start("flow-1", newConsumer(t))
	for target, status := range map[string]int{"GET /x?page=1": 200, "POST /x": 405, "GET /x?size=1": 400} {
		method, path, _ := strings.Cut(target, " ")
		got := g.send("data", g.request(method, "http://data.example"+path, nil, "Authorization", e.access))
		if got.status != status {
			t.Errorf("%s: got %d %s, want %d", target, got.status, got.body, status)
		}
	}
}
