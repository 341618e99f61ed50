package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// stage is what all flows have in common: who is there, and what was counted.
type stage struct {
	narrator
	client          *http.Client
	gateway         *gateway // the provider's
	consumerGateway *gateway
	consumer, thief *wallet
	tokenTTL        time.Duration
	counted         tally
}

// flow is the life of one data flow, played from all sides.
type flow struct {
	*stage
	dialect dialect
	edr     *edr
	lost    renewal // the last renewal, to be sent again
}

// renewal is a request to the refresh endpoint and the refresh token that it was answered with.
type renewal struct {
	url       string
	header    http.Header
	body      []byte
	successor string
}

// live plays the whole life.
func (f *flow) live(ctx context.Context) error {
	for _, step := range []func(context.Context) error{
		f.start, f.use, f.useForged, f.useElsewhere, f.useExpired,
		f.renewAsThief, f.renew, f.use, f.renewAgain, f.use,
		f.suspend, f.useSuspended, f.resume, f.use, f.terminate, f.useEnded,
	} {
		err := step(ctx)
		if err != nil {
			return err
		}
	}
	return nil
}

// signal posts a message of a gateway's control plane.
func (s *stage) signal(ctx context.Context, to *gateway, m message) (answer, error) {
	body, err := json.Marshal(m.body)
	if err != nil {
		return answer{}, err
	}
	header := http.Header{"Content-Type": {"application/json"}}
	return exchange(ctx, s.client, http.MethodPost, to.signaling()+m.path, header, body)
}

// take keeps the EDR of an answer.
func (f *flow) take(body []byte) (string, error) {
	edr, err := f.dialect.readEDR(body)
	if err != nil {
		return "", err
	}
	f.edr = edr
	return edr.String(), nil
}

func (f *flow) start(ctx context.Context) error {
	f.counted.starts++
	return f.step("control plane: start", wanted{http.StatusOK, f.take}, func() (answer, error) {
		return f.signal(ctx, f.gateway, f.dialect.start)
	})
}

// get is a data request. The raw token in Authorization is what the data planes of EDC took; Bearer works as well.
func (f *flow) get(ctx context.Context, url, token string) (answer, error) {
	got, err := exchange(ctx, f.client, http.MethodGet, url, http.Header{"Authorization": {token}}, nil)
	if err == nil {
		f.counted.request(strings.HasPrefix(url, f.gateway.data()+"/weather/"), got.status)
	}
	return got, err
}

func (f *flow) use(ctx context.Context) error {
	return f.step("consumer: data with that token", wanted{http.StatusOK, exactly(greeting)}, func() (answer, error) {
		return f.get(ctx, f.edr.endpoint+f.dialect.document, f.edr.accessToken)
	})
}

func (f *flow) useForged(ctx context.Context) error {
	// No flow is known of a token that is not the gateway's, so the status is that of RFC 6750 §3.1 in both dialects.
	want := wanted{http.StatusUnauthorized, saying("Token verification failed")}
	return f.step("thief: data with a forged token, same claims, own key", want, func() (answer, error) {
		forged, err := f.thief.forge(f.edr.accessToken)
		if err != nil {
			return answer{}, fmt.Errorf("forging: %w", err)
		}
		return f.get(ctx, f.edr.endpoint+f.dialect.document, forged)
	})
}

func (f *flow) useElsewhere(ctx context.Context) error {
	want := wanted{http.StatusForbidden, saying("The token does not open this resource")}
	return f.step("consumer: "+f.dialect.elsewhere+" with that token, another dataset", want, func() (answer, error) {
		return f.get(ctx, f.gateway.data()+f.dialect.elsewhere, f.edr.accessToken)
	})
}

// expiryMargin is how much later than promised a token may be seen to have expired.
const expiryMargin = 10 * time.Second

func (f *flow) useExpired(ctx context.Context) error {
	want := wanted{f.dialect.refusedStatus, saying("Token has expired")}
	what := fmt.Sprintf("consumer: again and again, until the token's %s are over", brief(f.tokenTTL))
	return f.step(what, want, func() (answer, error) {
		ctx, cancel := context.WithTimeout(ctx, f.tokenTTL+expiryMargin)
		defer cancel()
		ticker := time.NewTicker(pollEvery)
		defer ticker.Stop()
		for {
			got, err := f.get(ctx, f.edr.endpoint+f.dialect.document, f.edr.accessToken)
			if err != nil || got.status != http.StatusOK {
				return got, err
			}
			select {
			case <-ctx.Done():
				return answer{}, fmt.Errorf("the token still opens the data: %w", ctx.Err())
			case <-ticker.C:
			}
		}
	})
}

// renewalBy makes a renewal that a wallet vouches for.
func (f *flow) renewalBy(w *wallet) (renewal, error) {
	proof, err := w.prove(f.edr.refreshAudience, f.edr.accessToken)
	if err != nil {
		return renewal{}, fmt.Errorf("signing the proof: %w", err)
	}
	query, body := f.dialect.parameters(f.edr.refreshToken)
	r := renewal{
		url: f.edr.refreshEndpoint,
		header: http.Header{
			"Authorization": {"Bearer " + proof},
			"Content-Type":  {"application/x-www-form-urlencoded"},
		},
		body: []byte(body.Encode()),
	}
	if len(query) > 0 {
		r.url += "?" + query.Encode()
	}
	return r, nil
}

func (f *flow) send(ctx context.Context, r renewal) (answer, error) {
	return exchange(ctx, f.client, http.MethodPost, r.url, r.header, r.body)
}

// renewAsThief has both tokens of the EDR and signs with a key of its own, under its own DID.
func (f *flow) renewAsThief(ctx context.Context) error {
	f.counted.thefts++
	read := func(body []byte) (string, error) {
		if f.thief.fetches.Load() > 0 {
			return "", errors.New("the gateway has fetched the thief's DID document: anybody could have it fetch anything")
		}
		return saying(f.dialect.notBound)(body)
	}
	return f.step("thief: renewal with both tokens, own DID, own key", wanted{http.StatusUnauthorized, read}, func() (answer, error) {
		r, err := f.renewalBy(f.thief)
		if err != nil {
			return answer{}, err
		}
		return f.send(ctx, r)
	})
}

// keep keeps the tokens of a renewal's answer.
func (f *flow) keep(body []byte) (string, error) {
	r, err := readRenewed(body)
	if err != nil {
		return "", err
	}
	f.edr.accessToken, f.edr.refreshToken = r.AccessToken, r.RefreshToken
	return r.String(), nil
}

func (f *flow) renew(ctx context.Context) error {
	f.counted.rotations++
	read := func(body []byte) (string, error) {
		before := f.edr.refreshToken
		told, err := f.keep(body)
		if err != nil {
			return "", err
		}
		if f.edr.refreshToken == before {
			return "", errors.New("the refresh token is the one before")
		}
		f.lost.successor = f.edr.refreshToken
		return told, nil
	}
	return f.step("consumer: renewal, signed with the key of its DID", wanted{http.StatusOK, read}, func() (answer, error) {
		var err error
		f.lost, err = f.renewalBy(f.consumer)
		if err != nil {
			return answer{}, err
		}
		return f.send(ctx, f.lost)
	})
}

// renewAgain sends the renewal once more to the byte, as an HTTP client does that has not got the answer.
func (f *flow) renewAgain(ctx context.Context) error {
	f.counted.repeats++
	read := func(body []byte) (string, error) {
		told, err := f.keep(body)
		if err != nil {
			return "", err
		}
		if f.edr.refreshToken != f.lost.successor {
			return "", errors.New("the refresh token is not the one that the lost answer had")
		}
		return told + " (the same)", nil
	}
	return f.step("consumer: the answer was lost, the same request again", wanted{http.StatusOK, read}, func() (answer, error) {
		return f.send(ctx, f.lost)
	})
}

func (f *flow) suspend(ctx context.Context) error {
	return f.step("control plane: suspend", wanted{status: f.dialect.doneStatus}, func() (answer, error) {
		return f.signal(ctx, f.gateway, f.dialect.suspend)
	})
}

func (f *flow) useSuspended(ctx context.Context) error {
	want := wanted{http.StatusForbidden, saying("flow_suspended")}
	return f.step("consumer: the next request", want, func() (answer, error) {
		return f.get(ctx, f.edr.endpoint+f.dialect.document, f.edr.accessToken)
	})
}

func (f *flow) resume(ctx context.Context) error {
	return f.step("control plane: resume", wanted{http.StatusOK, f.take}, func() (answer, error) {
		return f.signal(ctx, f.gateway, f.dialect.resume)
	})
}

func (f *flow) terminate(ctx context.Context) error {
	return f.step("control plane: terminate", wanted{status: f.dialect.doneStatus}, func() (answer, error) {
		return f.signal(ctx, f.gateway, f.dialect.terminate)
	})
}

func (f *flow) useEnded(ctx context.Context) error {
	want := wanted{f.dialect.refusedStatus, saying("does not exist")}
	return f.step("consumer: the next request", want, func() (answer, error) {
		return f.get(ctx, f.edr.endpoint+f.dialect.document, f.edr.accessToken)
	})
}
