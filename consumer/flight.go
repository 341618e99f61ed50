package consumer

import (
	"context"
	"errors"
	"time"
)

// waitTick is how often a renewal looks whether another process has finished.
const waitTick = 50 * time.Millisecond

// fly carries out one renewal: waits for its turn, renews, and records what came of it.
func (r *Renewer) fly(id string, w want, owner string) (*Entry, error) {
	ctx, cancel := context.WithTimeout(r.base, 2*r.c.Lease)
	defer cancel()
	t, err := r.turn(ctx, id, w, owner)
	if err != nil {
		r.turnedAway(id, err)
		return nil, err
	}
	if t.standing == settled {
		e := t.rec.entry()
		e.EDR = t.edr
		return e, nil
	}
	began := r.cache.c.Now()
	e, err := r.renewLeased(ctx, t, owner)
	result := ResultRenewed
	if err != nil {
		result = string(CodeOf(err))
	}
	r.cache.c.Observer.Renewal(result, r.cache.c.Now().Sub(began))
	return e, err
}

// turnedAway reports a renewal that was not even begun for a reason that somebody should see.
func (r *Renewer) turnedAway(id string, err error) {
	switch CodeOf(err) {
	case CodeCounterparty:
		r.cache.c.Observer.Event(EventUnknownCounterparty)
	case CodeAudience:
		r.cache.c.Observer.Event(EventAudience)
	default:
		return
	}
	r.cache.c.Logger.Debug("EDR not renewed", "edr", id, "error", err) // it was warned of when the EDR came
}

// turn waits until the EDR is ours to renew, or somebody else has renewed it.
func (r *Renewer) turn(ctx context.Context, id string, w want, owner string) (turn, error) {
	waited := false
	for {
		t, err := r.cache.acquire(ctx, id, w, owner, r.c.Lease)
		if err != nil || t.standing != occupied {
			return t, err
		}
		if !waited {
			waited = true
			r.cache.c.Observer.Event(EventWaited)
		}
		err = pause(ctx, waitTick)
		if err != nil {
			return turn{}, unavailable(err, "EDR %s: another process renews it", id)
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// renewLeased renews with the lease in hand. It ends well before the lease does.
func (r *Renewer) renewLeased(ctx context.Context, t turn, owner string) (*Entry, error) {
	id := t.rec.ID
	own, err := r.cache.claim(ctx, id, digestOf(t.edr.AccessToken))
	if err != nil {
		return nil, errors.Join(err, r.giveBack(ctx, t, owner, 0))
	}
	if !own {
		r.cache.c.Observer.Event(EventForeignToken)
		r.cache.c.Logger.Warn("EDR not renewed: another EDR holds its access token, and a proof about it is for that one's provider", "edr", id)
		err = refuse(CodeForeignToken, "another EDR holds the access token")
		return nil, errors.Join(err, r.giveBack(ctx, t, owner, longestRest))
	}
	asking, cancel := context.WithTimeout(ctx, r.c.Lease*3/4)
	defer cancel()
	n, no := r.ask(asking, t)
	switch {
	case no == nil:
		return r.keep(ctx, t, owner, n)
	case no.final:
		return nil, r.markRefused(ctx, t, owner, no)
	case r.base.Err() != nil: // we are closed: that is no failure of the provider's
		err = unavailable(r.base.Err(), "EDR %s: renewer is closed", id)
		return nil, errors.Join(err, r.giveBack(ctx, t, owner, 0))
	}
	return nil, r.putOff(ctx, t, owner, no)
}

// keep records renewed tokens.
func (r *Renewer) keep(ctx context.Context, t turn, owner string, n *renewed) (*Entry, error) {
	var e *Entry
	err := r.settle(ctx, func(ctx context.Context) error {
		// Whether it is ours is asked again before anything is signed about it.
		_, err := r.cache.claim(ctx, t.rec.ID, digestOf(n.access))
		if err != nil {
			return err
		}
		e, err = r.cache.succeed(ctx, t, owner, n)
		return err
	})
	if err != nil {
		r.cache.c.Logger.Error("renewed tokens were not recorded: the next renewal goes on with the superseded refresh token",
			"edr", t.rec.ID, "error", err)
		return nil, err
	}
	return e, nil
}

// markRefused records the provider's no, and returns the error for it.
func (r *Renewer) markRefused(ctx context.Context, t turn, owner string, no *failed) error {
	r.cache.c.Logger.Warn("the provider refused to renew an EDR: it is left alone until it is started or resumed, or its renewal asked for",
		"edr", t.rec.ID, "status", no.status)
	err := r.settle(ctx, func(ctx context.Context) error { return r.cache.refuseRenewal(ctx, t, owner, no.status) })
	return errors.Join(&Error{Code: CodeRefused, Detail: "the provider refused to renew", Status: no.status}, err)
}

// putOff records a renewal that could not tell, and returns the error for it.
func (r *Renewer) putOff(ctx context.Context, t turn, owner string, no *failed) error {
	var rest time.Duration
	err := r.settle(ctx, func(ctx context.Context) error {
		var err error
		rest, err = r.cache.putOff(ctx, t, owner, no.after)
		return err
	})
	r.cache.c.Logger.Warn("an EDR could not be renewed now", "edr", t.rec.ID, "status", no.status, "again_in", rest.String(), "error", no.cause)
	return errors.Join(&Error{
		Code: CodeUnavailable, Detail: "the provider or the signer cannot tell", Status: no.status, RetryAfter: rest, cause: no.cause,
	}, err)
}

func (r *Renewer) giveBack(ctx context.Context, t turn, owner string, after time.Duration) error {
	return r.settle(ctx, func(ctx context.Context) error { return r.cache.giveBack(ctx, t, owner, after) })
}

// settle records a result. The store may be in trouble just now: what is not recorded now may lose the transfer.
func (r *Renewer) settle(ctx context.Context, record func(context.Context) error) error {
	delay := r.c.Backoff
	for try := 1; ; try++ {
		// Close ends requests to providers, not the recording of their answers.
		writing, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.c.Timeout)
		err := record(writing)
		cancel()
		if err == nil || CodeOf(err) != CodeUnavailable || try >= r.c.Tries {
			return err
		}
		if pause(ctx, delay) != nil {
			return err
		}
		delay = min(2*delay, r.c.MaxBackoff)
	}
}

// ask renews at the provider, several times if nobody can tell, always with the same refresh token: if an answer was lost,
// the provider answers again.
func (r *Renewer) ask(ctx context.Context, t turn) (*renewed, *failed) {
	delay := r.c.Backoff
	for try := 1; ; try++ {
		n, no := r.askOnce(ctx, t)
		if no == nil || no.final || no.alone || try >= r.c.Tries || no.after > r.c.MaxBackoff {
			return n, no
		}
		wait := max(no.after, delay/2+time.Duration(float64(delay/2)*r.cache.c.Jitter()))
		if pause(ctx, wait) != nil {
			return nil, no
		}
		r.cache.c.Observer.Event(EventRetried)
		delay = min(2*delay, r.c.MaxBackoff)
	}
}

func (r *Renewer) askOnce(ctx context.Context, t turn) (*renewed, *failed) {
	signing, cancel := context.WithTimeout(ctx, r.c.Timeout)
	proof, err := r.c.Signer.Proof(signing, ProofRequest{
		Issuer: r.cache.c.DID, Audience: t.audience, AccessToken: t.edr.AccessToken,
	})
	cancel()
	if err != nil {
		return nil, &failed{cause: err} // trouble of our own is never the provider's no
	}
	return r.exchange(ctx, t.edr, proof)
}
