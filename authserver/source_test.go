package authserver_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/edrgate/edrgate/authserver"
	"github.com/edrgate/edrgate/internal/dial/dialtest"
	"github.com/edrgate/edrgate/internal/testkit"
	"github.com/edrgate/edrgate/tokens"
)

const secret = tokens.Secret("CANARY-secret")

type world struct {
	*testkit.TokenServer
	t     *testing.T
	clock *testkit.Clock
	*authserver.Source
	grant authserver.Grant
}

func newWorld(t *testing.T, once bool) *world {
	t.Helper()
	w := &world{TokenServer: testkit.NewTokenServer(t), t: t, clock: testkit.NewClock()}
	w.Source = authserver.New(authserver.Config{Transport: dialtest.Transport(t, "127.0.0.0/8"), OncePerJTI: once, Now: w.clock.Now})
	w.grant = authserver.Grant{Endpoint: w.URL + "/token", ClientID: "client", ClientSecret: secret}
	return w
}

func (w *world) token() string {
	w.t.Helper()
	token, _, err := w.Token(w.t.Context(), w.grant)
	if err != nil {
		w.t.Fatal(err)
	}
	return token.Reveal()
}

func (w *world) failure() *authserver.Error {
	w.t.Helper()
	_, _, err := w.Token(w.t.Context(), w.grant)
	var failure *authserver.Error
	if !errors.As(err, &failure) {
		w.t.Fatalf("got %v, want an error of this package", err)
	}
	if strings.Contains(fmt.Sprintf("%v %+v %#v", err, err, failure.Error()), "CANARY") {
		w.t.Errorf("the error quotes what was sent or answered: %v", err)
	}
	return failure
}

func TestManyFirstRequestsFetchOnce(t *testing.T) {
	w := newWorld(t, false)
	const callers = 64
	began := make(chan struct{})
	w.Answer(func(rw http.ResponseWriter, _ *http.Request) {
		<-began
		testkit.WriteToken(rw, "shared")
	})
	var group sync.WaitGroup
	for range callers {
		group.Go(func() {
			token, _, err := w.Token(t.Context(), w.grant)
			if err != nil || token.Reveal() != "shared" {
				t.Errorf("got %q, %v", token.Reveal(), err)
			}
		})
	}
	testkit.Eventually(t, "a request", func() bool { return len(w.Forms()) > 0 })
	close(began)
	group.Wait()
	if got := len(w.Forms()); got != 1 {
		t.Errorf("%d requests, want 1", got)
	}
}

// TestCallerWhoLeavesTakesNothingAlong: the first caller's end is not that of the request that others wait for.
func TestCallerWhoLeavesTakesNothingAlong(t *testing.T) {
	w := newWorld(t, false)
	began, goOn := make(chan struct{}), make(chan struct{})
	w.Answer(func(rw http.ResponseWriter, _ *http.Request) {
		close(began)
		<-goOn
		testkit.WriteToken(rw, "shared")
	})
	first, leave := context.WithCancel(t.Context())
	var group sync.WaitGroup
	group.Go(func() { _, _, _ = w.Token(first, w.grant) })
	<-began
	leave()
	second, leaveToo := context.WithCancel(t.Context())
	leaveToo()
	_, _, err := w.Token(second, w.grant)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("a waiter that leaves: got %v", err)
	}
	group.Go(func() {
		token, _, err := w.Token(t.Context(), w.grant)
		if err != nil || token.Reveal() != "shared" {
			t.Errorf("got %q, %v", token.Reveal(), err)
		}
	})
	close(goOn)
	group.Wait()
	if got := len(w.Forms()); got != 1 {
		t.Errorf("%d requests, want 1", got)
	}
}

func TestTokenIsKeptUntilShortOfItsEnd(t *testing.T) {
	cases := []struct {
		name, expires string
		kept          time.Duration // with the margin taken off
	}{
		{"an hour", `,"expires_in":3600`, time.Hour - 30*time.Second},
		{"as text", `,"expires_in":"600"`, 10*time.Minute - 30*time.Second},
		{"short", `,"expires_in":10`, 8 * time.Second},
		{"not said", ``, 48 * time.Second},
		{"long", `,"expires_in":31536000`, time.Hour - 30*time.Second},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, false)
			w.AnswerText(http.StatusOK, `{"access_token":"t","token_type":"bearer"`+c.expires+`}`)
			w.token()
			w.clock.Advance(c.kept - time.Second)
			_, kept, err := w.Token(t.Context(), w.grant)
			if err != nil || !kept || len(w.Forms()) != 1 {
				t.Errorf("before: kept %t, %v, %d requests", kept, err, len(w.Forms()))
			}
			w.clock.Advance(time.Second)
			_, kept, err = w.Token(t.Context(), w.grant)
			if err != nil || kept || len(w.Forms()) != 2 {
				t.Errorf("after: kept %t, %v, %d requests", kept, err, len(w.Forms()))
			}
		})
	}
}

// TestGrantsDoNotShareTokens: above all not with one of another secret, which may be a wrong one.
func TestGrantsDoNotShareTokens(t *testing.T) {
	w := newWorld(t, false)
	w.token()
	for i, change := range []func(*authserver.Grant){
		func(g *authserver.Grant) { g.ClientSecret = "other" },
		func(g *authserver.Grant) { g.ClientID = "other" },
		func(g *authserver.Grant) { g.Scope = "other" },
		func(g *authserver.Grant) { g.Endpoint += "2" },
		func(g *authserver.Grant) { g.Audience = "other" },
		func(g *authserver.Grant) { g.Resource = "other" },
	} {
		g := w.grant
		change(&g)
		token, kept, err := w.Token(t.Context(), g)
		if err != nil || kept || token.Reveal() != fmt.Sprintf("token-%d", i+2) {
			t.Errorf("change %d: got %q, kept %t, %v", i, token.Reveal(), kept, err)
		}
	}
}

func TestDroppedTokenIsFetchedAnew(t *testing.T) {
	w := newWorld(t, false)
	first := w.token()
	if w.Drop(w.grant, tokens.Secret(first)) || w.token() != first {
		t.Error("a token that has only just been fetched was dropped")
	}
	w.clock.Advance(time.Minute)
	if w.Drop(w.grant, "older") || w.token() != first {
		t.Error("another token was dropped")
	}
	if !w.Drop(w.grant, tokens.Secret(first)) || w.token() == first {
		t.Error("the token was not dropped")
	}
	if w.Drop(authserver.Grant{}, "") {
		t.Error("a token of an unknown grant was dropped")
	}
}

func jwt(claims string) string {
	part := func(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }
	return part(`{"alg":"ES256"}`) + "." + part(claims) + "." + part("signature")
}

// TestTokenWithJTIIsGivenOnce: EDC 0.18 refuses a token whose jti it has seen.
func TestTokenWithJTIIsGivenOnce(t *testing.T) {
	cases := []struct {
		name   string
		once   bool
		token  string
		fetchs int
	}{
		{"JWT with jti", true, jwt(`{"jti":"1"}`), 3},
		{"JWT without jti", true, jwt(`{"sub":"1"}`), 1},
		{"opaque", true, "opaque", 1},
		{"dots only", true, "a.b.c", 1},
		{"where it does not matter", false, jwt(`{"jti":"1"}`), 1},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, c.once)
			w.Answer(func(rw http.ResponseWriter, _ *http.Request) { testkit.WriteToken(rw, c.token) })
			for range 3 {
				if got := w.token(); got != c.token {
					t.Errorf("got %q", got)
				}
			}
			if got := len(w.Forms()); got != c.fetchs {
				t.Errorf("%d requests, want %d", got, c.fetchs)
			}
		})
	}
}

// TestExpOfAJWTCounts: expires_in of a token exchange is advisory.
func TestExpOfAJWTCounts(t *testing.T) {
	w := newWorld(t, false)
	w.Answer(func(rw http.ResponseWriter, _ *http.Request) { // says an hour
		testkit.WriteToken(rw, jwt(fmt.Sprintf(`{"exp":%d}`, w.clock.Now().Add(5*time.Minute).Unix())))
	})
	w.token()
	w.clock.Advance(5*time.Minute - 31*time.Second)
	w.token()
	if got := len(w.Forms()); got != 1 {
		t.Errorf("%d requests before the end", got)
	}
	w.clock.Advance(2 * time.Second)
	w.token()
	if got := len(w.Forms()); got != 2 {
		t.Errorf("%d requests after it", got)
	}
}

func TestEndpointsThatAreNone(t *testing.T) {
	for _, good := range []string{"https://auth.example/token", "http://127.0.0.1:8080/t?x=1", "http://[::1]/", "http://localhost/t"} {
		if err := authserver.CheckEndpoint(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for bad, want := range map[string]string{
		"": "absolute", "/token": "absolute", "https:auth.example": "absolute", "https://": "absolute", "https://a b/CANARY": "absolute",
		"http://auth.example/token": "must be https", "ftp://127.0.0.1/": "must be https", "file:///etc/passwd": "absolute",
		"https://u:CANARY@auth.example/": "no user", "https://auth.example/#CANARY": "no user",
	} {
		err := authserver.CheckEndpoint(bad)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "CANARY") {
			t.Errorf("%s: got %v", bad, err)
		}
	}
}

// TestOneUseTokensAreNotSharedByThoseWhoWait: each of them gets one of its own.
func TestOneUseTokensAreNotSharedByThoseWhoWait(t *testing.T) {
	w := newWorld(t, true)
	goOn := make(chan struct{})
	w.Answer(func(rw http.ResponseWriter, _ *http.Request) {
		<-goOn
		testkit.WriteToken(rw, jwt(fmt.Sprintf(`{"jti":"%d"}`, len(w.Forms()))))
	})
	var seen sync.Map
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			token, _, err := w.Token(t.Context(), w.grant)
			_, again := seen.LoadOrStore(token, true)
			if err != nil || again {
				t.Errorf("given twice: %t, %v", again, err)
			}
		})
	}
	testkit.Eventually(t, "a request", func() bool { return len(w.Forms()) > 0 })
	close(goOn)
	group.Wait()
}

// TestMemoryIsBounded: the grants come from data addresses.
func TestMemoryIsBounded(t *testing.T) {
	w := newWorld(t, false)
	first := w.token()
	for i := range 1024 {
		g := w.grant
		g.Scope = fmt.Sprint(i)
		_, _, err := w.Token(t.Context(), g)
		if err != nil {
			t.Fatal(err)
		}
	}
	if w.token() == first {
		t.Error("the grant that was not used for longest is still remembered")
	}
}

func TestGrantPrintsItsServerOnly(t *testing.T) {
	g := authserver.Grant{Endpoint: "https://auth.example/token?key=CANARY", ClientSecret: secret}
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
		if got := fmt.Sprintf(format, g); got != "token endpoint https://auth.example" {
			t.Errorf("%s: %s", format, got)
		}
	}
}
