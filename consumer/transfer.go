package consumer

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/edrgate/edrgate/store"
	"github.com/edrgate/edrgate/tokens"
)

// TransfersConfig is what Transfers need. Fields without a stated default are required.
type TransfersConfig struct {
	Cache *Cache

	// ControlPlanes are the configured names of control planes. A transfer whose owner's name is none of them may be
	// suspended and ended by any.
	ControlPlanes []string

	// Formerly gives the present name of a control plane that was renamed, by its earlier one. Default: none was.
	Formerly map[string]string

	// DIDMap gives the DID of a provider that the control plane names otherwise. It counts when a transfer is prepared.
	// Default: a provider that is not named by its DID is not known by one.
	DIDMap map[string]string

	// Owed are the reports that are owed to control planes, shared by all Transfers over the same records. Default: its own.
	Owed *tokens.OwedReports

	// Callable reports whether a control plane can be told anything. Default: each can.
	Callable func(controlPlane string) bool

	// ControlPlane returns what a control plane registered. Default: none did.
	ControlPlane func(ctx context.Context, name string) (tokens.ControlPlane, error)

	// Replaced reports whether a newer configuration runs, which delivers what is owed. Default: none does.
	Replaced func() bool
}

// Transfers is the consumer's side of Data Plane Signaling (DPS §1.1): our own control plane has a transfer prepared, brings
// the provider's EDR when it has started, and suspends, resumes and ends it. Transfers are records of the cache, so that the
// EDR and what signaling says of it change together.
//
// Signaling knows only what it has prepared: EDRs that came by an event or by hand are unknown here. Errors of its messages
// are *tokens.Error, as those of the provider's side. All methods may be called by many goroutines at once.
type Transfers struct {
	c     TransfersConfig
	cache *Cache
}

// NewTransfers returns the transfers of a cache.
func NewTransfers(c TransfersConfig) (*Transfers, error) {
	if c.Cache == nil {
		return nil, refuse(CodeInvalid, "transfers: cache is needed")
	}
	if c.Owed == nil {
		c.Owed = tokens.NewOwedReports()
	}
	if c.Callable == nil {
		c.Callable = func(string) bool { return true }
	}
	if c.ControlPlane == nil {
		c.ControlPlane = func(context.Context, string) (tokens.ControlPlane, error) { return tokens.ControlPlane{}, nil }
	}
	if c.Replaced == nil {
		c.Replaced = func() bool { return false }
	}
	return &Transfers{c: c, cache: c.Cache}, nil
}

// transferMessage is a signaling message that was carried out, so that a repeat of it is not.
type transferMessage struct {
	ID        string `json:"id"`
	Operation string `json:"op"`
}

// The operations of messages.
const (
	opPrepare   = "prepare"
	opStarted   = "started"
	opResume    = "resume"
	opSuspend   = "suspend"
	opTerminate = "terminate"
	opComplete  = "complete"
)

// rememberedMessages is how many messages of a transfer are remembered beside its prepare.
const rememberedMessages = 8

// seen returns the operation that a message id was used for.
func (rec *record) seen(messageID string) (string, bool) {
	if messageID == "" {
		return "", false
	}
	if messageID == rec.PrepareMessage {
		return opPrepare, true
	}
	for _, m := range rec.Messages {
		if m.ID == messageID {
			return m.Operation, true
		}
	}
	return "", false
}

func (rec *record) remember(messageID, operation string) {
	_, used := rec.seen(messageID)
	if messageID == "" || used {
		return
	}
	rec.Messages = append(rec.Messages, transferMessage{ID: messageID, Operation: operation})
	rec.Messages = rec.Messages[max(0, len(rec.Messages)-rememberedMessages):]
}

// flow is what signaling tells of a transfer, in the states of DPS §1.3.
func (rec *record) flow() *tokens.Flow {
	state := tokens.Terminated
	switch {
	case rec.State == Preparing:
		state = tokens.Preparing
	case rec.State == Prepared:
		state = tokens.Prepared
	case rec.State == Started, rec.State == Refused: // that the provider does not renew changes no transfer
		state = tokens.Started
	case rec.State == Suspended:
		state = tokens.Suspended
	case rec.Completed:
		state = tokens.Completed
	}
	return &tokens.Flow{
		Participant: rec.Participant, ID: rec.ID, Dialect: tokens.DPS, State: state, ControlPlane: rec.ControlPlane,
		Counterparty: rec.Counterparty, Dataset: rec.Asset, Agreement: rec.Agreement, Profile: rec.Profile,
		Created: rec.Created, Changed: rec.Changed,
	}
}

// Prepare remembers a transfer whose EDR is to come. It reports whether the transfer was there already: the same message
// again, or another with the same terms, gets the present state; tokens.Preparing as long as the control plane of an
// asynchronous prepare has not taken the news. tokens.CodeConflict: it is there with other terms, of
// another control plane, or did not come by signaling; tokens.CodeState: it is suspended or over.
func (t *Transfers) Prepare(ctx context.Context, caller tokens.Caller, r tokens.StartRequest) (*tokens.Flow, bool, error) {
	rec, err := t.newRecord(caller, &r)
	if err != nil {
		return nil, false, told(err, "")
	}
	for {
		err = t.cache.create(ctx, rec)
		if err == nil {
			t.c.Owed.Drop(rec.ID) // of a transfer that had this id before
			t.owe(rec)
			return rec.answer(), false, nil
		}
		if !errors.Is(err, store.ErrExists) {
			return nil, false, told(err, "")
		}
		known, err := t.cache.record(ctx, rec.ID)
		if err != nil && CodeOf(err) == CodeUnknown {
			continue // it has just expired
		}
		if err == nil {
			err = t.prepareAgain(caller, known, rec)
		}
		if err != nil {
			return nil, false, told(err, "")
		}
		return known.answer(), true, nil
	}
}

func (t *Transfers) newRecord(caller tokens.Caller, r *tokens.StartRequest) (*record, error) {
	err := checkID(r.ProcessID)
	if err != nil {
		return nil, err
	}
	now := t.cache.c.Now().UTC()
	terms := Terms{
		Counterparty: r.Terms.Counterparty, CounterpartyDID: t.c.DIDMap[r.Terms.Counterparty],
		Asset: r.Terms.Dataset, Agreement: r.Terms.Agreement,
	}
	if isDID(terms.Counterparty) {
		terms.CounterpartyDID = terms.Counterparty
	}
	err = terms.check()
	if err != nil {
		return nil, err
	}
	rec := &record{
		Participant: t.cache.c.Participant, ID: r.ProcessID, State: Prepared, Origin: BySignaling,
		Counterparty: terms.Counterparty, CounterpartyDID: terms.CounterpartyDID, Asset: terms.Asset, Agreement: terms.Agreement,
		ControlPlane: string(caller), Profile: r.Profile, RenewalRequired: r.RenewalRequired, PrepareMessage: r.MessageID,
		Callback: r.Callback, Created: now, Changed: now,
	}
	if r.Async {
		rec.promisePrepared(now)
	}
	return rec, nil
}

// prepareAgain decides whether a prepare repeats the one that a transfer came by (docs/decisions: identity of a flow).
func (t *Transfers) prepareAgain(caller tokens.Caller, known, asked *record) error {
	if known.State == Ended && known.ControlPlane == "" {
		return refuse(CodeEnded, "the transfer is over")
	}
	err := t.own(caller, known)
	if err != nil {
		return refuse(CodeConflict, "the transfer is another control plane's, or did not come by signaling")
	}
	used, seen := known.seen(asked.PrepareMessage)
	if seen && used != opPrepare {
		return refuse(CodeConflict, "the message id was used for another operation")
	}
	if known.Counterparty != asked.Counterparty || known.Asset != asked.Asset || known.Agreement != asked.Agreement ||
		known.Profile != asked.Profile {
		return t.cache.refused(&Put{ID: known.ID}, refuse(CodeConflict, "the transfer is prepared with other terms"))
	}
	return known.State.serves()
}

// own refuses what does not belong to the caller.
func (t *Transfers) own(caller tokens.Caller, rec *record) error {
	if rec.ControlPlane == "" {
		return refuse(CodeUnknown, "transfer %s did not come by signaling", rec.ID)
	}
	if t.owner(rec) != string(caller) {
		return refuse(CodeForeign, "transfer %s belongs to control plane %q", rec.ID, rec.ControlPlane)
	}
	return nil
}

// owner is the present name of the control plane that prepared a transfer.
func (t *Transfers) owner(rec *record) string {
	now, moved := t.c.Formerly[rec.ControlPlane]
	if moved {
		return now
	}
	return rec.ControlPlane
}

// mayEnd reports whether the caller may suspend or end a transfer: its own, or one whose owner is configured no more.
func (t *Transfers) mayEnd(caller tokens.Caller, rec *record) bool {
	owner := t.owner(rec)
	return rec.ControlPlane != "" && (owner == string(caller) || !slices.Contains(t.c.ControlPlanes, owner))
}

// Started takes the EDR of a prepared transfer; address is the message's dataAddress, nil if it has none. It reports
// whether the message changed nothing. A refused EDR leaves the transfer as it is: tokens.CodeInvalid.
func (t *Transfers) Started(ctx context.Context, caller tokens.Caller, m tokens.Message, address json.RawMessage) (*tokens.Flow, bool, error) {
	return t.live(ctx, caller, m, address, func(rec *record) (repeated bool, err error) {
		_, seen := rec.seen(m.MessageID)
		switch rec.State {
		case Suspended, Ended: // a repeat that arrives late resumes nothing; resume does
			return false, rec.State.serves()
		case Preparing: // nobody has been told that it is prepared
			return false, refuse(CodeState, "the transfer is not prepared yet")
		case Prepared:
			return false, nil
		}
		return seen, nil
	}, opStarted)
}

// Resume unblocks a suspended transfer, with the EDR that it has if the message brings none: EDC 0.18 sends none to its
// consumer. It reports whether the message changed nothing.
func (t *Transfers) Resume(ctx context.Context, caller tokens.Caller, m tokens.Message, address json.RawMessage) (*tokens.Flow, bool, error) {
	return t.live(ctx, caller, m, address, func(rec *record) (repeated bool, err error) {
		_, seen := rec.seen(m.MessageID)
		switch {
		case rec.State.waits():
			return false, refuse(CodeState, "the transfer is not started yet")
		case rec.State == Ended:
			return false, rec.State.serves()
		case rec.State == Suspended && seen:
			return false, refuse(CodeState, "the transfer was suspended after this message")
		}
		return seen, nil
	}, opResume)
}

// live starts or resumes a transfer. judge looks at the record inside of the compare-and-swap, and reports whether the
// message was carried out before.
func (t *Transfers) live(
	ctx context.Context, caller tokens.Caller, m tokens.Message, address json.RawMessage,
	judge func(*record) (bool, error), operation string,
) (*tokens.Flow, bool, error) {
	known, err := t.read(ctx, m.ProcessID)
	if err != nil {
		return nil, false, told(err, "")
	}
	err = t.own(caller, known)
	if err != nil {
		return nil, false, told(err, "")
	}
	repeated := false
	admit := func(rec *record) error {
		repeated = false
		err := t.own(caller, rec)
		if err != nil {
			return err
		}
		used, seen := rec.seen(m.MessageID)
		if seen && used != operation {
			return refuse(CodeConflict, "the message id was used for another operation")
		}
		repeated, err = judge(rec)
		if err != nil {
			return err
		}
		if repeated {
			return store.ErrKeep
		}
		rec.remember(m.MessageID, operation)
		rec.preparedKnown()
		return nil
	}
	edr, err := givenEDR(known, address, operation)
	if err != nil {
		return nil, false, told(err, addressMember)
	}
	if edr == nil {
		var rec *record
		rec, err = t.cache.update(ctx, m.ProcessID, func(rec *record) error {
			err := admit(rec)
			if err != nil {
				return err
			}
			repeated = rec.State == Started
			t.cache.revive(rec)
			return nil
		})
		if err != nil {
			return nil, false, told(err, "")
		}
		t.owe(rec)
		t.cache.announce(rec.entry())
		return rec.flow(), repeated, nil
	}
	_, err = t.cache.Put(ctx, Put{ID: m.ProcessID, EDR: edr, Origin: BySignaling, admit: admit})
	if err != nil {
		return nil, false, told(err, addressMember)
	}
	t.c.Owed.DropAwaited(m.ProcessID)
	known.State = Started
	return known.flow(), repeated, nil
}

// givenEDR reads the EDR that a message brings. A profile that promises renewal demands that the EDR can be renewed (DPS HTTP
// profile, token renewal profile): without that the consumer would lose its access within minutes.
func givenEDR(rec *record, address json.RawMessage, operation string) (*EDR, error) {
	if address == nil {
		if rec.RenewalRequired && operation == opStarted {
			return nil, refuse(CodeInvalid, "it is missing, and the profile demands it")
		}
		return nil, nil
	}
	edr, err := ParseEDR(address)
	if err != nil {
		return nil, err
	}
	if rec.RenewalRequired && (edr.RefreshToken == "" || edr.ExpiresIn == 0 || edr.AccessToken == "") {
		return nil, refuse(CodeInvalid, "the profile demands authorization, refreshToken and expiresIn")
	}
	return edr, nil
}

// revive makes a record started with the tokens that it has.
func (c *Cache) revive(rec *record) {
	if rec.State != Started {
		rec.State, rec.Changed = Started, c.c.Now().UTC()
		rec.RetryAt, rec.Failures, rec.Status = time.Time{}, 0, 0
		c.schedule(rec)
	}
}

// Suspend keeps the EDR without serving it. A transfer that is not known is not an error: tokens.Ending says so.
func (t *Transfers) Suspend(ctx context.Context, caller tokens.Caller, m tokens.Message) (tokens.Ending, error) {
	return t.end(ctx, caller, m, opSuspend)
}

// Terminate ends a transfer for ever and forgets its EDR. A transfer that is not known leaves nothing behind here.
func (t *Transfers) Terminate(ctx context.Context, caller tokens.Caller, m tokens.Message) (tokens.Ending, error) {
	return t.end(ctx, caller, m, opTerminate)
}

// Complete ends a transfer for ever because it is finished, as Terminate does.
func (t *Transfers) Complete(ctx context.Context, caller tokens.Caller, m tokens.Message) (tokens.Ending, error) {
	return t.end(ctx, caller, m, opComplete)
}

func (t *Transfers) end(ctx context.Context, caller tokens.Caller, m tokens.Message, operation string) (tokens.Ending, error) {
	err := checkID(m.ProcessID)
	if err != nil {
		return tokens.Ending{}, told(err, "")
	}
	var ending tokens.Ending
	var held []string
	rec, err := t.cache.update(ctx, m.ProcessID, func(rec *record) error {
		held = nil
		ending = tokens.Ending{Outcome: t.endingOf(caller, rec, m, operation)}
		if ending.Outcome != tokens.Applied {
			return store.ErrKeep
		}
		now := t.cache.c.Now().UTC()
		if operation == opSuspend {
			rec.State, rec.Changed = Suspended, now
			rec.remember(m.MessageID, operation)
			rec.preparedKnown()
			return nil
		}
		held = rec.Held
		rec.end(now)
		rec.Completed = operation == opComplete
		return nil
	})
	if err != nil && CodeOf(err) == CodeUnknown {
		return tokens.Ending{Outcome: tokens.Unknown}, nil
	}
	if err != nil {
		return tokens.Ending{}, told(err, "")
	}
	t.cache.release(ctx, m.ProcessID, held)
	t.owe(rec)
	if ending.Outcome == tokens.Already && operation != opSuspend {
		t.endingKnown(ctx, rec)
	}
	return ending, nil
}

// endingOf decides what a request to suspend or end comes to, as the provider's side does.
func (t *Transfers) endingOf(caller tokens.Caller, rec *record, m tokens.Message, operation string) tokens.Outcome {
	used, seen := rec.seen(m.MessageID)
	switch {
	case rec.ControlPlane == "":
		return tokens.Unknown
	case !t.mayEnd(caller, rec):
		return tokens.NotOwned
	case rec.State == Ended && operation == opSuspend:
		return tokens.OutOfState
	case rec.State == Ended:
		return tokens.Already
	case operation != opSuspend:
		return tokens.Applied
	case rec.State == Suspended, seen && used == operation: // also one that arrives again after a resume
		return tokens.Already
	case rec.State.waits():
		return tokens.OutOfState
	}
	return tokens.Applied
}

// Status returns a transfer of the caller's.
func (t *Transfers) Status(ctx context.Context, caller tokens.Caller, id string) (*tokens.Flow, error) {
	rec, err := t.read(ctx, id)
	if err == nil {
		err = t.own(caller, rec)
	}
	if err != nil {
		return nil, told(err, "")
	}
	return rec.flow(), nil
}

func (t *Transfers) read(ctx context.Context, id string) (*record, error) {
	err := checkID(id)
	if err != nil {
		return nil, refuse(CodeUnknown, "transfer process id is malformed")
	}
	return t.cache.record(ctx, id)
}

// addressMember is where the texts about an EDR belong.
const addressMember = "member dataAddress: "

// told is an error of the cache in the codes of the provider's side. The other company reads what is said of an invalid
// message: that names fields and quotes nothing of them.
func told(err error, member string) error {
	var detail string
	var e *Error
	if errors.As(err, &e) {
		detail = e.Detail
	}
	switch CodeOf(err) {
	case CodeInvalid, CodeInsecure:
		return &tokens.Error{Code: tokens.CodeInvalid, Detail: member + detail}
	case CodeAudience:
		return &tokens.Error{Code: tokens.CodeInvalid, Detail: member + "refreshAudience is neither the provider nor this participant"}
	case CodeConflict:
		return &tokens.Error{Code: tokens.CodeConflict, Detail: detail}
	case CodeState, CodeSuspended, CodeEnded:
		return &tokens.Error{Code: tokens.CodeState, Detail: detail}
	case CodeForeign:
		return &tokens.Error{Code: tokens.CodeForeign, Detail: detail}
	case CodeUnknown:
		return &tokens.Error{Code: tokens.CodeFlowUnknown, Detail: detail}
	}
	return &tokens.Error{Code: tokens.CodeUnavailable, Detail: err.Error(), RetryAfter: RetryAfterOf(err)}
}
