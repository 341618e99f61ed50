package tokens

import (
	"sync"
	"time"
)

// maxOwed bounds the reports held in memory for each control plane, so that one that is gone takes no other's room.
// Further ones are found when the records are counted.
const maxOwed = 10_000

// OwedReport names a report and who is to get it.
type OwedReport struct {
	Flow         string
	ControlPlane string // present name
	Event        ReportEvent
}

// OwedReports are the reports that this process knows to be owed, by flow. The store is the truth: it is read anew at every
// count. All methods may be called by many goroutines at once.
type OwedReports struct {
	mu    sync.Mutex
	flows map[string]owedFlow
	held  map[string]int // reports by control plane
}

// NewOwedReports returns an empty one.
func NewOwedReports() *OwedReports {
	return &OwedReports{flows: map[string]owedFlow{}, held: map[string]int{}}
}

type owedFlow struct {
	controlPlane string
	event        ReportEvent
	due          time.Time
}

// Put remembers a report, and when it may be tried. An awaited one takes the place of no other: the flow has ended since.
func (o *OwedReports) Put(r OwedReport, due time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	known, held := o.flows[r.Flow]
	if held && !known.event.Awaited() && r.Event.Awaited() {
		return
	}
	f := owedFlow{r.ControlPlane, r.Event, due}
	if held && known.controlPlane == f.controlPlane {
		o.flows[r.Flow] = f
		return
	}
	o.remove(r.Flow)
	if o.held[f.controlPlane] < maxOwed {
		o.held[f.controlPlane]++
		o.flows[r.Flow] = f
	}
}

// Rest puts off what is due, if it is held.
func (o *OwedReports) Rest(flow string, until time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	known, held := o.flows[flow]
	if held {
		known.due = until
		o.flows[flow] = known
	}
}

// Drop forgets what is owed of a flow.
func (o *OwedReports) Drop(flow string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.remove(flow)
}

// DropAwaited forgets an awaited report, and no other.
func (o *OwedReports) DropAwaited(flow string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.flows[flow].event.Awaited() {
		o.remove(flow)
	}
}

// Due returns what may be tried now, the awaited before the others, and how many of each event are owed in all.
func (o *OwedReports) Due(now time.Time) ([]OwedReport, map[ReportEvent]int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	var awaited, others []OwedReport
	all := map[ReportEvent]int{}
	for flow, f := range o.flows {
		all[f.event]++
		r := OwedReport{Flow: flow, ControlPlane: f.controlPlane, Event: f.event}
		switch {
		case f.due.After(now):
		case f.event.Awaited():
			awaited = append(awaited, r)
		default:
			others = append(others, r)
		}
	}
	return append(awaited, others...), all
}

// remove needs the lock.
func (o *OwedReports) remove(flow string) {
	known, held := o.flows[flow]
	if !held {
		return
	}
	delete(o.flows, flow)
	o.held[known.controlPlane]--
	if o.held[known.controlPlane] == 0 {
		delete(o.held, known.controlPlane)
	}
}
