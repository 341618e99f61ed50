package caddymodule

import (
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/dustin/go-humanize"

	"github.com/edrgate/edrgate/store"
	"github.com/edrgate/edrgate/store/badger"
)

func init() {
	caddy.RegisterModule(BadgerStore{})
}

// BadgerStore keeps the flows in a directory of this machine, for one running gateway. It needs no server.
type BadgerStore struct {
	// Path is the directory. It belongs to the gateway alone and is created if it does not exist. Placeholders are
	// replaced when the config is loaded. Default: edrgate in Caddy's data directory.
	Path string `json:"path,omitempty"`

	// MinFreeBytes is the free space on the file system below which new flows and renewals get 503, so that a full disk
	// never takes the process down. Ending access still works. Default: 1 GiB.
	MinFreeBytes uint64 `json:"min_free_bytes,omitempty"`

	// ReserveBytes is the size of a file that is given up when the disk is nearly full, so that there is room to end
	// access. Default: 64 MiB.
	ReserveBytes uint64 `json:"reserve_bytes,omitempty"`

	dir string
}

// CaddyModule returns the Caddy module information.
func (BadgerStore) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: storeNamespace + ".badger", New: func() caddy.Module { return new(BadgerStore) }}
}

// maxReserveBytes is far above any use; it keeps the size within what a file can have everywhere.
const maxReserveBytes = 1 << 40 // 1 TiB

// Provision finds the directory's absolute path and touches nothing.
func (b *BadgerStore) Provision(caddy.Context) error {
	path := orDefault(b.Path, filepath.Join(caddy.AppDataDir(), "edrgate"))
	path, err := replacePlaceholders(caddy.NewReplacer(), path)
	if err != nil {
		return fmt.Errorf("path: %w", err)
	}
	b.dir, err = filepath.Abs(path) // cleans it too
	if err != nil {
		return fmt.Errorf("path: %w", err)
	}
	if b.ReserveBytes > maxReserveBytes {
		return fmt.Errorf("reserve: %s is more than %s",
			humanize.IBytes(b.ReserveBytes), humanize.IBytes(maxReserveBytes))
	}
	return nil
}

// StoreKey implements StoreOpener.
func (b *BadgerStore) StoreKey() string { return b.dir }

// StoreOptions implements StoreOpener.
func (b *BadgerStore) StoreOptions() string {
	return fmt.Sprintf("min_free %d, reserve %d", b.MinFreeBytes, b.ReserveBytes)
}

// OpenStore implements StoreOpener.
func (b *BadgerStore) OpenStore(metrics StoreObserver, logger *slog.Logger) (store.Store, error) {
	return badger.Open(badger.Options{
		Dir:          b.dir,
		Logger:       logger,
		MinFreeBytes: b.MinFreeBytes,
		ReserveBytes: int64(b.ReserveBytes),
		Observer:     metrics,
	})
}

// UnmarshalCaddyfile sets up the store. Syntax:
//
//	store badger {
//		path     <directory>
//		min_free <size>
//		reserve  <size>
//	}
func (b *BadgerStore) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the module's name
	if d.NextArg() {
		return d.ArgErr()
	}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		option := d.Val()
		var err error
		switch option {
		case "path":
			err = text(&b.Path)(d)
		case "min_free":
			err = size(&b.MinFreeBytes)(d)
		case "reserve":
			err = size(&b.ReserveBytes)(d)
		default:
			return d.Errf("unrecognized option %q of store badger", option)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func size(field *uint64) func(*caddyfile.Dispenser) error {
	return func(d *caddyfile.Dispenser) error {
		name := d.Val()
		var value string
		if !d.AllArgs(&value) {
			return d.ArgErr()
		}
		parsed, err := humanize.ParseBytes(value)
		if err != nil || parsed == 0 {
			return d.Errf("%s: %q is not a size such as 512MiB or 2GiB", name, value)
		}
		return setOnce(d, name, field, parsed)
	}
}

// Interface guards
var (
	_ StoreOpener           = (*BadgerStore)(nil)
	_ caddy.Provisioner     = (*BadgerStore)(nil)
	_ caddyfile.Unmarshaler = (*BadgerStore)(nil)
)
