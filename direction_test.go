package edrgate_test

import (
	"encoding/json"
	"errors"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const (
	module      = "github.com/edrgate/edrgate"
	caddyModule = "github.com/caddyserver/caddy/v2"
)

// mayImport says for each package what it may import of this module, by the beginning of paths below it. A newcomer can
// read a package without those that are not listed with it.
var mayImport = map[string][]string{
	"":                    {"caddymodule"},
	"caddymodule":         {"consumer", "replica", "signaling", "routing", "oauth", "authserver", "tokens", "did", "policy", "store", "internal"},
	"signaling":           {"routing", "authserver", "tokens", "internal"},
	"routing":             {"tokens", "internal"},
	"authserver":          {"tokens", "internal"},
	"oauth":               {"tokens", "internal"},
	"tokens":              {"store", "internal"},
	"consumer":            {"authserver", "tokens", "store", "internal"},
	"did":                 {"internal"},           // implements what tokens declares, and does not know it
	"policy":              {"tokens", "internal"}, // implements what tokens declares
	"replica":             {"store"},
	"store":               {},
	"store/badger":        {"store", "store/calls"},
	"store/calls":         {"store"},
	"store/memory":        {"store"},
	"store/move":          {"store"},
	"store/postgres":      {"store", "store/calls"},
	"store/storetest":     {"store", "store/move", "internal"},
	"internal":            {"internal"},
	"integration":         {"internal"}, // knows the gateway by its sockets only
	"integration/cluster": {"internal", "store/postgres/pgtest"},
	"examples":            {"internal", "examples/internal", "store/postgres/pgtest"},
	"bench":               {"bench", "caddymodule", "signaling", "oauth", "tokens", "did", "store", "internal"},
	"xcaddy":              {""},
}

// caddyUsers are the only packages that know Caddy.
var caddyUsers = []string{"", "caddymodule", "xcaddy", "integration", "examples", "bench"}

// vagueNames say nothing of what a package is for, so that everything ends up in it.
var vagueNames = []string{"util", "utils", "common", "helper", "helpers", "manager", "types", "models"}

// listed is what the go command says of a package.
type listed struct {
	ImportPath                         string
	Name                               string
	Imports, TestImports, XTestImports []string
}

func TestPackagesDependInOneDirection(t *testing.T) {
	t.Parallel()
	for _, p := range packages(t) {
		path := below(p.ImportPath)
		allowed, known := rule(path)
		if !known {
			t.Errorf("package %s has no place in mayImport: say what it may import", path)
			continue
		}
		for _, imported := range p.Imports {
			inner, own := strings.CutPrefix(imported, module)
			if own && !slices.ContainsFunc(allowed, func(a string) bool { return covers(a, strings.TrimPrefix(inner, "/")) }) {
				t.Errorf("package %s imports %s, but may import only %v", path, imported, allowed)
			}
		}
		for _, imported := range slices.Concat(p.Imports, p.TestImports, p.XTestImports) {
			if covers(caddyModule, imported) && !slices.ContainsFunc(caddyUsers, func(u string) bool { return covers(u, path) }) {
				t.Errorf("package %s imports %s, but may not know Caddy", path, imported)
			}
		}
	}
}

// TestStoresImportTheirEngineOnly: a store knows nothing of flows or HTTP.
func TestStoresImportTheirEngineOnly(t *testing.T) {
	t.Parallel()
	engines := map[string][]string{
		"store":           nil,
		"store/memory":    nil,
		"store/move":      nil,
		"store/storetest": nil,
		"store/badger":    {"github.com/dgraph-io/badger/v4", "golang.org/x/sync", "golang.org/x/sys"},
		"store/calls":     nil,
		"store/postgres":  {"github.com/jackc/pgx/v5"},

		"store/postgres/pgtest": nil, // a PostgreSQL server for tests
	}
	for _, p := range packages(t) {
		path := below(p.ImportPath)
		if !covers("store", path) {
			continue
		}
		engine, known := engines[path]
		if !known {
			t.Errorf("package %s has no engine listed", path)
		}
		for _, imported := range p.Imports {
			first, _, _ := strings.Cut(imported, "/")
			if !strings.Contains(first, ".") || strings.HasPrefix(imported, module) { // the standard library; for ours see above
				continue
			}
			if !slices.ContainsFunc(engine, func(e string) bool { return covers(e, imported) }) {
				t.Errorf("package %s imports %s, which is not its engine", path, imported)
			}
		}
	}
}

func TestPackageNamesSayWhatTheyAreFor(t *testing.T) {
	t.Parallel()
	for _, p := range packages(t) {
		if slices.Contains(vagueNames, p.Name) || slices.Contains(vagueNames, filepath.Base(p.ImportPath)) {
			t.Errorf("package %s has a name that says nothing", p.ImportPath)
		}
	}
}

// packages are those of this module, and of the module of the shipped binary inside of its directory.
func packages(t testing.TB) []listed {
	t.Helper()
	command := exec.Command("go", "list", "-json=ImportPath,Name,Imports,TestImports,XTestImports", "./...")
	output, err := command.Output()
	if err != nil {
		var failed *exec.ExitError
		if errors.As(err, &failed) {
			t.Fatalf("go list: %v: %s", err, failed.Stderr)
		}
		t.Fatal(err)
	}
	var all []listed
	decoder := json.NewDecoder(strings.NewReader(string(output)))
	for {
		var p listed
		err := decoder.Decode(&p)
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	if len(all) < 10 {
		t.Fatalf("go list has found %d packages only", len(all))
	}
	return append(all, nested(t, "xcaddy")...)
}

// nested returns the packages in a directory that is a module of its own, which `go list ./...` does not look into.
func nested(t testing.TB, dir string) []listed {
	t.Helper()
	found := map[string]*listed{}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, ".go") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		importPath := module + "/" + filepath.ToSlash(filepath.Dir(path))
		p, ok := found[importPath]
		if !ok {
			p = &listed{ImportPath: importPath, Name: file.Name.Name}
			found[importPath] = p
		}
		for _, spec := range file.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			p.Imports = append(p.Imports, imported)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(found) == 0 {
		t.Fatalf("%s has no package", dir)
	}
	all := make([]listed, 0, len(found))
	for _, p := range found {
		all = append(all, *p)
	}
	return all
}

// below returns the path of a package inside of the module; "" is the root.
func below(importPath string) string {
	return strings.TrimPrefix(strings.TrimPrefix(importPath, module), "/")
}

// rule returns what the package at path, or the nearest one above it, may import.
func rule(path string) ([]string, bool) {
	for at := path; ; at = filepath.ToSlash(filepath.Dir(at)) {
		allowed, known := mayImport[at]
		if known && (at != "" || path == "") {
			return allowed, true
		}
		if at == "." || at == "" || at == "store" { // each store needs a rule of its own
			return nil, false
		}
	}
}

// covers reports whether path is prefix or lies below it.
func covers(prefix, path string) bool {
	return path == prefix || prefix != "" && strings.HasPrefix(path, prefix+"/")
}
