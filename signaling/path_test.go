package signaling

import (
	"net/url"
	"strings"
	"testing"
)

// FuzzTarget: a path that names an operation is the one that the operation's own parts give, so that no two readers of it
// differ.
func FuzzTarget(f *testing.F) {
	for _, path := range []string{
		"/dataflows", "/dataflows/", "/dataflows/start", "/dataflows/f/suspend", "/dataflows/f%2Fg/terminate", "/dataflows/%2e%2e/status",
		"/v1/dataflows", "/v1/dataflows/check", "/v1/dataflows/f/state", "/v1/dataflows//suspend", "/v1/dataflows/f/suspend/", "/v1/dataflows/%zz/start",
		"/dataflows-old/start", "/controlplanes", "/controlplanes/a", "/controlplanes/a/b", "/controlplanes/%00", "//dataflows/f/suspend", "",
	} {
		f.Add(path)
	}
	f.Fuzz(func(t *testing.T, path string) {
		got, ours := targetOf(path)
		if !ours || got.operation == opUnknown || got.flow == "" {
			return
		}
		root := dpsRoot
		if strings.HasPrefix(path, classicRoot) {
			root = classicRoot
		}
		segments := strings.Split(path[len(root):], "/")
		id, err := url.PathUnescape(segments[1])
		if len(segments) != 3 || err != nil || id != got.flow || flowOperations[got.dialect][segments[2]] != got.operation {
			t.Errorf("%q is %+v", path, got)
		}
	})
}
