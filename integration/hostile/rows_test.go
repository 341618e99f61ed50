package hostile

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/edrgate/edrgate/store"
	"github.com/edrgate/edrgate/store/badger"
)

// row is one way in which a flow's record in the store is damaged, and what its consumer gets then. What is damaged says
// nothing: 503, and neither the data nor a final no. What is whole, but of other terms, opens nothing.
type row struct {
	classic  bool
	damage   func(record []byte) []byte
	data     int    // status of a data request; 200 where nothing it needs is damaged
	renewal  int    // status of a renewal
	dataCode string // text in the answer to the data request
}

// member replaces one member of the record.
func member(name string, value any) func([]byte) []byte {
	return func(record []byte) []byte {
		var members map[string]json.RawMessage
		err := json.Unmarshal(record, &members)
		if err != nil {
			panic(err)
		}
		if value == (absent{}) {
			delete(members, name)
		} else {
			text, err := json.Marshal(value)
			if err != nil {
				panic(err)
			}
			members[name] = text
		}
		record, err = json.Marshal(members)
		if err != nil {
			panic(err)
		}
		return record
	}
}

// memberOf changes an object inside of the record.
func memberOf(name string, change func([]byte) []byte) func([]byte) []byte {
	return func(record []byte) []byte {
		var members map[string]json.RawMessage
		err := json.Unmarshal(record, &members)
		if err != nil {
			panic(err)
		}
		return member(name, rawJSON(change(members[name])))(record)
	}
}

func fixed(text string) func([]byte) []byte { return func([]byte) []byte { return []byte(text) } }

func rows() map[string]row {
	table := map[string]row{
		"untouched":          {damage: func(b []byte) []byte { return b }, data: 200, renewal: 200},
		"untouched, classic": {classic: true, damage: func(b []byte) []byte { return b }, data: 200, renewal: 200},

		"suspended":  {damage: member("state", "SUSPENDED"), data: 403, renewal: 400, dataCode: "flow_suspended"},
		"terminated": {damage: member("state", "TERMINATED"), data: 401, renewal: 400, dataCode: "invalid_token"},
		"completed":  {damage: member("state", "COMPLETED"), data: 401, renewal: 400, dataCode: "invalid_token"},
		"prepared":   {damage: member("state", "PREPARED"), data: 401, renewal: 400, dataCode: "invalid_token"},

		"bound to another DID":   {damage: member("bound_did", "did:web:attacker.example"), data: 401, renewal: 401},
		"bound to nobody":        {damage: member("bound_did", absent{}), data: 200, renewal: 400}, // its counterparty is the same DID
		"of another dataset":     {damage: member("dataset", "rain"), data: 401, renewal: 401},
		"without dataset":        {damage: member("dataset", absent{}), data: 401, renewal: 401},
		"of another agreement":   {damage: member("agreement", "another"), data: 401, renewal: 401},
		"without agreement":      {damage: member("agreement", absent{}), data: 401, renewal: 401},
		"with another endpoint":  {damage: member("endpoint", "http://attacker.example"), data: 403, renewal: 200},
		"with an endpoint below": {damage: member("endpoint", "http://127.0.0.1/elsewhere"), data: 403, renewal: 200},
		"without endpoint":       {damage: member("endpoint", absent{}), data: 403, renewal: 200},
		"with another salt":      {damage: member("salt", bytes.Repeat([]byte{1}, 32)), data: 200, renewal: 400},
		"of a generation ahead":  {classic: true, damage: member("generation", 5_000_000), data: 200, renewal: 401},
		"of generation 2^64-1":   {classic: true, damage: member("generation", rawJSON("18446744073709551615")), data: 200, renewal: 401},
	}
	for name, damage := range map[string]func([]byte) []byte{
		"null": fixed("null"), "a list": fixed("[]"), "a number": fixed("1"), "text": fixed(`"x"`), "an empty object": fixed("{}"), "no JSON": fixed("flow"), "NULs": fixed("\x00\x00\x00\x00"),
		"first half": func(b []byte) []byte { return b[:len(b)/2] }, "second half": func(b []byte) []byte { return b[len(b)/2:] }, "one byte short": func(b []byte) []byte { return b[:len(b)-1] },
		"one byte more": func(b []byte) []byte { return append(bytes.Clone(b), '}') }, "twice": func(b []byte) []byte { return append(bytes.Clone(b), b...) },
		"not UTF-8 inside": func(b []byte) []byte { return bytes.Replace(b, []byte(`"id":"`), []byte("\"id\":\"\xff"), 1) },
		"deep":             func([]byte) []byte { return deepJSON(20_000) }, "200 KiB": fixed(strings.Repeat("a", 200<<10)), "a byte order mark": func(b []byte) []byte { return append([]byte("\xef\xbb\xbf"), b...) },
		"state empty": member("state", ""), "state missing": member("state", absent{}), "state null": member("state", nil), "state in small letters": member("state", "started"),
		"state unheard of": member("state", "RUNNING"), "state a number": member("state", 1), "state a list": member("state", []string{"STARTED"}),
		"id missing": member("id", absent{}), "id of another": member("id", "flow-of-another"), "id empty": member("id", ""), "id a number": member("id", 1),
		"participant missing": member("participant", absent{}), "participant another": member("participant", "somebody"), "participant a list": member("participant", []string{}),
		"dialect missing": member("dialect", absent{}), "dialect unheard of": member("dialect", "smoke-signals"), "dialect a number": member("dialect", 1),
		"endpoint no URL": member("endpoint", "http://[::1"), "endpoint that climbs": member("endpoint", "http://127.0.0.1/../x"), "endpoint a number": member("endpoint", 1),
		"salt missing": member("salt", absent{}), "salt short": member("salt", []byte{1}), "salt no base64": member("salt", "!!!"), "salt a number": member("salt", 1),
		"generation negative": member("generation", -1), "generation a fraction": member("generation", 1.5), "generation text": member("generation", "1"), "generation 2^64": member("generation", rawJSON("18446744073709551616")),
		"bound DID a list": member("bound_did", []string{"x"}), "agreement a number": member("agreement", 1), "labels text": member("labels", "x"), "messages text": member("messages", "x"),
		"proofs text": member("proofs", "x"), "created no time": member("created", "yesterday"), "used a number": member("used", 1), "unchecked no time": member("unchecked", "now"), "report text": member("report", "x"),
		"source text": member("source", "x"), "renewable text": member("renewable", "true"), "current key a number": member("current_key", 1),
	} {
		table[name] = row{damage: damage, data: 503, renewal: 503}
		if strings.HasPrefix(name, "endpoint no") || strings.HasPrefix(name, "endpoint that") { // which a renewal does not need
			table[name] = row{damage: damage, data: 503, renewal: 200}
		}
	}
	for name, change := range map[string]func(sealed map[string]any){
		"no key": func(s map[string]any) { delete(s, "key") }, "key unheard of": func(s map[string]any) { s["key"] = "ffffffffffffffff" }, "empty": func(s map[string]any) { clear(s) },
	} {
		table["sealed source, "+name] = row{classic: true, damage: source(change), data: 503, renewal: 200}
	}
	for name, change := range map[string]func(b []byte) []byte{
		"first bit": func(b []byte) []byte { b[0] ^= 1; return b }, "last bit": func(b []byte) []byte { b[len(b)-1] ^= 1; return b }, "cut": func(b []byte) []byte { return b[:len(b)-1] }, "nothing": func([]byte) []byte { return nil },
	} {
		table["sealed source, text "+name] = row{classic: true, data: 503, renewal: 200, damage: source(func(s map[string]any) {
			for member, value := range s {
				var data []byte
				text, _ := value.(string)
				err := json.Unmarshal([]byte(fmt.Sprintf("%q", text)), &data)
				if err == nil && len(data) > 20 { // the sealed bytes
					s[member] = change(data)
				}
			}
		})}
	}
	return table
}

// source changes the sealed source address of a record.
func source(change func(map[string]any)) func([]byte) []byte {
	return func(record []byte) []byte {
		var members struct {
			Source map[string]any `json:"source"`
		}
		err := json.Unmarshal(record, &members)
		if err != nil {
			panic(err)
		}
		change(members.Source)
		return member("source", members.Source)(record)
	}
}

// rowTests damages one flow's record for each row while the gateway is down, and asks for data and a renewal afterwards.
func rowTests(t *testing.T) int {
	w := newWorld(t)
	for _, problem := range w.works() {
		t.Fatalf("before any damage: %s", problem)
	}
	o, err := newWatch(w)
	if err != nil {
		t.Fatal(err)
	}
	table := rows()
	flows := map[string]*flow{}
	for name, r := range table {
		if r.classic {
			flows[name] = w.startClassic("orders", w.hosts.wallet("row-"+b64([]byte(name))))
		} else {
			flows[name] = w.startDPS("weather", w.hosts.wallet("row-"+b64([]byte(name))))
		}
	}
	w.stop()
	w.damage(table, flows)
	w.start()
	o.pid = w.process.Process.Pid
	// What these tell would be wrong without the damaged records.
	o.refused = map[string]int{"/edrgate/keys": http.StatusServiceUnavailable, "/edrgate/flows?limit=1000": http.StatusServiceUnavailable}
	for name, r := range table {
		t.Run(name, func(t *testing.T) {
			f := flows[name]
			request := shape{name: "data", status: r.data, code: r.dataCode, backend: r.data == http.StatusOK, send: func(w *world) string {
				return get(w.data, "/x", bearer(f.access))
			}}
			if r.classic {
				request.to, request.send = proxied, func(w *world) string { return get(w.proxied, "/api/x", bearer(f.access)) }
			}
			renewal := shape{name: "renewal", status: r.renewal, fetches: anyFetches, hands: r.renewal == http.StatusOK, send: func(w *world) string {
				return w.renewal(f, w.proof(f))
			}}
			for _, s := range []shape{request, renewal, request} { // and the same again once it is remembered
				if s.name == "data" && s.status == http.StatusForbidden && r.dataCode == "" {
					s.code = outOfScope
				}
				for _, problem := range append(w.run(s), o.readLogs()...) {
					t.Errorf("%s: %s", s.name, problem)
				}
			}
		})
	}
	for _, problem := range o.afterCategory() {
		t.Errorf("after all: %s", problem)
	}
	return len(table)
}

// damage opens the store of the gateway, which is down, and writes the records anew.
func (w *world) damage(table map[string]row, flows map[string]*flow) {
	w.t.Helper()
	s, err := badger.Open(badger.Options{Dir: w.path("store"), MinFreeBytes: 64 << 20, ReserveBytes: 1 << 20})
	if err != nil {
		w.t.Fatal(err)
	}
	for name, r := range table {
		_, err = s.Update(context.Background(), "flow", "default/"+flows[name].id, func(old store.Record) (store.Edit, error) {
			return store.Edit{Data: r.damage(bytes.Clone(old.Data))}, nil
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
