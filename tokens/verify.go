package tokens

import (
	"context"
	"crypto/sha256"
	"errors"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/edrgate/edrgate/internal/canonical"
	"github.com/edrgate/edrgate/store"
)

// Site is what one place in the configuration serves. It must not change once it is in use.
type Site struct {
	AnyDataset bool                // serves whatever the token is for
	Datasets   map[string]struct{} // dataset ids
	Routes     map[string]struct{} // names of routes
	OwnBackend bool                // reaches only the flow's own backend, and so needs no rule
}

// Routed is what the configuration makes of a flow.
type Routed struct {
	Route   string // name of the route that serves it; empty: none
	Backend any    // what that route's backend comes to for this flow; nil: it has none
	Err     error  // why that cannot be told, although it has one
}

// Request is where a token is presented.
type Request struct {
	Host string // as the client sent it, with or without a port
	Path string // canonical form of the path that the client sent
}

// Access is a verified token together with the live state of its flow. It is remembered and shared by all requests
// with that token; nothing in it changes but the state.
type Access struct {
	flow     *facts
	live     *liveFlow
	consumer *liveConsumer
	keys     *Ring
	id       string
	expires  int64
	routed   Routed // zero unless the flow has the route that it was started with

	once       sync.Once
	backend    any
	backendErr error
}

// facts are what the data path needs of a flow: a whole Flow would be too large, since other parties choose how large its
// claims and metadata are. The remembered tokens of a flow share them. They never change.
type facts struct {
	participant, id     string
	counterparty, bound string // bound is the DID that may renew
	agreement, dataset  string
	bpn, route          string
	dialect             Dialect
	host                string // of the endpoint, lower case, without the scheme's default port
	port                string // the scheme's default port
	path                string // of the endpoint, canonical, without a trailing slash
	source              *Sealed
}

func factsOf(f *Flow) (*facts, error) {
	k := &facts{
		participant: f.Participant, id: f.ID, counterparty: f.Counterparty, bound: f.BoundDID, agreement: f.AgreementID,
		dataset: f.Dataset, bpn: f.BPN, route: f.Route, dialect: f.Dialect, source: f.Source,
	}
	if k.agreement == "" {
		k.agreement = f.Agreement
	}
	if k.bound == k.counterparty {
		k.bound = k.counterparty // one text, not two
	}
	return k, k.bindEndpoint(f.Endpoint)
}

// same reports whether both say the same.
func (k *facts) same(other *facts) bool {
	a, b := *k, *other
	a.source, b.source = nil, nil
	return a == b && k.source.same(other.source)
}

// FlowID returns the flow's id.
func (a *Access) FlowID() string { return a.flow.id }

// Dialect returns the signaling dialect of the flow.
func (a *Access) Dialect() Dialect { return a.flow.dialect }

// Counterparty returns the consumer's participant id.
func (a *Access) Counterparty() string { return a.flow.counterparty }

// BoundDID returns the DID that may renew; empty if none.
func (a *Access) BoundDID() string { return a.flow.bound }

// Dataset returns the dataset's id.
func (a *Access) Dataset() string { return a.flow.dataset }

// Agreement returns the agreement's id as it is asserted to the backend.
func (a *Access) Agreement() string { return a.flow.agreement }

// BPN returns the business partner number as it is asserted to the backend; empty if none is known.
func (a *Access) BPN() string { return a.flow.bpn }

// Route returns the name of the route that the flow was started with; empty: none. The configuration may have another one
// for it by now, see Routed.
func (a *Access) Route() string { return a.flow.route }

// TokenID returns the token's jti.
func (a *Access) TokenID() string { return a.id }

// Routed returns what the configuration makes of the flow by the route that it was started with. It is zero if there is
// none, or if the configuration gives the flow another one by now: that one may lead to what the consumer has no agreement
// for.
func (a *Access) Routed() Routed { return a.routed }

// EndpointPath returns the canonical path of the endpoint that the EDR named, without a trailing slash: what lies
// below it is the backend's business.
func (a *Access) EndpointPath() string { return a.flow.path }

// Source returns the classic source address with its credentials, or nil if the flow has none.
func (a *Access) Source() (*Source, error) {
	return a.keys.source(&Flow{Participant: a.flow.participant, ID: a.flow.id, Source: a.flow.source})
}

// Backend returns what build made of this token's flow the first time. build runs once; what it returns is shared by
// all requests and must not change.
func (a *Access) Backend(build func(*Access) (any, error)) (any, error) {
	a.once.Do(func() { a.backend, a.backendErr = build(a) })
	return a.backend, a.backendErr
}

// Live returns nil while the flow may be used, else why not.
func (a *Access) Live() error {
	switch a.live.state() {
	case Started:
		return nil
	case Suspended:
		return &Error{Code: CodeFlowSuspended, Dialect: a.flow.dialect, TokenID: a.id}
	case Completed, Terminated:
		return &Error{Code: CodeFlowEnded, Dialect: a.flow.dialect, TokenID: a.id}
	case unchecked:
		return errUnchecked(a.flow.id, a.flow.dialect, a.id)
	case unread:
		return unavailable(errStale, "flow %s", a.flow.id)
	}
	return &Error{Code: CodeFlowNotStarted, Dialect: a.flow.dialect, TokenID: a.id}
}

// String returns the flow's id and nothing else: it ends up in placeholders and logs.
func (a *Access) String() string { return a.flow.id }

// Verify decides whether a token opens what is asked for. A token opens only what its EDR named: the endpoint issued
// for the flow, at a site that serves its dataset (docs/decisions: what a token opens). The signature and the record
// are looked at when a token is first seen; expiry, state, endpoint and dataset on every use.
//
// The error is an *Error; CodeUnavailable means "cannot tell".
func (s *Service) Verify(ctx context.Context, token string, at Request, site *Site) (*Access, error) {
	hash := hashOf(token)
	a := s.verdicts.get(&hash)
	if a == nil || a.live.isUnread() {
		var err error
		a, err = s.admit(ctx, token, &hash)
		if err != nil {
			return nil, err
		}
	}
	now := s.c.Now()
	// RFC 7519 §4.1.4: not on or after the expiry. No leeway: the clock is the one that set it.
	if now.Unix() >= a.expires {
		return nil, &Error{Code: CodeTokenExpired, Dialect: a.flow.dialect, TokenID: a.id}
	}
	if !s.c.Live.IsFresh(now) && !a.live.state().Ended() {
		// Another gateway may have suspended or ended the flow: nobody can tell (docs/decisions: replicas).
		return nil, unavailable(errStale, "flow %s", a.flow.id)
	}
	err := a.Live()
	if err != nil {
		if CodeOf(err) == CodeUnavailable {
			s.rechecks.hurry(a.flow.id, now)
		}
		return nil, err
	}
	if !a.flow.covers(at) {
		return nil, &Error{Code: CodeWrongEndpoint, Dialect: a.flow.dialect, TokenID: a.id}
	}
	if !site.serves(a) {
		return nil, &Error{Code: CodeWrongDataset, Dialect: a.flow.dialect, TokenID: a.id}
	}
	if !a.live.marked.Load() {
		s.markUsed(a)
	}
	return a, nil
}

// hashOf does not allocate for a token of a usual size.
func hashOf(token string) tokenHash {
	var buffer [1 << 10]byte
	return sha256.Sum256(append(buffer[:0], token...))
}

// admit verifies a token that is not remembered and remembers it.
func (s *Service) admit(ctx context.Context, token string, hash *tokenHash) (*Access, error) {
	start := s.c.Now()
	defer func(began time.Time) { s.c.Observer.Stage("verify", "total", s.c.Now().Sub(began)) }(start)
	claims, err := s.readAccessToken(token, hash)
	s.c.Observer.Stage("verify", "sign", s.c.Now().Sub(start))
	if err != nil {
		return nil, err
	}
	f, live, err := s.look(ctx, claims)
	if err != nil {
		return nil, err
	}
	s.c.Live.bind(f.key(), live, f.ControlPlane, func(p *pin) bool { return s.applies(p, f.ControlPlane) })
	if !f.Used.IsZero() {
		live.marked.Store(true)
	}
	known, err := factsOf(f)
	a := &Access{flow: known, live: live, keys: s.c.Keys, id: claims.ID, expires: claims.Expires, consumer: s.c.Live.consumer(consumerOf(f))}
	if f.State.Ended() {
		// Its endpoint and secrets are gone, so there is nothing to remember.
		return nil, a.Live()
	}
	if err != nil {
		return nil, unavailable(err, "endpoint of flow %s", f.ID)
	}
	if !claims.names(f) {
		// The id was used again after the tombstone of the flow that the token was issued for had expired.
		return nil, &Error{Code: CodeFlowUnknown, TokenID: claims.ID}
	}
	a.flow = live.share(known)
	a.routed = s.route(f)
	return s.verdicts.put(hash, a), nil
}

// look reads the flow that a token names and enters its present state.
func (s *Service) look(ctx context.Context, claims *accessClaims) (*Flow, *liveFlow, error) {
	key := flowKey(s.c.Participant, claims.Flow)
	again := false
	for {
		live := s.c.Live.enter(key)
		start := s.c.Now()
		record, err := s.c.Store.Get(ctx, flowKind, key)
		s.c.Observer.Stage("verify", "store", s.c.Now().Sub(start))
		doubt := s.c.Live.doubt(s.c.Now())
		if errors.Is(err, store.ErrNotFound) && doubt != nil {
			return nil, nil, unavailable(doubt, "flow %s", claims.Flow)
		}
		if errors.Is(err, store.ErrNotFound) {
			return nil, nil, &Error{Code: CodeFlowUnknown, TokenID: claims.ID}
		}
		if err != nil {
			return nil, nil, unavailable(err, "reading flow %s", claims.Flow)
		}
		f, err := decodeFlow(record)
		if err != nil {
			return nil, nil, unavailable(err, "flow %s", claims.Flow)
		}
		lost := s.c.Live.isLost(record, f)
		if lost && again {
			return nil, nil, unavailable(errRestored, "flow %s", claims.Flow)
		}
		if lost { // or it was ended between the reading and now
			again = true
			continue
		}
		if !f.State.Ended() && live.ended() {
			// It has ended since, or a new flow of the same id was started at another gateway.
			s.c.Live.leave(key)
			continue
		}
		live.advance(record.Version, f.effective())
		return f, live, nil
	}
}

func (k *facts) bindEndpoint(endpoint string) error {
	u, err := url.Parse(endpoint)
	if err != nil {
		return err
	}
	k.port = defaultPort(u.Scheme)
	k.host = bareHost(u.Host, k.port)
	path, err := canonical.Path(u.EscapedPath(), canonical.Options{AllowEncodedSlash: true, AllowEncodedPercent: true, AllowDoubleSlash: true})
	if err != nil {
		return err
	}
	k.path = strings.TrimSuffix(path, "/")
	return nil
}

// covers compares the host without case and default port, and the path by whole segments.
func (k *facts) covers(at Request) bool {
	if at.Host != k.host && bareHost(at.Host, k.port) != k.host {
		return false
	}
	if k.path == "" {
		return true
	}
	_, ok := canonical.Under(at.Path, k.path)
	return ok
}

func bareHost(host, port string) string {
	host = strings.ToLower(host)
	if port == "" {
		return host
	}
	return strings.TrimSuffix(host, ":"+port)
}

func defaultPort(scheme string) string {
	switch scheme {
	case "https":
		return "443"
	case "http":
		return "80"
	}
	return ""
}

// route asks the configuration for a flow's route, and takes it only if it is the one that the flow was started with: that
// name may stand for other flows since.
func (s *Service) route(f *Flow) Routed {
	if f.Route == "" || s.c.Route == nil {
		return Routed{}
	}
	routed := s.c.Route(f)
	if routed.Route != f.Route {
		return Routed{}
	}
	return routed
}

// serves decides by the dataset and route that the flow was created with.
func (s *Site) serves(a *Access) bool {
	if s.AnyDataset || s.OwnBackend {
		return true
	}
	if _, ok := s.Datasets[a.flow.dataset]; ok {
		return true
	}
	if a.routed.Route == "" {
		return false
	}
	_, ok := s.Routes[a.routed.Route]
	return ok
}

// source opens the stored source address of a flow.
func (r *Ring) source(f *Flow) (*Source, error) {
	if f.Source == nil {
		return nil, nil
	}
	s := new(Source)
	err := r.sealer.Unseal(f.Source, f.key(), s)
	if err != nil {
		return nil, unavailable(err, "source address of flow %s", f.ID)
	}
	return s, nil
}

// markUsed records the first use of a flow, once and in the background: a data request does not wait for the disk. If
// too many wait, a later request tries again.
func (s *Service) markUsed(a *Access) {
	if !a.live.marked.CompareAndSwap(false, true) {
		return
	}
	select {
	case s.marks <- mark{flow: a.flow.id, at: s.c.Now().Truncate(time.Second), live: a.live}:
	default:
		a.live.marked.Store(false)
	}
}
