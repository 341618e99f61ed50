//go:build postgres

package replicas

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/edrgate/edrgate/integration/cluster"
	"github.com/edrgate/edrgate/internal/testkit"
)

// otherProvider is another company's token endpoint. It counts the renewals of each refresh token.
type otherProvider struct {
	*httptest.Server
	wallet *testkit.Wallet // signs access tokens

	mu       sync.Mutex
	renewals map[string]int
}

func newOtherProvider(t *testing.T) *otherProvider {
	p := &otherProvider{wallet: testkit.NewWallet("did:web:other.example"), renewals: map[string]int{}}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		err := r.ParseForm()
		if err != nil {
			t.Error(err)
		}
		refresh := r.Form.Get("refresh_token")
		p.mu.Lock()
		p.renewals[refresh]++
		n := p.renewals[refresh]
		p.mu.Unlock()
		select { // long enough for the other gateway to come, too
		case <-time.After(200 * time.Millisecond):
		case <-r.Context().Done():
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{ // a gateway that is gone does not read it
			"access_token": p.access(), "refresh_token": fmt.Sprintf("%s-%d", refresh, n), "expires_in": 300, "token_type": "bearer",
		})
	}))
	t.Cleanup(p.Close)
	return p
}

func (p *otherProvider) access() string {
	return p.wallet.Sign(p.wallet.Claims(cluster.ProviderDID, "", time.Now()))
}

func (p *otherProvider) count(refresh string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.renewals[refresh]
}

const consumerApp = `consumer {
		kid ` + cluster.ProviderDID + `#key-1
		renew on_use
		allow_http 127.0.0.1
		allow_addresses 127.0.0.0/8
	}`

const consumerSite = `http://{more} {
	edr_consumer
}`

// callEDRs asks a gateway's EDR API.
func callEDRs(ctx context.Context, g *cluster.Gateway, method, path string, body any) (int, map[string]any, error) {
	data, err := json.Marshal(body)
	if err != nil {
		return 0, nil, err
	}
	request, err := http.NewRequestWithContext(ctx, method, "http://"+g.More+path, bytes.NewReader(data))
	if err != nil {
		return 0, nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	answer := map[string]any{}
	_ = json.NewDecoder(response.Body).Decode(&answer) // some have no body
	return response.StatusCode, answer, nil
}

// TestTwoConsumersRenewOnce: two gateways hold the same EDRs as a consumer, and both are asked by many for one that
// expires just then. The provider gets one renewal, and all get its token: a second would be with a token that is superseded by then.
func TestTwoConsumersRenewOnce(t *testing.T) {
	const transfers, parallel = 3, 8 // of each gateway
	provider := newOtherProvider(t)
	c := cluster.New(t, server, cluster.Options{Gateways: 2, App: consumerApp, Sites: consumerSite})
	for n := range transfers {
		id := fmt.Sprintf("transfer-%d", n)
		refresh, first := "refresh-"+id, provider.access()
		property := func(name, value string) map[string]string { return map[string]string{"name": name, "value": value} }
		status, answer, err := callEDRs(timeout(t), c.Gateways[n%2], http.MethodPut, "/v3/edrs/"+id, map[string]any{
			"providerId": "did:web:other.example", "assetId": "weather", "dataAddress": map[string]any{
				"endpointType": "https://w3id.org/dspace-sig/profile/http-pull", "endpoint": provider.URL + "/data",
				"endpointProperties": []any{
					property("authorization", first), property("authType", "bearer"), property("refreshToken", refresh),
					property("refreshEndpoint", provider.URL+"/token"), property("expiresIn", "1"),
				},
			},
		})
		if err != nil || status != http.StatusOK {
			t.Fatalf("putting an EDR: %d, %v, %v", status, answer, err)
		}
		var asking sync.WaitGroup
		tokens := make([]any, parallel*len(c.Gateways))
		for i := range tokens {
			g := c.Gateways[i%len(c.Gateways)]
			asking.Go(func() {
				for ctx := timeout(t); tokens[i] == nil; { // the token has a second to live
					status, answer, err := callEDRs(ctx, g, http.MethodGet, "/v3/edrs/"+id+"/dataaddress", nil)
					if err != nil || status != http.StatusOK {
						t.Errorf("%s: %d, %v, %v", g.Name, status, answer, err)
						return
					}
					if answer["authorization"] != first {
						tokens[i] = answer["authorization"]
					}
				}
			})
		}
		asking.Wait()
		for _, token := range tokens {
			if token != tokens[0] || token == nil {
				t.Fatalf("%s was given out with different tokens", id)
			}
		}
		if got := provider.count(refresh); got != 1 {
			t.Errorf("the provider got %d renewals of %s, want 1", got, id)
		}
		if got := provider.count(refresh + "-1"); got != 0 {
			t.Errorf("%s was renewed %d times more, without need", id, got)
		}
	}
}
