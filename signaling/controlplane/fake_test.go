package controlplane

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/edrgate/edrgate/internal/dial/dialtest"
	"github.com/edrgate/edrgate/internal/testkit"
	"github.com/edrgate/edrgate/tokens"
)

// request is what a control plane got.
type request struct {
	method, path, body string
	header             http.Header
}

// plane is a control plane that answers what it is told to, in order, the last for ever.
type plane struct {
	*httptest.Server
	t  *testing.T
	mu sync.Mutex

	answers []func(http.ResponseWriter, *http.Request)
	got     []request
}

func newPlane(t *testing.T, answers ...func(http.ResponseWriter, *http.Request)) *plane {
	t.Helper()
	p := &plane{t: t, answers: answers}
	p.Server = httptest.NewServer(http.HandlerFunc(p.serve))
	t.Cleanup(p.Close)
	return p
}

func status(code int, body string) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(code)
		_, _ = io.WriteString(w, body)
	}
}

func (p *plane) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		p.t.Error(err)
	}
	p.mu.Lock()
	p.got = append(p.got, request{r.Method, r.URL.EscapedPath(), string(body), r.Header})
	do := p.answers[min(len(p.got), len(p.answers))-1]
	p.mu.Unlock()
	do(w, r)
}

func (p *plane) requests() []request {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]request(nil), p.got...)
}

func (p *plane) base() *url.URL { return mustBase(p.t, p.URL+"/control") }

func mustBase(t *testing.T, s string) *url.URL {
	t.Helper()
	u, err := ParseBase(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func newTestClient(t *testing.T) *Client {
	t.Helper()
	transport := dialtest.Transport(t, "127.0.0.0/8")
	return NewClient(ClientConfig{Transport: transport, TokenTransport: transport})
}

// book keeps reports as the token core does, in memory.
type book struct {
	mu    sync.Mutex
	clock *testkit.Clock
	owed  map[string]*bookEntry
	err   error
}

type bookEntry struct {
	report  tokens.Report
	due     time.Time
	settled *tokens.Settlement
}

func newBook(clock *testkit.Clock, reports ...tokens.Report) *book {
	b := &book{clock: clock, owed: map[string]*bookEntry{}}
	for _, r := range reports {
		b.owed[r.Flow] = &bookEntry{report: r}
	}
	return b
}

func (b *book) DueReports() ([]tokens.OwedReport, map[tokens.ReportEvent]int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var due []tokens.OwedReport
	owed := map[tokens.ReportEvent]int{}
	for flow, e := range b.owed {
		if e.settled != nil && e.settled.Done {
			continue
		}
		owed[e.report.Event]++
		if !e.due.After(b.clock.Now()) {
			due = append(due, tokens.OwedReport{Flow: flow, ControlPlane: e.report.ControlPlane, Event: e.report.Event})
		}
	}
	return due, owed
}

func (b *book) ClaimReport(_ context.Context, flow string, lease time.Duration) (*tokens.Report, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil {
		return nil, b.err
	}
	e := b.owed[flow]
	if e.due.After(b.clock.Now()) {
		return nil, nil
	}
	e.report.Attempt++
	e.due = b.clock.Now().Add(lease)
	r := e.report
	return &r, nil
}

func (b *book) SettleReport(_ context.Context, r *tokens.Report, s tokens.Settlement) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.owed[r.Flow]
	e.settled = &s
	if s.Unknown {
		e.report.Unknown++
	}
	e.due = b.clock.Now().Add(s.Again)
	return nil
}

func (b *book) settlement(flow string) *tokens.Settlement {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.owed[flow].settled
}

// addressOf stands for the writer of data addresses.
func addressOf(*tokens.EDR) any { return map[string]string{"@type": "DataAddress"} }

// recorder is an Observer that remembers.
type recorder struct {
	mu      sync.Mutex
	results map[Result]int
	events  map[tokens.ReportEvent]int
	owed    map[tokens.ReportEvent]int
}

func newRecorder() *recorder {
	return &recorder{results: map[Result]int{}, events: map[tokens.ReportEvent]int{}, owed: map[tokens.ReportEvent]int{}}
}

func (r *recorder) CalledBack(event tokens.ReportEvent, result Result) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.results[result]++
	r.events[event]++
}

func (r *recorder) Owed(event tokens.ReportEvent, n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.owed[event] = n
}

func (r *recorder) count(result Result) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.results[result]
}
