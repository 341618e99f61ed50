package badger

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/edrgate/edrgate/internal/testkit"
	"github.com/edrgate/edrgate/store"
)

const (
	minFree = 100 << 20
	plenty  = 1 << 40
)

// disk is a file system whose free space the test sets.
type disk struct {
	free    atomic.Uint64 // besides what a given-up reserve has freed
	reserve string        // path of the reserve, counted as free when it is empty; if set
	size    uint64
	broken  atomic.Bool
}

func (d *disk) freeBytes(string) (uint64, error) {
	if d.broken.Load() {
		return 0, errors.New("broken by the test")
	}
	free := d.free.Load()
	info, err := os.Stat(d.reserve)
	if err == nil && info.Size() == 0 {
		free += d.size
	}
	return free, nil
}

// onDisk opens a store on a disk with much free space and a guard that looks often.
func onDisk(t *testing.T, d *disk, o Options) *Store {
	t.Helper()
	d.free.Store(plenty)
	o.FreeBytes = d.freeBytes
	o.MinFreeBytes = minFree
	if o.checkEvery == 0 {
		o.checkEvery = time.Millisecond
	}
	s := open(t, o)
	_, err := s.Create(t.Context(), store.Record{Kind: "flow", ID: "a"})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// attempts makes one write of each sort and returns the errors.
func attempts(t *testing.T, s *Store) map[string]error {
	t.Helper()
	_, creation := s.Create(t.Context(), store.Record{Kind: "flow", ID: time.Now().String()})
	_, rotation := s.Update(t.Context(), "flow", "a", func(store.Record) (store.Edit, error) { return store.Edit{}, nil })
	_, ending := s.Update(t.Context(), "flow", "a", func(store.Record) (store.Edit, error) {
		return store.Edit{Event: "ended", Ending: true}, nil
	})
	_, sweep := s.Sweep(t.Context(), time.Now().Add(1000*time.Hour), 0)
	_, repeat := s.Create(t.Context(), store.Record{Kind: "flow", ID: "a"})
	_, keep := s.Update(t.Context(), "flow", "a", func(store.Record) (store.Edit, error) { return store.Edit{}, store.ErrKeep })
	_, get := s.Get(t.Context(), "flow", "a")
	return map[string]error{
		"creation": creation, "rotation": rotation, "ending": ending, "sweep": sweep,
		"creation of what exists": repeat, "keep": keep, "get": get, "health": s.Health(t.Context()),
	}
}

func TestGuard(t *testing.T) {
	tests := []struct {
		name    string
		free    uint64
		state   Space
		refused string
	}{
		{"plenty", plenty, SpaceOK, ""},
		{"just enough", minFree, SpaceOK, ""},
		{"low", minFree - 1, SpaceLow, "creation rotation health"},
		{"low to the last byte", criticalBytes, SpaceLow, "creation rotation health"},
		{"critical", criticalBytes - 1, SpaceReserve, "creation rotation sweep health"},
		{"nothing but the reserve", floorBytes - 1, SpaceReserve, "creation rotation sweep health"},
		{"less than the reserve brings", floorBytes - smallReserve - 1, SpaceNone, "creation rotation ending sweep health"},
		{"nothing", 0, SpaceNone, "creation rotation ending sweep health"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			d := &disk{reserve: filepath.Join(dir, "reserve"), size: smallReserve}
			seen := &recorder{}
			s := onDisk(t, d, Options{Dir: dir, Observer: seen})
			// Something to sweep, so that a sweep is a write.
			_, err := s.Create(t.Context(), store.Record{Kind: "flow", ID: "expired", Expires: time.Now().Add(time.Hour)})
			if err != nil {
				t.Fatal(err)
			}
			d.free.Store(test.free)
			testkit.Eventually(t, "the guard sees it", func() bool { return seen.saw(test.state) })
			for name, got := range attempts(t, s) {
				var want error
				switch {
				case name == "creation of what exists":
					want = store.ErrExists
				case strings.Contains(" "+test.refused+" ", " "+name+" "):
					want = store.ErrFull
				}
				if !errors.Is(got, want) {
					t.Errorf("%s: got error %v, want %v", name, got, want)
				}
			}

			d.free.Store(plenty)
			testkit.Eventually(t, "the guard sees that there is space again", func() bool { return seen.saw(SpaceOK) })
			for name, got := range attempts(t, s) {
				if got != nil && name != "creation of what exists" {
					t.Errorf("afterwards %s: got error %v", name, got)
				}
			}
			testkit.Eventually(t, "the reserve is there again", func() bool { return reserveSize(t, dir) == smallReserve })
		})
	}
}

func reserveSize(t *testing.T, dir string) int64 {
	t.Helper()
	info, err := os.Stat(filepath.Join(dir, "reserve"))
	if errors.Is(err, os.ErrNotExist) {
		return -1
	}
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// Between two looks of the guard a disk can fill up: an ending looks for itself.
func TestEndingMeasuresAgain(t *testing.T) {
	d := &disk{}
	s := onDisk(t, d, Options{checkEvery: time.Hour, ReserveBytes: -1})
	end := func() error {
		_, err := s.Update(t.Context(), "flow", "a", func(store.Record) (store.Edit, error) { return store.Edit{Ending: true}, nil })
		return err
	}
	d.free.Store(minFree - 1)
	s.guard.check()
	err := end()
	if err != nil {
		t.Errorf("ending on a disk with little space: %v", err)
	}
	d.free.Store(floorBytes - 1)
	err = end()
	if !errors.Is(err, store.ErrFull) {
		t.Errorf("ending on a full disk: got error %v", err)
	}
	d.free.Store(plenty)
	err = end()
	if err != nil {
		t.Errorf("ending on a disk that has space again: %v", err)
	}
}

func TestReserve(t *testing.T) {
	dir := t.TempDir()
	left := filepath.Join(dir, "reserve.part") // by a process that was killed
	err := os.WriteFile(left, make([]byte, 100), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	d := &disk{reserve: filepath.Join(dir, "reserve"), size: smallReserve}
	seen := &recorder{}
	s := onDisk(t, d, Options{Dir: dir, Observer: seen})
	if reserveSize(t, dir) != smallReserve {
		t.Fatalf("reserve has %d bytes after open", reserveSize(t, dir))
	}
	_, err = os.Stat(left)
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what was left of another reserve is still there: %v", err)
	}
	d.free.Store(criticalBytes - 1)
	testkit.Eventually(t, "the guard sees it", func() bool { return seen.saw(SpaceReserve) })
	if reserveSize(t, dir) != 0 {
		t.Errorf("reserve has %d bytes on a disk that is nearly full", reserveSize(t, dir))
	}
	// What the reserve has set free is not space to write the reserve with.
	d.free.Store(minFree - 1)
	testkit.Eventually(t, "the guard sees it", func() bool { return seen.saw(SpaceLow) })
	s.guard.restore()
	if reserveSize(t, dir) != 0 {
		t.Errorf("reserve has %d bytes on a disk with little space", reserveSize(t, dir))
	}
	d.free.Store(plenty)
	testkit.Eventually(t, "the reserve is written again", func() bool { return reserveSize(t, dir) == smallReserve })
}

// Space may run short while the reserve is written. Then there is none, not a part of one.
func TestReserveNeedsRoom(t *testing.T) {
	dir := t.TempDir()
	r := newReserve(dir, 3*reserveChunk)
	looks := 0
	err := r.write(func() bool {
		looks++
		return looks < 3
	})
	if !errors.Is(err, errNoRoom) {
		t.Errorf("got error %v", err)
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 0 || newReserve(dir, 3*reserveChunk).held {
		t.Errorf("left are %v, %v", files, err)
	}
}

func TestReserveCannotBeWritten(t *testing.T) {
	dir := t.TempDir()
	err := os.MkdirAll(filepath.Join(dir, "reserve.part", "x"), 0o700)
	if err != nil {
		t.Fatal(err)
	}
	seen := &recorder{}
	s := onDisk(t, &disk{}, Options{Dir: dir, Observer: seen})
	if !seen.sawFailure("reserve") {
		t.Error("observer was not told that there is no reserve")
	}
	err = s.Health(t.Context())
	if err != nil {
		t.Errorf("health: %v", err)
	}
}

func TestNoReserve(t *testing.T) {
	dir := t.TempDir()
	seen := &recorder{}
	d := &disk{}
	onDisk(t, d, Options{Dir: dir, ReserveBytes: -1, Observer: seen})
	d.free.Store(floorBytes)
	testkit.Eventually(t, "the guard sees it", func() bool { return seen.saw(SpaceReserve) })
	if reserveSize(t, dir) != -1 {
		t.Errorf("reserve has %d bytes, want none", reserveSize(t, dir))
	}
}

// Badger writes while it opens, and would die on a full disk, again at each start.
func TestOpenOnFullDisk(t *testing.T) {
	dir := t.TempDir()
	full := func(string) (uint64, error) { return floorBytes - 1, nil }
	_, err := Open(Options{Dir: dir, FreeBytes: full})
	if err == nil || !strings.Contains(err.Error(), "bytes are free") {
		t.Errorf("got error %v, want one that says how much is free", err)
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 0 {
		t.Errorf("a refused open has written %v, %v", files, err)
	}
}

// The reserve is there to let endings through, after a restart as well.
func TestOpenOnReserve(t *testing.T) {
	dir := t.TempDir()
	d := &disk{reserve: filepath.Join(dir, "reserve"), size: smallReserve}
	s := onDisk(t, d, Options{Dir: dir})
	err := s.Close()
	if err != nil {
		t.Fatal(err)
	}
	d.free.Store(floorBytes - 1)
	s = open(t, Options{Dir: dir, FreeBytes: d.freeBytes, MinFreeBytes: minFree})
	err = attempts(t, s)["ending"]
	if err != nil {
		t.Errorf("ending: %v", err)
	}
	err = attempts(t, s)["creation"]
	if !errors.Is(err, store.ErrFull) {
		t.Errorf("creation: got error %v", err)
	}
}

func TestFreeSpaceUnknown(t *testing.T) {
	seen := &recorder{}
	d := &disk{}
	s := onDisk(t, d, Options{Observer: seen})
	d.broken.Store(true)
	testkit.Eventually(t, "the observer is told", func() bool { return seen.sawFailure("space") })
	for name, err := range attempts(t, s) {
		if err != nil && name != "creation of what exists" {
			t.Errorf("%s after a failed measurement: %v", name, err)
		}
	}
	_, err := Open(Options{Dir: t.TempDir(), FreeBytes: d.freeBytes})
	if err == nil || !strings.Contains(err.Error(), "measure free space") {
		t.Errorf("open: got error %v", err)
	}
}

// Where the operating system cannot be asked there is no guard, and no reserve that nobody would give up.
func TestNoGuard(t *testing.T) {
	saved := freeBytes
	freeBytes = nil
	t.Cleanup(func() { freeBytes = saved })
	dir := t.TempDir()
	s, err := Open(Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Create(t.Context(), store.Record{Kind: "flow", ID: "a"})
	if err != nil {
		t.Error(err)
	}
	for name, err := range attempts(t, s) {
		if err != nil && name != "creation of what exists" {
			t.Errorf("%s: %v", name, err)
		}
	}
	if reserveSize(t, dir) != -1 {
		t.Error("a reserve was written")
	}
	err = s.Close()
	if err != nil {
		t.Error(err)
	}
}

func TestDefaults(t *testing.T) {
	o, err := Options{Dir: "d"}.complete()
	if err != nil || o.MinFreeBytes != 1<<30 || o.ReserveBytes != 64<<20 || o.checkEvery != time.Second || o.Clock == nil {
		t.Errorf("got %+v, %v", o, err)
	}
	o, err = Options{Dir: "d", MinFreeBytes: 1, ReserveBytes: -1}.complete()
	if err != nil || o.MinFreeBytes != criticalBytes || o.ReserveBytes != 0 {
		t.Errorf("got %+v, %v", o, err)
	}
}

func TestSpaceNames(t *testing.T) {
	for s, want := range map[Space]string{SpaceOK: "ok", SpaceLow: "low", SpaceReserve: "reserve", SpaceNone: "none", 9: "Space(9)"} {
		if s.String() != want {
			t.Errorf("got %s, want %s", s, want)
		}
	}
}

// What Badger says of itself does not fill an operator's log.
func TestEngineLog(t *testing.T) {
	var out bytes.Buffer
	l := engineLog{slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	l.Debugf("dropped %d\n", 1)
	l.Infof("tables %d\n", 2)
	l.Warningf("slow %d\n", 3)
	l.Errorf("bad %d\n", 4)
	got := out.String()
	for _, want := range []string{`level=DEBUG msg="badger informs" text="tables 2"`, `level=WARN msg="badger warns" text="slow 3"`, `level=ERROR msg="badger reports an error" text="bad 4"`} {
		if !strings.Contains(got, want) {
			t.Errorf("log lacks %s: %s", want, got)
		}
	}
	if strings.Contains(got, "dropped") {
		t.Errorf("log has Badger's debug lines: %s", got)
	}
}
