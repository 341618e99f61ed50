package tokens

import (
	"context"
	"encoding/json"
	"time"
)

// Policy says whether a grant is good, and whether it still is.
type Policy interface {
	// Decide answers a question: true permits, false is a definite no. An error means "cannot tell"; if it has a method
	// RetryAfter() time.Duration, that is passed on to who waits for the answer. Decide bounds itself: it answers or fails
	// within seconds, whatever its context says. It is called by many goroutines at once, and must not keep the question's
	// claims.
	Decide(ctx context.Context, q PolicyQuestion) (bool, error)
}

// PolicyOccasion is why a policy is asked.
type PolicyOccasion string

// The occasions.
const (
	PolicyStart   PolicyOccasion = "start"   // a flow is asked for
	PolicyRenew   PolicyOccasion = "renew"   // its consumer wants another access token
	PolicyRecheck PolicyOccasion = "recheck" // the start again, which could not be answered then
)

// PolicyOccasions lists every occasion.
func PolicyOccasions() []PolicyOccasion {
	return []PolicyOccasion{PolicyStart, PolicyRenew, PolicyRecheck}
}

// PolicyQuestion is whether a flow may be started, or its tokens renewed. No field holds a credential.
type PolicyQuestion struct {
	Occasion PolicyOccasion

	Participant string // name of our participant context
	DID         string // our participant's DID

	Counterparty string          // the consumer's participant id
	BoundDID     string          // the DID that may renew; empty: none
	BPN          string          // the consumer's business partner number; empty: unknown
	Claims       json.RawMessage // an object, what the control plane said of the consumer; nil: nothing

	Dataset   string
	Agreement string // the control plane's id of it

	Flow         string
	Dialect      Dialect
	Profile      string // DPS profile, or the transfer type
	ControlPlane string // present name
}

func (s *Service) question(f *Flow, o PolicyOccasion) PolicyQuestion {
	return PolicyQuestion{
		Occasion:    o,
		Participant: f.Participant, DID: s.c.DID,
		Counterparty: f.Counterparty, BoundDID: f.BoundDID, BPN: f.BPN, Claims: f.Claims,
		Dataset: f.Dataset, Agreement: f.Agreement,
		Flow: f.ID, Dialect: f.Dialect, Profile: f.Profile, ControlPlane: s.owner(f),
	}
}

// opDenied ends a flow that the policy does not permit.
var opDenied = operation{name: "denied", state: Terminated, own: true, reports: true, cause: CauseDenied}

// unchecked is a flow that is started in its record, but opens nothing until the policy has answered about its start. It is
// a state of live flows and of the log of state changes, never of a record.
const unchecked State = "UNCHECKED"

// uncheckedRetry is when a data request for such a flow may come again: by then the policy has been asked once more.
const uncheckedRetry = 2 * time.Second

// effective is the state by which access is decided.
func (f *Flow) effective() State {
	if f.State == Started && !f.Unchecked.IsZero() {
		return unchecked
	}
	return f.State
}

// errUnchecked is "cannot tell", for a flow whose start the policy has not answered.
func errUnchecked(flow string, dialect Dialect, tokenID string) *Error {
	return &Error{
		Code: CodeUnavailable, Detail: "the policy has not answered about the start of flow " + flow,
		Dialect: dialect, TokenID: tokenID, RetryAfter: uncheckedRetry,
	}
}

// ask asks the policy. Without one everything is permitted. The error is "cannot tell".
func (s *Service) ask(ctx context.Context, f *Flow, o PolicyOccasion) (bool, error) {
	if s.c.Policy == nil {
		return true, nil
	}
	operation := "start"
	if o == PolicyRenew {
		operation = "renew"
	}
	start := s.c.Now()
	permit, err := s.c.Policy.Decide(ctx, s.question(f, o))
	s.c.Observer.Stage(operation, "policy", s.c.Now().Sub(start))
	if err != nil {
		return false, unavailable(err, "asking the policy about flow %s", f.ID)
	}
	return permit, nil
}

// permitStart asks the policy about a flow that is about to be made. exists says that there is one of that id: then the
// message is a repeat, and nothing is asked.
//
// Where the policy cannot tell, the flow is marked instead: a refused start kills the transfer for good, and one that waits
// holds up the control plane's queue (docs/decisions: policy).
func (s *Service) permitStart(ctx context.Context, f *Flow) (exists bool, err error) {
	if s.c.Policy == nil {
		return false, nil
	}
	_, err = s.flow(ctx, f.ID)
	if err == nil {
		return true, nil
	}
	if CodeOf(err) != CodeFlowUnknown {
		return false, err
	}
	permit, err := s.ask(ctx, f, PolicyStart)
	if err != nil && ctx.Err() != nil {
		return false, err // the control plane is gone, and comes again
	}
	if err != nil {
		f.Unchecked = f.Created
		s.c.Logger.Warn("flow is started unchecked: it opens nothing until the policy answers", "flow", f.ID, "error", err)
		return false, nil
	}
	if !permit {
		return false, refuse(CodePolicyDenied, "the policy denies the start of flow %s", f.ID)
	}
	return false, nil
}

// permitRenewal asks the policy about a renewal whose proof is verified. A flow whose start the policy has not answered is
// asked about that first.
func (s *Service) permitRenewal(ctx context.Context, f *Flow) error {
	if f.effective() == unchecked {
		// Others may wait for the same answer, so it must not end with this request.
		err := s.settle(context.WithoutCancel(ctx), f.ID)
		if err != nil {
			return err
		}
	}
	permit, err := s.ask(ctx, f, PolicyRenew)
	if err != nil {
		return err
	}
	if permit {
		return nil
	}
	if s.c.EndOnDeny {
		s.endDenied(ctx, f)
	}
	return refuse(CodePolicyDenied, "the policy denies the renewal of flow %s", f.ID)
}

// endDenied ends a flow that the policy does not permit any more. What the store does not take holds in memory and is
// tried again, as for every ending.
func (s *Service) endDenied(ctx context.Context, f *Flow) {
	ending, err := s.end(ctx, Caller(s.owner(f)), Message{ProcessID: f.ID, Reason: "denied by the policy"}, opDenied)
	if err != nil {
		s.c.Logger.Error("end of a flow that the policy denies is not recorded", "flow", f.ID, "error", err)
		return
	}
	if ending.Outcome == Applied {
		s.c.Observer.Event(EventDenied)
		s.c.Logger.Warn("flow ended, since the policy denies it",
			"flow", f.ID, "control_plane", s.owner(f), "report", string(ending.Report))
	}
}
