package tokens

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/edrgate/edrgate/store"
)

func TestStartRendersTheEDR(t *testing.T) {
	x := newFixture(t)
	edr := x.start(classicStart("flow-1"))
	if edr.Endpoint != "https://data.provider.example/public" || edr.RefreshEndpoint != "https://data.provider.example/public/token" {
		t.Fatalf("%q %q", edr.Endpoint, edr.RefreshEndpoint)
	}
	if edr.RefreshAudience != providerDID || edr.ExpiresIn != 5*time.Minute || edr.Repeated || edr.Flow.State != Started {
		t.Fatalf("%+v", edr)
	}
	routed := dpsStart("flow-2")
	routed.Endpoint = "https://other.provider.example/"
	edr = x.start(routed)
	if edr.Endpoint != routed.Endpoint || edr.RefreshEndpoint != "https://other.provider.example/token" {
		t.Fatalf("%q %q", edr.Endpoint, edr.RefreshEndpoint)
	}
}

func TestLifeOfTokens(t *testing.T) {
	const long = 365 * 24 * time.Hour
	for name, c := range map[string]struct {
		request func() StartRequest
		life    time.Duration
		renews  bool // has the renewal properties
	}{
		"Tractus-X audience":            {func() StartRequest { return classicStart("f") }, 5 * time.Minute, true},
		"plain EDC, counterparty a DID": {func() StartRequest { r := classicStart("f"); r.Terms.Audience = ""; return r }, long, true},
		"plain EDC, counterparty a BPN": {func() StartRequest {
			r := classicStart("f")
			r.Terms.Audience, r.Terms.Counterparty = "", "BPNL2"
			return r
		}, long, false},
		"DPS profile with renewal":    {func() StartRequest { return dpsStart("f") }, 5 * time.Minute, true},
		"DPS profile without renewal": {func() StartRequest { r := dpsStart("f"); r.ProfileRenews, r.RenewalRequired = false, false; return r }, long, true},
		"DPS, counterparty mapped":    {func() StartRequest { r := dpsStart("f"); r.Terms.Counterparty = "BPNL1"; return r }, 5 * time.Minute, true},
	} {
		x := newFixture(t, func(c *Config) { c.DIDMap = map[string]string{"BPNL1": consumerDID} })
		edr := x.start(c.request())
		if edr.ExpiresIn != c.life || (edr.RefreshToken != "") != c.renews {
			t.Errorf("%s: life %s, renewal %t", name, edr.ExpiresIn, edr.RefreshToken != "")
		}
	}
}

func TestStartIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*StartRequest)
		code   Code
	}{
		"no process id":           {func(r *StartRequest) { r.ProcessID = "" }, CodeInvalid},
		"process id with a slash": {func(r *StartRequest) { r.ProcessID = "a/b" }, CodeInvalid},
		"process id with a space": {func(r *StartRequest) { r.ProcessID = "a b" }, CodeInvalid},
		"process id with NUL":     {func(r *StartRequest) { r.ProcessID = "a\x00b" }, CodeInvalid},
		"process id not ASCII":    {func(r *StartRequest) { r.ProcessID = "ä" }, CodeInvalid},
		"process id too long":     {func(r *StartRequest) { r.ProcessID = strings.Repeat("x", 256) }, CodeInvalid},
		"audience is another DID": {func(r *StartRequest) { r.Terms.Audience = "did:web:other.example" }, CodeInvalid},
		"audience is no DID":      {func(r *StartRequest) { r.Terms.Audience = "BPNL9" }, CodeInvalid},
		"profile demands renewal": {func(r *StartRequest) { r.Terms.Counterparty, r.Terms.Audience = "BPNL9", ""; r.RenewalRequired = true }, CodeNoRenewal},
		"no dialect":              {func(r *StartRequest) { r.Dialect = "" }, CodeInvalid},
	} {
		x := newFixture(t)
		r := classicStart("flow-1")
		c.change(&r)
		_, err := x.Start(context.Background(), controlPlane, r)
		if err == nil || CodeOf(err) != c.code {
			t.Errorf("%s: %v, want %s", name, err, c.code)
		}
		records, err := x.store.List(context.Background(), store.Query{Kind: flowKind})
		if err != nil || len(records) != 0 {
			t.Errorf("%s: left a record", name)
		}
	}
}

func TestRepeatedStart(t *testing.T) {
	for name, c := range map[string]struct {
		classic bool
		strict  bool
		before  func(x *fixture)
		change  func(r *StartRequest)
		caller  Caller
		code    Code
		reason  string // how the EDR was issued
	}{
		"same message":                  {reason: "repeat"},
		"new message id":                {change: func(r *StartRequest) { r.MessageID = "m2" }, reason: "repeat"},
		"new message id, strict":        {strict: true, change: func(r *StartRequest) { r.MessageID = "m2" }, code: CodeConflict},
		"same message, strict":          {strict: true, reason: "repeat"},
		"classic":                       {classic: true, reason: "repeat"},
		"other dataset":                 {change: func(r *StartRequest) { r.Terms.Dataset = "asset-2" }, code: CodeConflict},
		"other agreement":               {change: func(r *StartRequest) { r.Terms.Agreement = "a2" }, code: CodeConflict},
		"other counterparty":            {change: func(r *StartRequest) { r.Terms.Counterparty = "did:web:x.example" }, code: CodeConflict},
		"other source":                  {classic: true, change: func(r *StartRequest) { r.Terms.Source.Properties["authCode"] = "other" }, code: CodeConflict},
		"further source property":       {classic: true, change: func(r *StartRequest) { r.Terms.Source.Properties["path"] = "/x" }, code: CodeConflict},
		"other source type":             {classic: true, change: func(r *StartRequest) { r.Terms.Source.Type = "ProxyHttpData" }, code: CodeConflict},
		"message id of another message": {before: suspendResume, change: func(r *StartRequest) { r.MessageID = "suspend-1" }, code: CodeConflict},
		"suspended, DPS":                {before: suspendFlow, code: CodeState},
		"suspended, classic":            {classic: true, before: suspendFlow, reason: "resume"},
		"suspended, classic, other terms": {
			classic: true, before: suspendFlow, change: func(r *StartRequest) { r.Terms.Dataset = "asset-2" }, code: CodeConflict,
		},
		"ended":             {before: terminateFlow, code: CodeState},
		"ended, classic":    {classic: true, before: terminateFlow, code: CodeState},
		"of another caller": {caller: "other", code: CodeForeign},
	} {
		t.Run(name, func(t *testing.T) {
			x := newFixture(t, func(cfg *Config) {
				cfg.ControlPlanes = []string{string(controlPlane), "other"}
				cfg.ConflictOnRepeatedStart = c.strict
			})
			request := func() StartRequest {
				if c.classic {
					return classicStart("flow-1")
				}
				return dpsStart("flow-1")
			}
			first := x.start(request())
			if c.before != nil {
				c.before(x)
			}
			r := request()
			if c.change != nil {
				c.change(&r)
			}
			caller := controlPlane
			if c.caller != "" {
				caller = c.caller
			}
			edr, err := x.Start(context.Background(), caller, r)
			if c.code != "" {
				wantCode(t, err, c.code)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if edr.RefreshToken != first.RefreshToken || edr.Endpoint != first.Endpoint {
				t.Fatal("another EDR")
			}
			if x.observer.issued[c.reason] != 1 {
				t.Fatalf("issued %v", x.observer.issued)
			}
			for _, token := range []Secret{first.AccessToken, edr.AccessToken} {
				err = x.verify(token)
				if err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func suspendFlow(x *fixture) {
	x.must(x.Suspend(context.Background(), controlPlane, x.message("flow-1", "suspend-1")))
}

func suspendResume(x *fixture) {
	suspendFlow(x)
	_, err := x.Resume(context.Background(), controlPlane, x.message("flow-1", "resume-1"))
	if err != nil {
		x.t.Fatal(err)
	}
}

func terminateFlow(x *fixture) {
	x.must(x.Terminate(context.Background(), controlPlane, x.message("flow-1", "terminate-1")))
}

func TestRepeatAfterRenewalsHasTheCurrentRefreshToken(t *testing.T) {
	x := newFixture(t)
	edr := x.start(dpsStart("flow-1"))
	r := x.mustRenew(edr.RefreshToken, edr.AccessToken)
	again := x.start(dpsStart("flow-1"))
	if again.RefreshToken != r.RefreshToken {
		t.Fatal("not the current refresh token")
	}
}

// The map may change; who a flow is bound to does not.
func TestChangedDIDMapAffectsNewFlowsOnly(t *testing.T) {
	x := newFixture(t, func(c *Config) { c.DIDMap = map[string]string{"BPNL1": consumerDID} })
	request := func(id string) StartRequest {
		r := dpsStart(id)
		r.Terms.Counterparty = "BPNL1"
		return r
	}
	x.start(request("flow-1"))
	changed := x.other(func(c *Config) { c.DIDMap = map[string]string{"BPNL1": "did:web:new.example"} })
	edr, err := changed.Start(context.Background(), controlPlane, request("flow-1"))
	if err != nil || edr.Flow.BoundDID != consumerDID {
		t.Fatalf("%v", err)
	}
	edr, err = changed.Start(context.Background(), controlPlane, request("flow-2"))
	if err != nil || edr.Flow.BoundDID != "did:web:new.example" {
		t.Fatalf("%v", err)
	}
}

// EDC sends the first three tries of a start within 3 ms.
func TestConcurrentStartsMakeOneFlow(t *testing.T) {
	x := newFixture(t)
	var mu sync.Mutex
	tokens := map[Secret]int{}
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			edr, err := x.Start(context.Background(), controlPlane, dpsStart("flow-1"))
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			tokens[edr.RefreshToken]++
		})
	}
	wg.Wait()
	if len(tokens) != 1 || x.observer.issued["start"] != 1 {
		t.Fatalf("%d refresh tokens, issued %v", len(tokens), x.observer.issued)
	}
}

func TestStartWithoutTheStore(t *testing.T) {
	x := newFixture(t)
	x.store.fail(nil, store.ErrFull)
	_, err := x.Start(context.Background(), controlPlane, dpsStart("flow-1"))
	wantCode(t, err, CodeUnavailable)
}

// TestStartWithoutAPublicURL: a participant that gives no data starts no flow, whoever asks; a route may have its own URL.
func TestStartWithoutAPublicURL(t *testing.T) {
	x := newFixture(t, func(c *Config) { c.PublicURL = "" })
	_, err := x.Start(context.Background(), controlPlane, dpsStart("flow-1"))
	wantCode(t, err, CodeUnserved)
	request := dpsStart("flow-2")
	request.Endpoint = "https://route.provider.example"
	_, err = x.Start(context.Background(), controlPlane, request)
	if err != nil {
		t.Error(err)
	}
}

func TestConfigIsChecked(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"no participant":       func(c *Config) { c.Participant = "" },
		"slash in participant": func(c *Config) { c.Participant = "a/b" },
		"no DID":               func(c *Config) { c.DID = "provider" },
		"no keys":              func(c *Config) { c.Keys = nil },
		"no store":             func(c *Config) { c.Store = nil },
		"no live states":       func(c *Config) { c.Live = nil },
		"no resolver":          func(c *Config) { c.Resolver = nil },
		"map to no DID":        func(c *Config) { c.DIDMap = map[string]string{"BPNL1": "x"} },
		"negative ttl":         func(c *Config) { c.TokenTTL = -1 },
		"tiny ttl":             func(c *Config) { c.TokenTTL = time.Millisecond },
		"negative refresh ttl": func(c *Config) { c.RefreshTTL = -1 },
	} {
		c := newFixture(t).config
		change(&c)
		_, err := New(c)
		if err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
