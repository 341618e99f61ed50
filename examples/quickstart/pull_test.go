package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"

	"github.com/edrgate/edrgate/examples/internal/demo"
)

func TestInState(t *testing.T) {
	for _, test := range []struct{ body, fails string }{
		{`{"dataFlowId":"pull-1","state":"PREPARED"}`, ""},
		{`{"dataFlowId":"pull-1","state":"STARTED"}`, `want the state PREPARED, but it is "STARTED"`},
		{`{}`, `but it is ""`},
		{``, "unexpected end"},
	} {
		told, err := inState("PREPARED")([]byte(test.body))
		if test.fails == "" {
			if told != "PREPARED" || err != nil {
				t.Errorf("%s: told %q, error %v", test.body, told, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), test.fails) {
			t.Errorf("%s: error is %v", test.body, err)
		}
	}
}

// The consumer's gateway must get the data address as the provider's wrote it, with what no control plane knows.
func TestHandingOver(t *testing.T) {
	const address = `{"@type":"DataAddress","endpoint":"http://127.0.0.1:1","unknown":{"to":"us"},"endpointProperties":[
		{"name":"authorization","value":"access-token-of-the-flow"},{"name":"refreshToken","value":"refresh"},
		{"name":"refreshEndpoint","value":"http://127.0.0.1:1/token"},{"name":"expiresIn","value":"300"},
		{"name":"refreshAudience","value":"did:web:provider.example"}]}`
	var path string
	var got, want any
	signaling := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var message struct {
			DataAddress any `json:"dataAddress"`
		}
		err := json.NewDecoder(r.Body).Decode(&message)
		if err != nil {
			t.Error(err)
		}
		path, got = r.URL.Path, message.DataAddress
	}))
	defer signaling.Close()
	var out strings.Builder
	p := &pull{
		stage: &stage{
			Narrator: demo.Narrator{Out: &out}, client: signaling.Client(),
			consumerGateway: &demo.Gateway{SignalingPort: demo.PortOf(signaling.Listener)},
		},
		provider: demo.DPSDialect("did:web:consumer.example", "transfer-4"),
	}
	_, err := p.take([]byte(`{"state":"STARTED","dataAddress":` + address + `}`))
	if err != nil {
		t.Fatal(err)
	}
	err = p.started(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	err = json.Unmarshal([]byte(address), &want)
	if err != nil {
		t.Fatal(err)
	}
	if path != "/dataflows/pull-1/started" || !reflect.DeepEqual(got, want) {
		t.Errorf("%s got %v", path, got)
	}
	if strings.Contains(out.String(), "access-token") {
		t.Errorf("told %q", out.String())
	}
}
