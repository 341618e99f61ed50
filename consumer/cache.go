package consumer

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/edrgate/edrgate/store"
	"github.com/edrgate/edrgate/tokens"
)

// DefaultEndedTTL is how long an ended EDR is remembered.
const DefaultEndedTTL = 30 * 24 * time.Hour

// Longest values, in bytes. With the participant in front they fit into a label of the store.
const (
	maxParticipantBytes = 64
	maxTermBytes        = 900
)

// Config is what a Cache needs. Fields without a stated default are required.
type Config struct {
	Participant string // name of our participant context, part of every record's key
	DID         string // our own DID: iss and sub of proofs
	Store       store.Store
	Sealer      *tokens.Sealer // seals the EDRs, which are other companies' secrets

	// AllowHTTP are hosts whose endpoints and refresh endpoints need not be https: host, for any port, host:port, or
	// AnyHost. For tests and closed networks: tokens then travel in clear. Default: none, such an EDR is refused, and one that
	// is kept already is not used.
	AllowHTTP []string

	// EndedTTL is how long an ended EDR is remembered, so that a late start does not bring it to life. Default 30 d.
	EndedTTL time.Duration

	Observer Observer         // default: none
	Logger   *slog.Logger     // default: none
	Now      func() time.Time // default: time.Now
	Rand     io.Reader        // default: crypto/rand
	Jitter   func() float64   // in [0,1), spreads renewals ahead of expiry; default: math/rand
}

// Cache keeps the EDRs that other companies gave to one participant. All methods may be called by many goroutines at
// once, and by several caches over one store.
type Cache struct {
	c Config

	mu       sync.Mutex
	watchers map[int]func(id string, due time.Time)
	watched  int // watchers so far
}

// AnyHost stands for every host in Config.AllowHTTP.
const AnyHost = "*"

// New returns a cache. It reads and writes nothing yet.
func New(c Config) (*Cache, error) {
	switch {
	case c.Participant == "" || len(c.Participant) > maxParticipantBytes || strings.ContainsAny(c.Participant, "/\x00"):
		return nil, refuse(CodeInvalid, "participant name must have 1 to %d characters and no slash", maxParticipantBytes)
	case !isDID(c.DID):
		return nil, refuse(CodeInvalid, "did is not a DID")
	case c.Store == nil || c.Sealer == nil:
		return nil, refuse(CodeInvalid, "store and sealer are needed")
	case c.EndedTTL < 0:
		return nil, refuse(CodeInvalid, "ended ttl must not be negative")
	}
	if c.EndedTTL == 0 {
		c.EndedTTL = DefaultEndedTTL
	}
	if c.Observer == nil {
		c.Observer = unobserved{}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Jitter == nil {
		c.Jitter = rand.Float64
	}
	return &Cache{c: c, watchers: map[int]func(string, time.Time){}}, nil
}

func isDID(s string) bool { return strings.HasPrefix(s, "did:") }

// Terms say whose data a transfer is about. What is unknown is empty and may be learned later; what is known never
// changes. Another counterparty or asset for a known transfer is refused with CodeConflict. Another agreement is not: a
// control plane has several ids for one, and which of them is told depends on who tells.
type Terms struct {
	Counterparty string // the provider's participant id
	// CounterpartyDID is whom proofs are for. Default: Counterparty if that is a DID.
	CounterpartyDID string
	Asset           string
	Agreement       string // the id of the agreement at our own control plane
}

// Put is an EDR to be kept.
type Put struct {
	ID     string // of the transfer process: 1 to 255 printable characters without "/"
	Terms  Terms
	EDR    *EDR
	Origin Origin

	// At is when the sender wrote it, if it says so: an older one than the newest applied changes nothing.
	At time.Time

	// admit, if set, decides about the record of a transfer that must be there. It is called inside of a compare-and-swap.
	admit func(*record) error
}

// Put keeps an EDR, of a transfer that is new, started again or resumed, and returns the entry.
//
// The EDR that a start delivered may arrive again after it was renewed: control planes repeat messages, and an EDC 0.18
// consumer serves its first EDR again after a resume. So an EDR whose access token is the one delivered before brings
// the entry to life but leaves its newer tokens in place.
//
// An EDR that is refused changes nothing: CodeInvalid, CodeInsecure, CodeAudience, CodeConflict (the transfer is known
// with another counterparty or asset), CodeSuspended (signaling has suspended the transfer, so that signaling resumes it),
// CodeEnded.
func (c *Cache) Put(ctx context.Context, p Put) (*Entry, error) {
	err := c.checkPut(&p)
	if err != nil {
		return nil, err
	}
	digest := digestOf(p.EDR.AccessToken)
	own, err := c.claim(ctx, p.ID, digest)
	if err != nil {
		return nil, err
	}
	if !own {
		c.c.Observer.Event(EventForeignToken)
		c.c.Logger.Warn("an EDR came with an access token that another EDR holds: it is served, and not renewed", "edr", p.ID)
	}
	rec, err := c.put(ctx, &p)
	if err != nil {
		c.abandon(ctx, p.ID, digest)
		return nil, c.refused(&p, err)
	}
	if digest != "" && !slices.Contains(rec.Held, digest) { // an old one, which changed nothing
		c.release(ctx, p.ID, []string{digest})
	}
	c.release(ctx, p.ID, rec.dropped)
	c.report(rec, p.EDR)
	return c.open(rec)
}

// report tells of an EDR that was kept.
func (c *Cache) report(rec *record, e *EDR) {
	if rec.State == Started && !rec.Renewable && e.RefreshToken != "" {
		c.c.Observer.Event(EventUnknownCounterparty)
		c.c.Logger.Warn("an EDR is served but not renewed, since its counterparty's DID is not known", "edr", rec.ID)
	}
	c.announce(rec.entry())
}

func (c *Cache) checkPut(p *Put) error {
	err := checkID(p.ID)
	if err != nil {
		return err
	}
	if p.EDR == nil {
		return refuse(CodeInvalid, "dataAddress is missing")
	}
	err = p.EDR.Check(c.c.AllowHTTP...)
	if err != nil {
		return err
	}
	if p.Terms.CounterpartyDID == "" && isDID(p.Terms.Counterparty) {
		p.Terms.CounterpartyDID = p.Terms.Counterparty
	}
	return p.Terms.check()
}

func (t *Terms) check() error {
	for name, value := range map[string]string{
		"counterparty": t.Counterparty, "counterparty DID": t.CounterpartyDID, "asset": t.Asset, "agreement": t.Agreement,
	} {
		if len(value) > maxTermBytes || strings.ContainsRune(value, 0) {
			return refuse(CodeInvalid, "%s has more than %d bytes, or a NUL", name, maxTermBytes)
		}
	}
	if t.CounterpartyDID != "" && !isDID(t.CounterpartyDID) {
		return refuse(CodeInvalid, "counterparty DID is not a DID")
	}
	return nil
}

func checkID(id string) error {
	if !tokens.ValidFlowID(id) {
		return refuse(CodeInvalid, `transfer process id must have 1 to %d printable characters and no "/"`, tokens.MaxFlowIDBytes)
	}
	return nil
}

// refused reports why an EDR was not kept.
func (c *Cache) refused(p *Put, err error) error {
	switch CodeOf(err) {
	case CodeAudience:
		c.c.Observer.Event(EventAudience)
		c.c.Logger.Warn("EDR refused: its refreshAudience is neither its counterparty nor this participant", "edr", p.ID)
	case CodeConflict:
		c.c.Observer.Event(EventConflict)
		c.c.Logger.Warn("EDR refused: its transfer is known with other terms", "edr", p.ID, "error", err)
	}
	return err
}

// put creates or changes the record. The loser of a race reads again.
func (c *Cache) put(ctx context.Context, p *Put) (*record, error) {
	for {
		rec, err := c.update(ctx, p.ID, func(rec *record) error { return c.apply(rec, p) })
		if err == nil || CodeOf(err) != CodeUnknown || p.admit != nil {
			return rec, err
		}
		rec = &record{Participant: c.c.Participant, ID: p.ID, Created: c.c.Now().UTC()}
		err = c.apply(rec, p)
		if err != nil {
			return nil, err
		}
		err = c.create(ctx, rec)
		if errors.Is(err, store.ErrExists) {
			continue
		}
		return rec, err
	}
}

// apply changes a record as a Put asks for. It is called inside of a compare-and-swap and has no other effect.
func (c *Cache) apply(rec *record, p *Put) error {
	if p.admit != nil {
		err := p.admit(rec)
		if err != nil {
			return err
		}
	}
	if rec.State == Ended {
		return refuse(CodeEnded, "the transfer is over")
	}
	if !p.At.IsZero() && p.At.Before(rec.Told) {
		return store.ErrKeep
	}
	if rec.State == Suspended && rec.ControlPlane != "" && p.admit == nil {
		// Events do not say in which order they and signaling's messages were sent.
		return refuse(CodeSuspended, "the transfer is suspended: the control plane that prepared it resumes it")
	}
	err := rec.learn(p.Terms)
	if err != nil {
		return err
	}
	rec.Renewable, err = c.renewable(p.EDR, rec.CounterpartyDID)
	if err != nil {
		return err
	}
	if p.At.After(rec.Told) {
		rec.Told = p.At.UTC()
	}
	if rec.State != Started {
		rec.Changed = c.c.Now().UTC()
	}
	rec.State = Started
	rec.Origin = p.Origin
	rec.RetryAt, rec.Failures, rec.Status = time.Time{}, 0, 0
	given := textDigest(p.EDR.AccessToken.Reveal())
	if given != "" && given == rec.Given {
		return c.keep(rec) // delivered before: what it was renewed to is newer
	}
	rec.Given = given
	c.install(rec, p.EDR, c.c.Now())
	rec.EDR, err = c.seal(rec.ID, p.EDR)
	return err
}

// keep schedules the renewal of the EDR that a record has.
func (c *Cache) keep(rec *record) error {
	kept, err := c.unseal(rec.ID, rec.EDR)
	if err != nil {
		return err
	}
	rec.Renewable, err = c.renewable(kept, rec.CounterpartyDID)
	if err != nil {
		return err
	}
	c.schedule(rec)
	return nil
}

// renewable reports whether there is a refresh token and somebody to prove to. The error has CodeAudience.
func (c *Cache) renewable(e *EDR, counterparty string) (bool, error) {
	_, err := e.audience(c.c.DID, counterparty)
	if err != nil && CodeOf(err) == CodeCounterparty {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return e.RefreshToken != "" && e.RefreshEndpoint != "", nil
}

// learn takes over terms that were unknown, and refuses those that differ from what is known.
func (rec *record) learn(t Terms) error {
	for _, term := range []struct {
		name  string
		known *string
		told  string
	}{
		{"counterparty", &rec.Counterparty, t.Counterparty},
		{"counterparty DID", &rec.CounterpartyDID, t.CounterpartyDID},
		{"asset", &rec.Asset, t.Asset},
	} {
		switch {
		case term.told == "" || term.told == *term.known:
		case *term.known == "":
			*term.known = term.told
		default:
			return refuse(CodeConflict, "the transfer is known with another %s", term.name)
		}
	}
	if rec.Agreement == "" {
		rec.Agreement = t.Agreement
	}
	return nil
}

func (c *Cache) create(ctx context.Context, rec *record) error {
	edit, err := c.encode(rec)
	if err != nil {
		return err
	}
	_, err = c.c.Store.Create(ctx, store.Record{
		Kind: edrKind, ID: c.key(rec.ID), Labels: c.labels(rec), Expires: edit.Expires, Data: edit.Data,
	})
	if err != nil && !errors.Is(err, store.ErrExists) {
		return unavailable(err, "EDR %s", rec.ID)
	}
	return err
}

// update is one compare-and-swap on the record of an EDR. change may return store.ErrKeep.
func (c *Cache) update(ctx context.Context, id string, change func(*record) error) (*record, error) {
	var rec *record
	_, err := c.c.Store.Update(ctx, edrKind, c.key(id), func(old store.Record) (store.Edit, error) {
		changed, err := decode(old)
		if err != nil {
			return store.Edit{}, err
		}
		before := changed.State
		err = change(changed)
		if errors.Is(err, store.ErrKeep) {
			rec, err = decode(old)
			if err != nil {
				return store.Edit{}, err
			}
			return store.Edit{}, store.ErrKeep
		}
		if err != nil {
			return store.Edit{}, err
		}
		rec = changed
		edit, err := c.encode(changed)
		edit.Ending = edit.Ending && changed.State != before
		return edit, err
	})
	var known *Error
	switch {
	case err == nil:
		return rec, nil
	case errors.Is(err, store.ErrNotFound):
		return nil, refuse(CodeUnknown, "no EDR %s", id)
	case errors.As(err, &known):
		return nil, known
	}
	return nil, unavailable(err, "EDR %s", id)
}

// watch has f called with every time at which an EDR falls due for renewal, from the goroutine that wrote it, until the
// returned function is called. f must not block.
func (c *Cache) watch(f func(id string, due time.Time)) func() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.watched++
	id := c.watched
	c.watchers[id] = f
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.watchers, id)
	}
}

func (c *Cache) announce(e *Entry) {
	if e.State != Started || e.Due.IsZero() {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range c.watchers {
		f(e.ID, e.Due)
	}
}
