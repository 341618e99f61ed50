package consumer_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/netip"

	"github.com/edrgate/edrgate/consumer"
	"github.com/edrgate/edrgate/internal/dial"
	"github.com/edrgate/edrgate/store/memory"
	"github.com/edrgate/edrgate/tokens"
)

// A provider's EDR is put into a cache and used by an ordinary http.Client. The token is renewed when that is needed.
func Example() {
	provider := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/token":
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, `{"access_token":"second","refresh_token":"r2","token_type":"bearer","expires_in":300}`)
		case r.Header.Get("Authorization") != "Bearer second":
			w.WriteHeader(http.StatusUnauthorized)
		default:
			_, _ = io.WriteString(w, "temperature: 21.5")
		}
	}))
	defer provider.Close()

	// Every connection is checked when it is dialled, since providers choose the addresses.
	guard, err := dial.NewGuard(dial.Config{AllowAddresses: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}})
	if err != nil {
		log.Fatal(err)
	}
	transport, err := dial.NewTransport(dial.TransportConfig{Guard: guard})
	if err != nil {
		log.Fatal(err)
	}
	sealing := make([]byte, 32)
	_, err = rand.Read(sealing)
	if err != nil {
		log.Fatal(err)
	}
	sealer, err := tokens.NewSealer(sealing)
	if err != nil {
		log.Fatal(err)
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		log.Fatal(err)
	}

	cache, err := consumer.New(consumer.Config{
		Participant: "default", DID: "did:web:consumer.example", Store: memory.New(nil), Sealer: sealer,
		AllowHTTP: []string{consumer.AnyHost}, // for this example only
	})
	if err != nil {
		log.Fatal(err)
	}
	signer, err := consumer.NewKeySigner(consumer.KeySignerConfig{Key: key, KeyID: "did:web:consumer.example#key-1"})
	if err != nil {
		log.Fatal(err)
	}
	renewer, err := consumer.NewRenewer(consumer.RenewerConfig{Cache: cache, Signer: signer, Transport: transport})
	if err != nil {
		log.Fatal(err)
	}
	defer renewer.Close()
	data, err := consumer.NewTransport(consumer.TransportConfig{Renewer: renewer, Base: transport})
	if err != nil {
		log.Fatal(err)
	}

	// What a control plane tells in DPS started, or an operator in PUT /edrs/{id}.
	edr, err := consumer.ParseEDR([]byte(`{
		"endpointType": "https://w3id.org/dspace-sig/profile/http-pull",
		"endpoint": "` + provider.URL + `/data",
		"endpointProperties": [
			{"name": "authorization", "value": "first"}, {"name": "authType", "value": "bearer"},
			{"name": "refreshToken", "value": "r1"}, {"name": "expiresIn", "value": "300"},
			{"name": "refreshEndpoint", "value": "` + provider.URL + `/token"}
		]}`))
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	_, err = cache.Put(ctx, consumer.Put{
		ID: "transfer-1", EDR: edr, Origin: consumer.ByHand,
		Terms: consumer.Terms{Counterparty: "did:web:provider.example", Asset: "asset-1"},
	})
	if err != nil {
		log.Fatal(err)
	}

	client := &http.Client{Transport: data.For("transfer-1")}
	res, err := client.Get(provider.URL + "/data/sensor-1")
	if err != nil {
		log.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(body))

	list, err := cache.List(ctx, consumer.Query{Asset: "asset-1"})
	if err != nil {
		log.Fatal(err)
	}
	for _, entry := range list {
		fmt.Println(entry.ID, entry.State, entry.Counterparty, "generation", entry.Generation)
	}
	// Output:
	// temperature: 21.5
	// transfer-1 started did:web:provider.example generation 2
}
