package history

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

// status of a flow in the model.
type status uint8

const (
	absent status = iota
	started
	suspended
	ended
)

// flow is the model of one flow: its status, and its generation by the refresh tokens that are good.
type flow struct {
	status   status
	current  string // empty: there is one that nobody has seen yet
	previous string
	first    string
}

// step returns the states that an operation may leave a flow in. None: it cannot have been answered so.
func step(f flow, o Operation) []flow {
	next := f
	switch o.Kind {
	case Start:
		if o.Answer.Outcome != Done || f.status != absent {
			return nil
		}
		token := o.Answer.Tokens.Refresh
		return []flow{{status: started, current: token, first: token}}
	case Renew:
		return renew(f, o)
	case Suspend:
		if f.status == started {
			next.status = suspended
		}
		return changed(f, next, o, f.status == ended)
	case Terminate:
		next.status = ended
		return changed(f, next, o, false)
	case Resume:
		if f.status == suspended {
			next.status = started
		}
		if o.Answer.Outcome == Done {
			if f.status == ended {
				return nil
			}
			return next.named(o.Answer.Tokens.Refresh)
		}
		return changed(f, next, o, f.status == ended)
	}
	return nil
}

// changed is an operation that leads from f to next and may be refused only as said.
func changed(f, next flow, o Operation, refusable bool) []flow {
	switch {
	case o.open() && next != f:
		return []flow{f, next}
	case o.open():
		return []flow{f}
	case o.Answer.Outcome == Done:
		return []flow{next}
	case refusable:
		return []flow{f}
	}
	return nil
}

// renew is the table of docs/decisions: renewal.
func renew(f flow, o Operation) []flow {
	r := o.Presented
	current := f.current != "" && r == f.current
	superseded := r == f.previous || r == f.first && !o.Classic
	switch o.Answer.Outcome {
	case Unknown:
		if f.status == started && current {
			return []flow{f, {status: started, previous: r, first: f.first}}
		}
		return []flow{f}
	case Refused:
		if f.status == started && (current || superseded) {
			return nil
		}
		return []flow{f}
	}
	got := o.Answer.Tokens.Refresh
	switch {
	case f.status != started:
		return nil
	case current:
		if got == f.current || got == f.previous || got == f.first {
			return nil
		}
		return []flow{{status: started, current: got, previous: r, first: f.first}}
	case superseded:
		return f.named(got)
	}
	return nil
}

// named is the state in which the current refresh token is seen to be token.
func (f flow) named(token string) []flow {
	if f.current == "" && token != f.previous && token != f.first {
		f.current = token
	}
	if f.current != token {
		return nil
	}
	return []flow{f}
}

var model = porcupine.NondeterministicModel{
	Partition: func(all []porcupine.Operation) [][]porcupine.Operation {
		byFlow := map[int][]porcupine.Operation{}
		for _, o := range all {
			f := o.Input.(Operation).Flow
			byFlow[f] = append(byFlow[f], o)
		}
		var parts [][]porcupine.Operation
		for _, part := range byFlow {
			parts = append(parts, part)
		}
		return parts
	},
	Init: func() []any { return []any{flow{}} },
	Step: func(state, input, _ any) []any {
		var next []any
		for _, f := range step(state.(flow), input.(Operation)) {
			next = append(next, f)
		}
		return next
	},
	DescribeOperation: func(input, _ any) string { return input.(Operation).String() },
}

// ErrUndecided is wrapped by the error of Check when nothing was found wrong, but not all of it could be decided in time: the
// search grows with the number of operations whose outcome is not known.
var ErrUndecided = errors.New("not decided")

// Check returns an error unless what went through the store is linearizable for each flow.
func Check(operations []Operation, within time.Duration) error {
	var asked []porcupine.Operation
	for _, o := range operations {
		if o.Kind == Data || local(o, operations) {
			continue
		}
		end := int64(o.Return)
		if o.open() {
			end = math.MaxInt64
		}
		if o.Kind == Renew && o.Answer.Outcome == Refused && o.Presented == "" {
			continue
		}
		asked = append(asked, porcupine.Operation{ClientId: o.Client, Input: o, Call: int64(o.Call), Return: end})
	}
	var undecided error
	m := model.ToModel()
	for _, part := range m.Partition(asked) {
		switch porcupine.CheckOperationsTimeout(m, part, within) {
		case porcupine.Ok:
		case porcupine.Unknown:
			undecided = fmt.Errorf("flow %d: %w within %s: %d operations", part[0].Input.(Operation).Flow, ErrUndecided, within, len(part))
		default:
			return fmt.Errorf("flow %d is not linearizable:\n%s", part[0].Input.(Operation).Flow, describe(part))
		}
	}
	return undecided
}

// local reports whether a refusal tells of an ending or suspension that its node itself had been asked for and that the
// store may not have had yet: those hold there before they hold anywhere else.
func local(o Operation, operations []Operation) bool {
	if o.Answer.Outcome != Refused {
		return false
	}
	return slices.ContainsFunc(operations, func(e Operation) bool {
		// Another suspension is no reason to refuse one.
		return (e.Kind == Terminate || e.Kind == Suspend && o.Kind != Suspend) && e.Flow == o.Flow && e.Node == o.Node && e.Call <= o.Return &&
			(e.open() || e.Return >= o.Call)
	})
}

func describe(part []porcupine.Operation) string {
	var operations []Operation
	for _, o := range part {
		operations = append(operations, o.Input.(Operation))
	}
	return list(operations)
}

func list(operations []Operation) string {
	var lines []string
	for _, o := range operations {
		lines = append(lines, o.String())
	}
	return strings.Join(lines, "\n")
}
