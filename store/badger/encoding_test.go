package badger

import (
	"bytes"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/edrgate/edrgate/store"
)

func FuzzDecodeRecord(f *testing.F) {
	f.Add("flow", "a", encodeRecord(store.Record{Kind: "flow", ID: "a", Version: 1}))
	f.Add("flow", "a", encodeRecord(store.Record{
		Kind: "flow", ID: "a", Version: 7, Labels: map[string]string{"k": "v", "": ""}, Expires: time.Unix(1, 2), Data: []byte("data"),
	}))
	f.Add("flow", "a", seal(recordKey("flow", "a"), append(make([]byte, 20), 255, 0, 9)))
	f.Add("flow", "a", []byte{})
	f.Fuzz(func(t *testing.T, kind, id string, sealed []byte) {
		r, err := decodeRecord(kind, id, sealed)
		if err != nil {
			return
		}
		again, err := decodeRecord(kind, id, encodeRecord(r))
		if err != nil || again.Version != r.Version || !again.Expires.Equal(r.Expires) || !bytes.Equal(again.Data, r.Data) {
			t.Errorf("record %+v came back as %+v, %v", r, again, err)
		}
	})
}

// FuzzDecodeBody goes behind the checksum, which a fuzzer cannot guess.
func FuzzDecodeBody(f *testing.F) {
	f.Add(make([]byte, 21))
	f.Add(append(make([]byte, 20), 1, 0, 1, 'k', 0, 1, 'v', 'd'))
	f.Add(append(make([]byte, 20), 1, 255, 255))
	f.Add([]byte("short"))
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := decodeRecord("k", "i", seal(recordKey("k", "i"), slices.Clone(body)))
		if err == nil && len(r.Data) > len(body) {
			t.Errorf("%d bytes of data from %d", len(r.Data), len(body))
		}
		e, err := decodeEntry(3, seal(entryKey(3), slices.Clone(body)))
		if err == nil {
			again, err := decodeEntry(3, encodeEntry(e))
			if err != nil || again != e {
				t.Errorf("entry %+v came back as %+v, %v", e, again, err)
			}
		}
		_, err = decodePosition(seal(logKey, slices.Clone(body)))
		if (err == nil) != (len(body) == 16) {
			t.Errorf("log position of %d bytes: %v", len(body), err)
		}
	})
}

func TestUnsealDetects(t *testing.T) {
	sealed := seal([]byte("key"), []byte("body"))
	body, err := unseal([]byte("key"), slices.Clone(sealed))
	if err != nil || string(body) != "body" {
		t.Fatalf("got %q, %v", body, err)
	}
	for i := range sealed {
		damaged := slices.Clone(sealed)
		damaged[i] ^= 0x10
		_, err = unseal([]byte("key"), damaged)
		if err == nil {
			t.Errorf("a change of byte %d is not noticed", i)
		}
	}
	_, err = unseal([]byte("kex"), sealed)
	if err == nil {
		t.Error("a value under another key is not noticed")
	}
	_, err = unseal([]byte("key"), sealed[:3])
	if err == nil {
		t.Error("a value that is cut short is not noticed")
	}
}

// Keys of expiries sort as their times do.
func TestTimesSort(t *testing.T) {
	times := []time.Time{
		time.Unix(math.MinInt32, 0),
		{},
		time.Unix(-1, 5), time.Unix(0, 0), time.Unix(0, 1), time.Unix(0, 999_999_999), time.Unix(1, 0),
		time.Unix(math.MaxInt32, 0), time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC),
	}
	slices.SortFunc(times, time.Time.Compare)
	for i, at := range times {
		if !readTime(appendTime(nil, at)).Equal(at) {
			t.Errorf("%v came back as %v", at, readTime(appendTime(nil, at)))
		}
		if i > 0 && bytes.Compare(appendTime(nil, times[i-1]), appendTime(nil, at)) >= 0 {
			t.Errorf("%v does not sort before %v", times[i-1], at)
		}
	}
	if !readTime(appendTime(nil, time.Time{})).IsZero() {
		t.Error("the zero time did not come back")
	}
}
