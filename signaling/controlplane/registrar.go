package controlplane

import (
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

// RegistrationResult is what one look at a control plane came to. The set is closed, so that it can be a metric label.
type RegistrationResult string

// The results.
const (
	RegistrationPresent  RegistrationResult = "present"      // it knows us
	RegistrationMade     RegistrationResult = "registered"   // it did not, or not so, and was told
	RegistrationShelved  RegistrationResult = "unregistered" // somebody took us out of service there
	RegistrationMismatch RegistrationResult = "mismatch"     // it shows something else than it was told
	RegistrationFailed   RegistrationResult = "failed"       // it does not answer, or refuses
)

// RegistrationResults lists every RegistrationResult.
func RegistrationResults() []RegistrationResult {
	return []RegistrationResult{RegistrationPresent, RegistrationMade, RegistrationShelved, RegistrationMismatch, RegistrationFailed}
}

// RegistrationObserver is told of looks, for metrics. It must not block.
type RegistrationObserver interface {
	// Looked reports one look.
	Looked(r RegistrationResult)
	// Unregistered reports how many registrations are not known to stand.
	Unregistered(n int)
}

// RegistrarConfig is what a Registrar needs. Fields without a stated default are required.
type RegistrarConfig struct {
	Registrations []Registration
	Client        *Client
	Observer      RegistrationObserver
	Logger        *slog.Logger
	Jitter        func() float64 // 0 <= x < 1; default: math/rand
}

// Registrar keeps the gateway registered at its control planes. It looks first and registers only what is absent or
// different: on EDC up to 0.15 a repeated registration makes the data plane unusable for up to a second, and every start in
// that time ends its transfer. It never deletes a registration: the flows that go on could not be ended any more.
type Registrar struct {
	c       RegistrarConfig
	keepers []*keeper

	mu   sync.Mutex
	well map[*keeper]bool
}

// When registrations are looked at.
const (
	settleFor      = time.Second // after the start, until the listeners of all sites answer
	lookAgainAfter = time.Minute

	// Where there is nothing to look at, a registration is repeated: Data Plane Signaling has a PUT and no list (DPS §1.1).
	repeatAfter = 10 * time.Minute

	// A control plane whose checks stop may have forgotten us.
	missedChecks = 3
	leastSilence = 5 * time.Second
)

// NewRegistrar returns a Registrar.
func NewRegistrar(c RegistrarConfig) (*Registrar, error) {
	if c.Client == nil || c.Observer == nil || c.Logger == nil {
		return nil, errors.New("registrar: client, observer and logger are required")
	}
	if c.Jitter == nil {
		c.Jitter = rand.Float64
	}
	r := &Registrar{c: c, well: map[*keeper]bool{}}
	for _, registration := range c.Registrations {
		r.keepers = append(r.keepers, &keeper{r: registration, wake: make(chan struct{}, 1), silence: leastSilence})
	}
	return r, nil
}

// Run keeps the registrations until ctx ends. They stay when it does.
func (r *Registrar) Run(ctx context.Context) {
	var wg sync.WaitGroup
	for _, k := range r.keepers {
		wg.Go(func() { r.keep(ctx, k) })
	}
	// The gauge is the process's, and a config that failed to load may have set it since.
	again := time.NewTicker(lookAgainAfter)
	defer again.Stop()
	for ctx.Err() == nil {
		r.c.Observer.Unregistered(r.missing())
		select {
		case <-ctx.Done():
		case <-again.C:
		}
	}
	wg.Wait()
}

// Checked notes that a control plane asked whether we are there. When it stops doing so, it may have been started anew and
// have forgotten us; EDC from 0.16 on never asks.
func (r *Registrar) Checked(controlPlane string, now time.Time) {
	for _, k := range r.keepers {
		if k.r.ControlPlane == controlPlane {
			k.checked(now)
		}
	}
}

// keeper keeps one registration.
type keeper struct {
	r       Registration
	wake    chan struct{} // look now
	silence time.Duration // at least so long without a check before a look

	mu    sync.Mutex
	last  time.Time // of a check
	timer *time.Timer

	// Of the goroutine that looks.
	failures int
	blind    bool   // the control plane does not show what is registered
	told     bool   // the control plane was told, and has not shown it yet
	offered  bool   // the control plane was told what it never shows, the authorization
	shown    *entry // what it showed instead
	result   RegistrationResult
	failure  string // why the last look failed, as far as it matters whether that changes; empty: it did not
}

func (k *keeper) checked(now time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	gap := now.Sub(k.last)
	known := !k.last.IsZero()
	k.last = now
	if k.timer != nil {
		k.timer.Stop()
	}
	if known {
		k.timer = time.AfterFunc(max(k.silence, missedChecks*gap), k.rouse)
	}
}

func (k *keeper) rouse() {
	select {
	case k.wake <- struct{}{}:
	default: // it is about to look
	}
}

// quiet stops the wait for a check.
func (k *keeper) quiet() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.timer != nil {
		k.timer.Stop()
	}
}

func (r *Registrar) keep(ctx context.Context, k *keeper) {
	defer k.quiet()
	wait := time.NewTimer(settleFor)
	defer wait.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-wait.C:
		case <-k.wake:
		}
		r.look(ctx, k)
		wait.Reset(k.next(r.c.Jitter()))
	}
}

// next is how long to wait for the next look.
func (k *keeper) next(chance float64) time.Duration {
	if k.failures > 0 {
		return min(lookAgainAfter, waitAfter(k.failures, chance))
	}
	if k.blind {
		return repeatAfter
	}
	return lookAgainAfter - time.Duration(chance*float64(lookAgainAfter/10))
}

// look makes one look and tells of it.
func (r *Registrar) look(ctx context.Context, k *keeper) {
	result, err := r.ensure(ctx, k)
	if ctx.Err() != nil {
		return
	}
	k.failures++
	if result != RegistrationFailed {
		k.failures = 0
	}
	r.c.Observer.Looked(result)
	r.note(k, result)
	r.c.Observer.Unregistered(r.missing())
	k.report(r.c.Logger, result, err)
}

// note remembers whether a registration stands.
func (r *Registrar) note(k *keeper, result RegistrationResult) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.well[k] = result == RegistrationPresent || result == RegistrationMade
}

// missing is how many registrations are not known to stand.
func (r *Registrar) missing() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	missing := 0
	for _, k := range r.keepers {
		if !r.well[k] {
			missing++
		}
	}
	return missing
}

// ensure looks, and registers if it has to.
func (r *Registrar) ensure(ctx context.Context, k *keeper) (RegistrationResult, error) {
	a, err := r.c.Client.call(ctx, k.r.lookup())
	if err != nil {
		return RegistrationFailed, err
	}
	var known *entry
	k.blind = false
	switch {
	case a.ok():
		known, err = k.r.find(a.body)
		if err != nil {
			return RegistrationFailed, err
		}
	case a.status == http.StatusNotFound || a.status == http.StatusMethodNotAllowed || a.status == http.StatusNotImplemented:
		// Where the control plane is only starting, the PUT fails too.
		k.blind = k.r.Protocol == tokens.DPS
		if !k.blind {
			return RegistrationFailed, fmt.Errorf("list of data planes: status %d", a.status)
		}
	default:
		return RegistrationFailed, fmt.Errorf("list of data planes: status %d", a.status)
	}
	if known != nil {
		result, settled := k.judge(known)
		if settled {
			return result, nil
		}
	}
	return r.register(ctx, k)
}

// judge decides what a known registration comes to; false: it has to be replaced. What a control plane still shows after
// it was told something else is not replaced again and again, each time with a gap in which starts fail.
func (k *keeper) judge(known *entry) (RegistrationResult, bool) {
	switch {
	case known.state == unregistered:
		return RegistrationShelved, true
	case k.r.Authorization != nil && !k.offered:
		return "", false // whatever it shows: it may have another secret, or none
	case k.r.matches(known):
		k.told, k.shown = false, nil
		return RegistrationPresent, true
	case k.told:
		k.told, k.shown = false, known
		return RegistrationMismatch, true
	case known.same(k.shown):
		return RegistrationMismatch, true
	}
	return "", false
}

func (r *Registrar) register(ctx context.Context, k *keeper) (RegistrationResult, error) {
	m, err := k.r.put()
	if err != nil {
		return RegistrationFailed, err
	}
	a, err := r.c.Client.call(ctx, m)
	if err != nil {
		return RegistrationFailed, err
	}
	if !a.ok() {
		return RegistrationFailed, fmt.Errorf("registration: status %d", a.status)
	}
	k.told, k.shown, k.offered = true, nil, true
	return RegistrationMade, nil
}

// report writes a line when something changed, so that a control plane that is away for a day does not fill the log. One
// that was away and then refuses is a change: its answer must be seen.
func (k *keeper) report(logger *slog.Logger, result RegistrationResult, err error) {
	failure := failureOf(err)
	if result == k.result && failure == k.failure && (result != RegistrationMade || k.blind) {
		return
	}
	before := k.result
	k.result, k.failure = result, failure
	args := []any{"control_plane", k.r.ControlPlane, "protocol", string(k.r.Protocol), "id", k.r.ID, "endpoint", k.r.Endpoint}
	if err != nil {
		args = append(args, "error", err)
	}
	switch result {
	case RegistrationPresent:
		if before == RegistrationMade {
			return
		}
		logger.Info("control plane knows this data plane", args...)
	case RegistrationMade:
		logger.Info("registered at the control plane", args...)
	case RegistrationShelved:
		logger.Warn("data plane is unregistered at the control plane, which starts no flows until somebody registers it there again", args...)
	case RegistrationMismatch:
		logger.Error("control plane shows another registration than it was told: does something else register under this id?", args...)
	case RegistrationFailed:
		logger.Warn("registration at the control plane is not certain: trying again", args...)
	}
}

// failureOf tells one kind of failure from another. The network's are two kinds, since their texts have port numbers in them.
func failureOf(err error) string {
	var network *url.Error
	switch {
	case err == nil:
		return ""
	case !errors.As(err, &network):
		return err.Error()
	case network.Timeout():
		return "timeout"
	}
	return "network"
}
