package consumer

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/edrgate/edrgate/store"
	"github.com/edrgate/edrgate/tokens"
)

func TestTransferLosesItsEDR(t *testing.T) {
	t.Parallel()
	x := newFixture(t)
	s := x.script("tp-1")
	wantCode(t, x.Remove(context.Background(), "tp-1"), CodeUnknown)
	s.started("m-1", x.address())(tokens.Started, false)
	err := x.Remove(context.Background(), "tp-1")
	if err != nil {
		t.Fatal(err)
	}
	wantCode(t, errOf(x.Get(context.Background(), "tp-1")), CodeUnknown)
	wantCode(t, x.Remove(context.Background(), "tp-1"), CodeUnknown)
	s.state(tokens.Started)
	s.end(s.Suspend, "m-2", tokens.Applied)
	s.resume("m-3", x.address())(tokens.Started, false)
	wantToken(t, x.get("tp-1"), "access-0")
	s.end(s.Terminate, "m-4", tokens.Applied)
	s.state(tokens.Terminated)
}

func TestTransferRemovedWhileItIsRenewed(t *testing.T) {
	t.Parallel()
	x := newFixture(t)
	s := x.script("tp-1")
	s.started("m-1", x.address())(tokens.Started, false)
	owner := "renewer"
	turn, err := x.acquire(context.Background(), "tp-1", want{seen: x.get("tp-1").Generation}, owner, time.Minute)
	if err != nil || turn.standing != leased {
		t.Fatalf("%v, %v", turn.standing, err)
	}
	err = x.Remove(context.Background(), "tp-1")
	if err != nil {
		t.Fatal(err)
	}
	_, err = x.conclude(context.Background(), turn, owner, func(*record) error { t.Error("the renewal was written"); return nil })
	wantCode(t, err, CodeUnknown)
}

func TestTransferAtOnce(t *testing.T) {
	t.Parallel()
	x := newFixture(t)
	transfers := x.transfers()
	var all sync.WaitGroup
	var mu sync.Mutex
	fresh := 0
	for range 8 {
		all.Go(func() {
			_, repeated, err := transfers.Prepare(context.Background(), main, prepareOf("tp-1"))
			if err != nil {
				t.Error(err)
			}
			_, again, err := transfers.Started(context.Background(), main, messageOf("tp-1", "m-1"), x.address())
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			if !repeated {
				fresh++
			}
			if !again {
				fresh++
			}
		})
	}
	all.Wait()
	if fresh != 2 || x.get("tp-1").Generation != 1 {
		t.Errorf("%d messages took effect, generation %d", fresh, x.get("tp-1").Generation)
	}
}

func TestTransferCannotTell(t *testing.T) {
	t.Parallel()
	x := newFixture(t)
	config := x.config
	config.Store = brokenStore{x.store}
	cache, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	s, err := NewTransfers(TransfersConfig{Cache: cache})
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	m := messageOf("tp-1", "m-1")
	_, _, prepare := s.Prepare(ctx, main, prepareOf("tp-1"))
	_, _, started := s.Started(ctx, main, m, x.address())
	_, _, resume := s.Resume(ctx, main, m, nil)
	_, suspend := s.Suspend(ctx, main, m)
	_, terminate := s.Terminate(ctx, main, m)
	_, status := s.Status(ctx, main, "tp-1")
	for _, err := range []error{prepare, started, resume, suspend, terminate, status} {
		wantTold(t, err, tokens.CodeUnavailable, "")
	}
}

func TestTransferEndsWhereSpaceIsShort(t *testing.T) {
	t.Parallel()
	edits := &editsOf{}
	x := newFixture(t, func(c *Config, _ *RenewerConfig) {
		edits.Store = c.Store
		c.Store = edits
	})
	s := x.script("tp-1")
	s.started("m-1", x.address())(tokens.Started, false)
	s.end(s.Suspend, "m-2", tokens.Applied)
	s.resume("m-3", nil)(tokens.Started, false)
	s.end(s.Terminate, "m-4", tokens.Applied)
	if got, want := fmt.Sprint(edits.endings), "[false true false true]"; got != want {
		t.Errorf("endings %s, want %s", got, want)
	}
}

type editsOf struct {
	store.Store
	endings []bool
}

func (e *editsOf) Update(ctx context.Context, kind, id string, edit func(store.Record) (store.Edit, error)) (store.Record, error) {
	ending := false
	r, err := e.Store.Update(ctx, kind, id, func(old store.Record) (store.Edit, error) {
		changed, err := edit(old)
		ending = changed.Ending
		return changed, err
	})
	if kind == edrKind {
		e.endings = append(e.endings, ending)
	}
	return r, err
}

type brokenStore struct{ store.Store }

func (brokenStore) Get(context.Context, string, string) (store.Record, error) {
	return store.Record{}, errBroken
}

func (brokenStore) Create(context.Context, store.Record) (store.Record, error) {
	return store.Record{}, errBroken
}

func (brokenStore) Update(context.Context, string, string, func(store.Record) (store.Edit, error)) (store.Record, error) {
	return store.Record{}, errBroken
}
