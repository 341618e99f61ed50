package caddymodule

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// FuzzDirectives parses the directives: whatever stands in one must be refused with its line, or give a configuration that
// Caddy's strict decoder takes, and that says the same when it is written again.
func FuzzDirectives(f *testing.F) {
	for _, text := range []string{
		"edr_auth", "edr_auth {\ndataset a b*\nignore_source_address\n}", "edr_auth p {\nroute r\npass_token\n}", "edr_auth {\ndataset\n}",
		"edr_proxy {\nbackends a:80 https://b.example\nsecret k {file./k} for https://b.example/x\nrequest_headers X-A\ndial_timeout 1s\nresponse_header_timeout 2s\nflatten_status\n}",
		"edr_proxy {\ntls_client_auth a.crt a.key\ntls_trust_pool file {\npem_file x\n}\n}", "edr_proxy {\nbackends {env.X}\n}",
		"edr_refresh", "edr_refresh a b", "edr_refresh {\nparticipant a\n}", "edr_health", "edr_health x",
		"edr_signaling {\nauth bearer {file./t}\nauth network 10.0.0.0/8 {\ncontrol_plane a\nparticipant b\n}\nprotocol dps edc\n}",
		"edr_signaling {\nauth oauth2 {\nissuer https://i\njwks https://i/k\nsubject a b\naudience c\n}\nauth mtls {\nsan spiffe://a/b\n}\nauth none insecure\n}",
		"edr_signaling {\nauth oauth2_token_exchange {\nissuer a\njwks /k\nsubject x\nclient c\nscope s t\nparticipant_context p\n}\n}",
		"edr_consumer {\nprefix / /v3\napi_key {env.K}\nhost a.example\nrefresh_token\n}", "edr_egress {\nprefix /x\nproxy_request\n}", "edr_egress {\nallow_headers A\n}",
		"edr_auth {\ndataset a {\n}\n}", "edr_auth }", "edr_auth {", "edr_auth \"", "nothing",
	} {
		f.Add(text)
	}
	directives := map[string]func() caddyfile.Unmarshaler{
		"edr_auth": func() caddyfile.Unmarshaler { return new(Auth) }, "edr_proxy": func() caddyfile.Unmarshaler { return new(Proxy) },
		"edr_refresh": func() caddyfile.Unmarshaler { return new(Refresh) }, "edr_signaling": func() caddyfile.Unmarshaler { return new(Signaling) },
		"edr_consumer": func() caddyfile.Unmarshaler { return new(ConsumerAPI) }, "edr_egress": func() caddyfile.Unmarshaler { return new(Egress) },
		"edr_health": func() caddyfile.Unmarshaler { return new(Health) },
	}
	f.Fuzz(func(t *testing.T, text string) {
		tokens, err := caddyfile.Tokenize([]byte(text), "Caddyfile")
		if err != nil || len(tokens) == 0 {
			return // the lexer's own business
		}
		create, known := directives[tokens[0].Text]
		if !known {
			return
		}
		handler := create()
		err = handler.UnmarshalCaddyfile(caddyfile.NewDispenser(tokens))
		if err != nil {
			if !strings.Contains(err.Error(), "Caddyfile:") {
				t.Fatalf("error without a place: %v", err)
			}
			return
		}
		written, err := json.Marshal(handler)
		if err != nil {
			t.Fatal(err)
		}
		decoded := create()
		strict := json.NewDecoder(bytes.NewReader(written))
		strict.DisallowUnknownFields()
		err = strict.Decode(decoded)
		if err != nil {
			t.Fatalf("not a configuration: %v: %s", err, written)
		}
		again, err := json.Marshal(decoded)
		if err != nil || !bytes.Equal(again, written) {
			t.Fatalf("%v\n%s\n%s", err, written, again)
		}
	})
}
