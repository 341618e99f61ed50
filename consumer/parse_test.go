package consumer

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/edrgate/edrgate/internal/testkit"
	"github.com/edrgate/edrgate/tokens"
)

func TestParseEDR(t *testing.T) {
	t.Parallel()
	const endpoint = `"endpoint":"https://p.example/d"`
	for _, c := range []struct {
		name, text string
		check      func(*EDR) bool
	}{
		{"a number of seconds", `{` + endpoint + `,"expiresIn":300}`, func(e *EDR) bool { return e.ExpiresIn == 300*time.Second }},
		{"a fraction is cut off", `{` + endpoint + `,"expiresIn":"2.9"}`, func(e *EDR) bool { return e.ExpiresIn == 2*time.Second }},
		{"what a consumer stores for nothing", `{` + endpoint + `,"tx-auth:expiresIn":"null"}`, func(e *EDR) bool { return e.ExpiresIn == 0 }},
		{"an enormous life", `{` + endpoint + `,"expiresIn":"1e300"}`, func(e *EDR) bool { return e.ExpiresIn == longestLife }},
		{"one property without its array", `{"endpointProperties":{"name":"endpoint","value":"https://p.example/d"}}`, func(e *EDR) bool { return e.Endpoint == "https://p.example/d" }},
		{"refresh endpoint defaults to the endpoint", `{` + endpoint + `,"refreshToken":"r","authorization":"a"}`, func(e *EDR) bool { return e.RefreshEndpoint == e.Endpoint }},
		{
			"but not in the classic world", `{"edc:endpoint":"https://p.example/d","tx-auth:refreshToken":"r"}`,
			func(e *EDR) bool { return e.Dialect == tokens.Classic && e.RefreshEndpoint == "" },
		},
		{"prefixes", `{"edc:endpoint":"https://p.example/d","edc:authorization":"a","edc:authType":"bearer"}`, func(e *EDR) bool {
			return e.AccessToken == "a" && e.AuthType == "bearer" && e.Scheme == ""
		}},
		{"the scheme in the token", `{"edc:endpoint":"https://p.example/d","edc:authorization":"bearer  a"}`, func(e *EDR) bool {
			return e.AccessToken == "a" && e.Scheme == "Bearer"
		}},
		{"DPS means plain names", `{` + endpoint + `,"endpointType":"` + dpsProfile + `http-pull","edc:endpoint":"https://q.example/"}`, func(e *EDR) bool {
			return e.Endpoint == "https://p.example/d"
		}},
		{"classic means IRIs", `{` + endpoint + `,"endpointType":"` + classicHTTP + `","edc:endpoint":"https://q.example/"}`, func(e *EDR) bool {
			return e.Endpoint == "https://q.example/"
		}},
		{"others are kept", `{"properties":{` + endpoint + `,"https://example.org/x":"y","z":"1"}}`, func(e *EDR) bool {
			return e.Properties["https://example.org/x"] == "y" && e.Properties["z"] == "1" && len(e.Properties) == 2
		}},
		{"others of another type are left out", `{` + endpoint + `,"x":{"a":1},"y":null,"z":[]}`, func(e *EDR) bool { return e.Properties == nil }},
		{"the same twice", `{"endpointProperties":[{"name":"endpoint","value":"https://p.example/d"},{"name":"endpoint","value":"https://p.example/d"}]}`, func(e *EDR) bool { return e.Endpoint != "" }},
		{"siglet's authType", `{"edc:endpoint":"https://p.example/d","https://w3id.org/tractusx/auth/authType":"bearer"}`, func(e *EDR) bool { return e.AuthType == "bearer" }},
		{"http, judged later", `{"endpoint":"http://p.example/d"}`, func(e *EDR) bool {
			return e.Check() != nil && e.Check("other.example", "p.example:8080") != nil && e.Check("P.example") == nil && e.Check(AnyHost) == nil
		}},
	} {
		e, err := ParseEDR([]byte(c.text))
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if !c.check(e) {
			t.Errorf("%s: %+v", c.name, *e)
		}
	}
}

func TestParseEDRRefuses(t *testing.T) {
	t.Parallel()
	const endpoint = `"endpoint":"https://p.example/d"`
	for _, c := range []struct{ name, text, field string }{
		{"nothing", ``, "dataAddress"},
		{"no object", `[]`, "dataAddress"},
		{"a name twice", `{` + endpoint + `,` + endpoint + `}`, "dataAddress"},
		{"no endpoint", `{"authorization":"CANARY"}`, "endpoint"},
		{"endpoint of another type", `{"endpoint":["https://p.example"]}`, "endpoint"},
		{"endpoint that is none", `{"endpoint":"CANARY"}`, "endpoint"},
		{"endpoint without a host", `{"endpoint":"https:///CANARY"}`, "endpoint"},
		{"token of another type", `{` + endpoint + `,"authorization":{"CANARY":1}}`, "authorization"},
		{"token with a line break", `{` + endpoint + `,"authorization":"CANARY\r\nX-Y: z"}`, "authorization"},
		{"life", `{` + endpoint + `,"expiresIn":"CANARY"}`, "expiresIn"},
		{"negative life", `{` + endpoint + `,"expiresIn":-1}`, "expiresIn"},
		{"refresh endpoint", `{` + endpoint + `,"refreshEndpoint":"file:///CANARY"}`, "refreshEndpoint"},
		{"properties of another type", `{"properties":[]}`, "properties"},
		{"both forms", `{"properties":{` + endpoint + `},"endpointProperties":[]}`, "endpointProperties"},
		{"property without a name", `{` + endpoint + `,"endpointProperties":[{"value":"CANARY"}]}`, "endpointProperties"},
		{"property without a value", `{` + endpoint + `,"endpointProperties":[{"name":"CANARY"}]}`, "endpointProperties"},
		{"two values", `{` + endpoint + `,"endpointProperties":[{"name":"authorization","value":"CANARY"},{"name":"authorization","value":"b"}]}`, "authorization"},
		{"many properties", `{"endpointProperties":[` + strings.Repeat(`{"name":"a","value":"b"},`, maxProperties) + `{"name":"a","value":"b"}]}`, "properties"},
		{"long property", `{` + endpoint + `,"x":"` + strings.Repeat("a", maxPropertyBytes+1) + `"}`, "property"},
		{"too large", `{"a":"` + strings.Repeat("a", MaxEDRBytes) + `"}`, "dataAddress"},
	} {
		e, err := ParseEDR([]byte(c.text))
		if err == nil {
			t.Errorf("%s: %+v", c.name, *e)
			continue
		}
		if CodeOf(err) != CodeInvalid || !strings.Contains(err.Error(), c.field) || strings.Contains(err.Error(), "CANARY") {
			t.Errorf("%s: %v, want the field %s and no quote", c.name, err, c.field)
		}
	}
}

func TestParseEventRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, text, field string }{
		{"nothing", ``, "event"},
		{"no type", `{"payload":{}}`, "type"},
		{"no payload", `{"type":"TransferProcessStarted"}`, "payload"},
		{"no id", `{"type":"TransferProcessStarted","payload":{}}`, "transferProcessId"},
		{"asset of another type", `{"type":"TransferProcessEnded","at":"now"}`, "at"},
		{"contract of another type", `{"type":"TransferProcessStarted","payload":{"transferProcessId":"a","contractId":1}}`, "contractId"},
		{"address of another type", `{"type":"TransferProcessStarted","payload":{"transferProcessId":"a","type":"CONSUMER","dataAddress":1}}`, "dataAddress"},
		{"address without an endpoint", `{"type":"TransferProcessStarted","payload":{"transferProcessId":"a","type":"CONSUMER","dataAddress":{"properties":{}}}}`, "endpoint"},
		{"too large", `{"a":"` + strings.Repeat("a", MaxEventBytes) + `"}`, "event"},
	} {
		_, err := ParseEvent([]byte(c.text))
		if err == nil || CodeOf(err) != CodeInvalid || !strings.Contains(err.Error(), c.field) {
			t.Errorf("%s: %v, want the field %s", c.name, err, c.field)
		}
	}
}

// Of events that arrive in another order than they were written, the newest counts, also one that changed nothing.
func TestApplyOutOfOrder(t *testing.T) {
	t.Parallel()
	x := newFixture(t)
	began := x.clock.Now()
	for _, step := range []struct {
		kind  EventKind
		after time.Duration
		want  State
	}{
		{KindStarted, 0, Started},
		{KindSuspended, time.Second, Suspended},
		{KindSuspended, 3 * time.Second, Suspended},
		{KindStarted, 2 * time.Second, Suspended}, // late
		{KindStarted, 4 * time.Second, Started},
	} {
		e := &Event{Kind: step.kind, ID: "tp-1", Consumer: true, At: began.Add(step.after)}
		if step.kind == KindStarted {
			e.EDR = x.dps()
		}
		entry, err := x.Apply(t.Context(), e)
		if err != nil || entry.State != step.want {
			t.Fatalf("%s after %s: %+v, %v, want %s", step.kind, step.after, entry, err, step.want)
		}
	}
}

// Events that mean nothing here change nothing.
func TestApplyIgnores(t *testing.T) {
	t.Parallel()
	x := newFixture(t)
	for name, e := range map[string]*Event{
		"another kind":                {Kind: KindOther},
		"a transfer as provider":      {Kind: KindStarted, ID: "tp-1", EDR: x.dps()},
		"a start without an EDR":      {Kind: KindStarted, ID: "tp-1", Consumer: true},
		"a suspension of the unknown": {Kind: KindSuspended, ID: "tp-1", Consumer: true},
	} {
		entry, err := x.Apply(t.Context(), e)
		if entry != nil || err != nil {
			t.Errorf("%s: %v, %v", name, entry, err)
		}
	}
}

func TestDataAddressForApplications(t *testing.T) {
	t.Parallel()
	x := newFixture(t)
	e := x.dps()
	e.RefreshAudience = providerDID
	e.Properties = map[string]string{
		tractusXNamespace + "refreshToken2": "kept", "plain": "dropped", "tx-auth:refreshToken": "CANARY", "https://example.org/a": "b",
	}
	for _, renewal := range []bool{false, true} {
		data, err := e.DataAddress(renewal)
		if err != nil {
			t.Fatal(err)
		}
		text := string(data)
		if strings.Contains(text, "CANARY") || strings.Contains(text, "dropped") || !strings.Contains(text, `"https://example.org/a":"b"`) {
			t.Errorf("properties: %s", text)
		}
		if strings.Contains(text, "refresh-0") != renewal || strings.Contains(text, "refreshEndpoint") != renewal || !strings.Contains(text, `"authorization":"access-0"`) {
			t.Errorf("renewal %t: %s", renewal, text)
		}
		if !renewal {
			continue
		}
		again, err := ParseEDR(data)
		if err != nil || again.Dialect != tokens.DPS || again.RefreshToken != e.RefreshToken || again.RefreshEndpoint != e.RefreshEndpoint || again.ExpiresIn != e.ExpiresIn {
			t.Errorf("read again: %v, %v", again, err)
		}
	}
}

func TestAuthorizationTypes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		edr  EDR
		want string
		code Code
	}{
		{EDR{}, "", ""},
		{EDR{AccessToken: "a"}, "a", ""},
		{EDR{AccessToken: "a", AuthType: "bearer"}, "a", ""}, // classic data planes want it raw whatever they say
		{EDR{AccessToken: "a", AuthType: "Bearer", Scheme: "Bearer"}, "Bearer a", ""},
		{EDR{AccessToken: "CANARY", AuthType: "basic", Scheme: "Bearer"}, "", CodeAuthType},
	} {
		got, err := c.edr.Authorization()
		if got != c.want || (err != nil) != (c.code != "") {
			t.Errorf("%s %s: %q, %v", c.edr.AuthType, c.edr.Scheme, got, err)
		}
		if err != nil && (CodeOf(err) != c.code || strings.Contains(err.Error(), "CANARY")) {
			t.Errorf("%v", err)
		}
	}
}

// No verb of fmt, and no encoder, prints a token or an endpoint's path.
func TestEDRPrintsNothing(t *testing.T) {
	t.Parallel()
	e := &EDR{
		Endpoint: "https://p.example/CANARY?sig=CANARY", AccessToken: "CANARY", RefreshToken: "CANARY", RefreshEndpoint: "https://p.example/CANARY",
		Properties: map[string]string{"a": "CANARY"},
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
		got := fmt.Sprintf(verb, e)
		if strings.Contains(got, "CANARY") || !strings.Contains(got, "p.example") {
			t.Errorf("%s: %s", verb, got)
		}
	}
	data, err := json.Marshal(&Entry{ID: "tp-1", EDR: e})
	if err != nil || strings.Contains(string(data), "CANARY") {
		t.Errorf("%s, %v", data, err)
	}
}

// A signer does not print its key.
func TestSignerPrintsNoKey(t *testing.T) {
	t.Parallel()
	wallet := testkit.NewWallet(ownDID)
	s, err := NewKeySigner(KeySignerConfig{Key: wallet.Key, KeyID: wallet.KID})
	if err != nil {
		t.Fatal(err)
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		got := fmt.Sprintf(verb, s)
		if got != "signer with key "+wallet.KID {
			t.Errorf("%s: %s", verb, got)
		}
	}
}

func FuzzParseEDR(f *testing.F) {
	files, err := filepath.Glob(filepath.Join("testdata", "recorded", "*.json"))
	if err != nil || len(files) == 0 {
		f.Fatal("no recordings", err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		var rec recorded
		err = json.Unmarshal(data, &rec)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(rec.address(f))
		f.Add([]byte(rec.Request.Body))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		_, err := ParseEvent(data)
		if err != nil && CodeOf(err) != CodeInvalid {
			t.Errorf("event: %v", err)
		}
		e, err := ParseEDR(data)
		if err != nil {
			if CodeOf(err) != CodeInvalid || e != nil {
				t.Errorf("%v, %v", e, err)
			}
			return
		}
		err = e.Check(AnyHost)
		if err != nil {
			t.Errorf("an EDR that cannot be used: %v", err)
		}
		header, err := e.Authorization()
		if err == nil && strings.ContainsAny(header, "\r\n") {
			t.Error("a token adds a header")
		}
		// What is rendered is read as the same EDR.
		text, err := e.DataAddress(true)
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseEDR(text)
		if err != nil {
			t.Fatalf("%v of %s", err, text)
		}
		if again.Endpoint != e.Endpoint || again.AccessToken != e.AccessToken || again.RefreshToken != e.RefreshToken {
			t.Errorf("read again: %s", text)
		}
	})
}
