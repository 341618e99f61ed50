package consumer

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/edrgate/edrgate/internal/testkit"
	"github.com/edrgate/edrgate/store"
)

// FuzzCheckProof: a proof that somebody else signed is shown to a provider only if it says what was asked for.
func FuzzCheckProof(f *testing.F) {
	wallet := testkit.NewWallet(ownDID)
	claims := wallet.Claims(providerDID, "access-0", testkit.NewClock().Now())
	for _, token := range append(wallet.BadTokens(claims), wallet.Sign(claims)) {
		f.Add(token)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		if checkProof(raw, asked) == nil && checkProof(raw, ProofRequest{Issuer: ownDID, Audience: providerDID, AccessToken: "another"}) == nil {
			t.Errorf("%q is about two tokens", raw)
		}
	})
}

// FuzzEDRRecord: a record of the store is read or it is not, and what is read is written as it was.
func FuzzEDRRecord(f *testing.F) {
	for _, s := range []string{
		`{"participant":"default","id":"tp-1","state":"started","origin":"hand","generation":2,"held":["a"],"renewable":true}`, "", "{}", "null", "[]",
		`{"state":1}`, `{"generation":-1}`, `{"edr":{}}`, `{"messages":[{}],"expires":"x"}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		rec, err := decode(store.Record{ID: "tp-1", Data: data})
		if err != nil {
			if CodeOf(err) != CodeUnavailable {
				t.Errorf("a record that cannot be read is no refusal: %v", err)
			}
			return
		}
		first, err := json.Marshal(rec)
		if err != nil {
			t.Fatal(err)
		}
		again, err := decode(store.Record{Data: first})
		if err != nil {
			t.Fatal(err)
		}
		second, err := json.Marshal(again)
		if err != nil || !bytes.Equal(first, second) {
			t.Errorf("%s\n%s\n%v", first, second, err)
		}
	})
}
