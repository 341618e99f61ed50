package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"regexp"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/edrgate/edrgate/store"
	"github.com/edrgate/edrgate/store/postgres"
)

func init() {
	caddy.RegisterModule(PostgresStore{})
}

// PostgresStore keeps the flows in a PostgreSQL database that several gateways share. Its schema is made by
// `caddy edr migrate-schema`.
type PostgresStore struct {
	// DSN says where the database is: postgres://user@host:port/database?sslmode=verify-full, or in the form "host=...
	// user=... dbname=...". Placeholders are replaced when the config is loaded. A password in it must be part of a
	// placeholder. For a host sslmode must be named, and be neither prefer nor allow. Required.
	DSN string `json:"dsn"`

	// Password is the password, a placeholder such as {file./run/secrets/postgres}. It is read again for each new
	// connection, so that one that was changed counts without a reload. Default: what the DSN or the environment has.
	Password string `json:"password,omitempty"`

	// Schema is the schema with the tables. Default: edrgate.
	Schema string `json:"schema,omitempty"`

	// MaxConnections is how many connections this gateway has open at most. Default: 16.
	MaxConnections int `json:"max_connections,omitempty"`

	ReplicaSettings

	dsn *postgres.DSN
}

// CaddyModule returns the Caddy module information.
func (PostgresStore) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: storeNamespace + ".postgres", New: func() caddy.Module { return new(PostgresStore) }}
}

// maxPostgresConnections is far above what one gateway can use.
const maxPostgresConnections = 1000

// Provision checks the settings and connects to nothing.
func (p *PostgresStore) Provision(caddy.Context) error {
	var err error
	p.dsn, err = databaseOf(p.DSN)
	if err != nil {
		return err
	}
	if p.Password != "" {
		_, err = databasePassword(p.Password)
		if err != nil {
			return err
		}
	}
	p.Schema = orDefault(p.Schema, postgres.DefaultSchema)
	err = postgres.CheckSchemaName(p.Schema)
	if err != nil {
		return err
	}
	if p.MaxConnections < 0 || p.MaxConnections > maxPostgresConnections {
		return fmt.Errorf("max_connections: %d is not between 1 and %d", p.MaxConnections, maxPostgresConnections)
	}
	if p.MaxConnections == 0 {
		p.MaxConnections = postgres.DefaultMaxConnections
	}
	return p.provision(p.StoreKey())
}

// databaseOf reads a DSN with its placeholders. A password that stands in it as it is would be shown by the admin API, in
// the autosaved config and, from a command, in the list of processes.
func databaseOf(configured string) (*postgres.DSN, error) {
	if configured == "" {
		return nil, errors.New("dsn is missing: postgres://user@host:port/database?sslmode=verify-full")
	}
	text, err := replacePlaceholders(caddy.NewReplacer(), configured)
	if err != nil {
		return nil, fmt.Errorf("dsn: %w", err)
	}
	dsn, err := postgres.ParseDSN(strings.TrimRight(text, "\r\n"))
	if err != nil {
		return nil, err
	}
	if hasPassword(configured, dsn.Password()) {
		return nil, errors.New("dsn has a password in it, which others can read there: use the option password with a placeholder such as {file./run/secrets/postgres}")
	}
	return dsn, nil
}

// hasPassword reports whether a password stands in a DSN outside of its placeholders, and is not one of the environment
// or of a file that the DSN names.
func hasPassword(configured, password string) bool {
	if password == "" {
		return false
	}
	plain := equals.ReplaceAllString(placeholder.ReplaceAllString(configured, ""), "=")
	unescaped, err := url.PathUnescape(plain)
	if err != nil {
		unescaped = plain
	}
	for _, form := range []string{"password=" + password, "password='" + password, ":" + password + "@"} {
		if strings.Contains(plain, form) || strings.Contains(unescaped, form) {
			return true
		}
	}
	return false
}

// equals is what may stand around the = of a DSN in words.
var equals = regexp.MustCompile(`\s*=\s*`)

// databasePassword reads a password. Errors never quote it.
func databasePassword(configured string) (string, error) {
	if placeholder.ReplaceAllString(configured, "") != "" {
		return "", errors.New("password must be a placeholder such as {file./run/secrets/postgres} or {env.POSTGRES_PASSWORD}")
	}
	password, err := replacePlaceholders(caddy.NewReplacer(), configured)
	if err != nil {
		return "", fmt.Errorf("password: %w", err)
	}
	return strings.TrimRight(password, "\r\n"), nil // as editors leave it in a file
}

// StoreKey implements StoreOpener.
func (p *PostgresStore) StoreKey() string { return p.dsn.String() + " " + p.Schema }

// StoreOptions implements StoreOpener.
func (p *PostgresStore) StoreOptions() string {
	return fmt.Sprintf("max_connections %d, %s", p.MaxConnections, p.options())
}

// Replica implements SharedStore.
func (p *PostgresStore) Replica() *ReplicaSettings { return &p.ReplicaSettings }

// OpenStore implements StoreOpener.
func (p *PostgresStore) OpenStore(metrics StoreObserver, logger *slog.Logger) (store.Store, error) {
	return p.openStore(false, metrics, logger)
}

// OpenAway implements SharedStore.
func (p *PostgresStore) OpenAway(metrics StoreObserver, logger *slog.Logger) (store.Store, error) {
	return p.openStore(true, metrics, logger)
}

func (p *PostgresStore) openStore(mayBeAway bool, metrics StoreObserver, logger *slog.Logger) (store.Store, error) {
	o := postgres.Options{
		DSN: p.dsn, Schema: p.Schema, MaxConnections: p.MaxConnections, MayBeAway: mayBeAway, Logger: logger, Observer: metrics,
	}
	if p.Password != "" {
		o.Password = func() (string, error) { return databasePassword(p.Password) }
	}
	return postgres.Open(context.Background(), o)
}

// UnmarshalCaddyfile sets up the store. Syntax:
//
//	store postgres {
//		dsn             <connection string>
//		password        <placeholder>
//		schema          <name>
//		max_connections <number>
//		state_dir       <directory>
//		max_staleness   <duration>
//		stale_policy    refuse|until_token_expiry
//		canary          <duration>
//	}
func (p *PostgresStore) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the module's name
	if d.NextArg() {
		return d.ArgErr()
	}
	options := p.parsers()
	maps.Copy(options, map[string]func(*caddyfile.Dispenser) error{
		"dsn":             text(&p.DSN),
		"password":        text(&p.Password),
		"schema":          text(&p.Schema),
		"max_connections": number(&p.MaxConnections, false),
	})
	return parseBlock(d, "store postgres", options)
}

// Interface guards
var (
	_ SharedStore           = (*PostgresStore)(nil)
	_ caddy.Provisioner     = (*PostgresStore)(nil)
	_ caddyfile.Unmarshaler = (*PostgresStore)(nil)
)
