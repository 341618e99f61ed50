package jwks

import (
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/edrgate/edrgate/internal/dial/dialtest"
	"github.com/edrgate/edrgate/internal/testkit"
)

// issuer is a host that serves what it is told.
type issuer struct {
	*httptest.Server
	answer atomic.Pointer[http.HandlerFunc]
	asked  atomic.Int64
}

func newIssuer(t *testing.T) *issuer {
	t.Helper()
	i := &issuer{}
	i.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		i.asked.Add(1)
		(*i.answer.Load())(w, r)
	}))
	t.Cleanup(i.Server.Close)
	return i
}

func (i *issuer) does(handler http.HandlerFunc) { i.answer.Store(&handler) }

func (i *issuer) serves(body []byte) {
	i.does(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(body) })
}

func (i *issuer) fails() {
	i.does(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
}

// setOf is a key set of these keys, named k0, k1, …
func setOf(t *testing.T, public ...crypto.PublicKey) []byte {
	t.Helper()
	var set jose.JSONWebKeySet
	for n, key := range public {
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: key, KeyID: fmt.Sprintf("k%d", n), Use: "sig"})
	}
	data, err := json.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func newKey() crypto.PublicKey { return testkit.NewWallet("did:web:issuer.example").Key.Public() }

func newSet(t *testing.T, location string, clock *testkit.Clock) *Set {
	t.Helper()
	s, err := New(Config{Location: location, Transport: dialtest.Transport(t, "127.0.0.0/8"), Now: clock.Now})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// want checks what a key id leads to: "key", "unknown" or "unavailable".
func want(t *testing.T, s *Set, kid, outcome string) {
	t.Helper()
	found, err := s.Keys(t.Context(), kid)
	var unavailable *UnavailableError
	got := "key"
	switch {
	case errors.Is(err, ErrUnknownKey):
		got = "unknown"
	case errors.As(err, &unavailable):
		got = "unavailable"
		if unavailable.RetryAfter() <= 0 {
			t.Errorf("try again after %s", unavailable.RetryAfter())
		}
	case err != nil || len(found) == 0:
		t.Fatalf("%v, %v", found, err)
	}
	if got != outcome {
		t.Errorf("%s is %s (%v), want %s", kid, got, err, outcome)
	}
}

func (i *issuer) wantAsked(t *testing.T, times int64) {
	t.Helper()
	if i.asked.Load() != times {
		t.Errorf("asked %d times, want %d", i.asked.Load(), times)
	}
}

func TestFetchedWhenNeeded(t *testing.T) {
	host, clock := newIssuer(t), testkit.NewClock()
	host.serves(setOf(t, newKey()))
	s := newSet(t, host.URL, clock)
	host.wantAsked(t, 0)
	want(t, s, "k0", "key")
	want(t, s, "k0", "key")
	host.wantAsked(t, 1)
	clock.Advance(MaxAge - time.Second)
	want(t, s, "k0", "key")
	host.wantAsked(t, 1)
	clock.Advance(time.Second)
	want(t, s, "k0", "key")
	host.wantAsked(t, 2)
}

func TestNewAndWithdrawnKeys(t *testing.T) {
	host, clock := newIssuer(t), testkit.NewClock()
	host.serves(setOf(t, newKey()))
	s := newSet(t, host.URL, clock)
	want(t, s, "k0", "key")
	clock.Advance(time.Second)
	want(t, s, "k1", "unavailable") // it may have been added this second
	host.wantAsked(t, 1)
	clock.Advance(minInterval)
	want(t, s, "k1", "unknown")
	host.wantAsked(t, 2)
	host.serves(setOf(t, newKey(), newKey()))
	clock.Advance(minInterval)
	want(t, s, "k1", "key")
	host.wantAsked(t, 3)
	host.serves(setOf(t, newKey()))
	clock.Advance(MaxAge)
	want(t, s, "k1", "unknown")
}

func TestHostThatFails(t *testing.T) {
	host, clock := newIssuer(t), testkit.NewClock()
	host.fails()
	s := newSet(t, host.URL, clock)
	want(t, s, "k0", "unavailable")
	want(t, s, "k0", "unavailable")
	host.wantAsked(t, 1)
	host.serves(setOf(t, newKey()))
	clock.Advance(minInterval)
	want(t, s, "k0", "key")
	host.fails()
	clock.Advance(MaxAge)
	want(t, s, "k0", "key") // the last good set
	want(t, s, "k1", "unavailable")
	host.wantAsked(t, 3)
	clock.Advance(staleIfError)
	want(t, s, "k0", "unavailable")
	host.serves(setOf(t, newKey()))
	clock.Advance(minInterval)
	want(t, s, "k0", "key")
}

func TestAnswersThatAreNoSet(t *testing.T) {
	good := setOf(t, newKey())
	for name, handler := range map[string]http.HandlerFunc{
		"redirect":   func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/other", http.StatusFound) },
		"not found":  func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) },
		"no content": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) },
		"too large":  func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(append(good, make([]byte, maxBytes)...)) },
		"compressed": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "br")
			_, _ = w.Write(good)
		},
		"cut off": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100000")
			_, _ = w.Write(good)
		},
		"HTML":     func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) },
		"no keys":  func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"keys":[]}`)) },
		"no array": func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"keys":{}}`)) },
		"duplicate": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte(strings.Replace(string(good), `{"keys"`, `{"keys":[],"keys"`, 1)))
		},
	} {
		t.Run(name, func(t *testing.T) {
			host, clock := newIssuer(t), testkit.NewClock()
			host.does(handler)
			s := newSet(t, host.URL, clock)
			want(t, s, "k0", "unavailable")
			host.wantAsked(t, 1)
		})
	}
}

func TestDeniedAddress(t *testing.T) {
	host := newIssuer(t)
	host.serves(setOf(t, newKey()))
	s, err := New(Config{Location: host.URL, Transport: dialtest.Transport(t)})
	if err != nil {
		t.Fatal(err)
	}
	want(t, s, "k0", "unavailable")
	host.wantAsked(t, 0)
}

// Whatever trouble the host of a key set is in, nobody can tell about a key.
func TestKeySetHostsInTrouble(t *testing.T) {
	dialtest.EachTrouble(t, func(t *testing.T, h *dialtest.Host) {
		s, err := New(Config{Location: h.URL, Transport: h.Transport(t), Timeout: h.Timeout})
		if err != nil {
			t.Fatal(err)
		}
		want(t, s, "k0", "unavailable")
	})
}

// Many requests at once fetch once, and whoever gives up ends the fetch of nobody else.
func TestOneFetchForMany(t *testing.T) {
	host, clock := newIssuer(t), testkit.NewClock()
	arrived, release := make(chan struct{}), make(chan struct{})
	body := setOf(t, newKey())
	host.does(func(w http.ResponseWriter, _ *http.Request) {
		close(arrived)
		<-release
		_, _ = w.Write(body)
	})
	s := newSet(t, host.URL, clock)
	ctx, leave := context.WithCancel(t.Context())
	var all sync.WaitGroup
	all.Go(func() { _, _ = s.Keys(ctx, "k0") })
	<-arrived
	leave()
	_, err := s.Keys(ctx, "k0") // waits, and has given up
	var unavailable *UnavailableError
	if !errors.As(err, &unavailable) {
		t.Errorf("got %v", err)
	}
	for range 20 {
		all.Go(func() { want(t, s, "k0", "key") })
	}
	close(release)
	all.Wait()
	host.wantAsked(t, 1)
}

func TestStaleSetWhileFetching(t *testing.T) {
	host, clock := newIssuer(t), testkit.NewClock()
	body := setOf(t, newKey())
	host.serves(body)
	s := newSet(t, host.URL, clock)
	want(t, s, "k0", "key")
	arrived, release := make(chan struct{}), make(chan struct{})
	host.does(func(w http.ResponseWriter, _ *http.Request) {
		close(arrived)
		<-release
		_, _ = w.Write(body)
	})
	clock.Advance(MaxAge)
	var one sync.WaitGroup
	one.Go(func() { want(t, s, "k0", "key") })
	<-arrived
	want(t, s, "k0", "key") // does not wait
	close(release)
	one.Wait()
}

func TestSetInAFile(t *testing.T) {
	clock, path := testkit.NewClock(), filepath.Join(t.TempDir(), "jwks.json")
	s := newSet(t, path, clock)
	want(t, s, "k0", "unavailable")
	err := os.WriteFile(path, setOf(t, newKey()), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	clock.Advance(minInterval)
	want(t, s, "k0", "key")
	want(t, newSet(t, t.TempDir(), clock), "k0", "unavailable")
}

func TestLocations(t *testing.T) {
	for location, good := range map[string]bool{
		"https://issuer.example/jwks": true, "http://127.0.0.1:8080/jwks": true, "http://localhost/jwks": true,
		"http://[::1]/jwks": true, "/etc/edr/jwks.json": true, "jwks.json": true,
		"": false, "http://issuer.example/jwks": false, "ftp://issuer.example/jwks": false, "https:///jwks": false,
		"https://user:secret@issuer.example/jwks": false, "https://issuer.example/jwks#a": false, "file:///etc/jwks.json": false,
		"http://localhost.evil.example/jwks": false,
	} {
		err := CheckLocation(location)
		if (err == nil) != good {
			t.Errorf("%q: %v", location, err)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("the error has the password: %v", err)
		}
	}
}

func TestKeysThatAreLeftOut(t *testing.T) {
	good := setOf(t, newKey())
	mixed := strings.Replace(string(good), `"keys":[`, `"keys":[5,{"kid":"oct","kty":"oct","k":"AAAA"},{"kty":"EC"},{"kid":"enc","kty":"RSA","use":"enc"},`, 1)
	set, err := parse([]byte(mixed))
	if err != nil || len(set) != 1 || len(set["k0"]) != 1 {
		t.Errorf("%v, %v", set, err)
	}
	many := make([]crypto.PublicKey, maxKeys+1)
	for n := range many {
		many[n] = newKey()
	}
	_, err = parse(setOf(t, many...))
	if err == nil {
		t.Error("too many keys are accepted")
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"keys":[{"kid":"a","kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`))
	f.Add([]byte(`{"keys":[null,{"kid":1},{"kid":"a"}]}`))
	f.Add([]byte(`{"keys":null}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		set, err := parse(data)
		if (err == nil) != (len(set) > 0) {
			t.Errorf("%d keys, %v", len(set), err)
		}
		_, nameless := set[""]
		if nameless {
			t.Error("a key without id")
		}
	})
}
