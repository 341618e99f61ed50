package postgres

import (
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// dsnKeys are what a connection string may say. What else PostgreSQL's own clients know is state of a session, which
// does not survive a pooler, or is an option of the store.
var dsnKeys = []string{
	"host", "port", "user", "password", "dbname", "application_name", "passfile", "service", "servicefile", "target_session_attrs",
	"sslmode", "sslrootcert", "sslcert", "sslkey", "sslpassword", "sslsni", "sslnegotiation", "min_protocol_version", "max_protocol_version",
	"channel_binding", "krbsrvname", "krbspn", "load_balance_hosts", "connect_timeout",
}

// DSN is a connection string that has been read. It prints without its password.
type DSN struct {
	pool *pgxpool.Config
}

// ParseDSN reads a connection string, postgres://user@host:port/database?sslmode=verify-full or in the form
// "host=... user=... dbname=...". As psql does, it takes what is missing from the environment (PGHOST, PGPASSWORD, ...).
// For a host that is reached by TCP sslmode must be named, and be neither prefer nor allow: with these, which is what
// PostgreSQL's clients do by default, whoever is on the path can switch TLS off.
//
// Its errors quote nothing of the string but the names of files.
func ParseDSN(text string) (*DSN, error) {
	options := pgx.ParseConfigOptions{}
	options.ConnStringAllowedKeys = dsnKeys
	config, err := pgx.ParseConfigWithOptions(text, options)
	if err != nil {
		return nil, dsnError(err)
	}
	err = checkTLS(config)
	if err != nil {
		return nil, err
	}
	if config.RuntimeParams["application_name"] == "" {
		config.RuntimeParams["application_name"] = "edrgate"
	}
	if config.ValidateConnect == nil {
		// A standby answers with what was true a while ago.
		config.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	}
	pool, err := pgxpool.ParseConfig("host=/ user=- sslmode=disable") // only for the defaults of a pool
	if err != nil {
		return nil, errors.New("dsn: the defaults of a pool cannot be read")
	}
	pool.ConnConfig = config
	return &DSN{pool: pool}, nil
}

// dsnError says what is wrong as far as that can be told without quoting the string, which has a password in it.
func dsnError(err error) error {
	var file *fs.PathError
	if errors.As(err, &file) {
		return fmt.Errorf("dsn: cannot %s %s: %w", file.Op, file.Path, file.Err)
	}
	return fmt.Errorf("dsn is not a connection string that can be used: write postgres://user@host:port/database?sslmode=verify-full, "+
		"with no other parameters than %s", strings.Join(dsnKeys, ", "))
}

func checkTLS(c *pgx.ConnConfig) error {
	plain := c.TLSConfig == nil && !isSocket(c.Host, c.Port)
	encrypted := c.TLSConfig != nil
	for _, next := range c.Fallbacks {
		if isSocket(next.Host, next.Port) {
			continue
		}
		plain = plain || next.TLSConfig == nil
		encrypted = encrypted || next.TLSConfig != nil
	}
	if plain && encrypted {
		return errors.New("dsn: name an sslmode: verify-full, verify-ca, require, or disable for a network that nobody can listen to; " +
			"prefer and allow, which are the default of PostgreSQL's clients, let others switch TLS off")
	}
	return nil
}

func isSocket(host string, port uint16) bool {
	network, _ := pgconn.NetworkAddress(host, port)
	return network == "unix"
}

// String says where the database is: its hosts and its name.
func (d *DSN) String() string {
	c := d.pool.ConnConfig
	hosts := []string{address(c.Host, c.Port)}
	for _, next := range c.Fallbacks {
		if host := address(next.Host, next.Port); host != hosts[len(hosts)-1] {
			hosts = append(hosts, host)
		}
	}
	return strings.Join(hosts, ",") + "/" + c.Database
}

// GoString keeps the password out of what %#v prints.
func (d *DSN) GoString() string { return d.String() }

// Password returns the password that the string, the environment or a file of passwords has given; empty: none.
func (d *DSN) Password() string { return d.pool.ConnConfig.Password }

func address(host string, port uint16) string {
	if isSocket(host, port) {
		return host
	}
	return host + ":" + strconv.Itoa(int(port))
}

// WithPassword returns the same DSN with another password.
func (d *DSN) WithPassword(password string) *DSN {
	pool := d.pool.Copy()
	pool.ConnConfig.Password = password
	return &DSN{pool: pool}
}
