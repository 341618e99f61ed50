package tokens

import (
	"bytes"
	"context"
	"errors"
	"time"

	"github.com/edrgate/edrgate/store"
)

// RenewRequest is a renewal as presented.
type RenewRequest struct {
	RefreshToken string
	Proof        string // the authentication token
}

// RenewalOutcome says which row of the renewal table answered.
type RenewalOutcome string

// The outcomes of a renewal (docs/decisions: renewal).
const (
	Rotated       RenewalOutcome = "rotated"        // the current token: there is a new generation
	Replayed      RenewalOutcome = "replayed"       // the superseded token, as after a lost answer: nothing written
	FirstAgain    RenewalOutcome = "first"          // the token of the first EDR, which EDC serves for life: nothing written
	RolledForward RenewalOutcome = "rolled_forward" // a token newer than the record: the store had lost a write
)

// Renewal is the answer to a renewal.
type Renewal struct {
	AccessToken  Secret
	RefreshToken Secret
	ExpiresIn    time.Duration
	FlowID       string
	Dialect      Dialect
	Outcome      RenewalOutcome
}

// maxRollForward is how many generations the store may be behind a token. It can have lost what was not yet on disk,
// and not more.
const maxRollForward = 1000

// rememberedProofs is how many proofs that rotated are remembered, each until it expires.
const rememberedProofs = 8

// Renew exchanges a refresh token and a proof for a fresh access token and the flow's refresh token.
//
// The order of checks is cheap and local first, and binds before it resolves: nothing is fetched for a caller whose
// proof does not name the DID that the flow is bound to, and no state changes on evidence that is not proven. All
// callers that present one refresh token at the same time get the same successor.
func (s *Service) Renew(ctx context.Context, r RenewRequest) (*Renewal, error) {
	start := s.c.Now()
	defer func() { s.c.Observer.Stage("renew", "total", s.c.Now().Sub(start)) }()
	proof, err := readProof(r.Proof, s.c.MaxTokenBytes)
	if err != nil {
		return nil, err
	}
	hash := hashOf(proof.token)
	claims, err := s.readAccessToken(proof.token, &hash)
	if err != nil {
		return nil, &Error{Code: CodeProofToken, cause: err}
	}
	// Generations may have been lost, and whole flows: a refusal would be final for the consumer.
	doubt := s.c.Live.doubt(s.c.Now())
	if doubt != nil {
		return nil, unavailable(doubt, "flow %s", claims.Flow)
	}
	p := &presented{refresh: r.RefreshToken, proof: proof, claims: claims}
	a, err := s.admitRenewal(ctx, p)
	doubt = s.c.Live.doubt(s.c.Now())
	if doubt != nil {
		return nil, unavailable(doubt, "flow %s", claims.Flow)
	}
	if err != nil {
		return nil, err
	}
	renewal, err := s.renew(ctx, p, a)
	if err == nil {
		return renewal, nil
	}
	doubt = s.c.Live.doubt(s.c.Now())
	if doubt != nil && CodeOf(err) != CodeUnavailable {
		err = unavailable(doubt, "flow %s", claims.Flow) // it was found out meanwhile
	}
	return nil, inDialect(err, a.flow.Dialect)
}

// inDialect has a refusal answered in the dialect of its flow, unless it says another.
func inDialect(err error, d Dialect) error {
	var e *Error
	if errors.As(err, &e) && e.Dialect == "" {
		e.Dialect = d
	}
	return err
}

// presented is what a caller shows to renew.
type presented struct {
	refresh string
	proof   *authentication
	claims  *accessClaims // of the access token that the proof is about
}

// admission is a renewal that passed every check that waits for nobody.
type admission struct {
	flow     *Flow
	recorded *recorded
	token    *refreshToken
	recalled bool // the flow is as the store remembered it, which may be out of date
}

// admitRenewal finds the flow by the access token that the proof is about, and makes the cheap checks. That token may have
// expired: this is the normal case.
//
// A flow that the store remembers can let a renewal in, since the exchange decides on the record as it is, but never refuse
// one. A policy is asked about the present one only: its answer may end the flow.
func (s *Service) admitRenewal(ctx context.Context, p *presented) (*admission, error) {
	var f *Flow
	var kept *recorded
	if s.c.Policy == nil {
		f, kept = s.recalled(p.claims.Flow)
	}
	if f != nil {
		token, err := s.checkPresented(p, f)
		if err == nil {
			return &admission{flow: f, recorded: kept, token: token, recalled: true}, nil
		}
	}
	return s.admitNow(ctx, p)
}

// admitNow is admitRenewal by the record as it is.
func (s *Service) admitNow(ctx context.Context, p *presented) (*admission, error) {
	start := s.c.Now()
	f, kept, err := s.read(ctx, p.claims.Flow)
	s.c.Observer.Stage("renew", "store", s.c.Now().Sub(start))
	if CodeOf(err) == CodeFlowUnknown {
		return nil, &Error{Code: CodeProofTokenFlow, TokenID: p.claims.ID, cause: err}
	}
	if err != nil {
		return nil, err
	}
	token, err := s.checkPresented(p, f)
	if CodeOf(err) == CodeProofTokenFlow {
		return nil, err // no flow of this caller's
	}
	if err != nil {
		return nil, inDialect(err, f.Dialect)
	}
	return &admission{flow: f, recorded: kept, token: token}, nil
}

// recalled returns what the store remembers of a flow; nil: nothing.
func (s *Service) recalled(processID string) (*Flow, *recorded) {
	if !ValidFlowID(processID) {
		return nil, nil
	}
	record, ok := store.Recall(s.c.Store, flowKind, flowKey(s.c.Participant, processID))
	if !ok {
		return nil, nil
	}
	f, err := decodeFlow(record)
	if err != nil {
		return nil, nil
	}
	kept := recordedAs(record, f)
	s.applyPin(f)
	return f, kept
}

// checkPresented is what can be said of a renewal without waiting for anybody.
func (s *Service) checkPresented(p *presented, f *Flow) (*refreshToken, error) {
	switch {
	case f.State.Ended():
		return nil, &Error{Code: CodeFlowEnded, TokenID: p.claims.ID}
	case !p.claims.names(f):
		return nil, &Error{Code: CodeProofTokenFlow, TokenID: p.claims.ID, Detail: "issued for an earlier flow of this id"}
	case f.State == Suspended:
		return nil, &Error{Code: CodeFlowSuspended, TokenID: p.claims.ID}
	}
	err := p.proof.checkBinding(f)
	if err != nil {
		return nil, err
	}
	err = s.checkClaims(p.proof, f)
	if err != nil {
		return nil, err
	}
	return s.readRefreshToken(p.refresh, f)
}

// askOthers finds out whether the key verifies the proof, and whether the policy permits the renewal.
func (s *Service) askOthers(ctx context.Context, p *presented, f *Flow) error {
	err := s.verifySignature(ctx, p.proof)
	if err != nil {
		return err
	}
	return s.permitRenewal(ctx, f)
}

func (s *Service) renew(ctx context.Context, p *presented, a *admission) (*Renewal, error) {
	// From here on others may be waited for. That the caller holds the EDR is known by now: strangers take nobody's room.
	done, err := s.beginRenewal(a.flow)
	if err != nil {
		return nil, err
	}
	defer done()
	err = s.askOthers(ctx, p, a.flow)
	if err != nil && a.recalled {
		// What the record says comes first: if the flow has ended, neither the key nor the policy matters.
		_, refusal := s.admitNow(ctx, p)
		if refusal != nil && CodeOf(refusal) != CodeUnavailable {
			return nil, refusal
		}
	}
	if err != nil {
		return nil, err
	}
	f, outcome, err := s.exchange(ctx, p, a)
	if err != nil {
		return nil, err
	}
	if outcome == RolledForward {
		s.c.Observer.Event(EventRollForward)
		s.c.Logger.Error("refresh token newer than its record: the store lost a write", "flow", f.ID, "presented", a.token.generation)
	}
	life := s.life(f)
	start := s.c.Now()
	access, err := s.mint(f, life)
	s.c.Observer.Stage("renew", "sign", s.c.Now().Sub(start))
	if err != nil {
		return nil, err
	}
	next, err := s.c.Keys.refreshTokenOf(f)
	if err != nil {
		return nil, err
	}
	s.c.Observer.Issued("renew", f.Renewable)
	return &Renewal{AccessToken: access, RefreshToken: next, ExpiresIn: life, FlowID: f.ID, Dialect: f.Dialect, Outcome: outcome}, nil
}

// readRefreshToken checks that the token was issued for this flow. An unknown flow and a wrong tag cost the same steps
// and give the same answer.
func (s *Service) readRefreshToken(refresh string, f *Flow) (*refreshToken, error) {
	token, err := parseRefreshToken(refresh)
	if err != nil {
		return nil, &Error{Code: CodeRefreshInvalid, cause: err}
	}
	salt := f.Salt
	if token.participant != s.c.Participant || token.flow != f.ID {
		salt = dummySalt
	}
	if !s.c.Keys.genuine(token, salt) || token.participant != s.c.Participant || token.flow != f.ID {
		return nil, refuse(CodeRefreshInvalid, "not a refresh token of flow %s", f.ID)
	}
	return token, nil
}

// exchange carries the renewal out: one compare-and-swap.
func (s *Service) exchange(ctx context.Context, p *presented, a *admission) (*Flow, RenewalOutcome, error) {
	var f *Flow
	var outcome RenewalOutcome
	known := false // that its control plane took the start
	token := a.token
	now := s.c.Now()
	edit := func(old store.Record) (store.Edit, error) {
		known = false
		var err error
		f, err = a.recorded.decode(old)
		if err != nil {
			return store.Edit{}, err
		}
		if s.c.Live.isLost(old, f) {
			return store.Edit{}, unavailable(errRestored, "flow %s", f.ID)
		}
		s.applyPin(f)
		if !f.State.Ended() && !bytes.Equal(f.Salt, a.flow.Salt) {
			// Another flow of the same id, which began since: what was found out about the first says nothing of it.
			_, err = s.checkPresented(p, f)
			if err != nil {
				return store.Edit{}, err
			}
		}
		outcome, err = s.decide(f, token, p.proof, now)
		if err != nil {
			return store.Edit{}, err
		}
		if outcome == Replayed || outcome == FirstAgain {
			return store.Edit{}, store.ErrKeep
		}
		s.rotate(f, token, p.proof, now)
		known = f.startKnown()
		data, err := f.encode()
		return store.Edit{Data: data}, err
	}
	start := s.c.Now()
	_, err := store.UpdateRecalled(ctx, s.c.Store, flowKind, flowKey(token.participant, token.flow), edit)
	s.c.Observer.Stage("renew", "store", s.c.Now().Sub(start))
	if err == nil {
		if known {
			s.owe(f)
		}
		return f, outcome, nil
	}
	if errors.Is(err, store.ErrNotFound) {
		return nil, "", refuse(CodeFlowEnded, "flow %s is gone", token.flow)
	}
	var refusal *Error
	if !errors.As(err, &refusal) {
		return nil, "", unavailable(err, "renewing flow %s", token.flow)
	}
	switch refusal.Code {
	case CodeRefreshReused:
		s.reused(ctx, f, token)
	case CodeProofReplayed:
		s.c.Observer.Event(EventReplay)
	}
	return nil, "", refusal
}

// decide is the renewal table (docs/decisions: renewal). The token's tag has been verified.
func (s *Service) decide(f *Flow, token *refreshToken, proof *authentication, now time.Time) (RenewalOutcome, error) {
	switch {
	case f.State.Ended():
		return "", refuse(CodeFlowEnded, "flow %s has ended", f.ID)
	case f.State == Suspended:
		return "", refuse(CodeFlowSuspended, "flow %s is suspended", f.ID)
	case f.State != Started:
		return "", refuse(CodeFlowNotStarted, "flow %s is not started", f.ID)
	case f.effective() == unchecked:
		return "", errUnchecked(f.ID, f.Dialect, "")
	}
	if s.c.RefreshTTL > 0 && now.After(f.lastRotation().Add(s.c.RefreshTTL)) {
		return "", refuse(CodeRefreshInvalid, "refresh token of flow %s was not used for %s", f.ID, s.c.RefreshTTL)
	}
	// A proof that rotated, with the same refresh token, is the same request sent again, as EDC's HTTP client does after a
	// lost answer. With another refresh token it is somebody who has seen the proof. Answers that write nothing do not
	// remember theirs: what they give away is what was given before.
	for _, used := range f.Proofs {
		if bytes.Equal(used.Digest, proof.digest) && used.Generation != token.generation {
			return "", refuse(CodeProofReplayed, "proof was used with another refresh token of flow %s", f.ID)
		}
	}
	g := token.generation
	switch {
	case g == f.Generation:
		return Rotated, f.checkKey(token, f.CurrentKey)
	case g == f.Generation-1:
		// Tractus-X DR 2026-08-10: a refresh token is retired when its successor is presented, not when that is issued.
		return Replayed, f.checkKey(token, f.PreviousKey)
	case g > f.Generation:
		// The tag proves that we issued it, so the record is older than our answer: go on from there.
		if g-f.Generation > maxRollForward {
			return "", refuse(CodeRefreshInvalid, "refresh token of flow %s is %d generations ahead", f.ID, g-f.Generation)
		}
		return RolledForward, nil
	case g == 1 && f.Dialect == DPS && f.BoundDID != "":
		// An EDC consumer's EDR API serves the first EDR again after a resume and never learns of renewals.
		return FirstAgain, f.checkKey(token, f.FirstKey)
	}
	return "", refuse(CodeRefreshReused, "refresh token %d of flow %s, the current one is %d", g, f.ID, f.Generation)
}

// checkKey refuses a token made with another key than the one recorded for its generation: one made up by whoever got
// hold of a key that is listed but not in use.
func (f *Flow) checkKey(token *refreshToken, recorded KeyID) error {
	if token.key != recorded {
		return refuse(CodeRefreshInvalid, "refresh token %d of flow %s was issued with another key", token.generation, f.ID)
	}
	return nil
}

// rotate moves the flow on to the generation after the token's.
func (s *Service) rotate(f *Flow, token *refreshToken, proof *authentication, now time.Time) {
	f.Generation = token.generation + 1
	f.PreviousKey, f.CurrentKey = token.key, s.c.Keys.activeRefresh
	f.Renewed = now.UTC().Truncate(time.Second)
	if f.Used.IsZero() {
		f.Used = f.Renewed
	}
	f.rememberProof(proof, token.generation, now.Add(-s.c.ClockSkew))
}

// rememberProof keeps the proofs that rotated until they expire, at most the last eight: by then their refresh tokens
// are too old to be answered.
func (f *Flow) rememberProof(p *authentication, generation uint64, expired time.Time) {
	kept := f.Proofs[:0]
	for _, old := range f.Proofs {
		if old.Expires.After(expired) {
			kept = append(kept, old)
		}
	}
	f.Proofs = append(kept, proof{Digest: p.digest, Generation: generation, Expires: p.expires.UTC()})
	if len(f.Proofs) > rememberedProofs {
		f.Proofs = f.Proofs[len(f.Proofs)-rememberedProofs:]
	}
}

func (f *Flow) lastRotation() time.Time {
	if f.Renewed.IsZero() {
		return f.Created
	}
	return f.Renewed
}

// reused records that a refresh token older than the superseded one came with a good proof: the consumer went back to
// an old copy of its state, or somebody has both the token and the key.
func (s *Service) reused(ctx context.Context, f *Flow, token *refreshToken) {
	s.c.Observer.Event(EventReuse)
	s.c.Logger.Warn("old refresh token presented", "flow", f.ID, "presented", token.generation, "current", f.Generation)
	if !s.c.RevokeOnReuse {
		return
	}
	_, err := s.end(ctx, Caller(s.owner(f)), Message{ProcessID: f.ID, Reason: "refresh token reused"}, opRevoke)
	if err != nil {
		s.c.Logger.Error("flow not revoked after reuse of a refresh token", "flow", f.ID, "error", err)
	}
}
