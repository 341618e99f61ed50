package controlplane

import (
	"encoding/json"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/edrgate/edrgate/tokens"
)

// recording is one exchange in testdata/wire: what a data plane sent to a control plane, which was content with it.
type recording struct {
	Method, Path, Body string
	Answer             struct {
		Status int
		Body   string
	}
}

// recordedExchanges are how many there are of each control plane, so that none is lost without a word.
var recordedExchanges = map[string]int{
	"edc-0.11.1": 4, "edc-0.13.2": 4, "edc-0.14.0": 4, "edc-0.15.1": 7, "edc-0.15.1-dsp-0.8": 4, "edc-0.17.0": 7,
	"dps-edc-0.18": 12, "dps-edc-main": 1, "dps-tck": 5,
}

// TestRecordedExchanges: what control planes took from other data planes is what they get from us, and what they answered
// is understood.
func TestRecordedExchanges(t *testing.T) {
	folders, err := filepath.Glob(filepath.Join("testdata", "wire", "*", ""))
	if err != nil {
		t.Fatal(err)
	}
	for _, folder := range folders {
		_, known := recordedExchanges[filepath.Base(folder)]
		if !known && filepath.Ext(folder) != ".md" {
			t.Errorf("no test reads %s", folder)
		}
	}
	for source, count := range recordedExchanges {
		t.Run(source, func(t *testing.T) {
			files, err := filepath.Glob(filepath.Join("testdata", "wire", source, "*.json"))
			if err != nil || len(files) != count {
				t.Fatalf("%d recordings, want %d: %v", len(files), count, err)
			}
			dialect := tokens.Classic
			if strings.HasPrefix(source, "dps-") {
				dialect = tokens.DPS
			}
			var last Registration // in the order of the names
			for _, file := range files {
				data, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				var r recording
				err = json.Unmarshal(data, &r)
				if err != nil {
					t.Fatal(err)
				}
				t.Run(strings.TrimSuffix(filepath.Base(file), ".json"), func(t *testing.T) {
					switch {
					case r.Method == "GET":
						wantListUnderstood(t, last, r)
					case strings.HasSuffix(r.Path, "/dataplanes"):
						made := wantSameRegistration(t, dialect, r)
						if last.ID == "" { // the list is the provider's, who is registered first
							last = made
						}
					default:
						wantSameCallback(t, dialect, r)
					}
				})
			}
		})
	}
}

// wantSameRegistration registers what was registered, and compares the messages.
func wantSameRegistration(t *testing.T, dialect tokens.Dialect, r recording) Registration {
	t.Helper()
	var m struct {
		ID                                       string `json:"@id"`
		DataplaneID, URL, Endpoint               string
		AllowedSourceTypes, AllowedTransferTypes []string
		TransferTypes, Labels                    []string
		Authorization                            *struct {
			Offer
			ClientSecret tokens.Secret
		}
	}
	err := json.Unmarshal([]byte(r.Body), &m)
	if err != nil {
		t.Fatal(err)
	}
	ours := Registration{
		Protocol: dialect, URL: mustBase(t, "http://cp"+r.Path), ID: m.ID + m.DataplaneID, Endpoint: m.URL + m.Endpoint,
		TransferTypes: append(m.TransferTypes, m.AllowedTransferTypes...), SourceTypes: m.AllowedSourceTypes, Labels: m.Labels,
	}
	if m.Authorization != nil {
		ours.Authorization = &m.Authorization.Offer
		ours.Authorization.ClientSecret = m.Authorization.ClientSecret
	}
	got, err := ours.put()
	if err != nil {
		t.Fatal(err)
	}
	if got.method != r.Method || got.url != "http://cp"+r.Path {
		t.Errorf("%s %s, recorded %s %s", got.method, got.url, r.Method, r.Path)
	}
	wantMembers(t, got.body, r.Body, "@context") // a larger one there
	return ours
}

// wantMembers compares a message of ours with a recorded one, member by member, but for some. Ours may have more.
func wantMembers(t *testing.T, ours []byte, recorded string, but ...string) {
	t.Helper()
	var got, want map[string]any
	for data, into := range map[string]*map[string]any{string(ours): &got, recorded: &want} {
		err := json.Unmarshal([]byte(data), into)
		if err != nil {
			t.Fatalf("%v: %s", err, data)
		}
	}
	for _, name := range but {
		delete(want, name)
	}
	for name, value := range want {
		if !reflect.DeepEqual(got[name], value) {
			t.Errorf("%s is %v, recorded %v", name, got[name], value)
		}
	}
}

// wantListUnderstood reads a recorded list: what was registered is found there, unless it was deleted.
func wantListUnderstood(t *testing.T, made Registration, r recording) {
	t.Helper()
	found, err := made.find([]byte(r.Answer.Body))
	switch {
	case err != nil:
		t.Fatal(err)
	case r.Answer.Body == "[]":
		if found != nil {
			t.Errorf("found %+v", found)
		}
	case found == nil || !made.matches(found) || found.state == "":
		t.Errorf("found %+v of %+v", found, made)
	}
}

// wantSameCallback tells what was told, and compares the messages.
func wantSameCallback(t *testing.T, dialect tokens.Dialect, r recording) {
	t.Helper()
	base, rest, ok := strings.Cut(r.Path, "/transferprocess/")
	if dialect == tokens.DPS {
		base, rest, ok = strings.Cut(r.Path, "/transfers/")
	}
	flow, _, _ := strings.Cut(rest, "/")
	event := r.Path[strings.LastIndex(r.Path, "/")+1:]
	kind := map[string]tokens.ReportEvent{
		"complete": tokens.ReportCompleted, "completed": tokens.ReportCompleted, "fail": tokens.ReportFailed, "errored": tokens.ReportFailed,
		"started": tokens.ReportStarted, "prepared": tokens.ReportPrepared,
	}[event]
	if !ok || kind == "" {
		t.Fatalf("no expectation of %s", r.Path)
	}
	var carried struct{ DataAddress any }
	if r.Body != "" {
		err := json.Unmarshal([]byte(r.Body), &carried)
		if err != nil {
			t.Fatal(err)
		}
	}
	got, err := callback(&url.URL{Scheme: "http", Host: "cp", Path: base}, &tokens.Report{
		Flow: flow, Dialect: dialect, Event: kind, Cause: tokens.CauseRevoked, Since: since,
	}, carried.DataAddress)
	if err != nil {
		t.Fatal(err)
	}
	if got.method != r.Method || got.url != "http://cp"+r.Path {
		t.Errorf("%s %s, recorded %s %s", got.method, got.url, r.Method, r.Path)
	}
	if r.Body == "" {
		if got.body != nil {
			t.Errorf("body %s, recorded none", got.body)
		}
		return
	}
	// Each has a text and a message id of its own; the state of an error is what the flow was in, or is.
	wantMembers(t, got.body, r.Body, "@context", "@type", "messageId", "errorMessage", "error", "state")
	for _, name := range []string{"errorMessage", "messageId", "dataFlowId", "error", "state"} {
		if strings.Contains(r.Body, `"`+name+`"`) && !strings.Contains(string(got.body), `"`+name+`":"`) {
			t.Errorf("no %s in %s", name, got.body)
		}
	}
}
