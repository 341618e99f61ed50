package hostile

import (
	"bytes"
	"context"
	"maps"
	"net/http"
	"slices"
	"testing"

	"github.com/edrgate/edrgate/store"
	"github.com/edrgate/edrgate/store/badger"
)

// edrDamages are ways in which the record of an EDR is damaged so that nothing can be read of it.
func edrDamages() map[string]func([]byte) []byte {
	sealed := func(member string, value any) func([]byte) []byte {
		return func(record []byte) []byte { return edrSealed(record, member, value) }
	}
	return map[string]func([]byte) []byte{
		"null": fixed("null"), "a list": fixed("[]"), "no JSON": fixed("edr"), "NULs": fixed("\x00\x00\x00\x00"), "text": fixed(`"x"`), "deep": fixed(string(deepJSON(20_000))),
		"first half": func(b []byte) []byte { return b[:len(b)/2] }, "one byte short": func(b []byte) []byte { return b[:len(b)-1] }, "twice": func(b []byte) []byte { return append(bytes.Clone(b), b...) },
		"state a number": member("state", 1), "state missing": member("state", absent{}), "state unheard of": member("state", "running"), "an empty object": fixed("{}"), "generation negative": member("generation", -1), "held text": member("held", "x"), "expires no time": member("expires", "soon"), "EDR text": member("edr", "x"),
		"sealed with an unknown key": sealed("key", "ffffffffffffffff"), "sealed with no key": sealed("key", absent{}), "sealed text cut": sealed("data", []byte{1, 2, 3}), "sealed text of zeros": sealed("data", make([]byte, 200)),
	}
}

// edrSealed replaces one member of the sealed EDR in a record.
func edrSealed(record []byte, name string, value any) []byte {
	return memberOf("edr", member(name, value))(record)
}

// edrRowTests damages the records of EDRs while the gateway is down. Nothing can be told of them then: 503, and neither another
// company's data nor "there is none"; all others are served.
func edrRowTests(t *testing.T) int {
	w := newWorld(t)
	o, err := newWatch(w)
	if err != nil {
		t.Fatal(err)
	}
	table := edrDamages()
	ids := map[string]string{}
	for name := range table {
		ids[name] = w.hold(plain("row "+name), "rows")
	}
	w.stop()
	w.damageEDRs(table, ids)
	w.start()
	o.pid = w.process.Process.Pid
	o.refused = map[string]int{"/edrgate/keys": http.StatusServiceUnavailable, "/edrgate/edrs": http.StatusServiceUnavailable}
	for _, name := range slices.Sorted(maps.Keys(table)) {
		t.Run(name, func(t *testing.T) {
			for _, s := range []shape{
				{name: "data address", to: edrs, send: func(w *world) string {
					return call(w.edrs, http.MethodGet, "/v3/edrs/"+ids[name]+"/dataaddress", "")
				}},
				{name: "renewal", to: edrs, send: func(w *world) string {
					return call(w.edrs, http.MethodPost, "/v3/edrs/"+ids[name]+"/refresh", "")
				}},
				{name: "data", to: egress, send: func(w *world) string { return call(w.egress, http.MethodGet, "/"+ids[name]+"/x", "") }},
			} {
				s.status, s.code = http.StatusServiceUnavailable, cannotRenew
				for _, problem := range append(w.run(s), o.readLogs()...) {
					t.Errorf("%s: %s", s.name, problem)
				}
			}
			asked, _ := w.provider.seen(plain("row " + name))
			if asked > 0 {
				t.Errorf("the provider was asked %d times", asked)
			}
		})
	}
	for _, problem := range o.afterCategory() {
		t.Errorf("after all: %s", problem)
	}
	return len(table)
}

// damageEDRs opens the store of the gateway, which is down, and writes the records anew.
func (w *world) damageEDRs(table map[string]func([]byte) []byte, ids map[string]string) {
	w.t.Helper()
	s, err := badger.Open(badger.Options{Dir: w.path("store"), MinFreeBytes: 64 << 20, ReserveBytes: 1 << 20})
	if err != nil {
		w.t.Fatal(err)
	}
	for name, damage := range table {
		_, err = s.Update(context.Background(), "edr", "default/"+ids[name], func(old store.Record) (store.Edit, error) {
			return store.Edit{Data: damage(bytes.Clone(old.Data))}, nil
		})
		if err != nil {
			w.t.Fatalf("%s: %v", name, err)
		}
	}
	err = s.Close()
	if err != nil {
		w.t.Fatal(err)
	}
}
