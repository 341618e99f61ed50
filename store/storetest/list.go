package storetest

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/edrgate/edrgate/store"
)

// awkward are ids that a careless key would mix up or put out of order: prefixes of each other, bytes beside the usual
// separators, and bytes that are no text. In bytewise order.
var awkward = []string{
	"\x01", "\x01\x01", " ", "%", "%00", "*", "/", "/a", ":", "A", "_", "a", "a\x01", "a\x01b", "a ", "a%", "a/", "a/b", "a:b", "aa", "ab",
	"abc", "b", "b\x7f", "b\x80", "b\xff", "b\xff\xff", "é", "\xfe", "\xff", "\xff\x01", "\xff\xff",
}

func testListOrder(t *testing.T, f *fixture) {
	for _, id := range slices.Backward(awkward) {
		mustCreate(t, f, store.Record{Kind: "flow", ID: id, Data: []byte(id)})
		mustCreate(t, f, store.Record{Kind: "flowa", ID: id})
		mustCreate(t, f, store.Record{Kind: "flo", ID: id})
	}
	page, err := f.List(t.Context(), store.Query{Kind: "flow"})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(ids(page), awkward) {
		t.Errorf("got ids %q, want %q", ids(page), awkward)
	}
	for _, r := range page {
		wantRecord(t, r, store.Record{Kind: "flow", ID: r.ID, Version: 1, Data: []byte(r.ID)})
	}
	for i, id := range awkward {
		page, err = f.List(t.Context(), store.Query{Kind: "flow", After: id})
		if err != nil || !slices.Equal(ids(page), awkward[i+1:]) {
			t.Errorf("after %q: got ids %q, %v; want %q", id, ids(page), err, awkward[i+1:])
		}
	}
	page, err = f.List(t.Context(), store.Query{Kind: "none"})
	if err != nil || len(page) != 0 {
		t.Errorf("list of another kind: got %q, %v; want nothing", ids(page), err)
	}
}

// Only the exact value of the exact label of the exact kind counts.
func testListLabel(t *testing.T, f *fixture) {
	for i, value := range awkward {
		id := fmt.Sprintf("%03d", i)
		mustCreate(t, f, store.Record{Kind: "flow", ID: id, Labels: map[string]string{"k": value, value: "k", "all": "yes"}, Data: []byte(value)})
		mustCreate(t, f, store.Record{Kind: "flowk", ID: id, Labels: map[string]string{"k": value}})
	}
	mustCreate(t, f, store.Record{Kind: "flow", ID: "empty", Labels: map[string]string{"k": ""}})
	mustCreate(t, f, store.Record{Kind: "flow", ID: "none"})
	for i, value := range awkward {
		id := fmt.Sprintf("%03d", i)
		for _, q := range []store.Query{{Kind: "flow", Label: "k", Value: value}, {Kind: "flow", Label: value, Value: "k"}} {
			page, err := f.List(t.Context(), q)
			if err != nil || len(page) != 1 || page[0].ID != id || string(page[0].Data) != value {
				t.Errorf("list %q=%q: got %q, %v; want %s", q.Label, q.Value, ids(page), err, id)
			}
		}
	}
	page, err := f.List(t.Context(), store.Query{Kind: "flow", Label: "k"})
	if err != nil || strings.Join(ids(page), " ") != "empty" {
		t.Errorf("list with an empty value: got %q, %v", ids(page), err)
	}
	page, err = f.List(t.Context(), store.Query{Kind: "flow", Label: "all", Value: "yes"})
	if err != nil || len(page) != len(awkward) || !slices.IsSorted(ids(page)) {
		t.Errorf("list of all: got %q, %v", ids(page), err)
	}
}

func testListPaging(t *testing.T, f *fixture) {
	for i, id := range awkward {
		mustCreate(t, f, store.Record{Kind: "flow", ID: id, Labels: map[string]string{"odd": fmt.Sprint(i % 2)}})
	}
	var odd []string
	for i, id := range awkward {
		if i%2 == 1 {
			odd = append(odd, id)
		}
	}
	for _, test := range []struct {
		q    store.Query
		want []string
	}{
		{store.Query{Kind: "flow", Limit: 1}, awkward},
		{store.Query{Kind: "flow", Limit: 5}, awkward},
		{store.Query{Kind: "flow", Limit: len(awkward)}, awkward},
		{store.Query{Kind: "flow", Limit: -1}, awkward},
		{store.Query{Kind: "flow", Limit: store.MaxPage + 1}, awkward},
		{store.Query{Kind: "flow", Limit: 1, Label: "odd", Value: "1"}, odd},
		{store.Query{Kind: "flow", Limit: 7, Label: "odd", Value: "1"}, odd},
	} {
		var got []string
		q := test.q
		for {
			page, err := f.List(t.Context(), q)
			if err != nil {
				t.Fatal(err)
			}
			if q.Limit > 0 && len(page) > q.Limit {
				t.Errorf("limit %d: got %d records", q.Limit, len(page))
			}
			if len(page) == 0 {
				break
			}
			got = append(got, ids(page)...)
			q.After = page[len(page)-1].ID
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("pages of %+v: got %q, want %q", test.q, got, test.want)
		}
	}
	// A page goes on behind an id that is not there, too.
	page, err := f.List(t.Context(), store.Query{Kind: "flow", After: "a\x01a"})
	if err != nil || len(page) == 0 || page[0].ID != "a\x01b" {
		t.Errorf("after an id that is not there: got %q, %v", ids(page), err)
	}
}

// Expired records take no place in a page: a page that is not full is the last.
func testListSkipsExpired(t *testing.T, f *fixture) {
	for i := range 20 {
		r := store.Record{Kind: "flow", ID: fmt.Sprintf("%02d", i), Labels: map[string]string{"k": "v"}}
		if i%4 != 3 {
			r.Expires = f.clock.Now().Add(time.Minute)
		}
		mustCreate(t, f, r)
	}
	f.clock.Advance(time.Hour)
	for _, q := range []store.Query{{Kind: "flow", Limit: 3}, {Kind: "flow", Limit: 3, Label: "k", Value: "v"}} {
		page, err := f.List(t.Context(), q)
		if err != nil || strings.Join(ids(page), " ") != "03 07 11" {
			t.Errorf("first page: got %q, %v", ids(page), err)
		}
		q.After = "11"
		page, err = f.List(t.Context(), q)
		if err != nil || strings.Join(ids(page), " ") != "15 19" {
			t.Errorf("second page: got %q, %v", ids(page), err)
		}
	}
}

func testLabelsStay(t *testing.T, f *fixture) {
	created := mustCreate(t, f, store.Record{Kind: "flow", ID: "a", Labels: map[string]string{"k": "v"}})
	for range 3 {
		mustUpdate(t, f, "flow", "a", store.Edit{Data: []byte("x"), Expires: f.clock.Now().Add(time.Hour)})
	}
	page, err := f.List(t.Context(), store.Query{Kind: "flow", Label: "k", Value: "v"})
	if err != nil || len(page) != 1 || page[0].Version != 4 || !sameLabels(page[0].Labels, created.Labels) {
		t.Errorf("list by label after updates: got %+v, %v", page, err)
	}
}
