package caddymodule

import (
	"net/http"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

// asyncPrepareApp is the app of a consumer's world whose user prepares some transfers later.
func (w *consumerWorld) asyncPrepareApp(callback string, datasets ...string) object {
	app := w.consumerApp()
	user := app["participants"].(object)[userName].(object)
	user["control_planes"] = []object{{"name": "main", "callback": callback}}
	user["consumer"].(object)["async_prepare"] = datasets
	return app
}

// TestAsyncPrepareSettings: what nobody could be told of, and what is no dataset, is refused when the config is loaded.
func TestAsyncPrepareSettings(t *testing.T) {
	for _, c := range []struct {
		callback, dataset, want string
	}{
		{"", "a-*", "async_prepare needs a callback of every control plane"},
		{"http://cp/signaling", "a*b", `async_prepare: dataset "a*b": want an id, or the beginning of ids followed by *`},
		{"http://cp/signaling", "", `async_prepare: dataset "": want an id`},
	} {
		w := newConsumerWorld(t)
		err := w.tryLoad(w.asyncPrepareApp(c.callback, c.dataset), w.servers())
		if err == nil || !strings.Contains(err.Error(), "participant user: consumer: "+c.want) {
			t.Errorf("%v, want %s", err, c.want)
		}
	}
}

func TestAsyncPrepareFindsItsDatasets(t *testing.T) {
	w := newConsumerWorld(t)
	w.load(w.asyncPrepareApp("http://cp/signaling", "report-*", "asset-1", "asset-1"), w.consumerServers(nil, nil))
	app, err := configuredApp(caddy.ActiveContext())
	if err != nil {
		t.Fatal(err)
	}
	user, err := app.findParticipant(userName)
	if err != nil {
		t.Fatal(err)
	}
	for dataset, want := range map[string]bool{"report-7": true, "asset-1": true, "asset-10": false, "": false} {
		if user.preparesLater(dataset) != want {
			t.Errorf("%q", dataset)
		}
	}
	for _, p := range app.participants {
		if p != user && p.preparesLater("asset-1") {
			t.Error("of another participant")
		}
	}
}

// TestCompleteIsRefused: with the reason, and nothing changes.
func TestCompleteIsRefused(t *testing.T) {
	w := newConsumerWorld(t)
	w.begin()
	e := w.got("tp-1", "asset-1", 300)
	for _, c := range []struct {
		method, path string
		status       int
		says         string
	}{
		{http.MethodPost, "/edrs/tp-1/complete", http.StatusConflict, "did not come by Data Plane Signaling"},
		{http.MethodPost, "/v3/edrs/tp-9/complete", http.StatusNotFound, "ObjectNotFound"},
		{http.MethodGet, "/edrs/tp-1/complete", http.StatusMethodNotAllowed, ""},
	} {
		a := w.api(c.method, c.path, nil)
		if a.status != c.status || !strings.Contains(a.body, c.says) {
			t.Errorf("%s %s: %d %s", c.method, c.path, a.status, a.body)
		}
	}
	for _, c := range []struct {
		method, path string
		status       int
		says         string
	}{
		{"POST", "/edrgate/edrs/tp-1/complete?participant=" + userName, 409, "did not come by Data Plane Signaling"},
		{"POST", "/edrgate/edrs/tp-9/complete?participant=" + userName, 404, "no EDR tp-9"},
		{"POST", "/edrgate/edrs/tp-1/complete", 404, "no block `consumer"},
		{"GET", "/edrgate/edrs/tp-1/complete?participant=" + userName, 405, "POST"},
	} {
		a := w.admin(c.method, c.path, "")
		if a.status != c.status || !strings.Contains(a.body, c.says) {
			t.Errorf("%s: %d %s", c.path, a.status, a.body)
		}
	}
	if tokenIn(t, w.api(http.MethodGet, "/edrs/tp-1/dataaddress", nil)) != e.access {
		t.Error("the EDR is gone")
	}
}
