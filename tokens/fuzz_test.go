package tokens

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/edrgate/edrgate/internal/compactjws"
	"github.com/edrgate/edrgate/internal/testkit"
	"github.com/edrgate/edrgate/store"
	"github.com/edrgate/edrgate/store/memory"
)

// FuzzReadProof: what is read of an authentication token has all that the later checks rely on, and prints nothing.
func FuzzReadProof(f *testing.F) {
	wallet, now := testkit.NewWallet(consumerDID), testkit.NewClock().Now()
	claims := wallet.Claims(providerDID, "an access token", now)
	f.Add(wallet.Sign(claims))
	for _, bad := range wallet.BadTokens(claims) {
		f.Add(bad)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		a, err := readProof(raw, 0)
		if err != nil {
			if CodeOf(err) == CodeUnavailable {
				t.Errorf("nobody has to be asked to refuse it: %v", err)
			}
			return
		}
		if proofAlgorithms[a.parsed.Header.Alg] != a.alg || a.kid == "" || a.expires.IsZero() || len(a.digest) != 32 {
			t.Errorf("%q is incomplete", raw)
		}
		if fmt.Sprintf("%v %s", a, a) != "redacted redacted" {
			t.Error("a proof can be printed")
		}
		if a.checkBinding(&Flow{ID: "flow", BoundDID: consumerDID}) == nil && (a.issuer != consumerDID || a.didOfKey() != consumerDID) {
			t.Errorf("%q is bound to two DIDs", raw)
		}
	})
}

// FuzzAccessToken: nothing is an access token but what was issued, in the one spelling, and claims that are read are whole.
func FuzzAccessToken(f *testing.F) {
	clock := testkit.NewClock()
	key := newKey(f)
	service, err := New(Config{
		Participant: "default", DID: providerDID, Keys: newRing(f, key), Store: memory.New(clock.Now), Live: NewLive(),
		Resolver: &fakeResolver{}, ControlPlanes: []string{string(controlPlane)}, PublicURL: "https://data.provider.example/public", Now: clock.Now,
	})
	if err != nil {
		f.Fatal(err)
	}
	wallet := &testkit.Wallet{DID: providerDID, Key: key, Alg: "ES256"}
	for kid := range service.c.Keys.signing {
		wallet.KID = kid
	}
	claims := map[string]any{
		"iss": providerDID, "aud": providerDID, "sub": consumerDID, "client_id": consumerDID, "jti": "1", "flow_id": "flow-1",
		"agreement_id": "a", "dataset_id": "d", "iat": clock.Now().Unix(), "exp": clock.Now().Unix() + 300,
	}
	for _, bad := range append(wallet.BadTokens(claims), wallet.Sign(claims)) {
		f.Add(bad)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		hash := hashOf(raw)
		_, err := service.readAccessToken(raw, &hash)
		if err == nil {
			t.Errorf("%q was not issued", raw) // none of the seeds has the typ of ours
		}
		parsed, err := compactjws.Parse(raw, compactjws.DefaultLimit)
		if err != nil {
			return
		}
		c, err := accessClaimsOf(parsed)
		if err == nil && !ValidFlowID(c.Flow) {
			t.Errorf("claims of %q", raw)
		}
	})
}

// FuzzFlowRecord: a record of the store is read or it is not, and what is read is written as it was.
func FuzzFlowRecord(f *testing.F) {
	for _, s := range []string{
		`{"id":"flow-1","participant":"default","state":"STARTED","dialect":"dps","bound_did":"did:web:c","generation":3,"salt":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}`, "", "{}", "null", "[]",
		`{"state":7}`, `{"generation":-1}`, `{"used":"0001-01-01T00:00:00Z"}`, `{"used":"x"}`, `{"messages":[{}]}`, `{"salt":"!"}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		record := store.Record{ID: flowKey("default", "flow-1"), Data: data}
		flow, err := decodeFlow(record)
		if err != nil {
			return
		}
		flow.effective()
		first, err := flow.encode()
		if err != nil {
			t.Fatal(err)
		}
		record.Data = first
		again, err := decodeFlow(record)
		if err != nil {
			t.Fatal(err)
		}
		second, err := again.encode()
		if err != nil || !bytes.Equal(first, second) {
			t.Errorf("%s\n%s\n%v", first, second, err)
		}
	})
}
