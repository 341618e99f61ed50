package controlplane

import (
	"errors"
	"regexp"
	"testing"
	"time"

	"github.com/edrgate/edrgate/tokens"
)

var since = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

// The paths and bodies are those that EDC 0.11.1 to 0.18 took when they were recorded.
func TestCallbackOnTheWire(t *testing.T) {
	id := messageID(&tokens.Report{Flow: "flow-1", Event: tokens.ReportCompleted, Since: since})
	failed := messageID(&tokens.Report{Flow: "flow-1", Event: tokens.ReportFailed, Since: since})
	prepared := messageID(&tokens.Report{Flow: "flow-1", Event: tokens.ReportPrepared, Since: since})
	started := messageID(&tokens.Report{Flow: "flow-1", Event: tokens.ReportStarted, Since: since})
	for name, test := range map[string]struct {
		base      string
		report    tokens.Report
		url, body string
	}{
		"classic fail": {
			"http://cp:9191/control",
			tokens.Report{Dialect: tokens.Classic, Event: tokens.ReportFailed, Cause: tokens.CauseRevoked},
			"http://cp:9191/control/transferprocess/flow-1/fail", `{"errorMessage":"the data plane ended the data flow"}`,
		},
		"classic complete": {
			"http://cp:9191/control/",
			tokens.Report{Dialect: tokens.Classic, Event: tokens.ReportCompleted, Cause: tokens.CauseRevoked},
			"http://cp:9191/control/transferprocess/flow-1/complete", "",
		},
		"dps completed": {
			"https://cp/api/signaling",
			tokens.Report{Dialect: tokens.DPS, Event: tokens.ReportCompleted, Cause: tokens.CauseUnused},
			"https://cp/api/signaling/transfers/flow-1/dataflow/completed",
			`{"messageId":"` + id + `","dataFlowId":"flow-1","state":"COMPLETED"}`,
		},
		"dps errored": {
			"https://cp",
			tokens.Report{Dialect: tokens.DPS, Event: tokens.ReportFailed, Cause: tokens.CauseUnused},
			"https://cp/transfers/flow-1/dataflow/errored",
			`{"messageId":"` + failed + `","dataFlowId":"flow-1","state":"TERMINATED","error":"the data flow was never used"}`,
		},
		"dps started": {
			"https://cp",
			tokens.Report{Dialect: tokens.DPS, Event: tokens.ReportStarted},
			"https://cp/transfers/flow-1/dataflow/started",
			`{"messageId":"` + started + `","dataFlowId":"flow-1","state":"STARTED","dataAddress":{"@type":"DataAddress"}}`,
		},
		"dps prepared": {
			"https://cp",
			tokens.Report{Dialect: tokens.DPS, Event: tokens.ReportPrepared},
			"https://cp/transfers/flow-1/dataflow/prepared",
			`{"messageId":"` + prepared + `","dataFlowId":"flow-1","state":"PREPARED"}`,
		},
		"id that must be encoded": {
			"https://cp/a%2Fb",
			tokens.Report{Flow: "a?b#c%2F", Dialect: tokens.Classic, Event: tokens.ReportCompleted},
			"https://cp/a%2Fb/transferprocess/a%3Fb%23c%252F/complete", "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := test.report
			if r.Flow == "" {
				r.Flow = "flow-1"
			}
			r.Since = since
			m, err := callback(mustBase(t, test.base), &r, addressOf(nil))
			if err != nil {
				t.Fatal(err)
			}
			if m.method != "POST" || m.url != test.url || string(m.body) != test.body {
				t.Errorf("%s %s %s", m.method, m.url, m.body)
			}
		})
	}
}

func TestCallbackOfAnIDThatClimbs(t *testing.T) {
	for _, id := range []string{".", ".."} {
		_, err := callback(mustBase(t, "http://cp/control"), &tokens.Report{Flow: id, Dialect: tokens.DPS}, nil)
		if !errors.Is(err, errDots) {
			t.Errorf("%s: %v", id, err)
		}
	}
}

func TestMessageIDIsThatOfTheReport(t *testing.T) {
	r := &tokens.Report{Flow: "flow-1", Event: tokens.ReportCompleted, Since: since, Attempt: 1}
	id := messageID(r)
	r.Attempt = 2
	if messageID(r) != id || !regexp.MustCompile(`^[A-Z2-7]{26}$`).MatchString(id) {
		t.Errorf("%s, then %s", id, messageID(r))
	}
	r.Flow = "flow-2"
	if messageID(r) == id {
		t.Error("two flows have the same message id")
	}
}

// Whoever may start a flow must not choose whom the gateway talks to.
func TestCallbackAddressOfTheMessage(t *testing.T) {
	const configured = "http://cp:9191/control"
	for name, test := range map[string]struct{ own, want string }{
		"absent":                     {"", configured},
		"same":                       {configured, configured},
		"another path":               {"http://cp:9191/participant-2/control", "http://cp:9191/participant-2/control"},
		"host in capitals":           {"http://CP:9191/x", "http://CP:9191/x"},
		"another port":               {"http://cp:9192/control", configured},
		"another host":               {"http://attacker.example:9191/control", configured},
		"another scheme":             {"https://cp:9191/control", configured},
		"user":                       {"http://cp:9191@attacker.example/control", configured},
		"user at the right host":     {"http://u:p@cp:9191/control", configured},
		"query to swallow the path":  {"http://cp:9191/shutdown?x=", configured},
		"fragment to cut the path":   {"http://cp:9191/shutdown#x", configured},
		"not a URL":                  {"http://cp:9191/%zz", configured},
		"opaque":                     {"http:cp:9191/control", configured},
		"metadata service of clouds": {"http://169.254.169.254/latest", configured},
	} {
		t.Run(name, func(t *testing.T) {
			got := baseFor(mustBase(t, configured), &tokens.Report{Callback: test.own})
			if got.String() != test.want {
				t.Errorf("%s, want %s", got, test.want)
			}
		})
	}
	if !sameOrigin(mustBase(t, "https://cp:443/a"), mustBase(t, "https://cp/b")) || sameOrigin(mustBase(t, "http://cp:443/a"), mustBase(t, "http://cp/b")) {
		t.Error("default ports")
	}
}

func TestRegisteredEndpoint(t *testing.T) {
	configured := mustBase(t, "http://cp:9191/control")
	for name, test := range map[string]struct{ callback, registered, want string }{
		"registered":                     {"", "http://cp:9191/registered", "http://cp:9191/registered"},
		"the message counts first":       {"http://cp:9191/own", "http://cp:9191/registered", "http://cp:9191/own"},
		"the message names another host": {"http://x/own", "http://cp:9191/registered", "http://cp:9191/registered"},
		"both elsewhere":                 {"http://x/own", "http://x/registered", "http://cp:9191/control"},
	} {
		got := baseFor(configured, &tokens.Report{Callback: test.callback, Registered: test.registered})
		if got.String() != test.want {
			t.Errorf("%s: %s", name, got)
		}
	}
	if CheckCallback(configured, "http://cp:9191/x") != nil {
		t.Error("the right server is refused")
	}
	for _, bad := range []string{"http://x:9191/x", "x", "http://cp:9191/x?y"} {
		if CheckCallback(configured, bad) == nil {
			t.Errorf("%s is taken", bad)
		}
	}
	if CheckCallback(nil, "http://cp:9191/x") == nil {
		t.Error("taken without a configured callback")
	}
}

func TestParseBase(t *testing.T) {
	for _, bad := range []string{"", "cp", "/control", "ftp://cp/", "http://", "http://u@cp/", "http://cp/?q=1", "http://cp/?", "http://cp/#f", "http://cp:x/", "mailto:a@b"} {
		_, err := ParseBase(bad)
		if err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func FuzzParseBase(f *testing.F) {
	for _, seed := range []string{"http://cp:9191/control", "https://[::1]/a%2Fb/", "http://u:p@cp", "http://cp#f", "x"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, err := ParseBase(s)
		if err != nil {
			return
		}
		m, err := callback(u, &tokens.Report{Flow: "flow-1", Dialect: tokens.DPS, Event: tokens.ReportCompleted}, nil)
		if err != nil {
			t.Fatal(err)
		}
		sent, err := ParseBase(m.url)
		if err != nil || !sameOrigin(u, sent) {
			t.Errorf("%q becomes %q: %v", s, m.url, err)
		}
	})
}
