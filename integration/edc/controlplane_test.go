package edc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// fake is a control plane with a list of data planes and one transfer process. A data plane that was registered is
// available once the list has been looked at.
type fake struct {
	mu        sync.Mutex
	planes    []node
	posts     int
	transfers []string // states, one after the other; the last stays
}

func newFake(t testing.TB) (*fake, *ControlPlane) {
	f := &fake{}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /management/v3/dataplanes", f.list)
	mux.HandleFunc("POST /control/v1/dataplanes", f.register)
	mux.HandleFunc("GET /management/v3/transferprocesses/tp-1", f.transfer)
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return f, NewControlPlane(server.URL+"/management", server.URL+"/control")
}

func (f *fake) list(w http.ResponseWriter, _ *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	err := json.NewEncoder(w).Encode(f.planes)
	if err != nil {
		panic(err)
	}
	for _, plane := range f.planes {
		plane["state"] = "AVAILABLE"
	}
}

// only returns the URL and the state of the one data plane, and how often one was registered.
func (f *fake) only() (string, string, int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.planes[0].text("url"), f.planes[0].text("state"), f.posts
}

func (f *fake) register(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var plane node
	err := json.NewDecoder(r.Body).Decode(&plane)
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	plane["state"] = "REGISTERED"
	f.planes, f.posts = []node{plane}, f.posts+1
}

func (f *fake) transfer(w http.ResponseWriter, _ *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fmt.Fprintf(w, `{"@id":"tp-1","state":%q,"errorDetail":"a reason"}`, f.transfers[0])
	if len(f.transfers) > 1 {
		f.transfers = f.transfers[1:]
	}
}

// TestRegisterPostsOnlyWhatIsNew: each registration takes a data plane out of service for a moment.
func TestRegisterPostsOnlyWhatIsNew(t *testing.T) {
	t.Parallel()
	f, p := newFake(t)
	here := DataPlane{ID: "edrgate", URL: "http://here/v1/dataflows", SourceTypes: []string{"HttpData"}}
	moved := here
	moved.URL = "http://there/v1/dataflows"
	for i, step := range []struct {
		plane DataPlane
		post  bool
		posts int // in all
	}{{here, true, 1}, {here, false, 1}, {moved, true, 2}, {moved, false, 2}} {
		posted, err := p.Register(t.Context(), step.plane)
		if err != nil {
			t.Fatal(err)
		}
		if posted != step.post {
			t.Errorf("step %d: posted is %t", i, posted)
		}
		url, state, posts := f.only()
		if url != step.plane.URL || state != "AVAILABLE" || posts != step.posts {
			t.Errorf("step %d: the control plane has %s, %s, after %d registrations", i, url, state, posts)
		}
	}
}

func TestAwaitState(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		states   []string
		patience time.Duration
		want     string // of the error; empty for none
	}{
		"comes":         {[]string{"REQUESTED", "STARTED"}, time.Minute, ""},
		"cannot come":   {[]string{"REQUESTED", "TERMINATED"}, time.Minute, "is TERMINATED, want [STARTED]: a reason"},
		"does not come": {[]string{"REQUESTED"}, 3 * time.Second, "not yet: the control plane has more to do: transfer process tp-1 is REQUESTED"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, p := newFake(t)
			f.transfers = c.states
			ctx, cancel := context.WithTimeout(t.Context(), c.patience)
			defer cancel()
			err := p.Await(ctx, "tp-1", "STARTED")
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
}

func TestRefusalsSayWhatWasRefused(t *testing.T) {
	t.Parallel()
	_, p := newFake(t)
	err := p.Await(t.Context(), "tp-2", "STARTED")
	var refused *RefusedError
	if !errors.As(err, &refused) || refused.Status != http.StatusNotFound || !isNotFound(err) {
		t.Errorf("error %v, want a 404", err)
	}
}
