package caddymodule

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/edrgate/edrgate/consumer"
	"github.com/edrgate/edrgate/internal/testkit"
	"github.com/edrgate/edrgate/store/memory"
	"github.com/edrgate/edrgate/tokens"
)

// TestConsumerLooksProvidersUp: an EDR that came by an event is renewed when its agreement has told whose it is.
func TestConsumerLooksProvidersUp(t *testing.T) {
	w := newConsumerWorld(t)
	var asked atomic.Int32
	management := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Api-Key") != "CANARY-key" || r.URL.EscapedPath() != "/management/v3/contractagreements/agreement%2F1" {
			t.Errorf("%s %v", r.URL, r.Header)
		}
		if asked.Add(1) == 1 {
			rw.WriteHeader(http.StatusInternalServerError)
			return
		}
		writeJSON(rw, http.StatusOK, object{"@id": "agreement/1", "providerId": "BPNL1"})
	}))
	t.Cleanup(management.Close)
	err := os.WriteFile(w.path("key"), []byte("CANARY-key\n"), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	app := w.consumerApp()
	app["participants"].(object)[userName].(object)["consumer"].(object)["management"] = object{
		"url": management.URL + "/management", "api_key": "{file." + w.path("key") + "}",
	}
	w.load(app, w.consumerServers(nil, nil))
	e := w.start("tp-1", w.user)
	const edc, tx = "https://w3id.org/edc/v0.0.1/ns/", "https://w3id.org/tractusx/auth/"
	event := object{"id": "e", "at": 1000, "type": "TransferProcessStarted", "payload": object{
		"transferProcessId": "tp-1", "assetId": "asset-1", "type": "CONSUMER", "contractId": "agreement/1",
		"dataAddress": object{"properties": object{
			edc + "endpoint": w.front.URL, edc + "endpointType": "https://w3id.org/idsa/v4.1/HTTP", edc + "authorization": e.access,
			tx + "refreshToken": e.refresh, tx + "refreshEndpoint": w.front.URL + "/token", tx + "expiresIn": "300",
		}},
	}}
	testkit.Eventually(t, "the EDR is renewed", func() bool {
		// The event comes again, as control planes repeat theirs, so that the test need not wait for the next look.
		if a := w.api(http.MethodPost, "/edrs/events", event); a.status != http.StatusNoContent {
			t.Fatalf("%d %s", a.status, a.body)
		}
		return w.api(http.MethodPost, "/edrs/tp-1/refresh", nil).status == http.StatusOK
	})
	if asked.Load() != 2 {
		t.Errorf("asked %d times", asked.Load())
	}
	if strings.Contains(w.logged(), "CANARY") {
		t.Error("the API key is in the log")
	}
}

// TestUnknownAgreementsHoldNobodyUp: regression. EDRs whose agreements the management API does not know were asked for first
// at each look, and where they were many nobody else's turn came.
func TestUnknownAgreementsHoldNobodyUp(t *testing.T) {
	t.Parallel()
	sealer, err := tokens.NewSealer(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	cache, err := consumer.New(consumer.Config{
		Participant: "default", DID: "did:web:consumer.example", Store: memory.New(time.Now), Sealer: sealer,
	})
	if err != nil {
		t.Fatal(err)
	}
	put := func(id, agreement string) {
		t.Helper()
		_, err := cache.Put(t.Context(), consumer.Put{ID: id, Origin: consumer.ByEvent, Terms: consumer.Terms{Agreement: agreement}, EDR: &consumer.EDR{
			Dialect: tokens.Classic, Endpoint: "https://provider.example", AccessToken: tokens.Secret("access-of-" + id),
		}})
		if err != nil {
			t.Fatal(err)
		}
	}
	for i := range 2 * maxLookups {
		put(fmt.Sprintf("tp-%04d", i), "forgotten")
	}
	put("tp-last", "known")
	a := &agreements{
		base: &url.URL{Scheme: "https", Host: "edc.internal"}, logger: slog.New(slog.DiscardHandler),
		client: roundTrip(func(r *http.Request) (*http.Response, error) {
			w := httptest.NewRecorder()
			if path.Base(r.URL.Path) != "known" {
				w.WriteHeader(http.StatusNotFound)
				return w.Result(), nil
			}
			writeJSON(w, http.StatusOK, object{"providerId": "did:web:provider.example"})
			return w.Result(), nil
		}),
	}
	for range 3 {
		a.learn(t.Context(), cache)
	}
	entry, err := cache.Get(t.Context(), "tp-last")
	if err != nil || entry.Counterparty != "did:web:provider.example" {
		t.Errorf("after three looks: %+v, %v", entry, err)
	}
	put("tp-0000-new", "known") // it begins anew when all have been asked for
	for range 3 {
		a.learn(t.Context(), cache)
	}
	entry, err = cache.Get(t.Context(), "tp-0000-new")
	if err != nil || entry.Counterparty == "" {
		t.Errorf("after three more looks: %+v, %v", entry, err)
	}
}

func TestProviderIn(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]string{
		`{"providerId":"a"}`:                                "a",
		`{"edc:providerId":"a"}`:                            "a",
		`{"https://w3id.org/edc/v0.0.1/ns/providerId":"a"}`: "a",
		`{"providerId":""}`:                                 "",
		`{"providerId":1}`:                                  "",
		`[]`:                                                "",
	} {
		got, err := providerIn([]byte(body))
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%s: %q %v", body, got, err)
		}
	}
}

func FuzzProviderIn(f *testing.F) {
	f.Add([]byte(`{"providerId":"a"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := providerIn(data)
		if (err == nil) != (got != "") {
			t.Errorf("%q %v", got, err)
		}
	})
}
