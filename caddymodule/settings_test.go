package caddymodule

import (
	"encoding/json"
	"maps"
	"os"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

func TestSettings(t *testing.T) {
	g := newLiveGateway(t)
	err := os.WriteFile(g.path("short.key"), []byte("short"), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		edits object
		want  string
	}{
		"no did":                    {object{"did": ""}, "did is required"},
		"no DID":                    {object{"did": "provider"}, `did "provider" is not a DID`},
		"participant":               {object{"participant": "a/b"}, `participant "a/b"`},
		"no key":                    {object{"signing_keys": nil}, "signing_key is required"},
		"key state":                 {object{"signing_keys": []object{{"file": g.path("signing.pem"), "state": "old"}}}, `state "old"`},
		"no active key":             {object{"signing_keys": []object{{"file": g.path("signing.pem"), "state": "next"}}}, "no signing key is active"},
		"unknown placeholder":       {object{"signing_keys": []object{{"file": "{secret.signing}"}}}, "{secret.signing}"},
		"missing file placeholder":  {object{"signing_keys": []object{{"file": "{file." + g.path("none") + "}"}}}, "signing_key {file."},
		"short refresh key":         {object{"refresh_keys": []string{g.path("short.key")}}, "refresh key: 5 bytes"},
		"no public url":             {object{"public_url": ""}, "public_url is required"},
		"public url in clear":       {object{"public_url": "http://data.example"}, "must be https"},
		"public url with query":     {object{"public_url": "https://data.example?x=1"}, "no user, query or fragment"},
		"public url relative":       {object{"public_url": "/data"}, "must be an absolute https URL"},
		"refresh path":              {object{"refresh_path": "token"}, "refresh_path"},
		"refresh path with dots":    {object{"refresh_path": "/a/../token"}, "refresh_path"},
		"refresh path with slash":   {object{"refresh_path": "/token/"}, "refresh_path"},
		"ttl below a second":        {object{"token_ttl": "10ms"}, "token_ttl must be at least 1s"},
		"negative ttl":              {object{"refresh_ttl": "-1s"}, "refresh_ttl must be at least 0s"},
		"unacknowledged ttl":        {object{"unacknowledged_ttl": "30m"}, "must be 0 or at least 1h"},
		"negative unacknowledged":   {object{"unacknowledged_ttl": "-30d"}, "unacknowledged_ttl must be at least 0s"},
		"refresh ttl too short":     {object{"refresh_ttl": "1m"}, "shorter than token_ttl"},
		"skew":                      {object{"clock_skew": "1h"}, "clock_skew must be at most 10m0s"},
		"did map":                   {object{"did_map": object{"BPNL1": "x"}}, `did_map BPNL1: "x" is not a DID`},
		"did map of a DID":          {object{"did_map": object{"did:web:a": "did:web:b"}}, "cannot be mapped"},
		"duplicate start":           {object{"duplicate_start": "refuse"}, "duplicate_start"},
		"error format":              {object{"error_format": "xml"}, "error_format"},
		"control plane name":        {object{"control_planes": []object{{"name": "a b"}}}, `control_plane "a b"`},
		"control plane twice":       {object{"control_planes": []object{{"name": "a", "formerly": []string{"b"}}, {"name": "b"}}}, "control_plane b is listed twice"},
		"unknown store":             {object{"store": object{"module": "bolt"}}, "edrgate.stores.bolt"},
		"unknown field":             {object{"token_tll": "5m"}, "token_tll"},
		"resolver relationship":     {object{"resolver": object{"relationship": "all"}}, "relationship"},
		"resolver timeout":          {object{"resolver": object{"timeout": "1h"}}, "timeout must be at most"},
		"resolver network":          {object{"resolver": object{"allow_addresses": []string{"10.0.0.1/8"}}}, "10.0.0.0/8"},
		"route without dataset":     {object{"routes": object{"r": object{"backend": "https://b"}}}, "route r: dataset, profile, label or metadata is required"},
		"route of nothing":          {object{"routes": object{"r": object{"datasets": []string{"a"}}}}, "says nothing"},
		"route backend":             {object{"routes": object{"r": object{"datasets": []string{"a"}, "backend": "backend:80"}}}, "absolute http or https URL"},
		"route backend user":        {object{"routes": object{"r": object{"datasets": []string{"a"}, "backend": "https://u:p@b"}}}, "no user"},
		"route twice":               {object{"routes": object{"r": object{"datasets": []string{"a"}, "backend": "https://b"}, "s": object{"datasets": []string{"a"}, "backend": "https://b"}}}, `dataset "a" is also in route`},
		"route header of no file":   {object{"routes": object{"r": object{"datasets": []string{"a"}, "backend": "https://b", "headers": object{"X": "{file." + g.path("none") + "}"}}}}, "header X: {file." + g.path("none") + "}: cannot open the file: no such file"},
		"route header placeholder":  {object{"routes": object{"r": object{"datasets": []string{"a"}, "backend": "https://b", "headers": object{"X": "{nothing.here}"}}}}, "header X"},
		"route scheme template":     {object{"routes": object{"r": object{"labels": []string{"a"}, "backend": "{edr.metadata.a}://b"}}}, "begin with http:// or https://"},
		"route user template":       {object{"routes": object{"r": object{"labels": []string{"a"}, "backend": "https://{edr.metadata.a}@b"}}}, "a user or password"},
		"route placeholder":         {object{"routes": object{"r": object{"labels": []string{"a"}, "backend": "https://b/{edr.metdata.a}"}}}, "backend https://b/{edr.metdata.a}: unknown placeholder {edr.metdata.a}"},
		"route header template":     {object{"routes": object{"r": object{"labels": []string{"a"}, "backend": "https://b", "headers": object{"X": "{edr.x}"}}}}, "header X: unknown placeholder"},
		"route header name":         {object{"routes": object{"r": object{"labels": []string{"a"}, "backend": "https://b/{edr.dataset}", "headers": object{"Connection": "x"}}}}, "header Connection: belongs to the connection"},
		"route header and secret":   {object{"routes": object{"r": object{"labels": []string{"a"}, "backend": "https://b", "headers": object{"x-key": "x"}, "secrets": object{"X-Key": object{"name": "n"}}}}}, "secret X-Key: is set twice"},
		"route secret header":       {object{"routes": object{"r": object{"labels": []string{"a"}, "backend": "https://b", "secrets": object{"edc-bpn": object{"name": "n"}}}}}, "secret edc-bpn: is no header for a credential"},
		"route secret name":         {object{"routes": object{"r": object{"labels": []string{"a"}, "backend": "https://b", "secrets": object{"X-Key": object{}}}}}, "secret X-Key: the name of a secret of edr_proxy is required"},
		"route secret scheme":       {object{"routes": object{"r": object{"labels": []string{"a"}, "backend": "https://b", "secrets": object{"X-Key": object{"name": "n", "scheme": "a b"}}}}}, "the scheme is a word such as Bearer"},
		"route secret, no backend":  {object{"routes": object{"r": object{"labels": []string{"a"}, "public_url": "https://r.example", "secrets": object{"X-Key": object{"name": "n"}}}}}, "no backend to send it to"},
		"route public_url template": {object{"routes": object{"r": object{"labels": []string{"a"}, "public_url": "https://r.example/{edr.dataset}"}}}, "public_url takes no placeholders of a flow"},
		"route metadata value":      {object{"routes": object{"r": object{"metadata": []object{{"member": "a"}}, "backend": "https://b"}}}, "metadata a: a value is required"},
		"route metadata member":     {object{"routes": object{"r": object{"metadata": []object{{"member": "a..b", "values": []string{"x"}}}, "backend": "https://b"}}}, "metadata a..b: a member has no name"},
		"route label empty":         {object{"routes": object{"r": object{"labels": []string{""}, "backend": "https://b"}}}, "label takes no empty text"},
		"route env in a template":   {object{"routes": object{"r": object{"labels": []string{"a"}, "backend": "https://b/{env.EDRGATE_TEST_NONE}/{edr.dataset}"}}}, "{env.EDRGATE_TEST_NONE}"},
		"async without callback":    {object{"routes": object{"r": object{"datasets": []string{"a"}, "async": true}}}, "route r: async needs a callback of every control plane"},
		"limit of requests":         {object{"limits": object{"requests_per_flow": -2}}, "limits: requests_per_flow and requests_per_consumer must be above 0, or -1"},
		"limit of renewals":         {object{"limits": object{"renewals": -1}}, "limits: renewals, renewals_per_consumer and starts must be above 0"},
		"limit of a flow":           {object{"limits": object{"requests_per_flow": 3, "requests_per_consumer": 2}}, "limits: requests_per_flow is above requests_per_consumer"},
		"limit of one's renewals":   {object{"limits": object{"renewals": 2, "renewals_per_consumer": 3}}, "limits: renewals_per_consumer is above renewals"},
		"limit of a wait":           {object{"limits": object{"start_wait": "28s"}}, "limits: start_wait must be above 0 and at most 25s"},
		"limit of tokens":           {object{"limits": object{"token_bytes": 100}}, "limits: token must be from 1.0 KiB to 64 KiB"},
		"limit of messages":         {object{"limits": object{"message_bytes": 100}}, "limits: message must be from 4.0 KiB to 16 MiB"},
		"limit of time":             {object{"limits": object{"message_timeout": "-1s"}}, "limits: message_timeout must be above 0"},
		"route methods":             {object{"routes": object{"r": object{"datasets": []string{"a"}, "methods": []string{"get"}}}}, "route r: methods: \"get\": methods are written in upper case"},
		"route query twice":         {object{"routes": object{"r": object{"datasets": []string{"a"}, "query": []string{"a"}, "no_query": true}}}, "route r: no_query together with query"},
		"unknown policy":            {object{"policy": object{"module": "opa"}}, "edrgate.policies.opa"},
		"policy without url":        {object{"policy": object{"module": "authzen"}}, "url is required"},
		"policy in clear":           {object{"policy": object{"module": "authzen", "url": "http://pdp.example"}}, "policy authzen: url: must be https"},
		"policy with a user":        {object{"policy": object{"module": "webhook", "url": "https://u:p@pdp.example"}}, "policy webhook: url: must have no user"},
		"policy timeout":            {object{"policy": object{"module": "authzen", "url": "https://pdp", "timeout": "11s"}}, "timeout must be above 0 and at most 10s"},
		"policy cache":              {object{"policy": object{"module": "authzen", "url": "https://pdp", "cache": "1h"}}, "cache must be at most 10m"},
		"policy on_deny":            {object{"policy": object{"module": "authzen", "url": "https://pdp", "on_deny": "end"}}, `on_deny "end" is none of refuse, revoke`},
		"policy network":            {object{"policy": object{"module": "authzen", "url": "https://pdp", "allow_addresses": []string{"10.0.0.1/8"}}}, "allow_addresses: network 10.0.0.1/8"},
		"policy bearer of no file":  {object{"policy": object{"module": "authzen", "url": "https://pdp", "bearer": "{file." + g.path("none") + "}"}}, "bearer: {file." + g.path("none") + "}: cannot open the file"},
		"policy bearer of lines":    {object{"policy": object{"module": "authzen", "url": "https://pdp", "bearer": "a\nb"}}, "bearer cannot stand in a header"},
		"policy bearer twice":       {object{"policy": object{"module": "authzen", "url": "https://pdp", "bearer": "a", "headers": object{"authorization": "b"}}}, "the same header"},
		"policy own header":         {object{"policy": object{"module": "authzen", "url": "https://pdp", "headers": object{"content-type": "text/plain"}}}, `header "content-type" cannot be set`},
		"policy trust pool":         {object{"policy": object{"module": "authzen", "url": "https://pdp", "tls_trust_pool": object{"provider": "nonsense"}}}, "tls_trust_pool"},
		"async without one callback": {
			object{
				"routes":         object{"r": object{"datasets": []string{"a"}, "async": true}},
				"control_planes": []object{{"name": "a", "callback": "http://a"}, {"name": "b"}},
			}, "control_plane b has none",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			app := g.app()
			maps.Copy(app, tt.edits)
			var config *caddy.Config
			err := json.Unmarshal(g.config(app, g.servers()), &config)
			if err != nil {
				t.Fatal(err)
			}
			err = caddy.Validate(config)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
	if len(g.dirEntries()) > 3 { // the keys, the log
		t.Errorf("validating left %v", g.dirEntries())
	}
}

func (g *liveGateway) dirEntries() []string {
	entries, err := os.ReadDir(g.dir)
	if err != nil {
		g.t.Fatal(err)
	}
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}

// openSignaling adds a listener with edr_signaling without auth, within another handler.
func (g *liveGateway) openSignaling(listen string) object {
	servers := g.servers()
	servers["open"] = object{
		"listen": []string{listen}, "automatic_https": object{"disable": true},
		"routes": []object{handle(object{"handler": "subroute", "routes": []object{handle(object{"handler": "edr_signaling"})}})},
	}
	return servers
}

// withSignaling are the sites with these settings of edr_signaling.
func (g *liveGateway) withSignaling(signaling object) object {
	servers := g.servers()
	signaling["handler"] = "edr_signaling"
	servers["signaling"] = g.site("signaling", signaling)
	return servers
}

// What one handler shows is seen without loading the config. A config that passes here and cannot be loaded would be found
// out at the next restart.
func TestHandlersThatContradictTheApp(t *testing.T) {
	g := newLiveGateway(t)
	t.Setenv("EDR_TEST_LISTEN", "10.0.0.5")
	unknownRoute := g.servers()
	unknownRoute["data"] = g.site("data", object{"handler": "edr_refresh"}, object{"handler": "edr_auth", "routes": []string{"q"}})
	secret := g.servers()
	secret["data"] = g.site("data", object{
		"handler": "edr_proxy", "backends": []string{"b:80"},
		"secrets": object{"s": object{"value": "{file." + g.dir + "}", "for": []string{"http://b"}}},
	})
	const missing = "{file./nowhere/token}"

	tests := map[string]struct {
		app     object
		servers object
		want    string
	}{
		"path for consumers of the classic dialect": {object{"refresh_path": "/renew"}, g.servers(), "refresh_path /renew must end in /token"},
		"signaling for everybody":                   {nil, g.openSignaling(":8181"), "listener :8181 can be reached from other machines"},
		"signaling on an inner address":             {nil, g.openSignaling("10.0.0.5:8181"), "listener 10.0.0.5:8181 can be reached from other machines"},
		"signaling on the address of a variable":    {nil, g.openSignaling("{env.EDR_TEST_LISTEN}:8181"), "listener 10.0.0.5:8181 can be reached"},
		"edr_auth names an unknown route":           {nil, unknownRoute, "there is no route q"},
		"unknown control plane": {
			nil, g.withSignaling(object{"auth": []object{{"networks": []string{"10.0.0.0/8"}, "control_plane": "edc"}}}),
			"there is no control_plane edc",
		},
		"control plane left open": {
			object{"control_planes": []object{{"name": "edc"}, {"name": "siglet"}}},
			g.withSignaling(object{"auth": []object{{"networks": []string{"10.0.0.0/8"}}}}),
			"there is no control_plane default in the global option edrgate, only edc, siglet",
		},
		"only control plane": {
			object{"control_planes": []object{{"name": "edc"}}},
			g.withSignaling(object{"auth": []object{{"networks": []string{"10.0.0.0/8"}}}}), "",
		},
		"short bearer":         {nil, g.withSignaling(object{"auth": []object{{"bearer": "secret"}}}), "fewer than 16 characters"},
		"bearer digest":        {nil, g.withSignaling(object{"auth": []object{{"bearer": "sha256:12"}}}), "64 hexadecimal digits"},
		"bearer and all":       {nil, g.withSignaling(object{"auth": []object{{"insecure": true}, {"bearer": "0123456789abcdef"}}}), "insecure"},
		"bearer of no file":    {nil, g.withSignaling(object{"auth": []object{{"bearer": missing}}}), "bearer: " + missing + ": cannot open the file: no such file"},
		"secret of no file":    {nil, secret, "secret s: {file." + g.dir + "}: cannot read the file: is a directory"},
		"unknown dialect":      {nil, g.withSignaling(object{"protocols": []string{"dsp"}}), `protocol "dsp"`},
		"loopback":             {nil, g.openSignaling("127.0.0.1:8181"), ""},
		"loopback by its name": {nil, g.openSignaling("localhost:8181"), ""},
		"other path without the classic dialect": {
			object{"refresh_path": "/renew"}, g.withSignaling(object{"protocols": []string{"dps"}}), "",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			app := g.app()
			maps.Copy(app, tt.app)
			var config *caddy.Config
			err := json.Unmarshal(g.config(app, tt.servers), &config)
			if err != nil {
				t.Fatal(err)
			}
			err = caddy.Validate(config)
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

// Handlers without the global option are told what is missing, not a setting of an app that nobody wrote.
func TestHandlersWithoutTheApp(t *testing.T) {
	g := newLiveGateway(t)
	for _, handler := range []object{
		{"handler": "edr_auth", "any_dataset": true},
		{"handler": "edr_proxy", "backends": []string{"b:80"}},
		{"handler": "edr_signaling"},
		{"handler": "edr_refresh"},
		{"handler": "edr_health"},
	} {
		t.Run(handler["handler"].(string), func(t *testing.T) {
			var config *caddy.Config
			err := json.Unmarshal(g.config(nil, object{"data": g.site("data", handler)}), &config)
			if err != nil {
				t.Fatal(err)
			}
			delete(config.AppsRaw, appName)
			err = caddy.Validate(config)
			if err == nil || !strings.Contains(err.Error(), "the global option edrgate is missing") {
				t.Error(err)
			}
		})
	}
}

// What only all sites together say is seen when a config is loaded, whichever app Caddy starts first.
func TestSitesThatContradict(t *testing.T) {
	g := newLiveGateway(t)
	route := object{"routes": object{"r": object{"datasets": []string{"a"}, "public_url": "https://r.example"}}}
	auth := g.servers()
	auth["data"] = g.site("data", object{"handler": "edr_refresh"}, object{"handler": "edr_auth", "datasets": []string{"b"}})

	// proxying is an edr_proxy with a secret for the last of the backends.
	proxying := func(backends ...string) object {
		servers := g.servers()
		servers["data"] = g.site("data", object{"handler": "edr_refresh"}, object{
			"handler": "edr_proxy", "backends": backends,
			"secrets": object{"key": object{"value": "CANARY", "for": []string{backends[len(backends)-1] + "/api"}}},
		})
		return servers
	}

	tests := map[string]struct {
		app     object
		servers object
		want    string
	}{
		"no refresh endpoint":       {nil, object{"data": g.site("data", object{"handler": "edr_auth", "any_dataset": true})}, "no site has edr_refresh"},
		"route that nothing serves": {route, auth, "route r has no backend, and no edr_auth serves it"},
		"route whose backend nobody may reach": {
			object{"routes": object{"r": object{"datasets": []string{"a"}, "backend": "https://b.example"}}},
			auth,
			"route r: its backend is in the backends of no edr_proxy",
		},
		"route whose server no edr_proxy lists": {
			object{"routes": object{"r": object{"labels": []string{"a"}, "backend": "https://b.example/{edr.metadata.a}"}}},
			proxying("https://c.example"), "route r: its backend is in the backends of no edr_proxy",
		},
		"route whose secret no edr_proxy declares": {
			object{"routes": object{"r": object{"labels": []string{"a"}, "backend": "https://b.example/{edr.metadata.a}", "secrets": object{"X": object{"name": "none"}}}}},
			proxying("https://b.example", "https://c.example"), "route r: no edr_proxy can serve it: secret X: no secret of this name",
		},
		"route with a header that no message makes good": {
			object{"routes": object{"r": object{"labels": []string{"a"}, "backend": "https://c.example/{edr.metadata.a}", "headers": object{"X": "ä"}}}},
			proxying("https://c.example"), "route r: no edr_proxy can serve it: header X: the value cannot stand in a header",
		},
		"route whose secret is for another server": {
			object{"routes": object{"r": object{"labels": []string{"a"}, "backend": "https://b.example/{edr.metadata.a}", "secrets": object{"X": object{"name": "key"}}}}},
			proxying("https://b.example", "https://c.example"), "route r: no edr_proxy can serve it: secret X: the secret is not declared for this destination",
		},
		"route without templates whose secret is for another path": {
			object{"routes": object{"r": object{"labels": []string{"a"}, "backend": "https://c.example/apis", "secrets": object{"X": object{"name": "key"}}}}},
			proxying("https://c.example"), "route r: no edr_proxy can serve it: secret X: key: the secret is not declared for this destination",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			app := g.app()
			maps.Copy(app, tt.app)
			err := g.tryLoad(app, tt.servers)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
			if g.references("store") != 0 {
				t.Error("the store is held")
			}
		})
	}

	// The same settings are right in another company.
	for name, config := range map[string][2]object{
		"other path without the classic dialect": {object{"refresh_path": "/renew"}, g.withSignaling(object{"protocols": []string{"dps"}})},
		"loopback":                               {nil, g.openSignaling("127.0.0.1:0")},
		"route whose path a flow completes": {
			object{"routes": object{"r": object{"labels": []string{"a"}, "backend": "https://c.example/{edr.metadata.a}", "secrets": object{"X": object{"name": "key"}}}}},
			proxying("https://c.example"),
		},
		"route whose server and secret a flow chooses": {
			object{"routes": object{"r": object{"labels": []string{"a"}, "backend": "https://{edr.metadata.a}.example/", "secrets": object{"X": object{"name": "{edr.metadata.a}"}}}}},
			proxying("https://c.example"),
		},
	} {
		t.Run(name, func(t *testing.T) {
			app := g.app()
			maps.Copy(app, config[0])
			g.load(app, config[1])
			err := caddy.Stop()
			if err != nil {
				t.Fatal(err)
			}
		})
	}
}
