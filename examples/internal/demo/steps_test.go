package demo

import (
	"bytes"
	"errors"
	"net/http"
	"strings"
	"testing"
)

func TestStep(t *testing.T) {
	answered := func(status int, body string) func() (Answer, error) {
		return func() (Answer, error) { return Answer{Status: status, Body: []byte(body)}, nil }
	}
	for _, test := range []struct {
		name  string
		want  Wanted
		send  func() (Answer, error)
		tells string // what the line ends with
		fails string // what the error says
	}{
		{"as wanted", Wanted{http.StatusOK, Exactly("hello")}, answered(200, "hello"), `200  "hello"`, ""},
		{"nothing to tell", Wanted{Status: http.StatusNoContent}, answered(204, ""), "204", ""},
		{"other status", Wanted{http.StatusOK, Exactly("hello")}, answered(403, "no\n"), "", `step 1, asking: want 200, but the answer is 403 "no"`},
		{"status of success instead of a refusal", Wanted{Status: 403}, answered(200, "secret"), "", "want 403, but the answer is 200"},
		{"other bytes", Wanted{http.StatusOK, Exactly("hello")}, answered(200, "hello!"), "", `want the body "hello", but it is "hello!"`},
		{"words found", Wanted{403, Saying("expired")}, answered(403, `{"errors":["expired"]}`), "403  expired", ""},
		{"words missing", Wanted{403, Saying("expired")}, answered(403, "suspended"), "", `want a body that says "expired"`},
		{"no answer", Wanted{Status: 200}, func() (Answer, error) { return Answer{}, errors.New("refused") }, "", "step 1, asking: refused"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var out bytes.Buffer
			n := Narrator{Out: &out}
			err := n.Step("asking", test.want, test.send)
			if test.fails == "" {
				if err != nil {
					t.Fatal(err)
				}
				line := strings.TrimSuffix(out.String(), "\n")
				if !strings.HasPrefix(line, "  1  asking ") || !strings.HasSuffix(line, " "+test.tells) {
					t.Errorf("told %q", line)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), test.fails) {
				t.Errorf("error is %v", err)
			}
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("error quotes what was granted: %v", err)
			}
			if out.Len() > 0 {
				t.Errorf("told %q of a failed step", out.String())
			}
		})
	}
}
