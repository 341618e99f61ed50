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
)

// longTTL is the life of tokens once expiry has been shown: the gateway's default.
const longTTL = 5 * time.Minute

// play plays the whole life of a flow in both dialects, and returns one more flow that is left to be tried out.
func (s *stage) play(ctx context.Context, backend string) (*flow, error) {
	for _, d := range []dialect{classicDialect(s.consumer.did, backend), dpsDialect(s.consumer.did, "transfer-2")} {
		s.title(d.title)
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

	s.title("Operation")
	err = s.act(fmt.Sprintf("operator: reload with a token life of %s", brief(longTTL)), func() error {
		return s.gateway.reload(ctx, longTTL)
	})
	if err != nil {
		return nil, err
	}
	f := &flow{stage: s, dialect: dpsDialect(s.consumer.did, "transfer-3")}
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
		subject, err := verifiedClaims(f.edr.accessToken, body)
		if err != nil {
			return "", err
		}
		if subject != f.consumer.did {
			return "", fmt.Errorf("the token was issued to %q", subject)
		}
		return "go-jose verifies the token with them", nil
	}
	return f.step("anybody: the gateway's public keys, /jwks.json", wanted{http.StatusOK, read}, func() (answer, error) {
		return exchange(ctx, f.client, http.MethodGet, f.gateway.data()+"/jwks.json", nil, nil)
	})
}

// scrape reads a gateway's metrics.
func (s *stage) scrape(ctx context.Context, g *gateway) (answer, error) {
	return exchange(ctx, s.client, http.MethodGet, g.signaling()+"/metrics", nil, nil)
}

// reconcile looks for all that was done in the metrics.
func (s *stage) reconcile(ctx context.Context) error {
	var counted []series
	read := func(body []byte) (string, error) {
		var err error
		counted, err = parseMetrics(string(body))
		if err != nil {
			return "", err
		}
		return "they agree with the steps above:", s.counted.compare(counted)
	}
	err := s.step("operator: metrics", wanted{http.StatusOK, read}, func() (answer, error) {
		return s.scrape(ctx, s.gateway)
	})
	if err != nil {
		return err
	}
	tell(s.out, counted)
	return nil
}

// invite writes the flow's messages and tokens to files and prints what can be done with them.
func (f *flow) invite(out io.Writer) error {
	start, err := json.MarshalIndent(f.dialect.start.body, "", "  ")
	if err != nil {
		return err
	}
	path := func(name string) string { return filepath.Join(f.gateway.dir, name) }
	for name, content := range map[string][]byte{
		"start.json":    start,
		"token":         []byte(f.edr.accessToken),
		"refresh_token": []byte(f.edr.refreshToken),
	} {
		err := os.WriteFile(path(name), content, 0o600)
		if err != nil {
			return err
		}
	}
	flowURL := f.gateway.signaling() + "/dataflows/transfer-3"
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
		path("start.json"), f.gateway.signaling(), path("token"), f.edr.endpoint, f.dialect.document, f.gateway.walletPort,
		path("refresh_token"), f.edr.refreshEndpoint, flowURL, f.gateway.admin(), f.gateway.binary,
		f.consumerGateway.egress()+byAsset, f.consumerGateway.admin())
	return err
}
