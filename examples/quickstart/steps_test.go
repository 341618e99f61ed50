package main

import (
	"bytes"
	"errors"
	"net/http"
	"strings"
	"testing"
)

func TestStep(t *testing.T) {
	answered := func(status int, body string) func() (answer, error) {
		return func() (answer, error) { return answer{status: status, body: []byte(body)}, nil }
	}
	for _, test := range []struct {
		name  string
		want  wanted
		send  func() (answer, error)
		tells string // what the line ends with
		fails string // what the error says
	}{
		{"as wanted", wanted{http.StatusOK, exactly("hello")}, answered(200, "hello"), `200  "hello"`, ""},
		{"nothing to tell", wanted{status: http.StatusNoContent}, answered(204, ""), "204", ""},
		{"other status", wanted{http.StatusOK, exactly("hello")}, answered(403, "no\n"), "", `step 1, asking: want 200, but the answer is 403 "no"`},
		{"status of success instead of a refusal", wanted{status: 403}, answered(200, "secret"), "", "want 403, but the answer is 200"},
		{"other bytes", wanted{http.StatusOK, exactly("hello")}, answered(200, "hello!"), "", `want the body "hello", but it is "hello!"`},
		{"words found", wanted{403, saying("expired")}, answered(403, `{"errors":["expired"]}`), "403  expired", ""},
		{"words missing", wanted{403, saying("expired")}, answered(403, "suspended"), "", `want a body that says "expired"`},
		{"no answer", wanted{status: 200}, func() (answer, error) { return answer{}, errors.New("refused") }, "", "step 1, asking: refused"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var out bytes.Buffer
			n := narrator{out: &out}
			err := n.step("asking", test.want, test.send)
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
