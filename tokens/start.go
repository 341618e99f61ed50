package tokens

import (
	"context"
	"errors"
	"io"
	"strings"
	"time"

	"github.com/edrgate/edrgate/store"
)

// opStart and its like name operations in records, logs and metrics, with the state that each leads to.
type operation struct {
	name    string
	state   State
	own     bool   // no control plane asked for it
	reports bool   // its control plane is told of it
	cause   string // for the report
}

var (
	opStart     = operation{name: "start", state: Started}
	opResume    = operation{name: "resume", state: Started}
	opSuspend   = operation{name: "suspend", state: Suspended}
	opTerminate = operation{name: "terminate", state: Terminated}
	opComplete  = operation{name: "completed", state: Completed}
	opRevoke    = operation{name: "revoke", state: Terminated, own: true, reports: true, cause: CauseRevoked}
	opUnused    = operation{name: "unused", state: Terminated, own: true, reports: true, cause: CauseUnused}

	opRevokeQuietly = operation{name: "revoke", state: Terminated, own: true}
)

// rememberedMessages is how many messages beside the start are remembered.
const rememberedMessages = 8

// Start creates a flow and its EDR. A start that repeats the binding fields of an existing flow is a repeat, whatever
// its message id: control planes send one start up to eight times, also at the same moment, and give the transfer up if
// one of them is refused. The answer to a repeat is rendered again from the record. For a flow of the classic dialect
// that is suspended, a repeated start is how it is resumed. The EDR of an asynchronous start is not in its answer: see
// EDR.Pending.
func (s *Service) Start(ctx context.Context, caller Caller, r StartRequest) (*EDR, error) {
	f, err := s.newFlow(caller, &r)
	if err != nil {
		return nil, err
	}
	exists, err := s.permitStart(ctx, f)
	if err != nil {
		return nil, err
	}
	if exists {
		return s.startAgain(ctx, caller, &r)
	}
	data, err := f.encode()
	if err != nil {
		return nil, unavailable(err, "flow %s", f.ID)
	}
	s.c.Live.leave(f.key())
	record, err := s.c.Store.Create(ctx, store.Record{Kind: flowKind, ID: f.key(), Labels: f.labels(), Data: data})
	if errors.Is(err, store.ErrExists) {
		// Concurrent starts need no waiting: the loser of the creation reads and renders.
		return s.startAgain(ctx, caller, &r)
	}
	if err != nil {
		return nil, unavailable(err, "creating flow %s", f.ID)
	}
	s.c.Live.advance(f.key(), record.Version, f.effective())
	s.owed.Drop(f.ID) // of a flow that had this id before
	if !f.Unchecked.IsZero() {
		s.recheckLater(f)
	}
	if f.startOwed() {
		s.owe(f)
		return &EDR{Flow: f, Pending: true}, nil
	}
	return s.edr(f, "start", false)
}

// newFlow checks the request and makes the flow that it asks for.
func (s *Service) newFlow(caller Caller, r *StartRequest) (*Flow, error) {
	err := s.checkStart(r)
	if err != nil {
		return nil, err
	}
	did, err := s.boundDID(&r.Terms)
	if err != nil {
		return nil, err
	}
	if did == "" && r.RenewalRequired {
		// HTTP profile: a receiver refuses an EDR of this profile without the renewal properties.
		return nil, refuse(CodeNoRenewal, "profile demands renewal, but counterparty %q is no DID and did_map has none for it", r.Terms.Counterparty)
	}
	salt := make([]byte, saltBytes)
	_, err = io.ReadFull(s.c.Rand, salt)
	if err != nil {
		return nil, unavailable(err, "reading random bytes")
	}
	now := s.c.Now().UTC().Truncate(time.Second)
	f := &Flow{
		Participant: s.c.Participant, ID: r.ProcessID, Dialect: r.Dialect, State: Started,
		ControlPlane: string(caller), Callback: r.Callback,
		Counterparty: r.Terms.Counterparty, Audience: r.Terms.Audience, BoundDID: did,
		Agreement: r.Terms.Agreement, Dataset: r.Terms.Dataset,
		Profile: r.Profile, Renewable: did != "" && (r.Terms.Audience != "" || r.ProfileRenews),
		BPN: r.BPN, AgreementID: r.AgreementID,
		Claims: r.Claims, Metadata: r.Metadata, Labels: r.Labels,
		Endpoint: r.Endpoint, Route: r.Route,
		StartMessage: r.MessageID,
		Generation:   1, Salt: salt, CurrentKey: s.c.Keys.activeRefresh, FirstKey: s.c.Keys.activeRefresh,
		Created: now, Changed: now,
	}
	if f.Endpoint == "" {
		f.Endpoint = s.c.PublicURL
	}
	if r.Async && r.Dialect == DPS {
		f.promiseStarted(s.c.Now().UTC())
	}
	if r.Terms.Source != nil {
		f.Source, err = s.c.Keys.sealer.Seal(s.c.Rand, f.key(), r.Terms.Source)
		if err != nil {
			return nil, unavailable(err, "flow %s", f.ID)
		}
	}
	return f, nil
}

func (s *Service) checkStart(r *StartRequest) error {
	if s.c.PublicURL == "" && r.Endpoint == "" {
		return refuse(CodeUnserved, "no flow is served: there is no public URL")
	}
	if !ValidFlowID(r.ProcessID) {
		return refuse(CodeInvalid, `processId must have 1 to %d printable characters and no "/"`, MaxFlowIDBytes)
	}
	switch r.Dialect {
	case DPS, Classic:
	default:
		return refuse(CodeInvalid, "dialect %q", r.Dialect)
	}
	return nil
}

// boundDID decides who may renew (docs/decisions: identity of a flow): the DID that Tractus-X names as audience, else
// the counterparty if its id is a DID, else what the configuration maps it to, else nobody.
func (s *Service) boundDID(t *Terms) (string, error) {
	if t.Audience == "" {
		if isDID(t.Counterparty) {
			return t.Counterparty, nil
		}
		return s.c.DIDMap[t.Counterparty], nil
	}
	if !isDID(t.Audience) {
		did := s.c.DIDMap[t.Audience]
		if did == "" {
			return "", refuse(CodeInvalid, "audience is not a DID")
		}
		return did, nil
	}
	if isDID(t.Counterparty) && t.Counterparty != t.Audience {
		return "", refuse(CodeInvalid, "audience and counterparty are different DIDs")
	}
	return t.Audience, nil
}

func isDID(id string) bool { return strings.HasPrefix(id, "did:") }

// startAgain answers a start for a process id that is taken.
func (s *Service) startAgain(ctx context.Context, caller Caller, r *StartRequest) (*EDR, error) {
	f, err := s.flow(ctx, r.ProcessID)
	if CodeOf(err) == CodeFlowUnknown {
		// It expired between the two looks at it: as good as a lost answer, which the control plane repeats.
		return nil, unavailable(err, "flow %s changed meanwhile", r.ProcessID)
	}
	if err != nil {
		return nil, err
	}
	err = s.checkRepeat(caller, f, r)
	if err != nil {
		return nil, err
	}
	if f.State == Suspended && f.Dialect == Classic {
		return s.resume(ctx, caller, Message{ProcessID: f.ID, Dialect: Classic}, opStart)
	}
	if f.State == Started && f.Dialect == Classic && s.resumesElsewhere(f) {
		return s.resume(ctx, caller, Message{ProcessID: f.ID, Dialect: Classic}, opStart)
	}
	// Whoever made the flow may not know it: another gateway, or this one where the store's answer was lost.
	if !f.Unchecked.IsZero() {
		s.rechecks.put(f.ID, s.c.Now())
	}
	if f.startOwed() {
		s.owe(f)
		return &EDR{Flow: f, Pending: true, Repeated: true}, nil
	}
	return s.edr(f, "repeat", true)
}

// repeatsWithin is how long after a start or a resume another start is taken for a repeat of it that says nothing new.
const repeatsWithin = 5 * time.Second

// resumesElsewhere reports whether the repeated start of a classic flow that is open may be the resume of one whose suspension
// waits in another gateway's journal: then it must be noted, or the suspension would be recorded after it.
func (s *Service) resumesElsewhere(f *Flow) bool {
	last := f.Created
	if f.Opened.After(last) {
		last = f.Opened
	}
	return s.c.Live.log.Load() != nil && s.c.Now().Sub(last) > repeatsWithin
}

// checkRepeat decides whether a start repeats the one that made the flow. Compared are the message's own fields with
// those stored; the bound DID is not computed again, since the map it may have come from can have changed.
func (s *Service) checkRepeat(caller Caller, f *Flow, r *StartRequest) error {
	if s.owner(f) != string(caller) {
		s.c.Observer.Event(EventForeign)
		return refuse(CodeForeign, "flow %s belongs to control plane %q", f.ID, f.ControlPlane)
	}
	// The present state wins: an ended flow never comes back, whoever repeats whatever.
	if f.State.Ended() {
		return &Error{Code: CodeState, Detail: "flow " + f.ID + " has ended", Dialect: f.Dialect}
	}
	same, err := s.sameTerms(f, &r.Terms)
	if err != nil {
		return err
	}
	if !same || f.Dialect != r.Dialect {
		s.c.Observer.Event(EventConflict)
		return refuse(CodeConflict, "flow %s exists with other terms", f.ID)
	}
	if r.MessageID != "" && r.MessageID != f.StartMessage {
		// DPS: a message id names one message. This one named another.
		if _, used := f.seen(r.MessageID); used {
			return refuse(CodeConflict, "message id was used for another operation on flow %s", f.ID)
		}
		if s.c.ConflictOnRepeatedStart { // DPS §1.2: a start for an existing flow is to be refused
			return refuse(CodeConflict, "flow %s exists", f.ID)
		}
	}
	if f.State == Suspended && f.Dialect == DPS {
		return refuse(CodeState, "flow %s is suspended", f.ID)
	}
	return nil
}

func (s *Service) sameTerms(f *Flow, t *Terms) (bool, error) {
	if f.Counterparty != t.Counterparty || f.Audience != t.Audience || f.Dataset != t.Dataset || f.Agreement != t.Agreement {
		return false, nil
	}
	source, err := s.c.Keys.source(f)
	if err != nil {
		return false, err
	}
	return source.Equal(t.Source), nil
}

// labels are what flows can be listed by.
func (f *Flow) labels() map[string]string {
	labels := map[string]string{"participant": f.Participant}
	for name, value := range map[string]string{"counterparty": f.Counterparty, "dataset": f.Dataset, "agreement": f.Agreement} {
		if value != "" {
			labels[name] = value
		}
	}
	return labels
}

// seen returns the operation that a message id was used for.
func (f *Flow) seen(messageID string) (string, bool) {
	if messageID == "" {
		return "", false
	}
	if messageID == f.StartMessage {
		return opStart.name, true
	}
	for _, m := range f.Messages {
		if m.ID == messageID {
			return m.Operation, true
		}
	}
	return "", false
}

func (f *Flow) remember(messageID string, op operation) {
	if messageID == "" {
		return
	}
	if _, used := f.seen(messageID); used {
		return
	}
	f.Messages = append(f.Messages, message{ID: messageID, Operation: op.name})
	if len(f.Messages) > rememberedMessages {
		f.Messages = f.Messages[len(f.Messages)-rememberedMessages:]
	}
}

// edr renders a flow's EDR: a fresh access token and the refresh token of the current generation.
func (s *Service) edr(f *Flow, reason string, repeated bool) (*EDR, error) {
	life := s.life(f)
	start := s.c.Now()
	access, err := s.mint(f, life)
	s.c.Observer.Stage("start", "sign", s.c.Now().Sub(start))
	if err != nil {
		return nil, err
	}
	e := &EDR{Flow: f, Endpoint: f.Endpoint, AccessToken: access, ExpiresIn: life, Repeated: repeated}
	if f.BoundDID != "" {
		e.RefreshToken, err = s.c.Keys.refreshTokenOf(f)
		if err != nil {
			return nil, err
		}
		e.RefreshEndpoint = strings.TrimSuffix(f.Endpoint, "/") + s.c.RefreshPath
		e.RefreshAudience = s.c.DID
	}
	s.c.Observer.Issued(reason, f.Renewable)
	return e, nil
}

// life is how long an access token of the flow is good for. Where no renewal can be expected the consumer could never
// get another one, so the token lasts, and what ends access is the flow's state, which every request looks at.
func (s *Service) life(f *Flow) time.Duration {
	if f.Renewable {
		return s.c.TokenTTL
	}
	return s.c.TokenTTLWithoutRenewal
}
