package signaling

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/edrgate/edrgate/tokens"
)

var update = flag.Bool("update", false, "write the golden files anew")

// recording is one file of testdata/wire.
type recording struct {
	name        string
	What        string
	Method      string
	Path        string
	ContentType string
	Body        string
	Answer      struct {
		Status int
		Body   string
	}
}

func recordings(t testing.TB, source string) []recording {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", "wire", source, "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no recordings of %s: %v", source, err)
	}
	list := make([]recording, len(files))
	for i, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		err = json.Unmarshal(data, &list[i])
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		list[i].name = strings.TrimSuffix(filepath.Base(file), ".json")
		// Those data planes were mounted below a path, as Caddy's handle_path does it.
		list[i].Path = strings.TrimPrefix(list[i].Path, "/control")
	}
	return list
}

func sources(t testing.TB) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join("testdata", "wire"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names
}

// dids are the ids of the participant whose data plane is addressed, in the recordings of Data Plane Signaling.
var dids = map[string]string{
	"dps-edc-0.18":          "did:web:localhost%3A9600",
	"dps-edc-0.18-consumer": "did:web:localhost%3A9601",
	"dps-edc-main":          "did:web:localhost%3A9600",
	"dps-edc-main-consumer": "did:web:localhost%3A9601",
	"dps-tck":               "did:web:localhost%3A9600",
	"dps-tck-consumer":      "did:web:localhost%3A9600",
}

// recordedMessages are how many recordings there are of each source, so that none is lost without a word.
var recordedMessages = map[string]int{
	"dps-edc-0.18":          25,
	"dps-edc-0.18-consumer": 30,
	"dps-edc-main":          8,
	"dps-edc-main-consumer": 12,
	"dps-tck":               46,
	"dps-tck-consumer":      56,
	"edc-0.11.1":            9,
	"edc-0.13.2":            11,
	"edc-0.14.0":            11,
	"edc-0.15.1":            11,
	"edc-0.15.1-dsp-0.8":    11,
	"edc-0.17.0":            10,
	"edc-data-plane-0.13.0": 16,
	"tractusx-0.12.1":       27,
}

// refusedStarts are recorded starts that are not what the protocol says, by what we say to each: requests of a test
// driver that no control plane sends.
var refusedStarts = map[string]string{
	"tractusx-0.12.1/116-start-not-json":             "not one JSON object",
	"tractusx-0.12.1/117-start-empty":                "flowType is missing",
	"tractusx-0.12.1/119-start-no-flowtype":          "flowType is missing",
	"tractusx-0.12.1/121-start-unknown-source":       "only HttpData and ProxyHttpData",
	"tractusx-0.12.1/122-start-no-baseurl":           "no baseUrl",
	"edc-data-plane-0.13.0/14-start-empty-object":    "flowType is missing",
	"edc-data-plane-0.13.0/15-start-not-json":        "not one JSON object",
	"tractusx-0.12.1/123-start-text-plain":           "want application/json",
	"edc-data-plane-0.13.0/16-start-text-plain":      "want application/json",
	"tractusx-0.12.1/111-start-terminated":           textState,
	"edc-data-plane-0.13.0/25-start-after-terminate": textState,
}

// TestRecordedMessages sends every recorded message to a handler, in order, and compares each answer with what the
// recorded state of affairs demands, with the recorded answer's shape, and with a golden file.
func TestRecordedMessages(t *testing.T) {
	if len(sources(t)) != len(recordedMessages) {
		t.Errorf("recordings of %v, want %d sources", sources(t), len(recordedMessages))
	}
	for _, source := range sources(t) {
		t.Run(source, func(t *testing.T) {
			x := newFixture(t, func(c *Config) {
				did, ok := dids[source]
				if ok {
					c.DID = did
				}
			})
			var golden bytes.Buffer
			all := recordings(t, source)
			if len(all) != recordedMessages[source] {
				t.Errorf("%d recordings, want %d", len(all), recordedMessages[source])
			}
			for _, rec := range all {
				a := replay(t, x, source, rec)
				fmt.Fprintf(&golden, "# %s\n%s %s\n%d\n%s\n", rec.name, rec.Method, rec.Path, a.Code, indent(a.Body.Bytes()))
			}
			compareGolden(t, source, golden.Bytes())
		})
	}
}

func replay(t *testing.T, x *fixture, source string, rec recording) answer {
	t.Helper()
	where := source + "/" + rec.name
	send := func(body string) answer { return x.do(rec.request(body)) }
	text, bad := refusedStarts[where]
	operation := rec.Path[strings.LastIndex(rec.Path, "/")+1:]
	switch {
	case bad:
		a := send(rec.Body)
		if a.Code < 400 || a.Code > 499 || !strings.Contains(a.text(), text) {
			t.Errorf("%s: status %d, text %q, want %q", where, a.Code, a.text(), text)
		}
		return a
	case x.received != nil && (operation == "prepare" || x.ofConsumer(rec)):
		return replayReceived(t, x, where, rec)
	case operation == "prepare" || operation == "started":
		// A consumer's control plane addressed the wrong data plane: it is told so, and no flow comes of it.
		before := len(x.flows.flows)
		a := want(t, where, send(rec.Body), errConsumer.status)
		if a.text() != errConsumer.text {
			t.Errorf("%s: text %q, want %q", where, a.text(), errConsumer.text)
		}
		if len(x.flows.flows) != before {
			t.Errorf("%s: a flow was made of it", where)
		}
		return a
	case strings.Contains(rec.Body, "PUSH") || strings.Contains(rec.Body, "http-push") && operation == "start":
		return want(t, where, send(rec.Body), http.StatusBadRequest)
	case operation == "start" || operation == "dataflows" || operation == "resume":
		if operation == "resume" && !x.suspended(rec.flow()) {
			return want(t, where, send(rec.Body), http.StatusNotFound) // its start was not recorded
		}
		a := want(t, where, send(rec.Body), http.StatusOK)
		if strings.Contains(rec.Answer.Body, "ddress") { // an asynchronous answer has no address
			sameShape(t, where, rec.Answer.Body, a.Body.Bytes())
		}
		return a
	case operation == "suspend":
		return want(t, where, send(rec.Body), x.suspendStatus(rec))
	case operation == "terminate" || operation == "completed":
		a := send(rec.Body)
		if a.Code/100 != 2 || a.Body.Len() > 0 {
			t.Errorf("%s: status %d, body %q, want success without a body", where, a.Code, a.Body)
		}
		return a
	case operation == "check":
		return want(t, where, send(rec.Body), http.StatusNoContent)
	case operation == "state" || operation == "status":
		a := send(rec.Body)
		if x.flows.flows[rec.flow()] == nil {
			return want(t, where, a, http.StatusNotFound)
		}
		want(t, where, a, http.StatusOK)
		if rec.Answer.Status == http.StatusOK {
			sameState(t, where, rec.Answer.Body, a.Body.Bytes())
		}
		return a
	}
	t.Fatalf("%s: no expectation", where)
	return answer{}
}

func (rec recording) request(body string) *http.Request {
	r, err := http.NewRequest(rec.Method, "http://gateway.example"+rec.Path, strings.NewReader(body))
	if err != nil {
		panic(err)
	}
	if rec.ContentType != "" {
		r.Header.Set("Content-Type", rec.ContentType)
	}
	return r
}

func (rec recording) flow() string {
	segments := strings.Split(rec.Path, "/")
	return segments[len(segments)-2]
}

func (x *fixture) suspended(id string) bool {
	f, ok := x.flows.flows[id]
	return ok && f.flow.State == tokens.Suspended
}

func (x *fixture) suspendStatus(rec recording) int {
	f, known := x.flows.flows[rec.flow()]
	switch {
	case strings.HasPrefix(rec.Path, classicRoot):
		return http.StatusNoContent // whatever is there
	case !known:
		return http.StatusNotFound
	case f.flow.State.Ended():
		return http.StatusConflict
	}
	return http.StatusOK
}

func want(t *testing.T, where string, a answer, status int) answer {
	t.Helper()
	if a.Code != status {
		t.Errorf("%s: status %d, want %d: %s", where, a.Code, status, a.Body)
	}
	return a
}

// shape is what control planes depend on in an answer to start: its types, its namespace and its property names.
type shape struct {
	Type        string
	Provisioned bool
	DSpace      string
	AddressType string
	Names       []string
	Values      []any
}

func shapeOf(t *testing.T, where string, body []byte) shape {
	t.Helper()
	var m map[string]any
	err := json.Unmarshal(body, &m)
	if err != nil {
		t.Fatalf("%s: %v: %s", where, err, body)
	}
	var s shape
	prefix := ""
	context, ok := m["@context"].(map[string]any)
	if ok {
		prefix = "dspace:"
		s.DSpace, _ = context["dspace"].(string)
	}
	s.Type, _ = m["@type"].(string)
	s.Provisioned, _ = m["provisioning"].(bool)
	address, ok := m["dataAddress"].(map[string]any)
	if !ok {
		t.Fatalf("%s: no dataAddress: %s", where, body)
	}
	switch kind := address[prefix+"endpointType"].(type) {
	case string:
		s.AddressType = kind
	case map[string]any:
		s.AddressType, _ = kind["@id"].(string)
	}
	for _, p := range address[prefix+"endpointProperties"].([]any) {
		property := p.(map[string]any)
		name, _ := property[prefix+"name"].(string)
		s.Names = append(s.Names, name)
		s.Values = append(s.Values, property[prefix+"value"])
	}
	return s
}

// sameShape compares our answer with one that the control plane was content with. Ours has every name of the protocol
// that the recorded one has; names of the recorder's own invention and Tractus-X's copies of the request, which have no
// namespace and reach no consumer, are not looked for.
func sameShape(t *testing.T, where, recorded string, ours []byte) {
	t.Helper()
	theirs, got := shapeOf(t, where, []byte(recorded)), shapeOf(t, where, ours)
	if theirs.Type != got.Type || theirs.DSpace != got.DSpace || theirs.AddressType != got.AddressType || got.Provisioned {
		t.Errorf("%s: shape %+v, recorded %+v", where, got, theirs)
	}
	plain := got.DSpace == ""
	for _, name := range theirs.Names {
		ofProtocol := strings.HasPrefix(name, edcNS) || strings.HasPrefix(name, txNS) || plain
		if ofProtocol && !slices.Contains(got.Names, name) {
			t.Errorf("%s: property %s is missing", where, name)
		}
	}
	for i, value := range got.Values {
		_, isString := value.(string)
		if !isString {
			t.Errorf("%s: value of %s is no string: %v", where, got.Names[i], value)
		}
		if !plain && !strings.HasPrefix(got.Names[i], "https://") {
			t.Errorf("%s: name %s is no IRI", where, got.Names[i])
		}
	}
}

func sameState(t *testing.T, where, recorded string, ours []byte) {
	t.Helper()
	var theirs, got struct {
		Type  string `json:"@type"`
		State string
	}
	for data, into := range map[string]any{recorded: &theirs, string(ours): &got} {
		err := json.Unmarshal([]byte(data), into)
		if err != nil {
			t.Fatalf("%s: %v", where, err)
		}
	}
	if theirs != got {
		t.Errorf("%s: %+v, recorded %+v", where, got, theirs)
	}
}

func indent(body []byte) []byte {
	var b bytes.Buffer
	if json.Indent(&b, bytes.TrimSpace(body), "", " ") != nil {
		return body
	}
	return b.Bytes()
}

func compareGolden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", "golden", name+".txt")
	if *update {
		err := os.MkdirAll(filepath.Dir(file), 0o755)
		if err != nil {
			t.Fatal(err)
		}
		err = os.WriteFile(file, got, 0o644)
		if err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("answers differ from %s; run the test with -update and look at the difference", file)
	}
}
