package did

import (
	"fmt"
	"testing"
	"time"

	"github.com/edrgate/edrgate/internal/testkit"
)

func TestCacheIsBoundedByNumber(t *testing.T) {
	c := newCache(3, 1<<30)
	for i := range 5 {
		c.get(fmt.Sprint(i))
		c.get("0") // used again and again
	}
	if len(c.records) != 3 || c.order.Len() != 3 {
		t.Fatalf("%d records, %d in order", len(c.records), c.order.Len())
	}
	for _, did := range []string{"0", "3", "4"} {
		if c.records[did] == nil {
			t.Errorf("%s was dropped", did)
		}
	}
}

func TestCacheIsBoundedByBytes(t *testing.T) {
	c := newCache(1000, 10*recordBytes)
	for i := range 100 {
		c.get(fmt.Sprint(i))
	}
	if c.bytes > 10*recordBytes || len(c.records) == 0 {
		t.Fatalf("%d bytes in %d records", c.bytes, len(c.records))
	}
	// A record that is too large by itself is kept, alone: its caller is waiting for it.
	big := c.get("big")
	big.doc = &document{methods: make(map[string]method)}
	for i := range 64 {
		big.doc.methods[fmt.Sprint(i)] = method{key: &rsaKey().PublicKey}
	}
	c.account(big)
	if len(c.records) != 1 || c.records["big"] == nil {
		t.Errorf("%d records left", len(c.records))
	}
	c.get("next")
	if c.records["big"] != nil || c.records["next"] == nil {
		t.Error("the large record was not dropped")
	}
	c.forget("next")
	if c.bytes != 0 {
		t.Errorf("%d bytes are counted in an empty cache", c.bytes)
	}
}

func TestRefetchBudget(t *testing.T) {
	r := &record{}
	now := time.Unix(0, 0)
	for i := range refetchBurst {
		if wait := r.limited(now); wait != 0 {
			t.Fatalf("fetch %d has to wait %s", i, wait)
		}
	}
	for range 3 { // asking in vain costs nothing
		if wait := r.limited(now); wait != refetchInterval {
			t.Errorf("wait %s, want %s", wait, refetchInterval)
		}
	}
	if wait := r.limited(now.Add(refetchInterval)); wait != 0 {
		t.Errorf("wait %s after the interval", wait)
	}
	if wait := r.limited(now.Add(time.Hour)); wait != 0 {
		t.Errorf("wait %s after an hour", wait)
	}
}

func TestResolverDropsWhatWasUsedLongestAgo(t *testing.T) {
	h := newHost(t)
	b := newBench(t, func(c *Config) { c.MaxEntries = 1 }, h)
	key := testkit.ECKey(t)
	h.serve(t, documentOf(t, h.did(), "k", key))
	b.wantAsked(t, h, key)
	_, err := b.ResolveKey(t.Context(), keyP256, keyP256)
	if err != nil {
		t.Fatal(err)
	}
	b.wantAsked(t, h, key)
	h.wantRequests(t, 2)
}

// BenchmarkResolveKey is what a renewal pays while the document is fresh.
func BenchmarkResolveKey(b *testing.B) {
	r, err := New(Config{})
	if err != nil {
		b.Fatal(err)
	}
	const did = "did:web:wallet.example:BPNL00000000000A"
	id, failure := parse(did)
	if failure != nil {
		b.Fatal(failure)
	}
	rec := r.cache.get(did)
	rec.doc = &document{id: id, methods: map[string]method{"k": {key: &rsaKey().PublicKey}}, count: 1}
	rec.fetched = time.Now()
	rec.fresh = rec.fetched.Add(time.Hour)
	b.ReportAllocs()
	for b.Loop() {
		_, err := r.ResolveKey(b.Context(), did, did+"#k")
		if err != nil {
			b.Fatal(err)
		}
	}
}
