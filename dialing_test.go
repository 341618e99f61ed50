package edrgate_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// dialers are what makes a connection past internal/dial, by import path. Types count where a value is made or named.
var dialers = map[string][]string{
	"net": {
		"Dial", "DialTimeout", "DialTCP", "DialUDP", "DialIP", "DialUnix", "Dialer", "Resolver", "DefaultResolver",
		"LookupAddr", "LookupCNAME", "LookupHost", "LookupIP", "LookupMX", "LookupNS", "LookupPort", "LookupSRV", "LookupTXT",
		"ResolveTCPAddr", "ResolveUDPAddr", "ResolveIPAddr",
	},
	"net/http":   {"DefaultClient", "DefaultTransport", "Transport", "Get", "Head", "Post", "PostForm", "Client"},
	"crypto/tls": {"Dial", "DialWithDialer", "Dialer"},
}

// dialingPackages are whole packages that connect.
var dialingPackages = []string{
	"net/smtp", "net/rpc", "net/rpc/jsonrpc", "net/http/httputil", "log/syslog", "golang.org/x/net/http2", "golang.org/x/net/proxy",
	"golang.org/x/oauth2", "golang.org/x/oauth2/clientcredentials", "google.golang.org/grpc",
}

// mayName lists what files outside of internal/dial nevertheless name, and why that connects nowhere by itself.
var mayName = map[string][]string{
	"authserver/source.go":             {"net/http.Client"},                                              // over the transport that it is given
	"authserver/fetch.go":              {"golang.org/x/oauth2", "golang.org/x/oauth2/clientcredentials"}, // with the client of source.go
	"signaling/controlplane/client.go": {"net/http.Client"},                                              // the same
	"caddymodule/dials.go":             {"net/http.Transport"},                                           // what internal/dial has made
	"caddymodule/backends.go":          {"net/http.Transport"},                                           // the same
	"caddymodule/consumer_edrs.go":     {"net/http.Transport"},                                           // the same
	"caddymodule/controlplane.go":      {"net/http.Transport"},                                           // the same
	"caddymodule/app.go":               {"net/http.Transport"},                                           // the same
	"caddymodule/signaling.go":         {"net/http.Transport"},                                           // the same
	"caddymodule/transport.go":         {"net/http.Transport", "net.Resolver"},
	"did/resolver.go":                  {"net/http.Transport", "net.Resolver"},
	"policy/policy.go":                 {"net.Resolver"}, // handed on to internal/dial
}

// madeByItself reports whether a value of the type at is made there, which no exception covers. A client is as good as its
// transport, but without one it has the default one.
func madeByItself(file *ast.File, at *ast.SelectorExpr) bool {
	made := false
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.CompositeLit:
			made = made || n.Type == at && (at.Sel.Name != "Client" || !hasKey(n, "Transport"))
		case *ast.CallExpr: // new(T)
			made = made || slices.Contains(n.Args, ast.Expr(at))
		case *ast.ValueSpec: // var t T
			made = made || n.Type == at
		}
		return true
	})
	return made
}

func hasKey(literal *ast.CompositeLit, name string) bool {
	return slices.ContainsFunc(literal.Elts, func(e ast.Expr) bool {
		pair, ok := e.(*ast.KeyValueExpr)
		if !ok {
			return false
		}
		key, ok := pair.Key.(*ast.Ident)
		return ok && key.Name == name
	})
}

// TestOutgoingConnectionsAreCheckedInOnePlace: all that the gateway connects to goes through internal/dial, which checks the
// address at the moment of the dial. Tests, and the programs that are no part of the gateway, connect as they like.
func TestOutgoingConnectionsAreCheckedInOnePlace(t *testing.T) {
	t.Parallel()
	named := map[string]bool{}
	err := filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		path = filepath.ToSlash(path)
		if entry.IsDir() && slices.Contains([]string{"integration", "examples", "bench", "internal/dial", "internal/testkit", "store/postgres/pgtest", "tools", ".git"}, path) {
			return filepath.SkipDir
		}
		if entry.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		for _, found := range dialersIn(t, path, nil) {
			if !slices.Contains(mayName[path], found) {
				t.Errorf("%s names %s: connections are made by internal/dial, which checks each address", path, found)
			}
			named[path+" "+found] = true
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for path, list := range mayName {
		for _, name := range list {
			if !named[path+" "+name] {
				t.Errorf("%s does not name %s any more: take it off mayName", path, name)
			}
		}
	}
}

// dialersIn returns what a file names of dialers, and the packages of dialingPackages that it imports.
func dialersIn(t *testing.T, path string, source any) []string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), path, source, 0)
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	local := map[string]string{} // import path by its name in the file
	for _, spec := range file.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			t.Fatal(err)
		}
		if slices.Contains(dialingPackages, imported) {
			found = append(found, imported)
		}
		if dialers[imported] == nil {
			continue
		}
		name := imported[strings.LastIndexByte(imported, '/')+1:]
		if spec.Name != nil {
			name = spec.Name.Name
		}
		if name == "." {
			found = append(found, imported+" without its name")
		}
		local[name] = imported
	}
	ast.Inspect(file, func(n ast.Node) bool {
		selector, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		qualifier, ok := selector.X.(*ast.Ident)
		if !ok || !slices.Contains(dialers[local[qualifier.Name]], selector.Sel.Name) {
			return true
		}
		name := local[qualifier.Name] + "." + selector.Sel.Name
		if madeByItself(file, selector) {
			name += "{…}"
		}
		if !slices.Contains(found, name) {
			found = append(found, name)
		}
		return true
	})
	return found
}

func TestDialersAreFound(t *testing.T) {
	t.Parallel()
	for code, want := range map[string]string{
		`var c = http.DefaultClient`:                                    "net/http.DefaultClient",
		`func f() { http.Get("x") }`:                                    "net/http.Get",
		`var t = &http.Transport{}`:                                     "net/http.Transport{…}",
		`var t = new(http.Transport)`:                                   "net/http.Transport{…}",
		`var t http.Transport`:                                          "net/http.Transport{…}",
		`func f(t *http.Transport) {}`:                                  "net/http.Transport",
		`var c = http.Client{Timeout: 1}`:                               "net/http.Client{…}",
		`func f(t http.RoundTripper) { _ = http.Client{Transport: t} }`: "net/http.Client",
		`func f() { n.Dial("tcp", "x") }`:                               "net.Dial",
		`var d n.Dialer`:                                                "net.Dialer{…}",
		`func f() { tls.Dial("tcp", "x", nil) }`:                        "crypto/tls.Dial",
		`func f(r *http.Request) { _ = http.StatusOK }`:                 "",
	} {
		source := "package x\nimport (\n\"crypto/tls\"\nn \"net\"\n\"net/http\"\n)\n" + code
		if got := strings.Join(dialersIn(t, "x.go", source), " "); got != want {
			t.Errorf("%s: found %q, want %q", code, got, want)
		}
	}
}
