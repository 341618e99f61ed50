// Package store is the contract between the token core and the engine that keeps its records.
//
// A store knows nothing of flows. It keeps records of a kind and an id, each with a version, an expiry, a few index
// labels and bytes, and a log of the changes that other readers must learn of. Everything that must stay consistent is
// in one record, so every operation is one compare-and-swap on one key, and any engine that has that will do.
//
// Every implementation passes the suite in store/storetest.
package store

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Limits of what a record may hold. They are the same for every engine, so that records can move between them.
const (
	MaxKindBytes  = 32        // length of a kind
	MaxIDBytes    = 1 << 10   // length of an id
	MaxLabels     = 8         // labels of one record
	MaxLabelBytes = 1 << 10   // length of a label's name or value
	MaxDataBytes  = 256 << 10 // length of a record's data
	MaxEventBytes = 1 << 10   // length of an event
	MaxPage       = 1000      // records or log entries of one answer
)

var (
	// ErrNotFound is returned by Get and Update for a record that does not exist, or whose expiry has passed.
	ErrNotFound = errors.New("record not found")
	// ErrExists is returned by Create for a record that exists and has not expired. Its stored state is unchanged.
	ErrExists = errors.New("record exists")
	// ErrKeep is returned by an edit closure that wants nothing written. Update then returns the stored record and a
	// nil error.
	ErrKeep = errors.New("keep the record as it is")
	// ErrFull is returned for a write that the free-space guard refuses. Nothing was written; the same write may
	// succeed later. An edit marked Ending is refused only when its reserve is used up as well.
	ErrFull = errors.New("store is short of space")
	// ErrClosed is returned by every method of a store that has been closed.
	ErrClosed = errors.New("store is closed")
	// ErrInvalid is wrapped by the errors for a record, query or page that breaks the limits above.
	ErrInvalid = errors.New("invalid record")
	// ErrTrimmed is returned by Tail when entries behind the asked position are no longer kept. The reader must read
	// the records it knows again, and goes on behind the entries that come with this error.
	ErrTrimmed = errors.New("log entries no longer kept")
)

// Record is one stored object.
type Record struct {
	Kind string // what it is, a fixed lower-case word such as "flow"
	ID   string // unique within its kind; any bytes but NUL

	// Version is 1 after Create and grows by one with every Update that writes. Set by the store; ignored in Create.
	Version uint64

	// Labels are what List can ask for. They never change after Create.
	Labels map[string]string

	// Expires is when the record ceases to exist: from then on every method treats it as absent, and Sweep removes it.
	// Zero: never.
	Expires time.Time

	Data []byte
}

// Edit is what an Update writes.
type Edit struct {
	Data    []byte
	Expires time.Time // as in Record; zero: never

	// Event, if not empty, is appended to the log of state changes in the same transaction, with the record's new
	// version. Use it for changes that other readers of the store must learn of, and for nothing else: entries are few.
	Event string

	// Ending marks a write that ends somebody's access (suspend, complete, terminate, revoke). When space is short such
	// a write is still let through, from a reserve.
	Ending bool
}

// Query selects records of one kind, in the order of their ids (bytewise).
type Query struct {
	Kind string

	// Label and Value, if Label is not empty, select the records with this label and this exact value.
	Label, Value string

	After string // the last id of the page before; empty: from the start
	Limit int    // at most this many records; 0 or more than MaxPage: MaxPage
}

// Entry is one line of the log of state changes.
type Entry struct {
	Seq     uint64 // 1, 2, 3, ... without gaps
	Kind    string
	ID      string
	Version uint64 // the record's version after the change; a reader applies an entry only if it is newer
	Event   string
	At      time.Time // when it was written, by the writer's clock; for retention only
}

// Store keeps records. All methods may be called by many goroutines at once. A method that returns an error other than
// the sentinels above could not tell: the caller answers "try again later", never "no".
//
// When a write returns nil, it is durable. When it returns the context's error, the write may or may not happen; a
// caller that must know reads the record again.
type Store interface {
	// Create writes a record that must not exist yet and returns it with version 1. ErrExists if it does, ErrFull if
	// the guard refuses it. Creations are never let through from the reserve.
	Create(ctx context.Context, r Record) (Record, error)

	// Get returns a record or ErrNotFound. The caller owns what it gets.
	Get(ctx context.Context, kind, id string) (Record, error)

	// Update is a compare-and-swap. It calls edit with the stored record, writes what edit returns if the record has
	// not changed meanwhile, and otherwise calls edit again: edit may run more than once, also at the same time as
	// another caller's, must not block, must not call the store, and must not keep or change what it is given. An
	// error of edit ends the update, writes nothing and is returned as it is; ErrKeep as described there.
	Update(ctx context.Context, kind, id string, edit func(old Record) (Edit, error)) (Record, error)

	// List returns one page of records.
	List(ctx context.Context, q Query) ([]Record, error)

	// Sweep removes records whose expiry lies before now, and log entries older than now - keepLog, a bounded number
	// in one call, and returns how many it removed; 0 means there is nothing left to do. The newest log entry is never
	// removed, so that a reader can always learn where the log stands.
	Sweep(ctx context.Context, now time.Time, keepLog time.Duration) (int, error)

	// Tail returns the log's entries behind after, oldest first, at most limit (0 or more than MaxPage: MaxPage).
	// Entries appear in the order of Seq: once one has been seen, none with a smaller Seq appears later. With
	// ErrTrimmed it returns the oldest entries that are kept.
	Tail(ctx context.Context, after uint64, limit int) ([]Entry, error)

	// Health returns nil if the store takes reads and writes, ErrFull while the guard refuses creations, and another
	// error if it cannot be used.
	Health(ctx context.Context) error

	// Close waits for running calls, then releases what the store holds. Calls after it get ErrClosed. Close again is
	// a no-op.
	Close() error
}

// Mover is what a store has besides whose whole content can be moved to another engine. Nobody else may use either store
// meanwhile. Package store/move does it.
type Mover interface {
	Store

	// Export returns the records behind a key in the order of kinds and ids (bytewise), of all kinds, expired ones too,
	// at most limit (0 or more than MaxPage: MaxPage). The first page is behind two empty strings.
	Export(ctx context.Context, afterKind, afterID string, limit int) ([]Record, error)

	// Import writes records as they are, with their versions. ErrExists if there is one of the same kind and id. With
	// an error some of them may have been written.
	Import(ctx context.Context, records []Record) error

	// ImportLog appends log entries as they are. The first must follow the newest entry, or may have any number in a log
	// that never had one: what comes before it counts as removed. ErrExists if it does not follow.
	ImportLog(ctx context.Context, entries []Entry) error
}

// CheckRecord returns an error wrapping ErrInvalid that names the first part of r outside the limits.
func CheckRecord(r Record) error {
	err := CheckKey(r.Kind, r.ID)
	if err != nil {
		return err
	}
	if len(r.Labels) > MaxLabels {
		return fmt.Errorf("%w: %d labels, at most %d", ErrInvalid, len(r.Labels), MaxLabels)
	}
	for name, value := range r.Labels {
		if name == "" || len(name) > MaxLabelBytes || len(value) > MaxLabelBytes || hasNUL(name) || hasNUL(value) {
			return fmt.Errorf("%w: label %q: name and value have at most %d bytes and no NUL", ErrInvalid, name, MaxLabelBytes)
		}
	}
	return CheckData(r.Data)
}

// CheckKey returns an error wrapping ErrInvalid if kind or id is outside the limits.
func CheckKey(kind, id string) error {
	if kind == "" || len(kind) > MaxKindBytes || hasNUL(kind) {
		return fmt.Errorf("%w: kind must have 1 to %d bytes and no NUL", ErrInvalid, MaxKindBytes)
	}
	if id == "" || len(id) > MaxIDBytes || hasNUL(id) {
		return fmt.Errorf("%w: id must have 1 to %d bytes and no NUL", ErrInvalid, MaxIDBytes)
	}
	return nil
}

// CheckData returns an error wrapping ErrInvalid if data is larger than a record may be.
func CheckData(data []byte) error {
	if len(data) > MaxDataBytes {
		return fmt.Errorf("%w: data has %d bytes, at most %d", ErrInvalid, len(data), MaxDataBytes)
	}
	return nil
}

// CheckEdit returns an error wrapping ErrInvalid that names the first part of e outside the limits.
func CheckEdit(e Edit) error {
	if len(e.Event) > MaxEventBytes {
		return fmt.Errorf("%w: event has %d bytes, at most %d", ErrInvalid, len(e.Event), MaxEventBytes)
	}
	return CheckData(e.Data)
}

// CheckQuery returns an error wrapping ErrInvalid that names the first part of q outside the limits. Limit is never
// outside: see PageSize.
func CheckQuery(q Query) error {
	if q.Kind == "" || len(q.Kind) > MaxKindBytes || hasNUL(q.Kind) {
		return fmt.Errorf("%w: kind must have 1 to %d bytes and no NUL", ErrInvalid, MaxKindBytes)
	}
	if len(q.Label) > MaxLabelBytes || len(q.Value) > MaxLabelBytes || hasNUL(q.Label) || hasNUL(q.Value) {
		return fmt.Errorf("%w: label and value asked for have at most %d bytes and no NUL", ErrInvalid, MaxLabelBytes)
	}
	if len(q.After) > MaxIDBytes || hasNUL(q.After) {
		return fmt.Errorf("%w: id to go on behind has at most %d bytes and no NUL", ErrInvalid, MaxIDBytes)
	}
	return nil
}

// PageSize returns the number of records or entries to return for a limit asked for.
func PageSize(limit int) int {
	if limit <= 0 || limit > MaxPage {
		return MaxPage
	}
	return limit
}

func hasNUL(s string) bool {
	for i := range len(s) {
		if s[i] == 0 {
			return true
		}
	}
	return false
}
