package cluster

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	mathrand "math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/edrgate/edrgate/store/postgres/pgtest"
)

// The parties. To consumers and control planes all gateways are one.
const (
	ProviderDID = "did:web:provider.example"
	PublicHost  = "data.provider.example" // of the endpoints in EDRs; every gateway serves it
	Dataset     = "weather"
	Payload     = "data of weather" // what the backend answers

	ownerRole, runtimeRole         = "edrgate_owner", "edrgate"
	ownerPassword, runtimePassword = "owner-canary-c2f1", "runtime-canary-8d07"
)

// Options are what differs between clusters. The zero value has the gateway's defaults.
type Options struct {
	Gateways     int           // default: 3
	MaxStaleness time.Duration // max_staleness of each
	Store        string        // further lines of the block of the store
	App          string        // further lines of the edrgate block
	Sites        string        // further sites; {dir} is the gateway's directory and {more} a free address, Gateway.More
	TokenTTL     time.Duration // default: 1h
}

// Cluster is some gateways over one database.
type Cluster struct {
	t        testing.TB
	options  Options
	key      []byte // the signing key, which the gateways share
	database string

	Server   *pgtest.Server
	DIDs     *DIDHost
	Backend  *Backend
	Gateways []*Gateway
}

// StartServer starts a PostgreSQL server with the roles that docs/postgresql.md has, for all clusters of a package.
func StartServer(ctx context.Context) (*pgtest.Server, error) {
	server, err := pgtest.Start(ctx)
	if err != nil {
		return nil, err
	}
	err = execute(ctx, server, "postgres",
		"CREATE ROLE "+ownerRole+" LOGIN PASSWORD '"+ownerPassword+"'",
		"CREATE ROLE "+runtimeRole+" LOGIN PASSWORD '"+runtimePassword+"'")
	if err != nil {
		return nil, fmt.Errorf("%w, %w", err, server.Stop())
	}
	return server, nil
}

var databases atomic.Int64

// New makes a database on the server and gateways over it, and starts them. All is taken away when the test ends.
func New(t testing.TB, server *pgtest.Server, o Options) *Cluster {
	t.Helper()
	if o.Gateways == 0 {
		o.Gateways = 3
	}
	if o.TokenTTL == 0 {
		o.TokenTTL = time.Hour
	}
	c := &Cluster{
		t: t, options: o, Server: server, database: fmt.Sprintf("edrgate_%d", databases.Add(1)),
		DIDs: newDIDHost(t), Backend: newBackend(t), key: newKey(t),
	}
	c.Execute("postgres", "CREATE DATABASE "+c.database+" OWNER "+ownerRole)
	t.Cleanup(c.drop)
	for i := range o.Gateways {
		c.Gateways = append(c.Gateways, newGateway(c, fmt.Sprintf("gateway %d", i+1)))
	}
	c.migrate()
	for _, g := range c.Gateways {
		g.Launch()
	}
	for _, g := range c.Gateways {
		g.AwaitReady()
	}
	return c
}

// Execute says a statement to a database as the superuser.
func (c *Cluster) Execute(database, sql string) {
	c.t.Helper()
	err := execute(context.Background(), c.Server, database, sql)
	if err != nil {
		c.t.Fatal(err)
	}
}

// Holds asks a server, which may be a standby, a question whose answer is yes or no.
func Holds(t testing.TB, server *pgtest.Server, database, question string) bool {
	t.Helper()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, server.SocketDSN(pgtest.Admin, database))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(ctx) }() // nothing was written
	var yes bool
	err = conn.QueryRow(ctx, question).Scan(&yes)
	if err != nil {
		t.Fatal(err)
	}
	return yes
}

// Database is the name of the gateways' database.
func (c *Cluster) Database() string { return c.database }

func (c *Cluster) drop() {
	err := execute(context.Background(), c.Server, "postgres", "DROP DATABASE IF EXISTS "+c.database+" WITH (FORCE)")
	if err != nil {
		c.t.Error(err)
	}
}

// migrate makes the schema as an operator does.
func (c *Cluster) migrate() {
	c.t.Helper()
	g := c.Gateways[0]
	said, err := g.Command("edr", "migrate-schema", "--dsn", c.dsn(ownerRole, c.Server.Address()),
		"--password", "{file."+g.write("keys/owner", ownerPassword)+"}", "--grant", runtimeRole)
	if err != nil {
		c.t.Fatalf("migrate-schema: %v: %s", err, said)
	}
}

// dsn has no password, and leads to address.
func (c *Cluster) dsn(role, address string) string {
	full := strings.Replace(c.Server.DSN(role, "", c.database), role+":@", role+"@", 1)
	return strings.Replace(full, c.Server.Address(), address, 1)
}

// execute says each statement in a transaction of its own, as the superuser.
func execute(ctx context.Context, server *pgtest.Server, database string, statements ...string) error {
	conn, err := pgx.Connect(ctx, server.SocketDSN(pgtest.Admin, database))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }() // what was said is committed or an error
	for _, sql := range statements {
		_, err = conn.Exec(ctx, sql)
		if err != nil {
			return fmt.Errorf("%s: %w", sql, err)
		}
	}
	return nil
}

// newKey returns a signing key as PEM.
func newKey(t testing.TB) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// freeAddress returns a loopback address that nobody listens at, below the range that the kernel takes the ports of
// outgoing connections from.
func freeAddress(t testing.TB) string {
	t.Helper()
	for range 1000 {
		listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 10_000+mathrand.IntN(20_000)))
		if err != nil {
			continue
		}
		err = listener.Close()
		if err != nil {
			t.Fatal(err)
		}
		return listener.Addr().String()
	}
	t.Fatal("no free port on the loopback interface")
	return ""
}

func writeFile(t testing.TB, path string, content []byte) {
	t.Helper()
	err := os.MkdirAll(filepath.Dir(path), 0o700)
	if err == nil {
		err = os.WriteFile(path, content, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}
