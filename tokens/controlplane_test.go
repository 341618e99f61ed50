package tokens

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
)

func TestRegistrationOfControlPlanes(t *testing.T) {
	x := newFixture(t, func(c *Config) { c.Formerly = map[string]string{"old": "cp"} })
	put := func(caller Caller, id, endpoint string) {
		t.Helper()
		err := x.PutControlPlane(context.Background(), caller, ControlPlane{ID: id, Endpoint: endpoint})
		if err != nil {
			t.Fatal(err)
		}
	}
	deleted := func(caller Caller, id string) bool {
		t.Helper()
		ok, err := x.DeleteControlPlane(context.Background(), caller, id)
		if err != nil {
			t.Fatal(err)
		}
		return ok
	}
	endpoint := func(name string) string {
		t.Helper()
		p, err := x.ControlPlane(context.Background(), name)
		if err != nil {
			t.Fatal(err)
		}
		return p.Endpoint
	}
	if endpoint("cp") != "" || deleted(controlPlane, "a") {
		t.Error("registered before it was")
	}
	put(controlPlane, "a", "http://cp/1")
	put("other", "a", "http://other")
	put(controlPlane, "b", "http://cp/2")
	put(controlPlane, "b", "http://cp/2")
	if endpoint("cp") != "http://cp/2" || endpoint("other") != "http://other" {
		t.Errorf("%s, %s", endpoint("cp"), endpoint("other"))
	}
	if deleted(controlPlane, "a") || endpoint("cp") == "" {
		t.Error("deleted under an id that it no longer has")
	}
	if !deleted(controlPlane, "b") || endpoint("cp") != "" || deleted(controlPlane, "b") {
		t.Error("not deleted, or twice")
	}
	if endpoint("other") == "" {
		t.Error("another's registration is gone")
	}
	put("old", "c", "http://cp/3")
	if endpoint("cp") != "http://cp/3" {
		t.Error("a former name is another control plane")
	}
}

func TestControlPlaneIsPutByManyAtOnce(t *testing.T) {
	x := newFixture(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			err := x.PutControlPlane(context.Background(), controlPlane, ControlPlane{ID: "a", Endpoint: "http://cp"})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestRegistrationWhileTheStoreIsInTrouble(t *testing.T) {
	x := newFixture(t)
	x.store.fail(errBroken, errBroken)
	wantCode(t, x.PutControlPlane(context.Background(), controlPlane, ControlPlane{ID: "a"}), CodeUnavailable)
	_, err := x.DeleteControlPlane(context.Background(), controlPlane, "a")
	wantCode(t, err, CodeUnavailable)
	_, err = x.ControlPlane(context.Background(), "cp")
	wantCode(t, err, CodeUnavailable)
}

// A report says where its control plane wants to be told. A control plane of DPS RC3 says so here and nowhere else.
func TestReportNamesTheRegisteredEndpoint(t *testing.T) {
	x := newFixture(t)
	err := x.PutControlPlane(context.Background(), controlPlane, ControlPlane{ID: "a", Endpoint: "http://cp/signaling"})
	if err != nil {
		t.Fatal(err)
	}
	x.start(dpsStart("flow-1"))
	x.must(revoked(x))
	x.clock.Advance(reportAfter)
	if r := x.claim("flow-1"); r == nil || r.Registered != "http://cp/signaling" || r.Callback != "" {
		t.Errorf("%+v", r)
	}
}

// What a control plane registers to be called with is somebody else's credential: sealed at rest, whole in a report.
func TestRegisteredAuthorizationIsSealed(t *testing.T) {
	x := newFixture(t)
	ctx := context.Background()
	said := &PlaneAuthorization{
		Type: "oauth2_client_credentials", TokenEndpoint: "https://auth.example/token", ClientID: "client", ClientSecret: "CANARY-secret",
	}
	put := func(a *PlaneAuthorization) {
		t.Helper()
		err := x.PutControlPlane(ctx, controlPlane, ControlPlane{ID: "a", Endpoint: "http://cp/signaling", Authorization: a})
		if err != nil {
			t.Fatal(err)
		}
	}
	version := func() uint64 {
		t.Helper()
		r, err := x.store.Get(ctx, controlPlaneKind, "default/cp")
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(r.Data), "CANARY") || strings.Contains(string(r.Data), "auth.example") {
			t.Errorf("at rest: %s", r.Data)
		}
		return r.Version
	}
	put(said)
	first := version()
	put(said)
	if version() != first {
		t.Error("the same registration was written again")
	}
	rotated := *said
	rotated.ClientSecret = "CANARY-rotated"
	put(&rotated)
	if version() == first {
		t.Error("a changed secret was not written")
	}
	use, err := x.KeyUse(ctx)
	if err != nil || len(use) != 1 {
		t.Errorf("keys in use: %v, %v", use, err)
	}
	x.start(dpsStart("flow-1"))
	x.must(revoked(x))
	x.clock.Advance(reportAfter)
	r := x.claim("flow-1")
	if r == nil || r.Authorization == nil || *r.Authorization != rotated {
		t.Fatalf("%+v", r)
	}
	if strings.Contains(fmt.Sprintf("%v %+v %#v", r.Authorization, *r, *r.Authorization), "CANARY") {
		t.Error("a report prints the secret")
	}
	put(nil) // a registration replaces the one before
	p, err := x.ControlPlane(ctx, "cp")
	if err != nil || p.Authorization != nil {
		t.Errorf("%+v, %v", p, err)
	}
}

// A seal whose key is gone says nothing, and is not taken for no authorization; registering anew mends it.
func TestRegisteredAuthorizationWithoutItsKey(t *testing.T) {
	x := newFixture(t)
	ctx := context.Background()
	p := ControlPlane{ID: "a", Endpoint: "http://cp/signaling", Authorization: &PlaneAuthorization{Type: "t", ClientSecret: "s"}}
	err := x.PutControlPlane(ctx, controlPlane, p)
	if err != nil {
		t.Fatal(err)
	}
	changed := x.config
	changed.Keys = newRing(t, newKey(t))
	other := x.service(changed)
	_, err = other.ControlPlane(ctx, "cp")
	wantCode(t, err, CodeUnavailable)
	err = other.PutControlPlane(ctx, controlPlane, p)
	if err != nil {
		t.Fatal(err)
	}
	got, err := other.ControlPlane(ctx, "cp")
	if err != nil || !got.says(p) {
		t.Errorf("%+v, %v", got, err)
	}
}

// The keys can be rotated: what is registered again is sealed with the key in use, also if it says nothing new.
func TestRegistrationAnewIsSealedAnew(t *testing.T) {
	x := newFixture(t)
	ctx := context.Background()
	old, next := newKey(t), newKey(t)
	p := ControlPlane{ID: "a", Endpoint: "http://cp/signaling", Authorization: &PlaneAuthorization{Type: "t", ClientSecret: "s"}}
	for _, ring := range []*Ring{newRing(t, old), newRing(t, next, old)} {
		s := x.other(func(c *Config) { c.Keys = ring })
		err := s.PutControlPlane(ctx, controlPlane, p)
		if err != nil {
			t.Fatal(err)
		}
		use, err := s.KeyUse(ctx)
		if err != nil || use[ring.sealer.active] != 1 || len(use) != 1 {
			t.Errorf("keys in use: %v, %v", use, err)
		}
	}
}
