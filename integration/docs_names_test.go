package integration

import (
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	// namedTests are what a page calls a test: its name, a subtest behind a slash, and the package where two have one name.
	namedTests = regexp.MustCompile("`(Test[A-Z]\\w*)(?:/([^`]+))?`(?: in `([a-z/]+)`)?")
	testFunc   = regexp.MustCompile(`(?m)^func (Test\w+)\(`)
)

// testFile is the source of tests of one package.
type testFile struct {
	dir  string // from the root of the module, with slashes
	text string
}

// TestTestsInTheDocsExist: a page that says which test shows something is wrong as soon as the test is gone.
func TestTestsInTheDocsExist(t *testing.T) {
	t.Parallel()
	tests := map[string][]testFile{} // by the names of what they have
	err := filepath.WalkDir(moduleRoot, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		dir, err := filepath.Rel(moduleRoot, filepath.Dir(path))
		if err != nil {
			return err
		}
		file := testFile{dir: filepath.ToSlash(dir), text: read(t, path)}
		for _, name := range testFunc.FindAllStringSubmatch(file.text, -1) {
			tests[name[1]] = append(tests[name[1]], file)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	named := 0
	for _, page := range documents(t) {
		for _, m := range namedTests.FindAllStringSubmatch(read(t, page), -1) {
			named++
			name, subtest, in := m[1], m[2], m[3]
			exists := slices.ContainsFunc(tests[name], func(f testFile) bool {
				return (in == "" || f.dir == in) && (subtest == "" || strings.Contains(f.text, `"`+subtest+`"`))
			})
			if !exists {
				t.Errorf("%s names a test that does not exist: %s", filepath.Base(page), m[0])
			}
		}
	}
	if named < 100 {
		t.Errorf("the pages name %d tests: is the pattern still right?", named)
	}
}
