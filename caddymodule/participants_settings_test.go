package caddymodule

import (
	"encoding/json"
	"maps"
	"reflect"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

func TestParticipantSettings(t *testing.T) {
	g := newLiveGateway(t)
	change := func(name string, edits object) func(app, servers object) {
		return func(app, _ object) {
			of := app
			if name != "" {
				of = app["participants"].(object)[name].(object)
			}
			maps.Copy(of, edits)
		}
	}
	register := func(id string) object {
		return object{"control_planes": []object{{"name": "cp", "register": []object{{
			"protocol": "dps", "url": "http://127.0.0.1:1/dataplanes", "signaling_url": "http://10.0.0.5:8181", "id": id,
		}}}}}
	}
	auth := func(ways ...object) func(app, servers object) {
		return func(_, servers object) {
			servers["signaling"] = g.site("signaling", object{"handler": "edr_signaling", "auth": ways})
		}
	}
	onlyNamed := func(app, _ object) {
		for _, option := range []string{"did", "signing_keys", "public_url"} {
			delete(app, option)
		}
	}
	issuer := func(participant, audience string) object {
		return object{"participant": participant, "oauth2": object{
			"issuer": "https://login.example", "jwks": "https://login.example/jwks", "subjects": []string{"cp"}, "audience": []string{audience},
		}}
	}
	exchange := func(participant string, contexts ...string) object {
		return object{"participant": participant, "oauth2_token_exchange": object{
			"issuer": "https://broker.example", "jwks": "https://broker.example/jwks", "subjects": []string{"https://cp.example"},
			"audience": []string{"gateway"}, "participant_contexts": contexts,
		}}
	}
	for name, tt := range map[string]struct {
		edit []func(app, servers object)
		want string
	}{
		"no did":     {[]func(app, servers object){change("acme", object{"did": ""})}, "participant acme: did is required"},
		"nothing":    {[]func(app, servers object){func(app, _ object) { app["participants"].(object)["acme"] = nil }}, "participant acme: did is required"},
		"no key":     {[]func(app, servers object){change("bolt", object{"signing_keys": nil})}, "participant bolt: signing_key is required"},
		"no own did": {[]func(app, servers object){change("", object{"did": ""})}, "participant default, outside of the participant blocks: did is required"},
		"name":       {[]func(app, servers object){func(app, _ object) { app["participants"] = object{"a/b": object{}} }}, `participant "a/b"`},
		"name of a path": {[]func(app, servers object){func(app, _ object) {
			app["participants"].(object)["v1"] = app["participants"].(object)["acme"]
			delete(app["participants"].(object), "acme")
		}}, "the name has a meaning of its own in paths"},
		"name twice":          {[]func(app, servers object){change("", object{"participant": "acme"})}, "participant acme is defined twice"},
		"did twice":           {[]func(app, servers object){change("acme", object{"did": "did:web:provider.example"})}, "participants default and acme have the same did"},
		"public_url twice":    {[]func(app, servers object){change("bolt", object{"public_url": "https://DATA.example:443/acme/"})}, "participants acme and bolt both renew tokens at data.example/acme/token"},
		"route's public_url":  {[]func(app, servers object){change("bolt", object{"routes": object{"r": object{"datasets": []string{"a"}, "public_url": "https://data.example"}}})}, "participants default and bolt both renew tokens at data.example/token"},
		"registration twice":  {[]func(app, servers object){change("acme", register("gateway")), change("bolt", register("gateway"))}, "participants acme and bolt register under the id gateway"},
		"named signaling url": {[]func(app, servers object){change("acme", object{"control_planes": []object{{"name": "cp", "register": []object{{"protocol": "dps", "url": "http://127.0.0.1:1/", "signaling_url": "http://10.0.0.5/acme"}}}}})}, "leave out what is appended, /acme/dataflows"},
		"unknown field":       {[]func(app, servers object){change("acme", object{"token_ttl": "5m"})}, "token_ttl"},
		"unknown participant": {[]func(app, servers object){auth(object{"participant": "coyote", "insecure": true})}, "there is no participant coyote"},
		"plane of another": {
			[]func(app, servers object){change("acme", object{"control_planes": []object{{"name": "cp"}}}), auth(object{"participant": "bolt", "control_plane": "cp", "insecure": true})},
			"participant bolt: there is no control_plane cp",
		},
		"whose control plane": {[]func(app, servers object){onlyNamed, auth(object{"insecure": true})}, "auth: it is not said which participant is meant: write `participant <name>` with one of acme, bolt"},
		"whose data":          {[]func(app, servers object){onlyNamed, auth(object{"participant": "acme", "insecure": true})}, "edr_auth: it is not said which participant is meant"},
		"one token for two":   {[]func(app, servers object){auth(issuer("acme", "gateway"), issuer("bolt", "gateway"))}, "participant bolt: oauth2: a token of https://login.example would be good for participant acme too"},
		"one token for two, at two sites": {[]func(app, servers object){auth(issuer("acme", "gateway")), func(_, servers object) {
			servers["more"] = g.site("more", object{"handler": "edr_signaling", "auth": []object{issuer("bolt", "gateway")}})
		}}, "would be good for participant"},
		"exchanged for one of two":     {[]func(app, servers object){auth(exchange("acme", "acme"), exchange("bolt", "bolt"))}, ""},
		"exchanged for both":           {[]func(app, servers object){auth(exchange("acme", "acme", "all"), exchange("bolt", "bolt", "all"))}, "participant bolt: oauth2_token_exchange: a token of https://broker.example would be good for participant acme too"},
		"exchanged for no one context": {[]func(app, servers object){auth(exchange("acme", "acme"), exchange("bolt"))}, "would be good for participant acme too"},
		"tokens of each":               {[]func(app, servers object){auth(issuer("acme", "acme"), issuer("bolt", "bolt"))}, ""},
		"all is well":                  {nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			app, servers := g.tenantsApp(), g.tenantsServers()
			for _, edit := range tt.edit {
				edit(app, servers)
			}
			var config *caddy.Config
			err := json.Unmarshal(g.config(app, servers), &config)
			if err != nil {
				t.Fatal(err)
			}
			err = caddy.Validate(config)
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
	// What only all sites show names the participant too.
	app, servers := g.tenantsApp(), g.tenantsServers()
	servers["data"] = g.site("data", object{"handler": "edr_refresh", "participant": "acme"})
	err := g.tryLoad(app, servers)
	if err == nil || !strings.Contains(err.Error(), "participant default, outside of the participant blocks: no site has edr_refresh") {
		t.Errorf("%v", err)
	}
	if g.references("store") != 0 {
		t.Error("the store is held")
	}
}

func TestParticipantCaddyfile(t *testing.T) {
	app := new(App)
	err := app.UnmarshalCaddyfile(caddyfile.NewTestDispenser(`edrgate {
		did did:web:one.example
		participant one
		participant acme {
			did did:web:acme.example
			signing_key acme.pem
			signing_key old.pem verify
			refresh_key refresh.key
			sealing_key sealing.key
			public_url http://data.acme.example insecure
			did_map BPNL1 did:web:a
			control_plane cp {
				callback http://cp:8083/api/control
			}
			route r {
				dataset a
				public_url https://r.acme.example
			}
		}
		participant empty {
		}
		token_ttl 3m
	}`))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]*ParticipantSettings{
		"empty": {},
		"acme": {
			DID: "did:web:acme.example", SigningKeys: []SigningKey{{File: "acme.pem"}, {File: "old.pem", State: "verify"}},
			RefreshKeys: []string{"refresh.key"}, SealingKeys: []string{"sealing.key"},
			PublicURL: "http://data.acme.example", InsecurePublicURL: true, DIDMap: map[string]string{"BPNL1": "did:web:a"},
			ControlPlanes: []ControlPlane{{Name: "cp", Callback: "http://cp:8083/api/control"}},
			Routes:        map[string]*Route{"r": {Datasets: []string{"a"}, PublicURL: "https://r.acme.example"}},
		},
	}
	if !reflect.DeepEqual(app.Participants, want) || app.Participant != "one" || app.DID != "did:web:one.example" || app.TokenTTL == 0 {
		t.Errorf("%+v", app)
	}
	for bad, want := range map[string]string{
		"participant":                  "wrong argument count",
		"participant a b":              "wrong argument count",
		"participant a\nparticipant b": "participant is already set to another value",

		"participant a {\ndid x\n}\nparticipant a {\n}":       "participant a is already defined",
		"participant a {\ntoken_ttl 5m\n}":                    `unrecognized option "token_ttl" of participant`,
		"participant a {\nparticipant b\n}":                   `unrecognized option "participant" of participant`,
		"participant a {\ndid x\ndid y\n}":                    "did is already set to another value",
		"participant a {\npublic_url https://a insecurely\n}": "only insecure may follow",
	} {
		err := new(App).UnmarshalCaddyfile(caddyfile.NewTestDispenser("edrgate {\n" + bad + "\n}"))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	var refresh Refresh
	err = refresh.UnmarshalCaddyfile(caddyfile.NewTestDispenser("edr_refresh {\nparticipant acme\n}"))
	if err != nil || refresh.Participant != "acme" {
		t.Errorf("%v, %+v", err, refresh)
	}
	for _, bad := range []string{"edr_refresh acme", "edr_refresh {\npath /x\n}", "edr_refresh {\nparticipant\n}"} {
		err := new(Refresh).UnmarshalCaddyfile(caddyfile.NewTestDispenser(bad))
		if err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
	var auth Auth
	err = auth.UnmarshalCaddyfile(caddyfile.NewTestDispenser("edr_auth {\nany_dataset\nparticipant acme\n}"))
	if err != nil || auth.Participant != "acme" {
		t.Errorf("%v, %+v", err, auth)
	}
	var in Signaling
	err = in.UnmarshalCaddyfile(caddyfile.NewTestDispenser("edr_signaling {\nauth bearer {env.X} {\nparticipant acme\ncontrol_plane cp\n}\n}"))
	if err != nil || !reflect.DeepEqual(in.Auth, []SignalingAuth{{Participant: "acme", ControlPlane: "cp", Bearer: "{env.X}"}}) {
		t.Errorf("%v, %+v", err, in.Auth)
	}
}

// Many participants remember no more tokens than one does, and each has room for some.
func TestRoomForTokensIsDivided(t *testing.T) {
	for participants, want := range map[int]int{1: 65536, 4: 16384, 1000: 4096} {
		app := &App{Limits: new(Limits), participants: make([]*participant, participants), UnacknowledgedTTL: new(caddy.Duration)}
		if got := app.tokenConfig().CacheEntries; got != want {
			t.Errorf("%d participants: %d", participants, got)
		}
	}
}
