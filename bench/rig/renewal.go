package rig

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/edrgate/edrgate/internal/testkit"
)

// Renewing is one flow whose consumer renews its tokens over and over, each time with the refresh token that it got last.
type Renewing struct {
	wallet  *testkit.Wallet
	access  string
	refresh string
	proofs  []string
}

// NewRenewing returns a flow as its EDR has it. wallet is the consumer's.
func NewRenewing(wallet *testkit.Wallet, edr *EDR) *Renewing {
	return &Renewing{wallet: wallet, access: edr.Access, refresh: edr.Refresh}
}

// Prepare signs the proofs of the next n renewals. That is the consumer's work, which is not what is measured.
func (f *Renewing) Prepare(n int) {
	f.proofs = f.proofs[:0]
	for range n {
		f.proofs = append(f.proofs, f.wallet.Proof(ProviderDID, f.access, time.Now()))
	}
}

// Renew sends the prepared renewals of all flows, those of one after the other and all flows in parallel. It returns how long
// that took, and how long each took, sorted.
func Renew(ctx context.Context, endpoint string, flows []*Renewing) (time.Duration, []time.Duration, error) {
	client := &http.Client{Timeout: time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: len(flows)}}
	defer client.CloseIdleConnections()
	latencies := make([][]time.Duration, len(flows))
	failed := make(chan error, len(flows))
	start := time.Now()
	var wait sync.WaitGroup
	for i, f := range flows {
		wait.Go(func() {
			var err error
			latencies[i], err = f.renew(ctx, client, endpoint)
			if err != nil {
				failed <- err
			}
		})
	}
	wait.Wait()
	elapsed := time.Since(start)
	if len(failed) > 0 {
		return 0, nil, <-failed
	}
	all := slices.Concat(latencies...)
	slices.Sort(all)
	return elapsed, all, nil
}

// renew sends a renewal for each proof (RFC 6749 §6).
func (f *Renewing) renew(ctx context.Context, client *http.Client, endpoint string) ([]time.Duration, error) {
	latencies := make([]time.Duration, 0, len(f.proofs))
	for _, proof := range f.proofs {
		form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {f.refresh}}
		request, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint, strings.NewReader(form.Encode()))
		if err != nil {
			return nil, err
		}
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		request.Header.Set("Authorization", "Bearer "+proof)
		start := time.Now()
		response, err := client.Do(request)
		if err != nil {
			return nil, err
		}
		body, err := io.ReadAll(response.Body)
		latencies = append(latencies, time.Since(start))
		_ = response.Body.Close()
		if err != nil {
			return nil, err
		}
		if response.StatusCode != http.StatusOK {
			return nil, fmt.Errorf("renewal: %s: %s", response.Status, body)
		}
		var renewed struct {
			Refresh string `json:"refresh_token"`
		}
		err = json.Unmarshal(body, &renewed)
		if err != nil {
			return nil, err
		}
		f.refresh = renewed.Refresh
	}
	return latencies, nil
}

// HostWallets returns wallets whose DID documents (did:web) a server of this process has.
func HostWallets(n int) (*http.Server, []*testkit.Wallet, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	_, port, err := net.SplitHostPort(listener.Addr().String())
	if err != nil {
		return nil, nil, err
	}
	wallets := make([]*testkit.Wallet, n)
	mux := http.NewServeMux()
	for i := range wallets {
		name := fmt.Sprintf("consumer-%d", i)
		wallets[i] = testkit.NewWallet("did:web:localhost%3A" + port + ":" + name)
		document := wallets[i].Document()
		mux.HandleFunc("GET /"+name+"/did.json", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/did+json")
			_, _ = w.Write(document)
		})
	}
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = server.Serve(listener) }() // until it is closed
	return server, wallets, nil
}
