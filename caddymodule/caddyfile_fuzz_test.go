package caddymodule

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
)

// FuzzGlobalOption parses blocks of the global option: whatever stands there must be refused with its line, or give a
// configuration that Caddy's strict decoder takes, and that says the same when it is written and parsed again.
func FuzzGlobalOption(f *testing.F) {
	for _, block := range []string{
		"did did:web:provider.example\nsigning_key /k.pem\npublic_url https://data.example",
		"signing_key {file./k} next\nsigning_key b verify\nrefresh_key a\nsealing_key b",
		"public_url http://data.example insecure\nrefresh_path /x/token\nparticipant p",
		"token_ttl 5m\ntoken_ttl_without_renewal 365d\nrefresh_ttl 0s\nunacknowledged_ttl 0\ntombstone_ttl 30d\nclock_skew 60s",
		"did_map BPNL1 did:web:a\ndid_map BPNL1 did:web:b",
		"duplicate_start conflict\nreuse_policy revoke\nerror_format rfc6749",
		"control_plane main {\nformerly a b\ncallback http://cp:9191/control\nregister dps http://cp/dataplanes {\nsignaling_url http://gw\nlabels a\n}\n}",
		"route r {\ndataset a b*\nbackend https://b.example\nheader X-Key {env.X}\npublic_url https://c.example\nasync\n}",
		"route r {\nlabel a b\nprofile c\nmetadata d.e f 3\nbackend https://b.example/{edr.dataset}\nsecret Authorization {edr.bpn} Bearer\n}",
		"resolver {\nallow_http localhost:1\nallow_ports 8443\nallow_addresses 10.0.0.0/8 ::1\ncache_ttl 1m\ntimeout 2s\nrelationship none\n}",
		"limits {\nrequests_per_flow off\nrequests_per_consumer 9\nrenewals 8\nstarts 2\nstart_wait 5s\ntoken 8KiB\nmessage 1MiB\nmessage_timeout 3s\n}", "limits x", "limits {\nrenewals off\n}",
		"route r {\ndataset a\nmethods GET POST\nquery a b\nno_query\n}",
		"store badger {\npath /x\nmin_free 2GiB\nreserve 1MB\n}",
		"participant a {\ndid did:web:a\nsigning_key a.pem\npublic_url https://a.example insecure\ncontrol_plane cp\nroute r {\ndataset x\n}\n}\nparticipant b {\n}\nparticipant c",
		"participant {\n}", "participant a {", "participant a {\nstore badger\n}",
		"policy authzen https://pdp/e {\nbearer {env.X}\nheader X-Tenant t\ntimeout 1s\non_deny revoke\ncache 30s\nallow_addresses 10.0.0.0/8\n}",
		"policy webhook http://pdp insecure", "policy", "policy opa https://pdp",
		"store nothing", "did", "did a b", "did {\n}", "route", "}", "{", "\"", "did \"a", "<<X\nX", "# only",
	} {
		f.Add(block)
	}
	f.Fuzz(func(t *testing.T, block string) {
		tokens, err := caddyfile.Tokenize([]byte("edrgate {\n"+block+"\n}\n"), "Caddyfile")
		if err != nil {
			return // the lexer's own business
		}
		value, err := parseGlobalOption(caddyfile.NewDispenser(tokens), nil)
		if err != nil {
			if !strings.Contains(err.Error(), "Caddyfile:") {
				t.Fatalf("error without a place: %v", err)
			}
			return
		}
		app, ok := value.(httpcaddyfile.App)
		if !ok {
			t.Fatalf("a %T", value)
		}
		decoded := new(App)
		strict := json.NewDecoder(bytes.NewReader(app.Value))
		strict.DisallowUnknownFields()
		err = strict.Decode(decoded)
		if err != nil {
			t.Fatalf("not a configuration: %v", err)
		}
		again, err := json.Marshal(decoded)
		if err != nil || !bytes.Equal(again, app.Value) {
			t.Fatalf("%v\n%s\n%s", err, app.Value, again)
		}
	})
}
