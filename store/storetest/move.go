package storetest

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/edrgate/edrgate/internal/testkit"
	"github.com/edrgate/edrgate/store"
	"github.com/edrgate/edrgate/store/move"
)

// OpenMover opens an empty store whose content can be moved. The suite closes it.
type OpenMover func(t *testing.T, clock func() time.Time) store.Mover

// RunMove tests that what one engine holds keeps its meaning in another.
func RunMove(t *testing.T, openFrom, openTo OpenMover) {
	open := func(t *testing.T, open OpenMover, clock *testkit.Clock) *fixture {
		s := open(t, clock.Now)
		t.Cleanup(func() { closeStore(t, s) })
		return &fixture{Store: s, clock: clock}
	}
	mover := func(f *fixture) store.Mover { return f.Store.(store.Mover) }

	t.Run("All", func(t *testing.T) {
		clock := testkit.NewClock()
		from, to := open(t, openFrom, clock), open(t, openTo, clock)
		want := fill(t, from)
		for _, id := range awkward {
			want = append(want, mustCreate(t, from, store.Record{
				Kind: "odd", ID: id, Labels: map[string]string{id: "k", "empty": ""}, Expires: clock.Now().Add(24*time.Hour + time.Nanosecond), Data: []byte(id),
			}))
		}
		mustCreate(t, from, store.Record{Kind: "gone", ID: "a", Expires: clock.Now().Add(time.Second)})
		clock.Advance(time.Minute)
		counted, err := move.Count(t.Context(), mover(from))
		if err != nil {
			t.Fatal(err)
		}
		copied, err := move.Copy(t.Context(), mover(from), mover(to))
		if err != nil {
			t.Fatal(err)
		}
		const counts = "map[flow:50 gone:1 odd:32] 10"
		for _, got := range []move.Counts{counted, copied} {
			if fmt.Sprint(got.Records, got.Entries) != counts {
				t.Errorf("got %v, want %s", got, counts)
			}
		}
		err = move.Verify(t.Context(), mover(from), mover(to))
		if err != nil {
			t.Error(err)
		}
		for _, r := range want[50:] {
			wantRecord(t, mustGet(t, to, r.Kind, r.ID), r)
		}
		_, removed := sweepAll(t, to, clock.Now(), 24*time.Hour)
		if removed != 1 {
			t.Errorf("sweep removed %d, want the one that had expired", removed)
		}
		check(t, to, want[:50])
	})
	t.Run("TrimmedLog", func(t *testing.T) {
		clock := testkit.NewClock()
		from, to := open(t, openFrom, clock), open(t, openTo, clock)
		fill(t, from)
		clock.Advance(2 * time.Hour)
		sweepAll(t, from, clock.Now(), 0)
		_, err := move.Copy(t.Context(), mover(from), mover(to))
		if err == nil {
			err = move.Verify(t.Context(), mover(from), mover(to))
		}
		if err != nil {
			t.Fatal(err)
		}
		entries, err := to.Tail(t.Context(), 0, 0)
		if !errors.Is(err, store.ErrTrimmed) || len(entries) != 1 || entries[0].Seq != 10 {
			t.Errorf("tail: got %v, %v; want the newest entry and ErrTrimmed", entries, err)
		}
		mustUpdate(t, to, "flow", "49", store.Edit{Event: "e"})
		entries, err = to.Tail(t.Context(), 10, 0)
		if err != nil || len(entries) != 1 || entries[0].Seq != 11 {
			t.Errorf("the log goes on with %v, %v; want entry 11", entries, err)
		}
	})
	t.Run("Empty", func(t *testing.T) {
		clock := testkit.NewClock()
		from, to := open(t, openFrom, clock), open(t, openTo, clock)
		_, err := move.Copy(t.Context(), mover(from), mover(to))
		if err == nil {
			err = move.Verify(t.Context(), mover(from), mover(to))
		}
		if err != nil {
			t.Error(err)
		}
	})
	t.Run("NotEmpty", func(t *testing.T) {
		clock := testkit.NewClock()
		from, to := open(t, openFrom, clock), open(t, openTo, clock)
		r := mustCreate(t, to, store.Record{Kind: "flow", ID: "a", Data: []byte("1")})
		_, err := move.Copy(t.Context(), mover(from), mover(to))
		wantError(t, "copy", err, move.ErrNotEmpty)
		wantError(t, "import", mover(to).Import(t.Context(), []store.Record{r}), store.ErrExists)
		mustUpdate(t, to, "flow", "a", store.Edit{Event: "e"})
		for _, seq := range []uint64{0, 1, 3} {
			err = mover(to).ImportLog(t.Context(), []store.Entry{{Seq: seq, Kind: "flow", ID: "a", Version: 2, Event: "e", At: clock.Now()}})
			wantError(t, fmt.Sprintf("import of entry %d behind 1", seq), err, store.ErrExists)
		}
	})
	t.Run("Difference", func(t *testing.T) {
		differences := map[string]func(t *testing.T, from, to *fixture){
			`record flow "20"`: func(t *testing.T, from, _ *fixture) { mustUpdate(t, from, "flow", "20", store.Edit{}) },
			`record flow "21"`: func(t *testing.T, _, to *fixture) { mustUpdate(t, to, "flow", "21", store.Edit{}) },
			`record flow "x"`:  func(t *testing.T, from, _ *fixture) { mustCreate(t, from, store.Record{Kind: "flow", ID: "x"}) },
			`record flow "y"`:  func(t *testing.T, _, to *fixture) { mustCreate(t, to, store.Record{Kind: "flow", ID: "y"}) },
			"log entry 11": func(t *testing.T, from, to *fixture) {
				mustUpdate(t, from, "flow", "22", store.Edit{Event: "e"})
				mustUpdate(t, to, "flow", "22", store.Edit{})
			},
		}
		for want, differ := range differences {
			clock := testkit.NewClock()
			from, to := open(t, openFrom, clock), open(t, openTo, clock)
			fill(t, from)
			_, err := move.Copy(t.Context(), mover(from), mover(to))
			if err != nil {
				t.Fatal(err)
			}
			differ(t, from, to)
			for _, err := range []error{move.Verify(t.Context(), mover(from), mover(to)), move.Verify(t.Context(), mover(to), mover(from))} {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("got error %v, want one that names %s", err, want)
				}
			}
		}
	})
}
