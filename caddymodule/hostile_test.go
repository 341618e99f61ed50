package caddymodule

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/edrgate/edrgate/tokens"
)

// Regression tests of what the bad-input suite (integration/hostile) has found.

// TestMethodsThatAreNone: HTTP/2 carries any text for a method. A backend's answer to it was 502, as if it were to blame.
func TestMethodsThatAreNone(t *testing.T) {
	t.Parallel()
	for _, method := range []string{"GET /smuggled", "GET[]", "G\u00c4T", "GET\t", "\x00", ""} {
		r := httptest.NewRequest(http.MethodGet, "/x", nil)
		r.Method = method
		if (&gate{site: new(tokens.Site)}).takesMethod(r) {
			t.Errorf("edr_auth passes %q on", method)
		}
		w := httptest.NewRecorder()
		if new(Egress).takes(w, r) || w.Code != http.StatusMethodNotAllowed {
			t.Errorf("edr_egress answers %q with %d", method, w.Code)
		}
	}
	r := httptest.NewRequest("BREW", "/x", nil)
	if !(&gate{site: new(tokens.Site)}).takesMethod(r) || !new(Egress).takes(httptest.NewRecorder(), r) {
		t.Error("a method that is unknown, but one, does not pass")
	}
}

// TestSecondOriginIsReadToo: a proxy in front may have added its own.
func TestSecondOriginIsReadToo(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"Origin", "Sec-Fetch-Site"} {
		own := map[string]string{"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"}[name]
		foreign := map[string]string{"Origin": "https://attacker.example", "Sec-Fetch-Site": "cross-site"}[name]
		r := httptest.NewRequest(http.MethodGet, "http://localhost/x", nil)
		r.Header[name] = []string{own, own}
		if isForeignPage(r) {
			t.Errorf("%s: our own page is refused", name)
		}
		r.Header[name] = []string{own, foreign}
		if !isForeignPage(r) {
			t.Errorf("%s: the second one is not read", name)
		}
	}
}

func TestAutoRefresh(t *testing.T) {
	t.Parallel()
	for query, want := range map[string]bool{"": true, "auto_refresh=true": true, "auto_refresh=": true, "x=y&auto_refresh=false": false} {
		got, err := autoRefresh(query)
		if err != nil || got != want {
			t.Errorf("%q: %v, %v", query, got, err)
		}
	}
	for _, query := range []string{"auto_refresh=yes", "auto_refresh=%zz", "auto_refresh=false&auto_refresh=true", "auto_refresh=TRUE", "auto_refresh=true;x"} {
		_, err := autoRefresh(query)
		if err == nil || !strings.Contains(err.Error(), "auto_refresh") {
			t.Errorf("%q: %v", query, err)
		}
	}
}

// TestRevocationIsReadStrictly: it ends a flow for ever, so nothing is guessed.
func TestRevocationIsReadStrictly(t *testing.T) {
	t.Parallel()
	q := revokeRequest{Reason: "default"}
	err := q.read(strings.NewReader(""))
	if err != nil || q.Reason != "default" || q.Quiet {
		t.Errorf("no body: %+v, %v", q, err)
	}
	err = q.read(strings.NewReader(`{"reason":"why","quiet":true}`))
	if err != nil || q.Reason != "why" || !q.Quiet {
		t.Errorf("%+v, %v", q, err)
	}
	for _, body := range []string{
		"null", "[]", "1", `{"quiet":"yes"}`, `{"QUIET":true}`, `{"quiet":false,"quiet":true}`, `{"quiet":false,"\u0071uiet":true}`, `{}{}`, "{\"reason\":\"\xff\"}",
		`{"reason":"` + strings.Repeat("a", maxRevokeBytes) + `"}`,
	} {
		if new(revokeRequest).read(strings.NewReader(body)) == nil {
			t.Errorf("%.40q passes", body)
		}
	}
}

// TestPagesAfterWhatIsNoID: the store was blamed for it, with a 503.
func TestPagesAfterWhatIsNoID(t *testing.T) {
	t.Parallel()
	for _, after := range []string{strings.Repeat("a", 256), "a%00"} {
		_, _, err := pageAsked(httptest.NewRequest(http.MethodGet, "/edrgate/flows?after="+after, nil))
		if err == nil || adminStatus(err) != http.StatusBadRequest {
			t.Errorf("%.20s: %v", after, err)
		}
	}
}
