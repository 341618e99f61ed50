package controlplane

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/edrgate/edrgate/tokens"
)

// Reports are the reports that are owed. They are kept with their flows, so that they survive the process.
// *tokens.Service implements it for flows that we serve, *consumer.Transfers for those that we use.
type Reports interface {
	// DueReports returns what may be tried now, the most urgent first, and how many reports of each event are owed in all.
	DueReports() ([]tokens.OwedReport, map[tokens.ReportEvent]int)

	// ClaimReport takes one to deliver it; nil: there is nothing to deliver any more, or somebody else is at it.
	ClaimReport(ctx context.Context, flow string, lease time.Duration) (*tokens.Report, error)

	// SettleReport records what became of it.
	SettleReport(ctx context.Context, r *tokens.Report, s tokens.Settlement) error
}

// Result is what became of an attempt to deliver a report. The set is closed, so that it can be a metric label.
type Result string

// The results. After retried the report is still owed; after the others it is not.
const (
	Delivered   Result = "delivered"
	Retried     Result = "retried"     // not taken, or nobody can tell: it is tried again
	Refused     Result = "refused"     // the control plane will not take it
	Unknown     Result = "unknown"     // the control plane goes on not to know the transfer
	GivenUp     Result = "given_up"    // tried for as long as reports are tried
	Unaddressed Result = "unaddressed" // no callback address is configured for the control plane
)

// Results lists every Result.
func Results() []Result { return []Result{Delivered, Retried, Refused, Unknown, GivenUp, Unaddressed} }

// Observer is told of deliveries, for metrics. It must not block.
type Observer interface {
	// CalledBack reports one attempt.
	CalledBack(event tokens.ReportEvent, r Result)
	// Owed reports how many reports of an event are owed.
	Owed(event tokens.ReportEvent, n int)
}

// OutboxConfig is what an Outbox needs. Fields without a stated default are required.
type OutboxConfig struct {
	Reports []Reports // ids of flows are unique within each
	Client  *Client

	// Callbacks are the addresses of control planes by their names. Reports to others are dropped, with a warning.
	Callbacks map[string]*url.URL

	// DataAddress writes an EDR as the answer to a start has it, for a report of a start.
	DataAddress func(*tokens.EDR) any

	// Authorizations are what calls are authorized with, by the names of control planes. Default: calls need nothing.
	Authorizations map[string]*Authorization

	Observer Observer
	Logger   *slog.Logger
	Now      func() time.Time // default: time.Now
	Jitter   func() float64   // 0 <= x < 1; default: math/rand
}

// Outbox delivers reports, each until it is taken, refused for good, or too old. It may run beside the outboxes of other
// gateways over the same store.
type Outbox struct {
	c       OutboxConfig
	mu      sync.Mutex
	running map[key]struct{}
	atOnce  map[string]int    // deliveries by control plane
	waiting map[string][]task // what is due and had no room, by control plane
	wg      sync.WaitGroup
}

// task is a report to deliver. The id of a flow that we serve may be that of one that we use, of another control plane.
type task struct {
	book int // index in OutboxConfig.Reports
	tokens.OwedReport
}

type key struct {
	book int
	flow string
}

func (t task) key() key { return key{t.book, t.Flow} }

// How reports are delivered.
const (
	lookEvery    = time.Second
	claimFor     = time.Minute // more than a delivery can take
	settleWithin = 5 * time.Second
	firstWait    = time.Second
	longestWait  = 5 * time.Minute
	unknownAfter = 10 // answers that the transfer is unknown

	// perPlane bounds the deliveries to one control plane, so that one that hangs holds up nobody else's.
	perPlane = 4
)

// NewOutbox returns an Outbox.
func NewOutbox(c OutboxConfig) (*Outbox, error) {
	if len(c.Reports) == 0 || c.Client == nil || c.DataAddress == nil || c.Observer == nil || c.Logger == nil {
		return nil, errors.New("outbox: reports, client, data address, observer and logger are required")
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Jitter == nil {
		c.Jitter = rand.Float64
	}
	return &Outbox{c: c, running: map[key]struct{}{}, atOnce: map[string]int{}}, nil
}

// Run delivers until ctx ends, and returns when no delivery is under way any more.
func (o *Outbox) Run(ctx context.Context) {
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for {
		o.dispatch(ctx)
		select {
		case <-ctx.Done():
			o.wg.Wait()
			return
		case <-look.C:
		}
	}
}

// dispatch begins the deliveries that are due and for which there is room. What has none follows when a delivery to the same
// control plane ends.
func (o *Outbox) dispatch(ctx context.Context) {
	due, owed := o.look()
	for _, event := range tokens.ReportEvents() {
		o.c.Observer.Owed(event, owed[event])
	}
	for _, t := range o.room(due) {
		o.wg.Go(func() {
			for more := true; more; t, more = o.next(ctx, t) {
				o.deliver(ctx, t)
			}
		})
	}
}

// look returns what is due, with what transfers wait for before all the rest, and how many reports of each event are owed.
func (o *Outbox) look() ([]task, map[tokens.ReportEvent]int) {
	var awaited, others []task
	all := map[tokens.ReportEvent]int{}
	for book, reports := range o.c.Reports {
		due, owed := reports.DueReports()
		for _, r := range due {
			if r.Event.Awaited() {
				awaited = append(awaited, task{book, r})
			} else {
				others = append(others, task{book, r})
			}
		}
		for event, n := range owed {
			all[event] += n
		}
	}
	return append(awaited, others...), all
}

// room takes the deliveries that there is room for, and notes the others.
func (o *Outbox) room(due []task) []task {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.waiting = map[string][]task{}
	var begun []task
	for _, t := range due {
		_, running := o.running[t.key()]
		switch {
		case running:
		case o.atOnce[t.ControlPlane] >= perPlane:
			o.waiting[t.ControlPlane] = append(o.waiting[t.ControlPlane], t)
		default:
			o.running[t.key()] = struct{}{}
			o.atOnce[t.ControlPlane]++
			begun = append(begun, t)
		}
	}
	return begun
}

// next ends a delivery and takes another one that waits for it.
func (o *Outbox) next(ctx context.Context, ended task) (task, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.running, ended.key())
	waiting := o.waiting[ended.ControlPlane]
	if len(waiting) == 0 || ctx.Err() != nil {
		o.atOnce[ended.ControlPlane]--
		return task{}, false
	}
	o.waiting[ended.ControlPlane] = waiting[1:]
	o.running[waiting[0].key()] = struct{}{}
	return waiting[0], true
}

// deliver makes one attempt.
func (o *Outbox) deliver(ctx context.Context, t task) {
	reports := o.c.Reports[t.book]
	r, err := reports.ClaimReport(ctx, t.Flow, claimFor)
	if err != nil {
		o.c.Logger.Warn("report to a control plane waits for the store", "flow", t.Flow, "error", err)
		return
	}
	if r == nil {
		return
	}
	result, status, err := o.attempt(ctx, r)
	settled := tokens.Settlement{Done: result != Retried, Delivered: result == Delivered, Unsure: unsure(status, err)}
	interrupted := result == Retried && err != nil && ctx.Err() != nil
	if interrupted {
		settled.Again = firstWait // for whoever runs then, who must not wait for the lease to run out
	} else {
		o.c.Observer.CalledBack(r.Event, result)
		o.report(r, result, status, err)
	}
	if !settled.Done && !interrupted {
		settled.Again = waitAfter(r.Attempt, o.c.Jitter())
		settled.Unknown = status == http.StatusNotFound
	}
	// What is known must be recorded, also when the process is about to end.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleWithin)
	defer cancel()
	err = reports.SettleReport(ctx, r, settled)
	if err != nil {
		o.c.Logger.Warn("what became of a report to a control plane is not recorded, so it may be sent again", "flow", t.Flow, "error", err)
	}
}

func (o *Outbox) attempt(ctx context.Context, r *tokens.Report) (Result, int, error) {
	configured := o.c.Callbacks[r.ControlPlane]
	if configured == nil {
		return Unaddressed, 0, nil
	}
	if r.TooOld(o.c.Now()) {
		return GivenUp, 0, nil
	}
	var address any
	if r.EDR != nil {
		address = o.c.DataAddress(r.EDR)
	}
	m, err := callback(baseFor(configured, r), r, address)
	if err != nil {
		return Refused, 0, fmt.Errorf("%w: %w", errUnsent, err)
	}
	m.grant = o.c.Authorizations[r.ControlPlane].grantFor(r.Authorization)
	a, err := o.c.Client.call(ctx, m)
	if err != nil {
		return Retried, 0, err
	}
	return resultOf(a, r.Unknown+1), a.status, nil
}

// resultOf decides what an answer comes to (observed on EDC 0.11 to 0.18 and the DPS conformance kit): 401 is EDC's answer
// to a transfer that it does not know, or to a data plane that is not the transfer's; 409 means that the transfer's
// state does not allow it, now or ever, unless EDC says that it is leased, which passes; 404 is either an unknown transfer
// or a control plane that is still starting. unknown counts those, this one included.
func resultOf(a answer, unknown int) Result {
	if a.ok() {
		return Delivered
	}
	switch a.status {
	case http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden, http.StatusGone, http.StatusUnprocessableEntity:
		return Refused
	case http.StatusConflict:
		if bytes.Contains(bytes.ToLower(a.body), []byte("leased")) {
			return Retried
		}
		return Refused
	case http.StatusNotFound:
		if unknown >= unknownAfter {
			return Unknown
		}
	}
	return Retried
}

// unsure reports whether an attempt that was not confirmed may have been taken all the same: the answer was lost, or is that
// of something between the control plane and us. EDC answers 500 to a start that it has taken before (observed on 0.18).
func unsure(status int, err error) bool {
	if err != nil {
		return !errors.Is(err, errUnsent)
	}
	return status >= http.StatusInternalServerError
}

// waitAfter doubles with every attempt. Half of it is left to chance, so that the reports of an outage do not come all at once.
func waitAfter(attempt int, chance float64) time.Duration {
	d := longestWait
	if doublings := attempt - 1; doublings < 10 {
		d = min(d, firstWait<<doublings)
	}
	return d/2 + time.Duration(chance*float64(d/2))
}

// report writes the log line of an attempt. The answer's body stays out: it is somebody else's text.
func (o *Outbox) report(r *tokens.Report, result Result, status int, err error) {
	line := endingLines[result]
	switch r.Event {
	case tokens.ReportStarted:
		line = startLines[result]
	case tokens.ReportPrepared:
		line = prepareLines[result]
	}
	args := []any{
		"flow", r.Flow, "control_plane", r.ControlPlane, "dialect", string(r.Dialect), "event", string(r.Event),
		"result", string(result), "attempt", r.Attempt,
	}
	if r.Cause != "" {
		args = append(args, "cause", r.Cause)
	}
	if status != 0 {
		args = append(args, "status", status)
	}
	if err != nil {
		args = append(args, "error", err)
	}
	o.c.Logger.Log(context.Background(), line.level, line.text, args...)
}

// line is what the log says of an attempt.
type line struct {
	level slog.Level
	text  string
}

var endingLines = map[Result]line{
	Delivered:   {slog.LevelInfo, "control plane told of an ending"},
	Retried:     {slog.LevelWarn, "control plane could not be told of an ending: trying again"},
	Refused:     {slog.LevelWarn, "control plane does not take the report of an ending: see whether the transfer has ended there"},
	Unknown:     {slog.LevelWarn, "control plane does not take the report of an ending: see whether the transfer has ended there"},
	GivenUp:     {slog.LevelError, "control plane was not told of an ending, for days: terminate the transfer there"},
	Unaddressed: {slog.LevelWarn, "control plane is not told of an ending, since it has no callback: configure it, and terminate the transfer there"},
}

var startLines = map[Result]line{
	Delivered:   {slog.LevelInfo, "control plane told that a flow has started"},
	Retried:     {slog.LevelWarn, "control plane could not be told that a flow has started: trying again"},
	Refused:     {slog.LevelWarn, "control plane does not take the start of a flow: see what became of the transfer there"},
	Unknown:     {slog.LevelWarn, "control plane does not take the start of a flow: see what became of the transfer there"},
	GivenUp:     {slog.LevelError, "control plane could not be told for a day that a flow has started: terminate the transfer there"},
	Unaddressed: {slog.LevelError, "control plane cannot be told that a flow has started, since it has no callback any more: terminate the transfer there"},
}

var prepareLines = map[Result]line{
	Delivered:   {slog.LevelInfo, "control plane told that a transfer is prepared"},
	Retried:     {slog.LevelWarn, "control plane could not be told that a transfer is prepared: trying again"},
	Refused:     {slog.LevelWarn, "control plane does not take that a transfer is prepared: see what became of the transfer there"},
	Unknown:     {slog.LevelWarn, "control plane does not take that a transfer is prepared: see what became of the transfer there"},
	GivenUp:     {slog.LevelError, "control plane could not be told for a day that a transfer is prepared: terminate the transfer there"},
	Unaddressed: {slog.LevelError, "control plane cannot be told that a transfer is prepared, since it has no callback any more: terminate the transfer there"},
}
