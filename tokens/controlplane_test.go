package tokens

import (
	"context"
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
		e, err := x.registeredEndpoint(context.Background(), name)
		if err != nil {
			t.Fatal(err)
		}
		return e
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
	_, err = x.registeredEndpoint(context.Background(), "cp")
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
