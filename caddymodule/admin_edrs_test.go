package caddymodule

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
)

// TestAdminListsEDRs: without tokens and endpoints, by participant.
func TestAdminListsEDRs(t *testing.T) {
	w := newConsumerWorld(t)
	w.begin()
	e := w.got("tp-1", "asset-1", 300)
	w.got("tp-2", "asset-2", 300)
	listed := w.admin("GET", "/edrgate/edrs?limit=1&participant="+userName, "")
	var page edrPageView
	err := json.Unmarshal([]byte(listed.body), &page)
	if listed.status != http.StatusOK || err != nil || len(page.EDRs) != 1 || page.Next != "tp-1" {
		t.Fatalf("%d %s", listed.status, listed.body)
	}
	got := page.EDRs[0]
	if got.ID != "tp-1" || got.State != "started" || got.Counterparty != "BPNL1" || got.CounterpartyDID != "did:web:provider.example" || !got.Renewable {
		t.Errorf("%+v", got)
	}
	for _, secret := range []string{e.access, e.refresh, w.front.URL} {
		if strings.Contains(listed.body, secret) {
			t.Error("the list shows what is sealed")
		}
	}
	var text strings.Builder
	err = page.print(&text)
	if err != nil || !strings.Contains(text.String(), "tp-1  started  true") || !strings.Contains(text.String(), "--after tp-1") {
		t.Errorf("%v %s", err, text.String())
	}
	for _, c := range []struct {
		path   string
		status int
		says   string
	}{
		{"/edrgate/edrs", 404, "no block `consumer"},
		{"/edrgate/edrs?limit=0&participant=" + userName, 400, "limit"},
		{"/edrgate/keys?participant=" + userName, 200, `"edrs_by_secret_key":{`},
		{"/edrgate/keys", 200, `"signing_keys"`},
	} {
		a := w.admin("GET", c.path, "")
		if a.status != c.status || !strings.Contains(a.body, c.says) {
			t.Errorf("%s: %d %s", c.path, a.status, a.body)
		}
	}
}
