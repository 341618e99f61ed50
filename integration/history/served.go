package history

import (
	"fmt"
	"time"
)

// forever is the end of what may still take effect.
const forever = time.Duration(1<<63 - 1)

// end is when an operation has taken effect at the latest.
func (o Operation) end() time.Duration {
	if o.open() {
		return forever
	}
	return o.Return
}

// Served returns the first data request whose answer was not true anywhere within maxStaleness before it, or nil.
func Served(operations []Operation, maxStaleness time.Duration) error {
	byFlow := map[int][]Operation{}
	for _, o := range operations {
		if o.Kind != Data {
			byFlow[o.Flow] = append(byFlow[o.Flow], o)
		}
	}
	for _, d := range operations {
		if d.Kind != Data {
			continue
		}
		changes, reason := byFlow[d.Flow], ""
		switch {
		case d.Answer.Outcome == Done:
			reason = mayServe(d, changes, maxStaleness)
		case d.Answer.Outcome == Refused && d.Answer.Reason == HasEnded:
			reason = mayHaveEnded(d, changes)
		case d.Answer.Outcome == Refused && d.Answer.Reason == IsSuspended:
			reason = mayBeSuspended(d, changes, maxStaleness)
		case d.Answer.Outcome == Refused:
			reason = "nothing gives a reason for this"
		}
		if reason != "" {
			return fmt.Errorf("%s: %s; the flow's history:\n%s", d, reason, list(changes))
		}
	}
	return nil
}

// knownBy is when a node knows of a change that was acknowledged: its own at once, those of others within maxStaleness.
func knownBy(node int, change Operation, maxStaleness time.Duration) time.Duration {
	switch {
	case change.Answer.Outcome != Done:
		return forever
	case change.Node == node:
		return change.Return
	case change.Late:
		return forever
	}
	return change.Return + maxStaleness
}

// mayServe says why a request must not have been served, or nothing.
func mayServe(d Operation, changes []Operation, maxStaleness time.Duration) string {
	for _, e := range changes {
		if e.Kind != Terminate && e.Kind != Suspend || knownBy(d.Node, e, maxStaleness) >= d.Call {
			continue
		}
		if e.Kind == Terminate {
			return "it had ended: " + e.String()
		}
		if !anyOf(changes, Resume, e.Call, d.Return) {
			return "it was suspended: " + e.String()
		}
	}
	return ""
}

func mayHaveEnded(d Operation, changes []Operation) string {
	for _, e := range changes {
		if e.Kind == Terminate && e.Call <= d.Return {
			return ""
		}
	}
	return "nobody had ended it"
}

// mayBeSuspended says why a request must not have been refused, or nothing: it was open, and no suspension can have come
// since.
func mayBeSuspended(d Operation, changes []Operation, maxStaleness time.Duration) string {
	for _, x := range changes {
		if x.Kind != Resume && x.Kind != Start || knownBy(d.Node, x, maxStaleness) >= d.Call {
			continue
		}
		if !anyOf(changes, Suspend, x.Call, d.Return) {
			return "it was open: " + x.String()
		}
	}
	return ""
}

// anyOf reports whether a change of a kind may have taken effect between two moments.
func anyOf(changes []Operation, kind Kind, from, to time.Duration) bool {
	for _, o := range changes {
		if o.Kind == kind && o.Answer.Outcome != Refused && o.Call <= to && o.end() >= from {
			return true
		}
	}
	return false
}
