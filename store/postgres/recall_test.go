//go:build postgres

package postgres

import (
	"errors"
	"testing"

	"github.com/edrgate/edrgate/store"
)

func TestRecalledUpdateIsOneStatement(t *testing.T) {
	schema := newSchema(t)
	s, other := open(t, Options{Schema: schema}), open(t, Options{Schema: schema})
	mustCreate(t, s, "a")
	update := func(s *Store) error {
		_, err := s.UpdateRecalled(t.Context(), "flow", "a", func(old store.Record) (store.Edit, error) {
			return store.Edit{Data: append([]byte("+"), old.Data...)}, nil
		})
		return err
	}
	get := func(s *Store) error {
		_, err := s.Get(t.Context(), "flow", "a")
		return err
	}
	recall := func(s *Store) error {
		r, ok := s.Recall("flow", "a")
		if !ok {
			return errors.New("the record is not remembered")
		}
		r.Data[0] = 'x' // it is the caller's
		return nil
	}
	for _, step := range []struct {
		name string
		at   *Store
		do   func(*Store) error
		want int64 // statements
	}{
		{"what was not seen is read first", s, update, 2},
		{"what was written is known", s, update, 1},
		{"again", s, update, 1},
		{"reading always asks", s, get, 1},
		{"recalling never asks", s, recall, 0},
		{"what was read is known", s, update, 1},
		{"another gateway", other, update, 2},
		{"a lost swap, a reading, a swap", s, update, 3},
		{"known again", s, update, 1},
	} {
		before := step.at.pool.Stat().AcquireCount()
		err := step.do(step.at)
		if err != nil {
			t.Errorf("%s: %v", step.name, err)
		}
		if got := step.at.pool.Stat().AcquireCount() - before; got != step.want {
			t.Errorf("%s: %d statements, want %d", step.name, got, step.want)
		}
	}
	r, err := s.Get(t.Context(), "flow", "a")
	if err != nil || string(r.Data) != "+++++++0" || r.Version != 8 {
		t.Errorf("got %q, version %d, %v; want seven updates", r.Data, r.Version, err)
	}
}

// A database that was restored, or whose standby has taken over without the last writes, comes to the same version of a
// record with another content. Nothing is written over it that was decided on the lost one.
func TestRecalledOfLostWrite(t *testing.T) {
	schema := newSchema(t)
	s := open(t, Options{Schema: schema})
	mustCreate(t, s, "a")
	mustExecute(t, ownerDSN(), "CREATE TABLE "+schema+".backup AS SELECT * FROM "+schema+".record")
	write := func(data string) func(store.Record) (store.Edit, error) {
		return func(store.Record) (store.Edit, error) { return store.Edit{Data: []byte(data)}, nil }
	}
	_, err := s.Update(t.Context(), "flow", "a", write("lost"))
	if err != nil {
		t.Fatal(err)
	}
	mustExecute(t, ownerDSN(), "DELETE FROM "+schema+".record", "INSERT INTO "+schema+".record SELECT * FROM "+schema+".backup")
	r, err := open(t, Options{Schema: schema}).Update(t.Context(), "flow", "a", write("suspended"))
	if err != nil {
		t.Fatal(err)
	}
	recalled, ok := s.Recall("flow", "a")
	if !ok || recalled.Version != r.Version || string(recalled.Data) != "lost" {
		t.Fatalf("got %+v, %v; want the lost record with version %d", recalled, ok, r.Version)
	}
	r, err = s.UpdateRecalled(t.Context(), "flow", "a", func(old store.Record) (store.Edit, error) {
		return store.Edit{Data: append(old.Data, " and renewed"...)}, nil
	})
	if err != nil || string(r.Data) != "suspended and renewed" {
		t.Errorf("got %q, %v; want what is written over the present content", r.Data, err)
	}
}
