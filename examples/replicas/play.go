package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/edrgate/edrgate/examples/internal/demo"
	"github.com/edrgate/edrgate/store/postgres/pgtest"
)

// stage is who is there.
type stage struct {
	demo.Narrator
	client   *http.Client
	database *database
	front    *demo.Gateway
	gateways []*demo.Gateway
	consumer *demo.Wallet

	flows   int // that were started
	dialect demo.Dialect
	edr     *demo.EDR
}

// renewals are so many that each gateway gets some, even if one has been left out for a moment.
const renewals = 4 * gateways

// play plays a flow, and the loss of a gateway and of the database.
func (s *stage) play(ctx context.Context) error {
	for _, step := range []func(context.Context) error{
		s.start, s.use, s.renewEverywhere, s.end, s.loseGateway, s.loseDatabase,
	} {
		err := step(ctx)
		if err != nil {
			return err
		}
	}
	return nil
}

// start starts a flow through the Caddy in front.
func (s *stage) start(ctx context.Context) error {
	s.flows++
	s.dialect = demo.DPSDialect(s.consumer.DID, fmt.Sprintf("transfer-%d", s.flows))
	take := func(body []byte) (string, error) {
		var err error
		s.edr, err = s.dialect.ReadEDR(body)
		if err != nil {
			return "", err
		}
		return s.edr.String(), nil
	}
	return s.Step("control plane: start, through the Caddy in front", demo.Wanted{Status: http.StatusOK, Read: take}, func() (demo.Answer, error) {
		return s.signal(ctx, s.front.Signaling(), s.dialect.Start)
	})
}

func (s *stage) signal(ctx context.Context, to string, m demo.Message) (demo.Answer, error) {
	body, err := json.Marshal(m.Body)
	if err != nil {
		return demo.Answer{}, err
	}
	return demo.Exchange(ctx, s.client, http.MethodPost, to+m.Path, http.Header{"Content-Type": {"application/json"}}, body)
}

// get is a data request with the flow's token, at a gateway as the Caddy in front sends it.
func (s *stage) get(ctx context.Context, at *demo.Gateway) (demo.Answer, error) {
	path := strings.TrimPrefix(s.edr.Endpoint, s.front.Data())
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, at.Data()+path+s.dialect.Document, nil)
	if err != nil {
		return demo.Answer{}, err
	}
	request.Host = "127.0.0.1:" + s.front.DataPort
	request.Header.Set("Authorization", s.edr.AccessToken)
	return demo.Do(s.client, request)
}

// use gets data from each gateway: all take the token that one of them has issued.
func (s *stage) use(ctx context.Context) error {
	for i, g := range s.gateways {
		err := s.useAt(ctx, i, g)
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *stage) useAt(ctx context.Context, i int, g *demo.Gateway) error {
	want := demo.Wanted{Status: http.StatusOK, Read: demo.Exactly(demo.Greeting)}
	return s.Step(fmt.Sprintf("consumer: data with that token, at gateway %d", i+1), want, func() (demo.Answer, error) {
		return s.get(ctx, g)
	})
}

// renew renews through the Caddy in front, which chooses the gateway.
func (s *stage) renew(ctx context.Context, what string) error {
	read := func(body []byte) (string, error) {
		renewed, err := demo.ReadRenewed(body)
		if err != nil {
			return "", err
		}
		if renewed.RefreshToken == s.edr.RefreshToken {
			return "", errors.New("the refresh token is the one before")
		}
		s.edr.AccessToken, s.edr.RefreshToken = renewed.AccessToken, renewed.RefreshToken
		return renewed.String(), nil
	}
	return s.Step(what, demo.Wanted{Status: http.StatusOK, Read: read}, func() (demo.Answer, error) {
		r, err := demo.NewRenewal(s.dialect, s.edr, s.consumer)
		if err != nil {
			return demo.Answer{}, err
		}
		return r.Send(ctx, s.client)
	})
}

// renewEverywhere renews until each gateway has had a part: each goes on from what another one has made.
func (s *stage) renewEverywhere(ctx context.Context) error {
	s.Title("Renewals, each at whichever gateway it comes to")
	for range renewals {
		err := s.renew(ctx, "consumer: renewal, signed with the key of its DID")
		if err != nil {
			return err
		}
	}
	var parts []string
	total := 0.0
	for i, g := range s.gateways {
		got, err := demo.Exchange(ctx, s.client, http.MethodGet, g.Signaling()+"/metrics", nil, nil)
		if err != nil {
			return err
		}
		all, err := demo.ParseMetrics(string(got.Body))
		if err != nil {
			return err
		}
		rotated := demo.Sum(all, "edrgate_renewals_total", `result="rotated"`)
		if rotated == 0 {
			return fmt.Errorf("gateway %d has renewed nothing", i+1)
		}
		total += rotated
		parts = append(parts, fmt.Sprint(rotated))
	}
	if total != renewals {
		return fmt.Errorf("%d renewals were sent, but the gateways have counted %v", renewals, total)
	}
	fmt.Fprintf(s.Out, "     edrgate_renewals_total{result=\"rotated\"} at the gateways: %s\n", strings.Join(parts, ", "))
	return s.use(ctx)
}

// Known bounds of the gateway.
const (
	maxStaleness = 10 * time.Second // its default, after which what it remembers is not served
	comesBack    = 30 * time.Second // is far above what anything needs here
)

// end terminates the flow at the first gateway and measures how long it is open at the others.
func (s *stage) end(ctx context.Context) error {
	s.Title("An ending reaches all gateways")
	err := s.Step("control plane: terminate, at gateway 1", demo.Wanted{Status: s.dialect.DoneStatus}, func() (demo.Answer, error) {
		return s.signal(ctx, s.gateways[0].Signaling(), s.dialect.Terminate)
	})
	if err != nil {
		return err
	}
	seen := s.seeRefusals(ctx, time.Now())
	for i := range s.gateways {
		var lag time.Duration
		read := func(body []byte) (string, error) {
			told, err := demo.Saying("does not exist")(body)
			return fmt.Sprintf("%s; %d ms after the answer to the control plane", told, lag.Milliseconds()), err
		}
		want := demo.Wanted{Status: s.dialect.RefusedStatus, Read: read}
		err := s.Step(fmt.Sprintf("consumer: data with the last token, at gateway %d", i+1), want, func() (demo.Answer, error) {
			r := <-seen[i]
			lag = r.lag
			return r.answer, r.err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// refusal is the first answer of a gateway that is no data, or the last one that was looked at.
type refusal struct {
	answer demo.Answer
	err    error
	lag    time.Duration // from the ending to the answer
}

// seeRefusals asks all gateways at once, again and again until they refuse. Each channel gets one value.
func (s *stage) seeRefusals(ctx context.Context, ended time.Time) []chan refusal {
	seen := make([]chan refusal, len(s.gateways))
	for i, g := range s.gateways {
		seen[i] = make(chan refusal, 1)
		go func() {
			for {
				got, err := s.get(ctx, g)
				lag := time.Since(ended)
				if err != nil || got.Status != http.StatusOK || lag > maxStaleness {
					seen[i] <- refusal{got, err, lag}
					return
				}
			}
		}()
	}
	return seen
}

// loseGateway kills one. Consumers notice nothing.
func (s *stage) loseGateway(ctx context.Context) error {
	s.Title("A gateway is lost")
	last := len(s.gateways) - 1
	err := s.start(ctx)
	if err != nil {
		return err
	}
	err = s.Act(fmt.Sprintf("gateway %d is killed", last+1), s.gateways[last].Kill)
	for range gateways {
		if err == nil {
			err = s.renew(ctx, "consumer: renewal")
		}
	}
	if err != nil {
		return err
	}
	err = s.Act("operator: it is started again", func() error { return s.gateways[last].Start(ctx, s.client, tokenTTL) })
	if err != nil {
		return err
	}
	return s.useAt(ctx, last, s.gateways[last])
}

// loseDatabase kills PostgreSQL. What is known is served for max_staleness; nobody is told "no".
func (s *stage) loseDatabase(ctx context.Context) error {
	s.Title("The database is lost, and comes back")
	err := s.use(ctx)
	if err != nil {
		return err
	}
	err = s.Act("PostgreSQL is killed", s.database.Kill)
	if err != nil {
		return err
	}
	err = s.useAt(ctx, 0, s.gateways[0])
	if err != nil {
		return err
	}
	err = s.Step("consumer: renewal", demo.Wanted{Status: http.StatusServiceUnavailable}, func() (demo.Answer, error) {
		r, err := demo.NewRenewal(s.dialect, s.edr, s.consumer)
		if err != nil {
			return demo.Answer{}, err
		}
		return r.Send(ctx, s.client)
	})
	if err != nil {
		return err
	}
	// The control plane would not ask again. It gets its answer, and the ending is kept until the database has it.
	err = s.Step("control plane: terminate, at gateway 1", demo.Wanted{Status: s.dialect.DoneStatus}, func() (demo.Answer, error) {
		return s.signal(ctx, s.gateways[0].Signaling(), s.dialect.Terminate)
	})
	if err != nil {
		return err
	}
	err = s.refusedAt(ctx, "consumer: data with the last token, at gateway 1", s.gateways[0])
	if err != nil {
		return err
	}
	err = s.Act("PostgreSQL is started again", func() error { return s.database.Run(ctx) })
	if err != nil {
		return err
	}
	for i, g := range s.gateways {
		err = s.refusedAt(ctx, fmt.Sprintf("consumer: until it is refused, at gateway %d", i+1), g)
		if err != nil {
			return err
		}
	}
	return s.start(ctx)
}

// refusedAt asks until a gateway refuses the token of the ended flow.
func (s *stage) refusedAt(ctx context.Context, what string, g *demo.Gateway) error {
	want := demo.Wanted{Status: s.dialect.RefusedStatus, Read: demo.Saying("does not exist")}
	return s.Step(what, want, func() (demo.Answer, error) {
		ctx, cancel := context.WithTimeout(ctx, comesBack)
		defer cancel()
		ticker := time.NewTicker(demo.PollEvery)
		defer ticker.Stop()
		for {
			got, err := s.get(ctx, g)
			if err != nil || !slices.Contains([]int{http.StatusOK, http.StatusServiceUnavailable}, got.Status) {
				return got, err
			}
			select {
			case <-ctx.Done():
				return got, nil
			case <-ticker.C:
			}
		}
	})
}

// invite prints what can be done.
func (s *stage) invite() {
	fmt.Fprintf(s.Out, `
Everything stays up until Ctrl-C. The last flow is yours:

its data, from whichever gateway
  curl -i -H 'Authorization: %s' %s%s
all flows, at each gateway
`, s.edr.AccessToken, s.edr.Endpoint, s.dialect.Document)
	for _, g := range s.gateways {
		fmt.Fprintf(s.Out, "  curl -s %s/edrgate/flows\n", g.Admin())
	}
	fmt.Fprintf(s.Out, "the database\n  psql '%s'\n", s.database.SocketDSN(pgtest.Admin, "edrgate"))
}

// wait returns when the user or a Caddy ends.
func (s *stage) wait(ctx context.Context) error {
	ended := make(chan *demo.Gateway, 1+gateways)
	for _, g := range append([]*demo.Gateway{s.front}, s.gateways...) {
		go func() {
			<-g.Exited
			ended <- g
		}()
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case g := <-ended:
		if ctx.Err() != nil {
			return ctx.Err() // Ctrl-C reaches Caddy too
		}
		return fmt.Errorf("caddy with %s has ended: %w", g.ConfigFile(), g.Ended())
	}
}
