package tokens

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"time"
)

// Journal keeps on this machine the endings that the store does not take, so that they can be acknowledged: a control
// plane does not repeat one that was refused, and leaves the consumer's side open (docs/decisions: ending access in
// trouble). Its methods may be called by many goroutines at once.
type Journal interface {
	// Append returns when the entry is durable.
	Append(entry json.RawMessage) error
	// Mark names the present content, for Discard.
	Mark() uint64
	// Discard empties the journal, if nothing was appended since the mark.
	Discard(mark uint64) error
	// Empty reports whether it holds nothing.
	Empty() bool
}

// KeepIn makes a journal the place of endings that the store does not take. Entries that it held before are given to
// Recover first.
func (l *Live) KeepIn(j Journal) { l.log.Store(&j) }

// journaled is one entry of the journal. It carries the caller's name, as what waits in memory does: it applies only to
// flows of that name.
type journaled struct {
	Participant string    `json:"participant"`
	Caller      Caller    `json:"caller"`
	Operation   string    `json:"operation"`
	Quiet       bool      `json:"quiet,omitempty"`
	Process     string    `json:"process"`
	Message     string    `json:"message,omitempty"`
	Dialect     Dialect   `json:"dialect,omitempty"`
	Reason      string    `json:"reason,omitempty"`
	At          time.Time `json:"at"`
}

// journaledOperations are what a journal can hold.
var journaledOperations = []operation{opSuspend, opTerminate, opComplete, opRevoke, opRevokeQuietly, opRepeatedEnd, opRepeatedCompletion}

// longest reason that is kept: it is the control plane's text.
const maxJournaledReason = 1 << 10

// journal puts an ending that the store did not take into the journal, and reports whether it is durable there.
func (s *Service) journal(p *pin) bool {
	log := s.c.Live.log.Load()
	if log == nil || p.op == opUnused {
		return false // nobody waits for the answer of what the gateway does by itself
	}
	reason := p.message.Reason
	if len(reason) > maxJournaledReason {
		reason = reason[:maxJournaledReason]
	}
	entry, err := json.Marshal(journaled{
		Participant: s.c.Participant, Caller: p.caller, Operation: p.op.name, Quiet: p.op.own && !p.op.reports,
		Process: p.message.ProcessID, Message: p.message.MessageID, Dialect: p.message.Dialect, Reason: reason, At: p.at,
	})
	if err == nil {
		err = (*log).Append(entry)
	}
	if err != nil {
		s.c.Logger.Error("journal of endings cannot be written", "error", err)
		return false
	}
	p.journaled.Store(true)
	s.c.Observer.Event(EventJournaled)
	return true
}

// Recover puts an entry of the journal into effect, before the first request. It is given to the store when services run.
func (l *Live) Recover(entry json.RawMessage) error {
	var j journaled
	err := json.Unmarshal(entry, &j)
	if err != nil {
		return fmt.Errorf("entry cannot be read: %w", err)
	}
	for _, op := range journaledOperations {
		if op.name == j.Operation && (op.own && !op.reports) == j.Quiet {
			p := &pin{
				caller: j.Caller, op: op, at: j.At,
				message: Message{ProcessID: j.Process, MessageID: j.Message, Dialect: j.Dialect, Reason: j.Reason},
			}
			p.journaled.Store(true)
			l.pin(flowKey(j.Participant, j.Process), p, true, func(string) bool { return true })
			return nil
		}
	}
	return fmt.Errorf("entry has the unknown operation %q", j.Operation)
}

// settling begins a round in which the store is given what waits. The function that it returns ends the round: if nothing
// waits any more, the journal is emptied.
func (l *Live) settling() func(*slog.Logger) {
	log := l.log.Load()
	if log == nil || (*log).Empty() {
		return func(*slog.Logger) {}
	}
	mark := (*log).Mark()
	return func(logger *slog.Logger) {
		if len(l.waiting()) > 0 {
			return
		}
		err := (*log).Discard(mark)
		if err != nil {
			logger.Error("journal of endings cannot be emptied", "error", err)
		}
	}
}
