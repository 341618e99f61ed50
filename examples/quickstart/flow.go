package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/edrgate/edrgate/examples/internal/demo"
)

// stage is what all flows have in common: who is there, and what was counted.
type stage struct {
	demo.Narrator
	client          *http.Client
	gateway         *demo.Gateway // the provider's
	consumerGateway *demo.Gateway
	consumer, thief *demo.Wallet
	tokenTTL        time.Duration
	counted         tally
}

// flow is the life of one data flow, played from all sides.
type flow struct {
	*stage
	dialect demo.Dialect
	edr     *demo.EDR
	lost    demo.Renewal // the last renewal, to be sent again

	successor string // the refresh token that it was answered with
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
func (s *stage) signal(ctx context.Context, to *demo.Gateway, m demo.Message) (demo.Answer, error) {
	body, err := json.Marshal(m.Body)
	if err != nil {
		return demo.Answer{}, err
	}
	header := http.Header{"Content-Type": {"application/json"}}
	return demo.Exchange(ctx, s.client, http.MethodPost, to.Signaling()+m.Path, header, body)
}

// take keeps the EDR of an answer.
func (f *flow) take(body []byte) (string, error) {
	edr, err := f.dialect.ReadEDR(body)
	if err != nil {
		return "", err
	}
	f.edr = edr
	return edr.String(), nil
}

func (f *flow) start(ctx context.Context) error {
	f.counted.starts++
	return f.Step("control plane: start", demo.Wanted{Status: http.StatusOK, Read: f.take}, func() (demo.Answer, error) {
		return f.signal(ctx, f.gateway, f.dialect.Start)
	})
}

// get is a data request. The raw token in Authorization is what the data planes of EDC took; Bearer works as well.
func (f *flow) get(ctx context.Context, url, token string) (demo.Answer, error) {
	got, err := demo.Exchange(ctx, f.client, http.MethodGet, url, http.Header{"Authorization": {token}}, nil)
	if err == nil {
		f.counted.request(strings.HasPrefix(url, f.gateway.Data()+"/weather/"), got.Status)
	}
	return got, err
}

func (f *flow) use(ctx context.Context) error {
	return f.Step("consumer: data with that token", demo.Wanted{Status: http.StatusOK, Read: demo.Exactly(demo.Greeting)}, func() (demo.Answer, error) {
		return f.get(ctx, f.edr.Endpoint+f.dialect.Document, f.edr.AccessToken)
	})
}

func (f *flow) useForged(ctx context.Context) error {
	// No flow is known of a token that is not the gateway's, so the status is that of RFC 6750 §3.1 in both dialects.
	want := demo.Wanted{Status: http.StatusUnauthorized, Read: demo.Saying("Token verification failed")}
	return f.Step("thief: data with a forged token, same claims, own key", want, func() (demo.Answer, error) {
		forged, err := f.thief.Forge(f.edr.AccessToken)
		if err != nil {
			return demo.Answer{}, fmt.Errorf("forging: %w", err)
		}
		return f.get(ctx, f.edr.Endpoint+f.dialect.Document, forged)
	})
}

func (f *flow) useElsewhere(ctx context.Context) error {
	want := demo.Wanted{Status: http.StatusForbidden, Read: demo.Saying("The token does not open this resource")}
	return f.Step("consumer: "+f.dialect.Elsewhere+" with that token, another dataset", want, func() (demo.Answer, error) {
		return f.get(ctx, f.gateway.Data()+f.dialect.Elsewhere, f.edr.AccessToken)
	})
}

// expiryMargin is how much later than promised a token may be seen to have expired.
const expiryMargin = 10 * time.Second

func (f *flow) useExpired(ctx context.Context) error {
	want := demo.Wanted{Status: f.dialect.RefusedStatus, Read: demo.Saying("Token has expired")}
	what := fmt.Sprintf("consumer: again and again, until the token's %s are over", demo.Brief(f.tokenTTL))
	return f.Step(what, want, func() (demo.Answer, error) {
		ctx, cancel := context.WithTimeout(ctx, f.tokenTTL+expiryMargin)
		defer cancel()
		ticker := time.NewTicker(demo.PollEvery)
		defer ticker.Stop()
		for {
			got, err := f.get(ctx, f.edr.Endpoint+f.dialect.Document, f.edr.AccessToken)
			if err != nil || got.Status != http.StatusOK {
				return got, err
			}
			select {
			case <-ctx.Done():
				return demo.Answer{}, fmt.Errorf("the token still opens the data: %w", ctx.Err())
			case <-ticker.C:
			}
		}
	})
}

// renewAsThief has both tokens of the EDR and signs with a key of its own, under its own DID.
func (f *flow) renewAsThief(ctx context.Context) error {
	f.counted.thefts++
	read := func(body []byte) (string, error) {
		if f.thief.Fetches.Load() > 0 {
			return "", errors.New("the gateway has fetched the thief's DID document: anybody could have it fetch anything")
		}
		return demo.Saying(f.dialect.NotBound)(body)
	}
	return f.Step("thief: renewal with both tokens, own DID, own key", demo.Wanted{Status: http.StatusUnauthorized, Read: read}, func() (demo.Answer, error) {
		r, err := demo.NewRenewal(f.dialect, f.edr, f.thief)
		if err != nil {
			return demo.Answer{}, err
		}
		return r.Send(ctx, f.client)
	})
}

// keep keeps the tokens of a renewal's answer.
func (f *flow) keep(body []byte) (string, error) {
	r, err := demo.ReadRenewed(body)
	if err != nil {
		return "", err
	}
	f.edr.AccessToken, f.edr.RefreshToken = r.AccessToken, r.RefreshToken
	return r.String(), nil
}

func (f *flow) renew(ctx context.Context) error {
	f.counted.rotations++
	read := func(body []byte) (string, error) {
		before := f.edr.RefreshToken
		told, err := f.keep(body)
		if err != nil {
			return "", err
		}
		if f.edr.RefreshToken == before {
			return "", errors.New("the refresh token is the one before")
		}
		f.successor = f.edr.RefreshToken
		return told, nil
	}
	return f.Step("consumer: renewal, signed with the key of its DID", demo.Wanted{Status: http.StatusOK, Read: read}, func() (demo.Answer, error) {
		var err error
		f.lost, err = demo.NewRenewal(f.dialect, f.edr, f.consumer)
		if err != nil {
			return demo.Answer{}, err
		}
		return f.lost.Send(ctx, f.client)
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
		if f.edr.RefreshToken != f.successor {
			return "", errors.New("the refresh token is not the one that the lost answer had")
		}
		return told + " (the same)", nil
	}
	return f.Step("consumer: the answer was lost, the same request again", demo.Wanted{Status: http.StatusOK, Read: read}, func() (demo.Answer, error) {
		return f.lost.Send(ctx, f.client)
	})
}

func (f *flow) suspend(ctx context.Context) error {
	return f.Step("control plane: suspend", demo.Wanted{Status: f.dialect.DoneStatus}, func() (demo.Answer, error) {
		return f.signal(ctx, f.gateway, f.dialect.Suspend)
	})
}

func (f *flow) useSuspended(ctx context.Context) error {
	want := demo.Wanted{Status: http.StatusForbidden, Read: demo.Saying("flow_suspended")}
	return f.Step("consumer: the next request", want, func() (demo.Answer, error) {
		return f.get(ctx, f.edr.Endpoint+f.dialect.Document, f.edr.AccessToken)
	})
}

func (f *flow) resume(ctx context.Context) error {
	return f.Step("control plane: resume", demo.Wanted{Status: http.StatusOK, Read: f.take}, func() (demo.Answer, error) {
		return f.signal(ctx, f.gateway, f.dialect.Resume)
	})
}

func (f *flow) terminate(ctx context.Context) error {
	return f.Step("control plane: terminate", demo.Wanted{Status: f.dialect.DoneStatus}, func() (demo.Answer, error) {
		return f.signal(ctx, f.gateway, f.dialect.Terminate)
	})
}

func (f *flow) useEnded(ctx context.Context) error {
	want := demo.Wanted{Status: f.dialect.RefusedStatus, Read: demo.Saying("does not exist")}
	return f.Step("consumer: the next request", want, func() (demo.Answer, error) {
		return f.get(ctx, f.edr.Endpoint+f.dialect.Document, f.edr.AccessToken)
	})
}
