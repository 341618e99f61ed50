package consumer

import (
	"strings"
	"testing"

	"github.com/edrgate/edrgate/store"
)

// Regression tests of what the bad-input suite (integration/hostile) has found.

func TestLivesThatAreNoNumbers(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"Infinity", "inf", "-Inf", "NaN", "0x10", "0x1p4", "3_0_0", "-1", " 300", "300s", "1e", ""} {
		life, err := parseSeconds(text)
		if (err == nil) != (text == "") || life != 0 {
			t.Errorf("%q: %v, %v", text, life, err)
		}
	}
	for _, text := range []string{"300", "300.5", "3e2", "1e999"} { // what lasts longer than any is bounded
		_, err := parseSeconds(text)
		if err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestPortsThatAreNone(t *testing.T) {
	t.Parallel()
	for _, url := range []string{"https://provider.example:0/", "https://provider.example:65536/", "https://provider.example:99999999999999999999/"} {
		err := checkURL("endpoint", url, nil)
		if CodeOf(err) != CodeInvalid || !strings.Contains(err.Error(), "endpoint has a port") {
			t.Errorf("%s: %v", url, err)
		}
	}
	for _, url := range []string{"https://provider.example:65535/", "https://provider.example/"} {
		err := checkURL("endpoint", url, nil)
		if err != nil {
			t.Errorf("%s: %v", url, err)
		}
	}
}

// TestEventsOfNoTime: a time that cannot be written was trouble of the store, with a 503, and EDC came again with it.
func TestEventsOfNoTime(t *testing.T) {
	t.Parallel()
	for _, at := range []string{"9007199254740991", "-9007199254740991", "-1", "253402300800000"} {
		_, err := ParseEvent([]byte(`{"type":"TransferProcessSuspended","at":` + at + `,"payload":{"transferProcessId":"x","type":"CONSUMER"}}`))
		if CodeOf(err) != CodeInvalid {
			t.Errorf("%s: %v", at, err)
		}
	}
	_, err := ParseEvent([]byte(`{"type":"TransferProcessSuspended","at":253402300799999,"payload":{"transferProcessId":"x","type":"CONSUMER"}}`))
	if err != nil {
		t.Errorf("the last second of 9999: %v", err)
	}
}

// TestRecordWithoutAStateIsNoAnswer: null was read as a record without an EDR, and answered as if there were none.
func TestRecordWithoutAStateIsNoAnswer(t *testing.T) {
	t.Parallel()
	for _, data := range []string{"null", "{}", `{"state":""}`, `{"state":"running"}`} {
		_, err := decode(store.Record{ID: "default/tp-1", Data: []byte(data)})
		if CodeOf(err) != CodeUnavailable {
			t.Errorf("%s: %v", data, err)
		}
	}
}
