package storetest

import (
	"fmt"
	"strings"
	"testing"

	"github.com/edrgate/edrgate/store"
)

func testLimits(t *testing.T, f *fixture) {
	labels := func(n int) map[string]string {
		m := make(map[string]string)
		for i := range n {
			name := fmt.Sprintf("%d%s", i, strings.Repeat("n", store.MaxLabelBytes-1))
			m[name] = strings.Repeat("v", store.MaxLabelBytes)
		}
		return m
	}
	largest := store.Record{
		Kind: strings.Repeat("k", store.MaxKindBytes), ID: strings.Repeat("i", store.MaxIDBytes),
		Labels: labels(store.MaxLabels), Data: make([]byte, store.MaxDataBytes),
	}
	created := mustCreate(t, f, largest)
	wantRecord(t, mustGet(t, f, largest.Kind, largest.ID), created)
	mustUpdate(t, f, largest.Kind, largest.ID, store.Edit{Data: largest.Data, Event: strings.Repeat("e", store.MaxEventBytes)})

	for name, r := range map[string]store.Record{
		"no kind":         {ID: "a"},
		"long kind":       {Kind: largest.Kind + "k", ID: "a"},
		"kind with NUL":   {Kind: "k\x00", ID: "a"},
		"no id":           {Kind: "flow"},
		"long id":         {Kind: "flow", ID: largest.ID + "i"},
		"id with NUL":     {Kind: "flow", ID: "a\x00"},
		"many labels":     {Kind: "flow", ID: "a", Labels: labels(store.MaxLabels + 1)},
		"label no name":   {Kind: "flow", ID: "a", Labels: map[string]string{"": "v"}},
		"label long name": {Kind: "flow", ID: "a", Labels: map[string]string{strings.Repeat("n", store.MaxLabelBytes+1): "v"}},
		"label long":      {Kind: "flow", ID: "a", Labels: map[string]string{"n": strings.Repeat("v", store.MaxLabelBytes+1)}},
		"label with NUL":  {Kind: "flow", ID: "a", Labels: map[string]string{"n": "\x00"}},
		"much data":       {Kind: "flow", ID: "a", Data: make([]byte, store.MaxDataBytes+1)},
	} {
		_, err := f.Create(t.Context(), r)
		wantError(t, "create with "+name, err, store.ErrInvalid)
	}
	for name, key := range map[string][2]string{
		"no kind": {"", "a"}, "no id": {"flow", ""}, "NUL": {"flow", "\x00"}, "long id": {"flow", largest.ID + "i"},
	} {
		_, err := f.Get(t.Context(), key[0], key[1])
		wantError(t, "get with "+name, err, store.ErrInvalid)
		_, err = f.Update(t.Context(), key[0], key[1], write(store.Edit{}))
		wantError(t, "update with "+name, err, store.ErrInvalid)
	}
	for name, q := range map[string]store.Query{
		"no kind":    {},
		"kind":       {Kind: "k\x00"},
		"label":      {Kind: "flow", Label: "n\x00"},
		"value":      {Kind: "flow", Label: "n", Value: strings.Repeat("v", store.MaxLabelBytes+1)},
		"after":      {Kind: "flow", After: "a\x00"},
		"long after": {Kind: "flow", After: largest.ID + "i"},
	} {
		_, err := f.List(t.Context(), q)
		wantError(t, "list with wrong "+name, err, store.ErrInvalid)
	}
}

func testLimitsOfUpdate(t *testing.T, f *fixture) {
	created := mustCreate(t, f, store.Record{Kind: "flow", ID: "a", Data: []byte("1")})
	_, err := f.Update(t.Context(), "flow", "a", write(store.Edit{Data: make([]byte, store.MaxDataBytes+1), Event: "e"}))
	wantError(t, "update with much data", err, store.ErrInvalid)
	_, err = f.Update(t.Context(), "flow", "a", write(store.Edit{Event: strings.Repeat("e", store.MaxEventBytes+1)}))
	wantError(t, "update with a long event", err, store.ErrInvalid)
	wantRecord(t, mustGet(t, f, "flow", "a"), created)
	entries, err := f.Tail(t.Context(), 0, 0)
	if err != nil || len(entries) != 0 {
		t.Errorf("tail: got %v, %v; want nothing", entries, err)
	}
}
