package controlplane

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/edrgate/edrgate/internal/testkit"
	"github.com/edrgate/edrgate/tokens"
)

// selector is the registration of a control plane, as EDC keeps it in memory.
type selector struct {
	*plane
	mu     sync.Mutex
	status int    // what everything is answered with; 0: what EDC answers
	list   string // what GET shows; empty: what was registered
	blind  bool   // there is no list
	puts   int
}

func newSelector(t *testing.T) *selector {
	t.Helper()
	s := &selector{}
	s.plane = newPlane(t, s.answer)
	return s
}

func (s *selector) answer(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.status != 0:
		w.WriteHeader(s.status)
	case r.Method == http.MethodGet && s.blind:
		w.WriteHeader(http.StatusMethodNotAllowed)
	case r.Method == http.MethodGet:
		_, _ = w.Write([]byte(s.list))
	default:
		s.puts++
		s.list = s.shown()
	}
}

// shown is the list that EDC shows after the last message.
func (s *selector) shown() string {
	got := s.plane.requests()
	var m struct {
		ID, DataplaneID                                         string
		URL, Endpoint                                           string
		AllowedSourceTypes, AllowedTransferTypes, TransferTypes []string
	}
	body := strings.ReplaceAll(got[len(got)-1].body, `"@id"`, `"id"`)
	err := json.Unmarshal([]byte(body), &m)
	if err != nil {
		s.t.Error(err)
	}
	list, err := json.Marshal([]map[string]any{{
		"@id": m.ID + m.DataplaneID, "url": m.URL + m.Endpoint, "allowedSourceTypes": m.AllowedSourceTypes,
		"allowedTransferTypes": append(m.AllowedTransferTypes, m.TransferTypes...), "state": "REGISTERED",
	}})
	if err != nil {
		s.t.Error(err)
	}
	return string(list)
}

func (s *selector) set(change func(*selector)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
}

func (s *selector) registrations() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.puts
}

func (s *selector) classic(t *testing.T) Registration {
	return Registration{
		ControlPlane: "cp", Protocol: tokens.Classic, URL: mustBase(t, s.URL+"/control/v1/dataplanes"), ID: "edrgate",
		Endpoint: "http://gw:8181/v1/dataflows", TransferTypes: DefaultTransferTypes, SourceTypes: DefaultSourceTypes,
	}
}

func (s *selector) dps(t *testing.T) Registration {
	return Registration{
		ControlPlane: "cp", Protocol: tokens.DPS, URL: mustBase(t, s.URL+"/management/v4/dataplanes"), ID: "edrgate",
		Endpoint: "http://gw:8181/dataflows", TransferTypes: DefaultTransferTypes, Profiles: DefaultProfiles, APIKey: "s3cret",
	}
}

func (s *selector) dpsWithCredentials(t *testing.T) Registration {
	r := s.dps(t)
	r.Authorization = &Offer{
		Type: ProfileClientCredentials, TokenEndpoint: "https://auth/t", ClientID: "cp", ClientSecret: "s3cret", JWKSURI: "https://auth/jwks",
	}
	return r
}

type looks struct {
	mu      sync.Mutex
	results map[RegistrationResult]int
	missing int
}

func (l *looks) Looked(r RegistrationResult) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.results[r]++
}

func (l *looks) Unregistered(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.missing = n
}

func (l *looks) count(r RegistrationResult) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.results[r]
}

type registrarFixture struct {
	*Registrar
	observer *looks
	log      *bytes.Buffer
}

func newRegistrarFixture(t *testing.T, registrations ...Registration) *registrarFixture {
	t.Helper()
	x := &registrarFixture{observer: &looks{results: map[RegistrationResult]int{}}, log: &bytes.Buffer{}}
	var err error
	x.Registrar, err = NewRegistrar(RegistrarConfig{
		Registrations: registrations, Client: newTestClient(t), Observer: x.observer,
		Logger: slog.New(slog.NewTextHandler(x.log, nil)), Jitter: func() float64 { return 0 },
	})
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// lookAt makes one look at the first registration and checks what it came to.
func (x *registrarFixture) lookAt(t *testing.T, want RegistrationResult) {
	t.Helper()
	before := x.observer.count(want)
	x.look(context.Background(), x.keepers[0])
	if x.observer.count(want) != before+1 {
		t.Fatalf("want %s, looks %v, log %s", want, x.observer.results, x.log)
	}
}

// The bodies are those that EDC 0.15.1, 0.17.0 and 0.18 took when they were recorded.
func TestRegistrationOnTheWire(t *testing.T) {
	for name, test := range map[string]struct {
		registration func(*selector, *testing.T) Registration
		method, path string
		body         string
		key          string
	}{
		"classic": {
			(*selector).classic, "POST", "/control/v1/dataplanes",
			`{"@context":{"@vocab":"https://w3id.org/edc/v0.0.1/ns/"},"@id":"edrgate","@type":"DataPlaneInstance",` +
				`"url":"http://gw:8181/v1/dataflows","allowedSourceTypes":["HttpData","ProxyHttpData"],` +
				`"allowedTransferTypes":["HttpData-PULL","ProxyHttpData-PULL"]}`, "",
		},
		"dps": {
			(*selector).dps, "PUT", "/management/v4/dataplanes",
			`{"dataplaneId":"edrgate","endpoint":"http://gw:8181/dataflows","profiles":["https://w3id.org/dspace-sig/profile/http-pull"],` +
				`"transferTypes":["HttpData-PULL","ProxyHttpData-PULL"],"labels":[]}`, "s3cret",
		},
		"dps with client credentials": {
			(*selector).dpsWithCredentials, "PUT", "/management/v4/dataplanes",
			`{"dataplaneId":"edrgate","endpoint":"http://gw:8181/dataflows","profiles":["https://w3id.org/dspace-sig/profile/http-pull"],` +
				`"transferTypes":["HttpData-PULL","ProxyHttpData-PULL"],"labels":[],"authorization":{"type":"oauth2_client_credentials",` +
				`"tokenEndpoint":"https://auth/t","clientId":"cp","jwksUri":"https://auth/jwks","clientSecret":"s3cret"}}`, "s3cret",
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSelector(t)
			s.list = "[]"
			x := newRegistrarFixture(t, test.registration(s, t))
			x.lookAt(t, RegistrationMade)
			x.lookAt(t, RegistrationPresent)
			got := s.requests()
			if len(got) != 3 || got[0].method != "GET" || got[2].method != "GET" {
				t.Fatalf("%+v", got)
			}
			if m := got[1]; m.method != test.method || m.path != test.path || m.body != test.body {
				t.Errorf("%s %s %s", m.method, m.path, m.body)
			}
			for _, m := range got {
				if m.header.Get("X-Api-Key") != test.key {
					t.Errorf("key of %s: %q", m.method, m.header.Get("X-Api-Key"))
				}
			}
			if strings.Contains(x.log.String(), "s3cret") {
				t.Error("the key is in the log")
			}
		})
	}
}

// A control plane never shows the authorization object, so it is told once by each configuration, which may have another
// secret; and then no more.
func TestAuthorizationIsRegisteredOnce(t *testing.T) {
	s := newSelector(t)
	s.list = "[]"
	x := newRegistrarFixture(t, s.dps(t))
	x.lookAt(t, RegistrationMade)
	x = newRegistrarFixture(t, s.dpsWithCredentials(t))
	x.lookAt(t, RegistrationMade)
	x.lookAt(t, RegistrationPresent)
	x.lookAt(t, RegistrationPresent)
	if got := s.registrations(); got != 2 {
		t.Errorf("%d registrations", got)
	}
	s.set(func(s *selector) { s.list = strings.Replace(s.list, "REGISTERED", "UNREGISTERED", 1) })
	newRegistrarFixture(t, s.dpsWithCredentials(t)).lookAt(t, RegistrationShelved)
}

// What EDC shows of our own registration, as recorded, is what we registered: nothing is registered again.
func TestRecordedListsAreUnderstood(t *testing.T) {
	const sourceTypes = `"https://w3id.org/edc/v0.0.1/ns/allowedSourceTypes":[{"@value":"ProxyHttpData"},{"@value":"HttpData"}]`
	lists := map[string]string{
		"EDC 0.15.1": `[{"@id":"edrgate","@type":"DataPlaneInstance","url":"http://gw:8181/v1/dataflows","lastActive":0,"stateTimestamp":1795417087911,` +
			`"allowedSourceTypes":["ProxyHttpData","HttpData"],"allowedTransferTypes":["HttpData-PULL","ProxyHttpData-PULL"],` +
			`"destinationProvisionTypes":[],"state":"AVAILABLE","@context":{"@vocab":"https://w3id.org/edc/v0.0.1/ns/"}}]`,
		"expanded": `[{"@id":"other"},{"@id":"edrgate","https://w3id.org/edc/v0.0.1/ns/url":[{"@value":"http://gw:8181/v1/dataflows"}],` + sourceTypes +
			`,"https://w3id.org/edc/v0.0.1/ns/allowedTransferTypes":[{"@value":"ProxyHttpData-PULL"},{"@value":"HttpData-PULL"}]}]`,
		"prefixed": `[{"@id":"edrgate","edc:url":"http://gw:8181/v1/dataflows","edc:allowedSourceTypes":["HttpData","ProxyHttpData"],` +
			`"edc:allowedTransferTypes":["ProxyHttpData-PULL","HttpData-PULL"],"edc:state":"UNAVAILABLE"}]`,
	}
	for name, list := range lists {
		t.Run(name, func(t *testing.T) {
			s := newSelector(t)
			s.list = list
			x := newRegistrarFixture(t, s.classic(t))
			x.lookAt(t, RegistrationPresent)
			if s.registrations() != 0 || x.observer.missing != 0 {
				t.Errorf("%d registrations, %d missing", s.registrations(), x.observer.missing)
			}
		})
	}
	t.Run("one type is no array", func(t *testing.T) {
		s := newSelector(t)
		s.list = `[{"@id":"edrgate","url":"http://gw:8181/v1/dataflows","allowedSourceTypes":"HttpData","allowedTransferTypes":"HttpData-PULL"}]`
		r := s.classic(t)
		r.SourceTypes, r.TransferTypes = []string{"HttpData"}, []string{"HttpData-PULL"}
		newRegistrarFixture(t, r).lookAt(t, RegistrationPresent)
	})
}

func TestChangedRegistrationIsReplacedOnce(t *testing.T) {
	const other = `[{"@id":"edrgate","url":"http://old:8181/v1/dataflows","allowedSourceTypes":["HttpData"],"allowedTransferTypes":["HttpData-PULL"]}]`
	s := newSelector(t)
	s.list = other
	x := newRegistrarFixture(t, s.classic(t))
	x.lookAt(t, RegistrationMade)
	x.lookAt(t, RegistrationPresent)

	// Something else registers under our id: that is replaced, but a control plane that goes on to show it is not told
	// every minute, each time with a gap in which starts fail.
	s.set(func(s *selector) { s.list = other })
	x.lookAt(t, RegistrationMade)
	for range 3 {
		s.set(func(s *selector) { s.list = other })
		x.lookAt(t, RegistrationMismatch)
	}
	if s.registrations() != 2 || x.observer.missing != 1 || strings.Count(x.log.String(), "level=ERROR") != 1 {
		t.Errorf("%d registrations, %d missing, log %s", s.registrations(), x.observer.missing, x.log)
	}
	s.set(func(s *selector) { s.list = strings.ReplaceAll(other, "old:", "older:") })
	x.lookAt(t, RegistrationMade)
}

func TestForgetfulControlPlane(t *testing.T) {
	s := newSelector(t)
	s.list = "[]"
	x := newRegistrarFixture(t, s.classic(t))
	for range 2 { // in memory: a restart forgets us
		s.set(func(s *selector) { s.list = "[]" })
		x.lookAt(t, RegistrationMade)
		x.lookAt(t, RegistrationPresent)
	}
	if s.registrations() != 2 {
		t.Errorf("%d registrations", s.registrations())
	}
}

// Somebody took us out of service there. That is his choice.
func TestUnregisteredStaysUnregistered(t *testing.T) {
	s := newSelector(t)
	s.list = "[]"
	x := newRegistrarFixture(t, s.classic(t))
	x.lookAt(t, RegistrationMade)
	s.set(func(s *selector) { s.list = strings.ReplaceAll(s.list, `"REGISTERED"`, `"UNREGISTERED"`) })
	x.lookAt(t, RegistrationShelved)
	x.lookAt(t, RegistrationShelved)
	if s.registrations() != 1 || x.observer.missing != 1 || strings.Count(x.log.String(), "level=WARN") != 1 {
		t.Errorf("%d registrations, log %s", s.registrations(), x.log)
	}
}

// A control plane of the specification has a PUT and no list.
func TestRegistrationThatCannotBeLookedAt(t *testing.T) {
	s := newSelector(t)
	s.blind = true
	x := newRegistrarFixture(t, s.dps(t))
	x.lookAt(t, RegistrationMade)
	x.lookAt(t, RegistrationMade)
	if k := x.keepers[0]; k.next(0) != repeatAfter || strings.Count(x.log.String(), "registered at") != 1 {
		t.Errorf("next after %s, log %s", k.next(0), x.log)
	}
	classic := newRegistrarFixture(t, s.classic(t))
	classic.lookAt(t, RegistrationFailed)
}

func TestRegistrationFails(t *testing.T) {
	for name, change := range map[string]func(*selector){
		"500":      func(s *selector) { s.status = 500 },
		"401":      func(s *selector) { s.status = 401 },
		"404":      func(s *selector) { s.status = 404 },
		"redirect": func(s *selector) { s.status = 307 },
		"HTML":     func(s *selector) { s.list = "<html>" },
		"no list":  func(s *selector) { s.list = `{"@id":"edrgate"}` },
		"nothing":  func(s *selector) { s.list = "" },
		"away":     func(s *selector) { s.Close() },
		"closed early": func(s *selector) {
			s.answers[0] = func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSelector(t)
			change(s)
			x := newRegistrarFixture(t, s.classic(t))
			x.lookAt(t, RegistrationFailed)
			x.lookAt(t, RegistrationFailed)
			if s.registrations() != 0 || x.observer.missing != 1 || strings.Count(x.log.String(), "level=WARN") != 1 {
				t.Errorf("%d registrations, %d missing, log %s", s.registrations(), x.observer.missing, x.log)
			}
			if next := x.keepers[0].next(0); next != firstWait {
				t.Errorf("next look after %s", next)
			}
		})
	}
}

// TestChangedFailureIsLogged: a control plane that was away and then refuses is another trouble, which somebody has to see.
func TestChangedFailureIsLogged(t *testing.T) {
	s := newSelector(t)
	x := newRegistrarFixture(t, s.classic(t))
	for _, status := range []int{500, 500, 401, 401} {
		s.set(func(s *selector) { s.status = status })
		x.lookAt(t, RegistrationFailed)
	}
	s.Close()
	x.lookAt(t, RegistrationFailed)
	x.lookAt(t, RegistrationFailed)
	log := x.log.String()
	if strings.Count(log, "level=WARN") != 3 || strings.Count(log, "status 500") != 1 || strings.Count(log, "status 401") != 1 {
		t.Errorf("log %s", log)
	}
}

func TestNextLook(t *testing.T) {
	k := &keeper{failures: 100}
	if k.next(0.5) != lookAgainAfter {
		t.Errorf("after many failures: %s", k.next(0.5))
	}
	k.failures = 0
	if k.next(0) != lookAgainAfter || k.next(0.99) >= lookAgainAfter || k.next(0.99) < lookAgainAfter*9/10 {
		t.Errorf("%s, %s", k.next(0), k.next(0.99))
	}
}

// The checks of a control plane stop: it was started anew, and is looked at without waiting for the minute.
func TestChecksThatStop(t *testing.T) {
	s := newSelector(t)
	s.list = "[]"
	x := newRegistrarFixture(t, s.classic(t))
	x.keepers[0].silence = time.Millisecond
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { x.Run(ctx); close(done) }()
	testkit.Eventually(t, "registered", func() bool { return x.observer.count(RegistrationMade) == 1 })
	s.set(func(s *selector) { s.list = "[]" })
	now := time.Now()
	x.Checked("another", now)
	x.Checked("cp", now)
	x.Checked("cp", now.Add(time.Millisecond))
	testkit.Eventually(t, "registered again", func() bool { return x.observer.count(RegistrationMade) == 2 })
	x.Checked("cp", now.Add(time.Hour)) // a timer that is stopped when the registrar ends
	cancel()
	<-done
	if s.registrations() != 2 {
		t.Errorf("%d registrations: it must not be taken back", s.registrations())
	}
}

func FuzzFind(f *testing.F) {
	f.Add([]byte(`[{"@id":"edrgate","url":"http://gw:8181/v1/dataflows","allowedTransferTypes":["HttpData-PULL"]}]`))
	f.Add([]byte(`[{"@id":"edrgate","url":[{"@value":"x"}],"allowedSourceTypes":{"@id":"y"},"state":7}]`))
	f.Add([]byte(`[[[[]]]]`))
	f.Add([]byte(`{}`))
	r := &Registration{ID: "edrgate", Endpoint: "http://gw:8181/v1/dataflows"}
	f.Fuzz(func(t *testing.T, list []byte) {
		e, err := r.find(list)
		if err != nil && e != nil {
			t.Error("both an entry and an error")
		}
		if e != nil && !e.same(e) {
			t.Error("an entry differs from itself")
		}
	})
}

// TestMissingRegistrationsAreToldAgain: a config that failed to load has told how many registrations it misses, and the one
// that goes on has none to look at.
func TestMissingRegistrationsAreToldAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := newTestClient(t)
		seen := &looks{results: map[RegistrationResult]int{}}
		r, err := NewRegistrar(RegistrarConfig{Client: client, Observer: seen, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go r.Run(ctx)
		synctest.Wait()
		seen.Unregistered(2)
		time.Sleep(lookAgainAfter)
		synctest.Wait()
		if seen.missing != 0 {
			t.Errorf("told %d missing registrations, want 0", seen.missing)
		}
	})
}
