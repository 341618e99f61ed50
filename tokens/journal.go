package tokens

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"time"
)

// Journal keeps on this machine the endings that the store does not take, so that they can be acknowledged: a control
// plane does not repeat one that was refused, and leaves the consumer's side open (docs/decisions: ending access in
// trouble). Its methods may be called by many goroutines at once.
type Journal interface {
	// Append returns when the entry is durable.
	Append(entry json.RawMessage) error
	// Len returns how many entries it holds.
	Len() int
	// Mark names the present content, for Discard and Keep.
	Mark() uint64
	// Keep replaces the content by these entries, if nothing was appended since the mark.
	Keep(mark uint64, entries []json.RawMessage) error
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
var journaledOperations = []operation{
	opSuspend, opTerminate, opComplete, opRevoke, opRevokeQuietly, opDenied,
	opRepeatedEnd, opRepeatedCompletion, opRepeatedSuspend,
}

// longest reason that is kept: it is the control plane's text.
const maxJournaledReason = 1 << 10

// journal puts an ending that the store did not take into the journal, and reports whether it is durable there.
func (s *Service) journal(p *pin) bool {
	log := s.c.Live.log.Load()
	if log == nil || p.op == opUnused {
		return false // nobody waits for the answer of what the gateway does by itself
	}
	entry, err := p.entry(s.c.Participant)
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

// entry is what the journal holds of a pin of a participant's flow.
func (p *pin) entry(participant string) (json.RawMessage, error) {
	reason := p.message.Reason
	if len(reason) > maxJournaledReason {
		reason = reason[:maxJournaledReason]
	}
	return json.Marshal(journaled{
		Participant: participant, Caller: p.caller, Operation: p.op.name, Quiet: p.op.own && !p.op.reports,
		Process: p.message.ProcessID, Message: p.message.MessageID, Dialect: p.message.Dialect, Reason: reason, At: p.at,
	})
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
// waits any more, the journal is emptied. If only that waits whose participants are not configured any more, it alone is kept:
// it applies if they ever are again, and must not fill the journal until then.
func (l *Live) settling() func(*slog.Logger) {
	log := l.log.Load()
	if log == nil || (*log).Empty() {
		return func(*slog.Logger) {}
	}
	mark := (*log).Mark()
	return func(logger *slog.Logger) {
		waiting := l.waiting()
		var err error
		switch {
		case len(waiting) == 0:
			err = (*log).Discard(mark)
		case len(waiting) < (*log).Len() && l.unserved(waiting):
			err = keep(*log, mark, waiting)
		}
		if err != nil {
			logger.Error("journal of endings cannot be emptied", "error", err)
		}
	}
}

// unserved reports whether all of these pins are of participants that are not served.
func (l *Live) unserved(pins map[string]*pin) bool {
	for key := range pins {
		participant, _, _ := strings.Cut(key, "/")
		if l.newest(participant) != nil {
			return false
		}
	}
	return true
}

// keep leaves only these pins in the journal.
func keep(log Journal, mark uint64, pins map[string]*pin) error {
	var entries []json.RawMessage
	for key, p := range pins {
		participant, _, _ := strings.Cut(key, "/")
		entry, err := p.entry(participant)
		if err != nil {
			return err
		}
		entries = append(entries, entry)
	}
	return log.Keep(mark, entries)
}
