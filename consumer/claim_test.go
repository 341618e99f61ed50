package consumer

import (
	"context"
	"encoding/base64"
	"fmt"
	"testing"
	"time"

	"github.com/edrgate/edrgate/store"
	"github.com/edrgate/edrgate/tokens"
)

// Whom a proof may be for.
func TestAudience(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name         string
		audience     string
		counterparty string
		did          string
		want         string // audience of the proof
		code         Code   // of the renewal, if there is none
	}{
		{"none, counterparty known", "", providerDID, "", providerDID, ""},
		{"the counterparty", providerDID, providerDID, "", providerDID, ""},
		{"ourselves, as Tractus-X up to 0.12", ownDID, providerDID, "", ownDID, ""},
		{"ourselves, counterparty unknown", ownDID, "", "", ownDID, ""},
		{"ourselves, counterparty is a BPN", ownDID, "BPNL000000000001", "", ownDID, ""},
		{"the DID of a BPN", providerDID, "BPNL000000000001", providerDID, providerDID, ""},
		{"none, counterparty is a BPN", "", "BPNL000000000001", "", "", CodeCounterparty},
		{"none, counterparty unknown", "", "", "", "", CodeCounterparty},
		{"some DID, counterparty unknown", otherDID, "", "", "", CodeCounterparty},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			signer := &askedSigner{}
			x := newFixture(t, func(_ *Config, r *RenewerConfig) { r.Signer = signer })
			e := x.dps()
			e.RefreshAudience = c.audience
			entry := x.put("tp-1", e, Terms{Counterparty: c.counterparty, CounterpartyDID: c.did})
			if entry.Renewable != (c.code == "") {
				t.Errorf("renewable %t", entry.Renewable)
			}
			wantToken(t, x.must(x.renewer.Current(t.Context(), "tp-1")), "access-0") // served in any case
			_, err := x.renewer.Refresh(t.Context(), "tp-1")
			if c.code == "" {
				if err != nil || signer.audience != c.want {
					t.Errorf("signed for %q, %v", signer.audience, err)
				}
				return
			}
			wantCode(t, err, c.code)
			if signer.audience != "" || x.provider.renewed() != 0 || x.observer.event(EventUnknownCounterparty) == 0 {
				t.Error("signed, asked, or nobody was told")
			}
		})
	}
}

type askedSigner struct{ audience string }

func (s *askedSigner) Proof(_ context.Context, r ProofRequest) (tokens.Secret, error) {
	s.audience = r.Audience
	return "proof", nil
}

// An EDR that came by an event is renewed when its counterparty is learned, and refused if it names another one.
func TestLearn(t *testing.T) {
	t.Parallel()
	x := newFixture(t)
	ctx := t.Context()
	e := x.dps()
	e.RefreshAudience = providerDID
	x.put("tp-1", e, Terms{Asset: "asset-1"})
	entry := x.must(x.Learn(ctx, "tp-1", Terms{Counterparty: providerDID}))
	if !entry.Renewable || entry.Due.IsZero() || entry.Asset != "asset-1" {
		t.Errorf("%+v", entry)
	}
	_, err := x.Learn(ctx, "tp-1", Terms{Counterparty: otherDID})
	wantCode(t, err, CodeConflict)
	_, err = x.Learn(ctx, "tp-none", Terms{})
	wantCode(t, err, CodeUnknown)

	e = x.dps()
	e.RefreshAudience, e.AccessToken = otherDID, "access-of-2"
	x.put("tp-2", e, Terms{})
	_, err = x.Learn(ctx, "tp-2", Terms{Counterparty: providerDID})
	wantCode(t, err, CodeAudience)
	if x.get("tp-2").State != Refused || x.observer.event(EventAudience) != 1 {
		t.Errorf("%+v", x.get("tp-2"))
	}
	_, err = x.renewer.Refresh(ctx, "tp-2")
	wantCode(t, err, CodeAudience)
	if x.provider.renewed() != 0 {
		t.Error("a proof was shown")
	}
}

// A provider delivers the access token of another one as its own, to get a proof about it: none is signed, also not about
// a token that the other EDR had before.
func TestTokenOfAnotherProvider(t *testing.T) {
	t.Parallel()
	signer := &askedSigner{}
	x := newFixture(t, func(_ *Config, r *RenewerConfig) { r.Signer = signer })
	x.started("victim")
	x.must(x.renewer.Refresh(t.Context(), "victim"))
	signer.audience = ""
	for i, stolen := range []tokens.Secret{"access-0", "access-1"} {
		id := "thief-" + seconds(time.Duration(i)*time.Second)
		e := x.classic() // the audience is ourselves, so it says nothing
		e.AccessToken = stolen
		x.put(id, e, Terms{Counterparty: otherDID})
		_, err := x.renewer.Refresh(t.Context(), id)
		wantCode(t, err, CodeForeignToken)
		x.clock.Advance(2 * claimGrace)
		_, err = x.renewer.Refresh(t.Context(), id)
		wantCode(t, err, CodeForeignToken)
	}
	if signer.audience != "" || x.observer.event(EventForeignToken) == 0 {
		t.Error("signed, or nobody was told")
	}
	wantToken(t, x.must(x.renewer.Refresh(t.Context(), "victim")), "access-2")

	// When the other EDR has gone, its token is free.
	err := x.Remove(t.Context(), "victim")
	if err != nil {
		t.Fatal(err)
	}
	_, err = x.renewer.Refresh(t.Context(), "thief-0")
	if err != nil && CodeOf(err) == CodeForeignToken {
		t.Error("a token that nobody holds is not renewed")
	}
}

// A claim whose EDR was never kept, since the process died, stops the token's owner for a minute only.
func TestClaimOfALostEDR(t *testing.T) {
	t.Parallel()
	x := newFixture(t)
	_, err := x.claim(t.Context(), "lost", digestOf("access-0"))
	if err != nil {
		t.Fatal(err)
	}
	x.started("tp-1")
	_, err = x.renewer.Refresh(t.Context(), "tp-1")
	wantCode(t, err, CodeForeignToken)
	x.clock.Advance(claimGrace)
	x.must(x.renewer.Refresh(t.Context(), "tp-1"))
}

// What is not kept claims no token: refused EDRs do not fill the store, and stop nobody.
func TestClaimOfARefusedEDR(t *testing.T) {
	t.Parallel()
	x := newFixture(t)
	foreign := x.dps()
	foreign.RefreshAudience = otherDID
	_, err := x.Put(t.Context(), Put{ID: "refused", EDR: foreign, Terms: Terms{Counterparty: providerDID}})
	wantCode(t, err, CodeAudience)

	began := x.clock.Now()
	_, err = x.Put(t.Context(), Put{ID: "tp-1", EDR: x.dps(), Terms: Terms{Counterparty: providerDID}, At: began.Add(time.Second)})
	if err != nil {
		t.Fatal(err)
	}
	late, conflict := x.dps(), x.dps()
	late.AccessToken = "late"
	wantToken(t, x.must(x.Put(t.Context(), Put{ID: "tp-1", EDR: late, At: began})), "access-0")
	_, err = x.Put(t.Context(), Put{ID: "tp-1", EDR: conflict, Terms: Terms{Counterparty: otherDID}})
	wantCode(t, err, CodeConflict)
	claims, err := x.store.List(t.Context(), store.Query{Kind: claimKind})
	if err != nil || len(claims) != 1 || claims[0].ID != x.claimKey(digestOf("access-0")) {
		t.Errorf("claims %+v, error %v, want that of the EDR which is kept", claims, err)
	}
	x.must(x.renewer.Refresh(t.Context(), "tp-1"))
}

// Regression: a thief writes a stolen access token in another way that verifies as well, as ECDSA signatures and base64 allow.
func TestTokenOfAnotherProviderInAnotherSpelling(t *testing.T) {
	t.Parallel()
	signer := &askedSigner{}
	x := newFixture(t, func(_ *Config, r *RenewerConfig) { r.Signer = signer })
	header, payload := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"ES256"}`)), base64.RawURLEncoding.EncodeToString([]byte(`{"jti":"1"}`))
	honest := x.dps()
	honest.AccessToken = tokens.Secret(header + "." + payload + ".c2lnbmF0dXJl")
	x.put("victim", honest, Terms{Counterparty: providerDID})
	for i, c := range []struct {
		token   string
		foreign bool
	}{
		{header + "." + payload + ".YW5vdGhlciBzaWduYXR1cmU", true},
		{header + "." + payload + ".", true},
		{header + ".e30.c2lnbmF0dXJl", false}, // signed is something else
		{"v4.public.one", false},              // no JWS: all of it counts
		{"v4.public.two", false},
	} {
		id := fmt.Sprintf("tp-%d", i)
		e := x.classic()
		e.AccessToken = tokens.Secret(c.token)
		x.put(id, e, Terms{Counterparty: otherDID})
		signer.audience = ""
		_, err := x.renewer.Refresh(t.Context(), id)
		if foreign := CodeOf(err) == CodeForeignToken; foreign != c.foreign || foreign == (signer.audience != "") {
			t.Errorf("%s: %v, signed for %q", c.token, err, signer.audience)
		}
	}
}

// Regression: what is learned of a suspended EDR brought it back into use, though refused.
func TestLearnLeavesASuspendedEDRSuspended(t *testing.T) {
	t.Parallel()
	x := newFixture(t)
	e := x.dps()
	e.RefreshAudience = otherDID
	x.put("tp-1", e, Terms{})
	x.must(x.Suspend(t.Context(), "tp-1"))
	_, err := x.Learn(t.Context(), "tp-1", Terms{Counterparty: providerDID})
	wantCode(t, err, CodeAudience)
	if state := x.get("tp-1").State; state != Suspended {
		t.Errorf("state %s", state)
	}
	_, err = x.renewer.Current(t.Context(), "tp-1")
	wantCode(t, err, CodeSuspended)
}

// Regression: a counterparty's DID that is none could be learned, for ever, and proofs were signed for it.
func TestLearnTakesNoDIDThatIsNone(t *testing.T) {
	t.Parallel()
	x := newFixture(t)
	x.put("tp-1", x.dps(), Terms{})
	_, err := x.Learn(t.Context(), "tp-1", Terms{CounterpartyDID: "provider.example"})
	wantCode(t, err, CodeInvalid)
	if entry := x.get("tp-1"); entry.CounterpartyDID != "" || entry.Renewable {
		t.Errorf("%+v", entry)
	}
}

// Regression: an EDR that is marked for its audience was said to be refused by the provider, with status 0.
func TestRefusedForItsAudienceSaysSo(t *testing.T) {
	t.Parallel()
	x := newFixture(t)
	e := x.dps()
	e.RefreshAudience = otherDID
	x.put("tp-1", e, Terms{})
	_, err := x.Learn(t.Context(), "tp-1", Terms{Counterparty: providerDID})
	wantCode(t, err, CodeAudience)
	x.clock.Advance(5 * time.Minute)
	_, err = x.renewer.Current(t.Context(), "tp-1")
	wantCode(t, err, CodeAudience)
}
