package storetest

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/edrgate/edrgate/internal/testkit"
	"github.com/edrgate/edrgate/store"
)

// calls are all methods that take a context.
func calls(s store.Store) map[string]func(context.Context) error {
	return map[string]func(context.Context) error{
		"create": func(ctx context.Context) error {
			_, err := s.Create(ctx, store.Record{Kind: "flow", ID: "new"})
			return err
		},
		"get": func(ctx context.Context) error {
			_, err := s.Get(ctx, "flow", "a")
			return err
		},
		"update": func(ctx context.Context) error {
			_, err := s.Update(ctx, "flow", "a", write(store.Edit{Data: []byte("2"), Event: "e"}))
			return err
		},
		"list": func(ctx context.Context) error {
			_, err := s.List(ctx, store.Query{Kind: "flow"})
			return err
		},
		"sweep": func(ctx context.Context) error {
			_, err := s.Sweep(ctx, time.Date(2999, 1, 1, 0, 0, 0, 0, time.UTC), 0)
			return err
		},
		"tail": func(ctx context.Context) error {
			_, err := s.Tail(ctx, 0, 0)
			return err
		},
		"health": s.Health,
	}
}

func testCancelled(t *testing.T, f *fixture) {
	created := mustCreate(t, f, store.Record{Kind: "flow", ID: "a", Expires: f.clock.Now().Add(time.Hour)})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for name, call := range calls(f) {
		wantError(t, name+" with a cancelled context", call(ctx), context.Canceled)
	}
	late, cancelLate := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancelLate()
	for name, call := range calls(f) {
		wantError(t, name+" after its deadline", call(late), context.DeadlineExceeded)
	}
	wantRecord(t, mustGet(t, f, "flow", "a"), created)
	_, err := f.Get(t.Context(), "flow", "new")
	wantError(t, "get what a cancelled create may not have written", err, store.ErrNotFound)
}

func testHealth(t *testing.T, f *fixture) {
	err := f.Health(t.Context())
	if err != nil {
		t.Errorf("health of a good store: %v", err)
	}
}

func testClosed(t *testing.T, f *fixture) {
	mustCreate(t, f, store.Record{Kind: "flow", ID: "a"})
	closeStore(t, f.Store)
	for name, call := range calls(f) {
		wantError(t, name+" on a closed store", call(t.Context()), store.ErrClosed)
	}
	closeStore(t, f.Store)
}

// Close lets what is running come to its end, and lets nothing new in.
func testCloseWaits(t *testing.T, f *fixture) {
	mustCreate(t, f, store.Record{Kind: "flow", ID: "a"})
	started := make(chan struct{})
	release := make(chan struct{})
	updated := make(chan error, 1)
	ended := atomic.Bool{}
	go func() {
		first := true
		_, err := f.Update(t.Context(), "flow", "a", func(store.Record) (store.Edit, error) {
			if first {
				first = false
				close(started)
				<-release
				ended.Store(true)
			}
			return store.Edit{Data: []byte("2")}, nil
		})
		updated <- err
	}()
	<-started
	closed := make(chan error, 1)
	go func() {
		err := f.Close()
		if !ended.Load() {
			err = errors.Join(err, errors.New("close returned while an update was running"))
		}
		closed <- err
	}()
	testkit.Eventually(t, "close lets no call in", func() bool {
		return errors.Is(f.Health(t.Context()), store.ErrClosed)
	})
	close(release)
	err := <-updated
	if err != nil {
		t.Errorf("update that ran when the store was closed: %v", err)
	}
	err = <-closed
	if err != nil {
		t.Error(err)
	}
}

// Whatever runs while the store is closed ends well or with ErrClosed, and never with a panic.
func testCloseUnderLoad(t *testing.T, f *fixture) {
	for i := range 300 {
		mustCreate(t, f, store.Record{Kind: "flow", ID: fmt.Sprintf("%03d", i), Labels: map[string]string{"k": "v"}, Data: make([]byte, 1000)})
	}
	running := atomic.Int64{}
	loops := []func(i int) error{
		func(int) error { _, err := f.List(t.Context(), store.Query{Kind: "flow"}); return err },
		func(int) error {
			_, err := f.List(t.Context(), store.Query{Kind: "flow", Label: "k", Value: "v"})
			return err
		},
		func(i int) error {
			_, err := f.Update(t.Context(), "flow", fmt.Sprintf("%03d", i%300), write(store.Edit{Event: "e"}))
			return err
		},
		func(int) error { _, err := f.Tail(t.Context(), 0, 0); return err },
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		inParallel(len(loops)*2, func(i int) {
			for n := 0; ; n++ {
				err := loops[i/2](n)
				if errors.Is(err, store.ErrClosed) {
					return
				}
				if err != nil {
					t.Errorf("call while the store is closed: %v", err)
					return
				}
				running.Add(1)
			}
		})
	}()
	testkit.Eventually(t, "calls run", func() bool { return running.Load() > 40 })
	inParallel(3, func(int) { closeStore(t, f.Store) })
	<-done
}
