package caddymodule

import (
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/edrgate/edrgate/internal/testkit"
)

func TestRegisterCaddyfile(t *testing.T) {
	app := new(App)
	err := app.UnmarshalCaddyfile(caddyfile.NewTestDispenser(`edrgate {
		control_plane main {
			register classic http://cp:8083/api/control/v1/dataplanes {
				signaling_url http://10.0.0.5:8181
				source_types HttpData
			}
			register dps http://cp:8081/management/v4/dataplanes {
				signaling_url http://10.0.0.5:8181
				id gateway
				transfer_types HttpData-PULL
				transfer_types ProxyHttpData-PULL
				profiles http-pull
				labels gold eu
				api_key {file./run/secrets/management}
			}
			callback http://cp:8083/api/control
		}
	}`))
	if err != nil {
		t.Fatal(err)
	}
	want := []ControlPlane{{Name: "main", Callback: "http://cp:8083/api/control", Register: []Register{
		{
			Protocol: "classic", URL: "http://cp:8083/api/control/v1/dataplanes", SignalingURL: "http://10.0.0.5:8181",
			SourceTypes: []string{"HttpData"},
		},
		{
			Protocol: "dps", URL: "http://cp:8081/management/v4/dataplanes", SignalingURL: "http://10.0.0.5:8181", ID: "gateway",
			TransferTypes: []string{"HttpData-PULL", "ProxyHttpData-PULL"}, Profiles: []string{"http-pull"},
			Labels: []string{"gold", "eu"}, APIKey: "{file./run/secrets/management}",
		},
	}}}
	if !reflect.DeepEqual(app.ControlPlanes, want) {
		t.Errorf("%+v", app.ControlPlanes)
	}
	for _, bad := range []string{
		"register", "register classic", "register edc http://cp", "register dps http://cp x", "register dps http://cp {\nurl x\n}",
		"register dps http://cp {\nid\n}", "register dps http://cp {\nlabels\n}", "register dps http://cp {\nid a\nid b\n}",
	} {
		err := new(App).UnmarshalCaddyfile(caddyfile.NewTestDispenser("edrgate {\ncontrol_plane main {\n" + bad + "\n}\n}"))
		if err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestRegisterSettings(t *testing.T) {
	g := newLiveGateway(t)
	good := object{"protocol": "classic", "url": "http://127.0.0.1:1/v1/dataplanes", "signaling_url": "http://10.0.0.5:8181"}
	with := func(edits object) object {
		changed := maps.Clone(good)
		maps.Copy(changed, edits)
		return changed
	}
	onlyDPS := g.servers()
	onlyDPS["signaling"] = g.site("signaling", object{"handler": "edr_signaling", "protocols": []string{"dps"}})
	for name, test := range map[string]struct {
		registers []object
		servers   object
		want      string
	}{
		"protocol":               {[]object{with(object{"protocol": "edc"})}, nil, "none of classic, dps"},
		"no url":                 {[]object{with(object{"url": ""})}, nil, "url: must be"},
		"no signaling url":       {[]object{with(object{"signaling_url": ""})}, nil, "signaling_url is required"},
		"whole signaling url":    {[]object{with(object{"signaling_url": "http://10.0.0.5:8181/v1/dataflows"})}, nil, "leave out what is appended"},
		"profiles of classic":    {[]object{with(object{"profiles": []string{"x"}})}, nil, "profiles and labels of dps only"},
		"source types of dps":    {[]object{with(object{"protocol": "dps", "source_types": []string{"x"}})}, nil, "source_types are of classic"},
		"missing key":            {[]object{with(object{"api_key": "{file./does/not/exist}"})}, nil, "api_key"},
		"key with a line break":  {[]object{with(object{"api_key": "a\nb"})}, nil, "api_key cannot stand in a header"},
		"one id twice":           {[]object{good, with(object{"protocol": "dps"})}, nil, "has the id edrgate-default too"},
		"dialect nobody answers": {[]object{good}, onlyDPS, "no site has edr_signaling with `protocol edc`"},
	} {
		t.Run(name, func(t *testing.T) {
			app := g.app()
			app["control_planes"] = []object{{"name": "default", "register": test.registers}}
			servers := test.servers
			if servers == nil {
				servers = g.servers()
			}
			err := g.tryLoad(app, servers)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v", err)
			}
		})
	}
}

// dataPlanes is the registration of a control plane.
type dataPlanes struct {
	*httptest.Server
	mu    sync.Mutex
	known string // body of the last registration
	puts  int
	keys  []string
}

func newDataPlanes(t *testing.T) *dataPlanes {
	t.Helper()
	p := &dataPlanes{}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.keys = append(p.keys, r.Header.Get("X-Api-Key"))
		if r.Method != http.MethodGet {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			p.known = string(body)
			p.puts++
			return
		}
		_, _ = io.WriteString(w, "["+p.known+"]")
	}))
	t.Cleanup(p.Close)
	return p
}

func (p *dataPlanes) registrations() (int, string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.puts, p.known
}

// The gateway registers when it starts, keeps its registration over a reload without repeating it, and leaves it in place
// when it stops.
func TestGatewayRegisters(t *testing.T) {
	g := newLiveGateway(t)
	plane := newDataPlanes(t)
	app := g.app()
	app["control_planes"] = []object{{"name": "default", "register": []object{{
		"protocol": "classic", "url": plane.URL + "/v1/dataplanes", "signaling_url": "http://10.0.0.5:8181/", "id": "gateway", "api_key": "canary-key",
	}}}}
	g.load(app, g.servers())
	testkit.Eventually(t, "a registration", func() bool { n, _ := plane.registrations(); return n == 1 })
	_, body := plane.registrations()
	for _, want := range []string{`"@id":"gateway"`, `"url":"http://10.0.0.5:8181/v1/dataflows"`, `"allowedTransferTypes":["HttpData-PULL","ProxyHttpData-PULL"]`} {
		if !strings.Contains(body, want) {
			t.Errorf("%s is not in %s", want, body)
		}
	}
	g.load(app, g.servers())
	testkit.Eventually(t, "a look at what is registered", func() bool { return strings.Contains(g.logged(), "control plane knows this data plane") })
	err := caddy.Stop()
	if err != nil {
		t.Fatal(err)
	}
	if n, _ := plane.registrations(); n != 1 {
		t.Errorf("%d registrations", n)
	}
	plane.mu.Lock()
	defer plane.mu.Unlock()
	for _, key := range plane.keys {
		if key != "canary-key" {
			t.Errorf("key %q", key)
		}
	}
	if strings.Contains(g.logged(), "canary-key") {
		t.Error("the key is in the log")
	}
}
