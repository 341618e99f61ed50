package badger

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Without the list of its tables Badger would delete them all.
func TestManifestIsNeeded(t *testing.T) {
	for name, damage := range map[string]struct {
		do   func(path string) error
		want string
	}{
		"missing": {os.Remove, "MANIFEST is missing, which lists 000001.sst"},
		"no list": {func(path string) error { return os.WriteFile(path, []byte("something else"), 0o600) }, "MANIFEST is damaged"},
		"damaged": {func(path string) error {
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			data[len(data)-1] ^= 1
			return os.WriteFile(path, data, 0o600)
		}, "MANIFEST is damaged"},
		"a length in the middle": {func(path string) error {
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			const header = 8
			again := append(bytes.Clone(data), data[header:]...)
			again[header+3] = byte(len(again) - header - 1) // beyond the end, below the file's size
			return os.WriteFile(path, again, 0o600)
		}, "more entries follow"},
		"cut short": {func(path string) error { // as by a power cut
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			const header = 8
			return os.WriteFile(path, append(data, data[header:len(data)-1]...), 0o600)
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir, tables := storeWithTable(t)
			err := damage.do(filepath.Join(dir, "MANIFEST"))
			if err != nil {
				t.Fatal(err)
			}
			s, err := Open(Options{Dir: dir, ReserveBytes: smallReserve})
			if err == nil {
				defer s.Close()
			}
			if (err == nil) != (damage.want == "") || err != nil && !strings.Contains(err.Error(), damage.want) {
				t.Errorf("error %v, want %q", err, damage.want)
			}
			_, err = os.Stat(tables[0])
			if err != nil {
				t.Error(err)
			}
		})
	}
}
