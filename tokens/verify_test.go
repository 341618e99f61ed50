package tokens

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// An independent library accepts what we mint, and finds the claims of RFC 9068.
func TestAccessTokenForAnotherJOSELibrary(t *testing.T) {
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for alg, ring := range map[jose.SignatureAlgorithm]*Ring{jose.ES256: newRing(t, newKey(t)), jose.EdDSA: newRing(t, edKey)} {
		x := newFixture(t, func(c *Config) { c.Keys = ring })
		edr := x.start(classicStart("flow-1"))
		raw, err := ring.JWKS()
		if err != nil {
			t.Fatal(err)
		}
		var set jose.JSONWebKeySet
		err = json.Unmarshal(raw, &set)
		if err != nil {
			t.Fatal(err)
		}
		signed, err := jose.ParseSigned(edr.AccessToken.Reveal(), []jose.SignatureAlgorithm{alg})
		if err != nil {
			t.Fatal(err)
		}
		header := signed.Signatures[0].Header
		if header.ExtraHeaders["typ"] != "at+jwt" {
			t.Fatalf("typ %v", header.ExtraHeaders["typ"])
		}
		payload, err := signed.Verify(set.Key(header.KeyID)[0])
		if err != nil {
			t.Fatal(err)
		}
		var claims map[string]any
		err = json.Unmarshal(payload, &claims)
		if err != nil {
			t.Fatal(err)
		}
		now := float64(x.clock.Now().Unix())
		for name, want := range map[string]any{
			"iss": providerDID, "aud": providerDID, "sub": consumerDID, "client_id": consumerDID,
			"iat": now, "exp": now + 300, "flow_id": "flow-1", "dataset_id": "asset-1", "agreement_id": "agreement-1",
		} {
			if claims[name] != want {
				t.Errorf("%s: %v, want %v", name, claims[name], want)
			}
		}
		err = x.verify(edr.AccessToken)
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestVerifyByEndpointAndDataset(t *testing.T) {
	x := newFixture(t)
	x.c.Route = func(f *Flow) Routed {
		if f.Dataset == "asset-2" {
			return Routed{Route: "assets"}
		}
		return Routed{Route: "others"} // given to another route since
	}
	edr := x.start(dpsStart("flow-1"))
	request := dpsStart("flow-2")
	request.Terms.Dataset, request.Route = "asset-2", "assets"
	routed := x.start(request)
	request = dpsStart("flow-3")
	request.Terms.Dataset, request.Route = "asset-3", "assets"
	moved := x.start(request)
	set := func(names ...string) map[string]struct{} {
		m := map[string]struct{}{}
		for _, n := range names {
			m[n] = struct{}{}
		}
		return m
	}
	at := func(host, path string) Request { return Request{Host: host, Path: path} }
	ok := at("data.provider.example", "/public/x")
	for name, c := range map[string]struct {
		token Secret
		at    Request
		site  *Site
		code  Code
	}{
		"the dataset":              {edr.AccessToken, ok, &Site{Datasets: set("asset-1")}, ""},
		"one of the datasets":      {edr.AccessToken, ok, &Site{Datasets: set("asset-2", "asset-1")}, ""},
		"another dataset":          {edr.AccessToken, ok, &Site{Datasets: set("asset-2")}, CodeWrongDataset},
		"no rule":                  {edr.AccessToken, ok, &Site{}, CodeWrongDataset},
		"the route":                {routed.AccessToken, ok, &Site{Routes: set("assets")}, ""},
		"another route":            {routed.AccessToken, ok, &Site{Routes: set("others")}, CodeWrongDataset},
		"a flow of another now":    {moved.AccessToken, ok, &Site{Routes: set("assets", "others")}, CodeWrongDataset},
		"a flow without a route":   {edr.AccessToken, ok, &Site{Routes: set("assets", "others", "")}, CodeWrongDataset},
		"any dataset":              {edr.AccessToken, ok, anySite, ""},
		"the flow's backend":       {edr.AccessToken, ok, &Site{OwnBackend: true}, ""},
		"the endpoint itself":      {edr.AccessToken, at("data.provider.example", "/public"), anySite, ""},
		"the endpoint with slash":  {edr.AccessToken, at("data.provider.example", "/public/"), anySite, ""},
		"half a segment":           {edr.AccessToken, at("data.provider.example", "/publicity"), anySite, CodeWrongEndpoint},
		"other case of the path":   {edr.AccessToken, at("data.provider.example", "/Public/x"), anySite, CodeWrongEndpoint},
		"above the endpoint":       {edr.AccessToken, at("data.provider.example", "/"), anySite, CodeWrongEndpoint},
		"other case of the host":   {edr.AccessToken, at("DATA.provider.example", "/public/x"), anySite, ""},
		"the default port":         {edr.AccessToken, at("data.provider.example:443", "/public/x"), anySite, ""},
		"another port":             {edr.AccessToken, at("data.provider.example:8443", "/public/x"), anySite, CodeWrongEndpoint},
		"another host":             {edr.AccessToken, at("other.example", "/public/x"), anySite, CodeWrongEndpoint},
		"http's port is not https": {edr.AccessToken, at("data.provider.example:80", "/public/x"), anySite, CodeWrongEndpoint},
	} {
		_, err := x.Verify(context.Background(), c.token.Reveal(), c.at, c.site)
		if c.code == "" && err != nil || c.code != "" && CodeOf(err) != c.code {
			t.Errorf("%s: %v, want %q", name, err, c.code)
		}
	}
}

func TestVerifyFollowsTheStateAtOnce(t *testing.T) {
	x := newFixture(t)
	edr := x.start(dpsStart("flow-1"))
	check := func(want Code) {
		t.Helper()
		err := x.verify(edr.AccessToken)
		if want == "" && err == nil {
			return
		}
		wantCode(t, err, want)
	}
	check("")
	x.must(x.Suspend(context.Background(), controlPlane, x.message("flow-1", "m1")))
	check(CodeFlowSuspended)
	_, err := x.Resume(context.Background(), controlPlane, x.message("flow-1", "m2"))
	if err != nil {
		t.Fatal(err)
	}
	check("") // EDC's consumer goes on with its first EDR
	x.must(x.Complete(context.Background(), controlPlane, x.message("flow-1", "m3")))
	check(CodeFlowEnded)
	x.clock.Advance(DefaultTombstoneTTL + time.Second)
	check(CodeTokenExpired)
}

// A flow ended under a new configuration stops requests that an old one admitted.
func TestTerminateUnderAnotherConfiguration(t *testing.T) {
	x := newFixture(t)
	edr := x.start(dpsStart("flow-1"))
	err := x.verify(edr.AccessToken)
	if err != nil {
		t.Fatal(err)
	}
	x.must(x.other(func(*Config) {}).Terminate(context.Background(), controlPlane, x.message("flow-1", "m1")))
	wantCode(t, x.verify(edr.AccessToken), CodeFlowEnded)
}

func TestAccessTokenExpires(t *testing.T) {
	x := newFixture(t)
	edr := x.start(dpsStart("flow-1"))
	x.clock.Advance(edr.ExpiresIn - time.Second)
	err := x.verify(edr.AccessToken)
	if err != nil {
		t.Fatal(err)
	}
	x.clock.Advance(time.Second)
	wantCode(t, x.verify(edr.AccessToken), CodeTokenExpired)
	wantCode(t, x.other(func(*Config) {}).verifyFresh(edr.AccessToken), CodeTokenExpired)
}

func (s *Service) verifyFresh(token Secret) error {
	_, err := s.Verify(context.Background(), token.Reveal(), atEndpoint, anySite)
	return err
}

func TestForgedAccessTokens(t *testing.T) {
	key := newKey(t)
	x := newFixture(t, func(c *Config) { c.Keys = newRing(t, key) })
	edr := x.start(dpsStart("flow-1"))
	token := edr.AccessToken.Reveal()
	for i := range len(token) {
		changed := []byte(token)
		changed[i] = 'A'
		if token[i] == 'A' {
			changed[i] = 'B'
		}
		_, err := x.Verify(context.Background(), string(changed), atEndpoint, anySite)
		if code := CodeOf(err); err == nil || code != CodeTokenMalformed && code != CodeTokenSignature {
			t.Fatalf("byte %d: %v", i, err)
		}
	}
	parts := strings.Split(token, ".")
	for name, c := range map[string]struct {
		token string
		code  Code
	}{
		"no signature":    {parts[0] + "." + parts[1] + ".", CodeTokenMalformed},
		"trailing space":  {token + " ", CodeTokenMalformed},
		"padded":          {token + "=", CodeTokenMalformed},
		"four parts":      {token + ".x", CodeTokenMalformed},
		"a refresh token": {edr.RefreshToken.Reveal(), CodeTokenMalformed},
		"a proof":         {x.wallet.Proof(providerDID, token, x.clock.Now()), CodeTokenMalformed},
		"of another ring": {string(newFixture(t).start(dpsStart("flow-1")).AccessToken), CodeTokenSignature},
		"another participant": {
			string(must(x.other(func(c *Config) { c.DID = "did:web:second.example" }).Start(context.Background(), controlPlane, dpsStart("flow-2"))).AccessToken),
			CodeTokenIssuer,
		},
	} {
		_, err := x.Verify(context.Background(), c.token, atEndpoint, anySite)
		if CodeOf(err) != c.code || err == nil {
			t.Errorf("%s: %v, want %s", name, err, c.code)
		}
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestVerifyWithoutTheStore(t *testing.T) {
	x := newFixture(t)
	edr := x.start(dpsStart("flow-1"))
	x.store.fail(errBroken, errBroken)
	wantCode(t, x.verify(edr.AccessToken), CodeUnavailable)
	x.store.fail(nil, nil)
	err := x.verify(edr.AccessToken)
	if err != nil {
		t.Fatal(err)
	}
	x.store.fail(errBroken, errBroken) // what was verified before is remembered
	err = x.verify(edr.AccessToken)
	if err != nil {
		t.Fatal(err)
	}
}

func TestAccess(t *testing.T) {
	x := newFixture(t)
	request := classicStart("flow-1")
	request.AgreementID = "outer-agreement"
	edr := x.start(request)
	a, err := x.Verify(context.Background(), edr.AccessToken.Reveal(), atEndpoint, anySite)
	if err != nil {
		t.Fatal(err)
	}
	if a.BPN() != "BPNL000000000001" || a.Agreement() != "outer-agreement" || a.EndpointPath() != "/public" || a.Counterparty() != consumerDID {
		t.Fatalf("%q %q %q", a.BPN(), a.Agreement(), a.EndpointPath())
	}
	source, err := a.Source()
	if err != nil || source.Properties["authCode"] != "CANARY-backend" {
		t.Fatalf("source: %v", err)
	}
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		for _, v := range []any{source, edr.AccessToken, edr.RefreshToken} {
			if s := fmt.Sprintf(format, v); strings.Contains(s, "CANARY") && format != "%#v" || strings.Contains(s, edr.AccessToken.Reveal()) {
				t.Errorf("%s prints a secret", format)
			}
		}
	}
	built := 0
	build := func(*Access) (any, error) { built++; return "target", errors.New("x") }
	for range 2 {
		v, err := a.Backend(build)
		if v != "target" || err == nil {
			t.Fatal(v, err)
		}
	}
	if built != 1 {
		t.Fatalf("built %d times", built)
	}
}

func TestRecordHoldsNoSecretInClear(t *testing.T) {
	x := newFixture(t)
	edr := x.start(classicStart("flow-1"))
	r := x.mustRenew(edr.RefreshToken, edr.AccessToken)
	record, err := x.store.Get(context.Background(), flowKind, flowKey("default", "flow-1"))
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{"CANARY-backend", edr.AccessToken.Reveal(), edr.RefreshToken.Reveal(), r.RefreshToken.Reveal()} {
		if strings.Contains(string(record.Data), secret) {
			t.Fatal("a secret is in the record")
		}
	}
	// A source moved to another flow's record does not open.
	other := x.start(classicStart("flow-2"))
	f, err := decodeFlow(record)
	if err != nil {
		t.Fatal(err)
	}
	x.rewrite("flow-2", func(o *Flow) { o.Source = f.Source })
	a, err := x.Verify(context.Background(), other.AccessToken.Reveal(), atEndpoint, anySite)
	if err != nil {
		t.Fatal(err)
	}
	_, err = a.Source()
	wantCode(t, err, CodeUnavailable)
}

func TestRememberedTokensAreBounded(t *testing.T) {
	v := newVerdicts(verdictShards) // one for each shard
	for i := range 10_000 {
		key := tokenHash{byte(i), byte(i >> 8), byte(i >> 16)}
		v.put(&key, &Access{})
	}
	n := 0
	for i := range v.shards {
		n += len(v.shards[i].byKey)
	}
	if n > verdictShards {
		t.Fatalf("%d entries", n)
	}
}

func TestVerdictInUseIsKept(t *testing.T) {
	v := newVerdicts(2 * verdictShards)
	used := tokenHash{0, 1}
	v.put(&used, &Access{id: "used"})
	for i := range 1000 {
		if v.get(&used) == nil {
			t.Fatalf("forgotten after %d others", i)
		}
		v.put(&tokenHash{0, 2, byte(i), byte(i >> 8)}, &Access{})
	}
}

// Memory follows use: when no token of a flow is remembered, its live state goes.
func TestLiveStatesOfUnusedFlowsGo(t *testing.T) {
	l := NewLive()
	used := l.enter("default/used")
	used.advance(1, Started)
	for i := range 1000 {
		f := l.enter(fmt.Sprintf("default/%d", i))
		f.advance(1, Started)
	}
	deadline := time.Now().Add(10 * time.Second)
	for {
		runtime.GC()
		n := 0
		for i := range l.shards {
			l.shards[i].mu.Lock()
			n += len(l.shards[i].flows)
			l.shards[i].mu.Unlock()
		}
		if n == 1 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d entries left", n)
		}
		runtime.Gosched()
	}
	l.advance("default/used", 2, Suspended)
	if used.state() != Suspended {
		t.Fatal("the entry in use was lost")
	}
}

func TestLiveStateNewerVersionWins(t *testing.T) {
	f := new(liveFlow)
	f.advance(3, Suspended)
	f.advance(2, Started) // read before, told after
	if f.state() != Suspended {
		t.Fatal("an older state won")
	}
	f.advance(4, Started)
	if f.state() != Started {
		t.Fatal("a newer state lost")
	}
}

// Whatever way the two interleave, a request after the terminate must not be admitted.
func TestVerifyRacingTerminate(t *testing.T) {
	for i := range 200 {
		x := newFixture(t)
		id := fmt.Sprintf("flow-%d", i)
		edr := x.start(dpsStart(id))
		var wg sync.WaitGroup
		wg.Go(func() { _ = x.verify(edr.AccessToken) })
		wg.Go(func() { x.must(x.Terminate(context.Background(), controlPlane, x.message(id, "m"))) })
		wg.Wait()
		wantCode(t, x.verify(edr.AccessToken), CodeFlowEnded)
	}
}

// TestRouteOfATokenIsAskedForOnce: what other parties wrote into a flow is there when its route is asked for. That it is not
// kept with the token, TestRememberedTokenKeepsNoMetadata shows.
func TestRouteOfATokenIsAskedForOnce(t *testing.T) {
	x := newFixture(t)
	asked := 0
	failure := errors.New("no backend")
	x.c.Route = func(f *Flow) Routed {
		asked++
		if f.Labels[0] != "label" || string(f.Metadata) != `{"m":1}` || string(f.Claims) != `{"c":2}` || f.Profile == "" {
			t.Errorf("asked with %+v", f)
		}
		return Routed{Route: "r", Backend: "backend", Err: failure}
	}
	request := dpsStart("flow-1")
	request.Route, request.Labels, request.Metadata, request.Claims = "r", []string{"label"}, []byte(`{"m":1}`), []byte(`{"c":2}`)
	edr := x.start(request)
	for range 3 {
		a, err := x.Verify(context.Background(), edr.AccessToken.Reveal(), atEndpoint, anySite)
		if err != nil {
			t.Fatal(err)
		}
		if got := a.Routed(); got != (Routed{Route: "r", Backend: "backend", Err: failure}) {
			t.Errorf("routed %+v", got)
		}
	}
	if asked != 1 {
		t.Errorf("asked %d times", asked)
	}

	// A flow that has another route by now has none.
	request = dpsStart("flow-2")
	request.Route, request.Labels, request.Metadata, request.Claims = "before", []string{"label"}, []byte(`{"m":1}`), []byte(`{"c":2}`)
	a, err := x.Verify(context.Background(), x.start(request).AccessToken.Reveal(), atEndpoint, anySite)
	if err != nil || a.Routed() != (Routed{}) {
		t.Errorf("routed %+v, %v", a.Routed(), err)
	}
}

func TestVerifyAllocatesLittle(t *testing.T) {
	x := newFixture(t)
	x.c.Route = func(f *Flow) Routed { return Routed{Route: f.Route} }
	request := dpsStart("flow-1")
	request.Route = "r"
	token := x.start(request).AccessToken.Reveal()
	ctx := context.Background()
	for name, site := range map[string]*Site{"any": anySite, "route": {Routes: map[string]struct{}{"r": {}}}} {
		n := testing.AllocsPerRun(100, func() {
			_, err := x.Verify(ctx, token, atEndpoint, site)
			if err != nil {
				t.Fatal(err)
			}
		})
		if n > 0 {
			t.Fatalf("%s: %v allocations for a remembered token", name, n)
		}
	}
}
