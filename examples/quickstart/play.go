package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/edrgate/edrgate/examples/internal/demo"
)

// longTTL is the life of tokens once expiry has been shown: the gateway's default.
const longTTL = 5 * time.Minute

// play plays the whole life of a flow in both dialects, and returns one more flow that is left to be tried out.
func (s *stage) play(ctx context.Context, backend string) (*flow, error) {
	for _, d := range []demo.Dialect{demo.ClassicDialect(s.consumer.DID, backend), demo.DPSDialect(s.consumer.DID, "transfer-2")} {
		s.Title(d.Title)
		f := &flow{stage: s, dialect: d}
		err := f.live(ctx)
		if err != nil {
			return nil, err
		}
	}

	err := s.pull(ctx)
	if err != nil {
		return nil, err
	}

	s.Title("Operation")
	err = s.Act(fmt.Sprintf("operator: reload with a token life of %s", demo.Brief(longTTL)), func() error {
		return s.gateway.Reload(ctx, longTTL)
	})
	if err != nil {
		return nil, err
	}
	f := &flow{stage: s, dialect: demo.DPSDialect(s.consumer.DID, "transfer-3")}
	for _, step := range []func(context.Context) error{f.start, f.use, f.verify, s.reconcile} {
		err := step(ctx)
		if err != nil {
			return nil, err
		}
	}
	return f, nil
}

// verify checks the access token with the published keys.
func (f *flow) verify(ctx context.Context) error {
	read := func(body []byte) (string, error) {
		subject, err := demo.VerifiedClaims(f.edr.AccessToken, body)
		if err != nil {
			return "", err
		}
		if subject != f.consumer.DID {
			return "", fmt.Errorf("the token was issued to %q", subject)
		}
		return "go-jose verifies the token with them", nil
	}
	return f.Step("anybody: the gateway's public keys, /jwks.json", demo.Wanted{Status: http.StatusOK, Read: read}, func() (demo.Answer, error) {
		return demo.Exchange(ctx, f.client, http.MethodGet, f.gateway.Data()+"/jwks.json", nil, nil)
	})
}

// scrape reads a gateway's metrics.
func (s *stage) scrape(ctx context.Context, g *demo.Gateway) (demo.Answer, error) {
	return demo.Exchange(ctx, s.client, http.MethodGet, g.Signaling()+"/metrics", nil, nil)
}

// reconcile looks for all that was done in the metrics.
func (s *stage) reconcile(ctx context.Context) error {
	var counted []demo.Series
	read := func(body []byte) (string, error) {
		var err error
		counted, err = demo.ParseMetrics(string(body))
		if err != nil {
			return "", err
		}
		return "they agree with the steps above:", s.counted.compare(counted)
	}
	err := s.Step("operator: metrics", demo.Wanted{Status: http.StatusOK, Read: read}, func() (demo.Answer, error) {
		return s.scrape(ctx, s.gateway)
	})
	if err != nil {
		return err
	}
	tell(s.Out, counted)
	return nil
}

// invite writes the flow's messages and tokens to files and prints what can be done with them.
func (f *flow) invite(out io.Writer) error {
	start, err := json.MarshalIndent(f.dialect.Start.Body, "", "  ")
	if err != nil {
		return err
	}
	path := func(name string) string { return filepath.Join(f.gateway.Dir, name) }
	for name, content := range map[string][]byte{
		"start.json":    start,
		"token":         []byte(f.edr.AccessToken),
		"refresh_token": []byte(f.edr.RefreshToken),
	} {
		err := os.WriteFile(path(name), content, 0o600)
		if err != nil {
			return err
		}
	}
	flowURL := f.gateway.Signaling() + "/dataflows/transfer-3"
	_, err = fmt.Fprintf(out, `
Both Caddys stay up until Ctrl-C. transfer-3 is yours:

start, again: the same EDR with a fresh access token
  curl -s -H 'Content-Type: application/json' --data '@%[1]s' %[2]s/dataflows/start
data
  curl -i -H "Authorization: Bearer $(cat '%[3]s')" %[4]s%[5]s
renewal, proven by the consumer's wallet
  curl -s -H "Authorization: Bearer $(curl -s --data-binary '@%[3]s' http://127.0.0.1:%[6]s/consumer/proof)" \
    -d grant_type=refresh_token -d "refresh_token=$(cat '%[7]s')" %[8]s
suspend, and try data again; resume
  curl -i -X POST %[9]s/suspend
  curl -s -X POST %[9]s/resume
metrics
  curl -s %[2]s/metrics | grep '^edrgate_.*_total' | grep -v ' 0$'
all flows, one flow, the end of it
  curl -s %[10]s/edrgate/flows
  %[11]s edr show transfer-3 --address %[10]s
  %[11]s edr revoke transfer-3 --address %[10]s

pull-1 is in the keeping of the consumer's gateway: data without a token, at any time; the EDRs that it has
  curl -i '%[12]s'
  %[11]s edr edrs --address %[13]s
`,
		path("start.json"), f.gateway.Signaling(), path("token"), f.edr.Endpoint, f.dialect.Document, f.gateway.Values["WALLET_PORT"],
		path("refresh_token"), f.edr.RefreshEndpoint, flowURL, f.gateway.Admin(), f.gateway.Binary,
		f.consumerGateway.Egress()+byAsset, f.consumerGateway.Admin())
	return err
}
