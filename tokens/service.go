// Package tokens is the domain of the gateway: flows, the tokens of their EDRs, and the rules by which tokens are
// minted, checked and renewed. It knows no wire format and no Caddy.
//
// One flow is one record of the store. A grant lives as long as its flow: suspend blocks it, resume unblocks the same
// grant, and complete, terminate and revoke end it for ever. Every operation is one compare-and-swap, and nothing is
// answered before it is durable.
package tokens

import (
	"context"
	"crypto"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/edrgate/edrgate/internal/compactjws"
	"github.com/edrgate/edrgate/store"
)

// KeyResolver finds the public key that a verification method of a DID document holds.
//
// An error that has a method Refused() bool returning true is a definite no: there is a fresh, valid document without
// that key. Any other error means "cannot tell", and the caller must answer 503. If such an error has a method
// RetryAfter() time.Duration, that is passed on.
type KeyResolver interface {
	// ResolveKey returns the key kid of did. kid is an absolute DID URL of did, a bare fragment, or the DID itself if
	// its document has exactly one method. The answer may be a few minutes old.
	ResolveKey(ctx context.Context, did, kid string) (crypto.PublicKey, error)

	// RefetchKey is ResolveKey on a document fetched now, for a signature that the known key did not verify. It fails
	// if too many were fetched lately.
	RefetchKey(ctx context.Context, did, kid string) (crypto.PublicKey, error)
}

// Observer is told of what happens, for metrics. Its methods are called on the request path: they must not block.
type Observer interface {
	// Stage reports how long one stage ("did", "policy", "store", "sign", or "total") of an operation ("renew", "verify", "start")
	// took. Of "verify" only tokens that are not remembered are reported.
	Stage(operation, stage string, took time.Duration)
	// Issued reports an access token: reason is "start", "repeat", "resume" or "renew" ("start" and "repeat" also for the
	// first and further attempts to tell of an asynchronous start); renewable says whether it is short-lived.
	Issued(reason string, renewable bool)
	// Event reports something that an operator should see, one of the Event constants.
	Event(name string)
	// Flows reports how many flows there are, from a slow background count.
	Flows(c FlowCount)
	// Unchecked reports how many flows wait for the policy's answer about their start, as far as this process knows.
	Unchecked(n int)
}

// FlowCount is how many flows a participant has.
type FlowCount struct {
	ByState  map[State]int
	Orphaned int // not ended, of a control plane that is not configured
	Expiring int // started, and the last access token, which cannot be renewed, expires within 30 days
}

// Config is what a Service needs. Fields without a stated default are required.
type Config struct {
	Participant string // name of the participant context, part of every flow's key
	DID         string // the participant's DID: iss and aud of its access tokens, aud of proofs
	Keys        *Ring
	Store       store.Store
	Live        *Live // shared by all services over the same store
	Resolver    KeyResolver

	// ControlPlanes are the configured names. A flow of a name that is not among them may be suspended and ended by
	// any of them.
	ControlPlanes []string

	// Formerly maps a name that a control plane had before to its present one, so that it keeps its flows.
	Formerly map[string]string

	// DIDMap gives the DID of a counterparty whose id is not a DID (a BPN, for example).
	DIDMap map[string]string

	// PublicURL is the endpoint of EDRs, unless a route has its own. Empty: only flows of such routes can be started.
	PublicURL   string
	RefreshPath string // what follows the endpoint in the refresh endpoint of EDRs; default "/token"

	TokenTTL               time.Duration // life of access tokens where renewal can be expected; default 5 min
	TokenTTLWithoutRenewal time.Duration // life of the others; default 365 d
	RefreshTTL             time.Duration // how long a refresh token may stay unused; 0: the flow's life
	TombstoneTTL           time.Duration // how long an ended flow is remembered; default 30 d
	UnacknowledgedTTL      time.Duration // how long a flow may live whose EDR is never used; 0: for ever
	ClockSkew              time.Duration // tolerance for other parties' clocks; default 60 s
	ProofLifetime          time.Duration // longest life of a proof; default 600 s

	// RevokeOnReuse ends the flow when a refresh token older than the superseded one is presented. Off for DID-bound
	// EDRs: such a token is useless without the consumer's key (docs/decisions: renewal).
	RevokeOnReuse bool

	// ConflictOnRepeatedStart refuses a repeated start under a new message id, as DPS demands, instead of answering
	// it again. EDC repeats a start under a new message id after a crash and gives the transfer up if refused.
	ConflictOnRepeatedStart bool

	// StoreIsTended says that another service of the process sweeps the store and watches the clock, which is enough once.
	StoreIsTended bool

	// RenewalsPerConsumer is how many renewals of one consumer are worked on at once; further ones are CodeConsumerBusy. 0: any
	// number.
	RenewalsPerConsumer int

	// Policy is asked whether a flow may be started, and at each renewal whether its tokens may be renewed. Default: none,
	// and everything is permitted that the rest permits.
	Policy Policy

	// EndOnDeny ends a flow whose renewal the policy denies. Otherwise that renewal is refused and the flow stays.
	EndOnDeny bool

	CacheEntries  int // verified tokens remembered, and as many hashes of tokens signed here; default 65,536
	MaxTokenBytes int // the longest access token and proof that is looked at; default 16 KiB

	// Route says what the configuration makes of a flow. It is called with the whole flow when one of its tokens is first
	// used, and the answer is kept with the token: it must be small, whatever other parties wrote into the flow, and hold
	// nothing of f. Default: no flow has a route.
	Route func(f *Flow) Routed

	Observer Observer         // default: none
	Logger   *slog.Logger     // default: none
	Now      func() time.Time // default: time.Now
	Rand     io.Reader        // default: crypto/rand

	// Elapsed is a clock that is never set, to notice when Now's is. Default: the monotonic clock.
	Elapsed func() time.Duration
}

// The defaults of a Config.
const (
	DefaultRefreshPath            = "/token"
	DefaultTokenTTL               = 5 * time.Minute
	DefaultTokenTTLWithoutRenewal = 365 * 24 * time.Hour
	DefaultTombstoneTTL           = 30 * 24 * time.Hour
	DefaultUnacknowledgedTTL      = 30 * 24 * time.Hour // what to set; the zero value of a Config is off
	DefaultClockSkew              = 60 * time.Second
	DefaultProofLifetime          = 600 * time.Second
	DefaultCacheEntries           = 1 << 16
)

// Service carries out what signaling, the data path, renewals and operators ask for, for one participant. All methods
// may be called by many goroutines at once.
type Service struct {
	c             Config
	controlPlanes map[string]bool
	verdicts      *verdicts
	issued        *issued
	marks         chan mark
	reached       chan struct{} // the store can be reached, and the journal has something for it
	owed          *OwedReports
	rechecks      *rechecks
}

// New returns a service. It reads and writes nothing yet.
func New(c Config) (*Service, error) {
	err := c.complete()
	if err != nil {
		return nil, err
	}
	s := &Service{
		c:             c,
		controlPlanes: map[string]bool{},
		verdicts:      newVerdicts(c.CacheEntries),
		issued:        newIssued(c.CacheEntries),
		marks:         make(chan mark, maxMarks),
		reached:       make(chan struct{}, 1),
		owed:          c.Live.OwedReports(flowKind + "/" + c.Participant),
		rechecks:      c.Live.recheckedBy(c.Participant),
	}
	for _, name := range c.ControlPlanes {
		s.controlPlanes[name] = true
	}
	return s, nil
}

// Replaced reports whether a newer service runs for the participant, whose business all that is owed has become.
func (s *Service) Replaced() bool { return s.c.Live.replaced(s) }

// complete checks the configuration and fills in the defaults.
func (c *Config) complete() error {
	switch {
	case c.Participant == "" || len(c.Participant) > maxParticipantIDBytes || strings.ContainsAny(c.Participant, "/\x00"):
		return fmt.Errorf("participant name must have 1 to %d characters and no slash", maxParticipantIDBytes)
	case !isDID(c.DID):
		return errors.New("did is not a DID")
	case c.Keys == nil || c.Store == nil || c.Live == nil || c.Resolver == nil:
		return errors.New("keys, store, live states and resolver are needed")
	}
	for _, did := range c.DIDMap {
		if !isDID(did) {
			return fmt.Errorf("did map: %q is not a DID", did)
		}
	}
	setDefault(&c.RefreshPath, DefaultRefreshPath)
	setDefault(&c.TokenTTL, DefaultTokenTTL)
	setDefault(&c.TokenTTLWithoutRenewal, DefaultTokenTTLWithoutRenewal)
	setDefault(&c.TombstoneTTL, DefaultTombstoneTTL)
	setDefault(&c.ClockSkew, DefaultClockSkew)
	setDefault(&c.ProofLifetime, DefaultProofLifetime)
	setDefault(&c.CacheEntries, DefaultCacheEntries)
	setDefault(&c.MaxTokenBytes, compactjws.DefaultLimit)
	for name, d := range map[string]time.Duration{
		"token ttl": c.TokenTTL, "token ttl without renewal": c.TokenTTLWithoutRenewal, "tombstone ttl": c.TombstoneTTL,
		"clock skew": c.ClockSkew, "proof lifetime": c.ProofLifetime,
	} {
		if d < time.Second {
			return fmt.Errorf("%s must be at least a second", name)
		}
	}
	if c.RefreshTTL < 0 || c.UnacknowledgedTTL < 0 {
		return errors.New("refresh ttl and unacknowledged ttl must not be negative")
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
	if c.Elapsed == nil {
		began := time.Now()
		c.Elapsed = func() time.Duration { return time.Since(began) }
	}
	if c.Rand == nil {
		c.Rand = rand.Reader
	}
	return nil
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// unobserved is an Observer that looks away.
type unobserved struct{}

func (unobserved) Stage(string, string, time.Duration) {}
func (unobserved) Issued(string, bool)                 {}
func (unobserved) Event(string)                        {}
func (unobserved) Flows(FlowCount)                     {}
func (unobserved) Unchecked(int)                       {}

// Caller is who asks for a signaling operation: the configured name of a control plane.
type Caller string

// StartRequest asks for a flow, in the words of no dialect.
type StartRequest struct {
	Dialect   Dialect
	MessageID string // empty for classic signaling
	ProcessID string
	Terms     Terms

	Profile         string // DPS profile, or the transfer type
	ProfileRenews   bool   // the profile has token renewal, so the consumer can be expected to renew
	RenewalRequired bool   // the profile demands the renewal properties: without a bound DID the start is refused

	BPN         string // asserted to the backend; empty: none
	AgreementID string // asserted to the backend; empty: Terms.Agreement
	Callback    string
	Claims      json.RawMessage
	Metadata    json.RawMessage
	Labels      []string

	Route    string // name of the configured route that serves the flow; empty: none
	Endpoint string // endpoint of the EDR; empty: Config.PublicURL

	// Async asks for an asynchronous start: the control plane gets the EDR in a report and not in the answer. Only DPS has
	// that; a classic start is synchronous all the same. Of a prepare: the control plane is told later that it is prepared.
	Async bool
}

// Message asks for a change of an existing flow's state.
type Message struct {
	ProcessID string
	MessageID string // empty for classic signaling
	Dialect   Dialect
	Reason    string // as the control plane gave it; kept, never sent to anybody
}

// EDR is what a consumer needs to use a flow.
type EDR struct {
	Flow        *Flow // a copy; Flow.State is the state after the operation
	Endpoint    string
	AccessToken Secret
	ExpiresIn   time.Duration // of the access token, whole seconds

	// The renewal properties; empty if no DID is bound to the flow.
	RefreshToken    Secret
	RefreshEndpoint string
	RefreshAudience string // the participant's DID: what the proof's aud must name

	// Repeated says that nothing changed: the message was a repeat.
	Repeated bool

	// Pending says that this is the answer to an asynchronous start whose EDR the control plane gets in a report. There is
	// nothing here but the flow, and to the control plane its state is Starting, whatever the record says.
	Pending bool
}

// Ending is what became of a request to end or suspend access. Such requests are never refused, since a control plane
// that is refused leaves its counterparty's side open (observed on EDC 0.11 to 0.18); Outcome says when nothing was there to end.
type Ending struct {
	Flow    *Flow // nil if unknown or foreign
	Outcome Outcome
	Report  ReportPromise // of an ending by the gateway itself: whether the control plane will be told
}

// Outcome is the result of a request to suspend or end a flow.
type Outcome string

// The outcomes.
const (
	Applied    Outcome = "applied"    // done, and durable
	Already    Outcome = "already"    // the flow was in that state, or the message is a repeat
	OutOfState Outcome = "state"      // the flow is ended and stays as it is
	Unknown    Outcome = "unknown"    // no such flow; an ending left a tombstone
	NotOwned   Outcome = "foreign"    // the flow of another configured control plane, unchanged
	Unrecorded Outcome = "unrecorded" // unknown, and short of space: no tombstone was left
	Journaled  Outcome = "journaled"  // effective here and durable on this machine; the store gets it when it can be reached
)
