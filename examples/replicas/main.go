// Command replicas shows several gateways that are one to everybody. It starts a PostgreSQL of its own, three gateways over
// it and a Caddy in front of them, and plays everybody around: the control plane, the provider's backend, and the consumer
// with its wallet. Each step is one line; a step that does not go as it must ends the program with an error.
//
// It needs PostgreSQL's server programs; store/postgres/pgtest/requirements.sh postgresql installs or names them.
package main

import (
	"context"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/edrgate/edrgate/examples/internal/demo"
	"github.com/edrgate/edrgate/store/postgres/pgtest"
)

// The configurations, filled in as those of the quick start are.
var (
	//go:embed Caddyfile.gateway
	gatewayCaddyfile string

	//go:embed Caddyfile.front
	frontCaddyfile string
)

// gateways is how many there are.
const gateways = 3

// tokenTTL is the gateway's default.
const tokenTTL = 5 * time.Minute

// options are the command line.
type options struct {
	caddy string
	once  bool
}

func main() {
	var o options
	flag.StringVar(&o.caddy, "caddy", "bin/caddy", "the Caddy `binary` with the gateway")
	flag.BoolVar(&o.once, "once", false, "end when all steps are done, with status 0 if all went well")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, o, os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "replicas:", err)
		os.Exit(1)
	}
}

// run plays the demonstration in a directory of its own, which it leaves behind only where something went wrong.
func run(ctx context.Context, o options, out io.Writer) error {
	_, err := exec.LookPath(o.caddy)
	if err != nil {
		return fmt.Errorf("%w: build it with `make build`, or name another one with -caddy", err)
	}
	dir, err := os.MkdirTemp("", "edrgate-replicas-")
	if err != nil {
		return err
	}
	err = playIn(ctx, dir, o, out)
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("%w\nwhat each Caddy logged and read is below %s: caddy.log, Caddyfile", err, dir)
	}
	if ctx.Err() != nil {
		fmt.Fprintln(out, "\nstopped")
	}
	removed := os.RemoveAll(dir)
	if o.once && err != nil {
		return errors.Join(errors.New("interrupted"), removed)
	}
	return removed
}

func playIn(ctx context.Context, dir string, o options, out io.Writer) (err error) {
	backend, backendPort, err := demo.Serve(demo.NewBackend())
	if err != nil {
		return err
	}
	defer backend.Close()
	wallets := http.NewServeMux()
	walletHost, walletPort, err := demo.Serve(wallets)
	if err != nil {
		return err
	}
	defer walletHost.Close()
	consumer, err := demo.NewWallet(walletPort, "consumer")
	if err != nil {
		return err
	}
	wallets.Handle("GET /consumer/did.json", consumer)

	server, err := pgtest.Start(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Stop()) }()
	fmt.Fprintf(out, "PostgreSQL is running at %s\n", server.Address())
	d := &database{Server: server, dir: dir}

	s := &stage{
		Narrator: demo.Narrator{Out: out}, consumer: consumer, database: d,
		// Without a proxy of the environment: all hosts are this one. A connection for each request, so that the Caddy in
		// front is free to choose.
		client: &http.Client{Timeout: demo.RequestTimeout, Transport: &http.Transport{DisableKeepAlives: true}},
	}
	defer s.close()
	err = s.prepare(ctx, dir, o.caddy, map[string]string{"BACKEND_PORT": backendPort, "WALLET_PORT": walletPort})
	if err == nil {
		err = s.play(ctx)
	}
	if err != nil || o.once {
		return err
	}
	s.invite()
	return s.wait(ctx)
}

// database is the server with the roles that docs/postgresql.md has.
type database struct {
	*pgtest.Server
	dir string // of the files with passwords
}

// Roles of the demonstration. Their passwords are for a server that nobody else reaches and that is gone afterwards.
const (
	ownerRole, ownerPassword     = "edrgate_owner", "owner-of-the-demonstration"
	gatewayRole, gatewayPassword = "edrgate", "gateway-of-the-demonstration"
)

func (d *database) passwordFile(role string) string { return filepath.Join(d.dir, role+".password") }

// dsn has no password: that is in a file.
func (d *database) dsn(role string) string {
	return strings.Replace(d.DSN(role, "", "edrgate"), role+":@", role+"@", 1)
}

func (d *database) execute(ctx context.Context, statements ...string) error {
	conn, err := pgx.Connect(ctx, d.SocketDSN(pgtest.Admin, "postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for _, sql := range statements {
		_, err = conn.Exec(ctx, sql)
		if err != nil {
			return err
		}
	}
	return nil
}

// prepare starts everything, from the database to the Caddy in front.
func (s *stage) prepare(ctx context.Context, dir, binary string, values map[string]string) error {
	s.Title("Three gateways over one PostgreSQL, a Caddy in front of them")
	err := s.Act("database administrator: two roles and a database", func() error {
		return errors.Join(
			os.WriteFile(s.database.passwordFile(ownerRole), []byte(ownerPassword), 0o600),
			os.WriteFile(s.database.passwordFile(gatewayRole), []byte(gatewayPassword), 0o600),
			s.database.execute(ctx,
				"CREATE ROLE "+ownerRole+" LOGIN PASSWORD '"+ownerPassword+"'",
				"CREATE ROLE "+gatewayRole+" LOGIN PASSWORD '"+gatewayPassword+"'",
				"CREATE DATABASE edrgate OWNER "+ownerRole),
		)
	})
	if err != nil {
		return err
	}
	ports, err := demo.FreePorts(2)
	if err != nil {
		return err
	}
	s.front = &demo.Gateway{Binary: binary, Caddyfile: frontCaddyfile, Dir: filepath.Join(dir, "front"), DataPort: ports[0], SignalingPort: ports[1]}
	all := []*demo.Gateway{s.front}
	for i := range gateways {
		g := &demo.Gateway{
			Binary: binary, Caddyfile: gatewayCaddyfile, DID: demo.ProviderDID, Dir: filepath.Join(dir, fmt.Sprintf("gateway-%d", i+1)),
			Values: map[string]string{
				"KEY_FILE": filepath.Join(dir, "gateway-1", "signing.pem"), "PUBLIC_PORT": s.front.DataPort,
				"DSN": s.database.dsn(gatewayRole), "PASSWORD_FILE": s.database.passwordFile(gatewayRole),
			},
		}
		for name, value := range values {
			g.Values[name] = value
		}
		s.gateways = append(s.gateways, g)
		all = append(all, g)
	}
	for _, g := range all {
		err = os.Mkdir(g.Dir, 0o700)
		if err != nil {
			return err
		}
	}
	first := s.gateways[0]
	err = s.Act("operator: caddy edr keygen", func() error { return first.GenerateKey(ctx) })
	if err == nil {
		err = s.Act("operator: caddy edr migrate-schema", func() error {
			return first.Command(ctx, "edr", "migrate-schema", "--dsn", s.database.dsn(ownerRole),
				"--password", "{file."+s.database.passwordFile(ownerRole)+"}", "--grant", gatewayRole)
		})
	}
	if err != nil {
		return err
	}
	return s.launch(ctx)
}

// launch starts the gateways, then the Caddy in front, which is ready when one of them is.
func (s *stage) launch(ctx context.Context) error {
	var data, signaling []string
	for i, g := range s.gateways {
		err := s.Act(fmt.Sprintf("operator: caddy run, gateway %d", i+1), func() error { return g.Start(ctx, s.client, tokenTTL) })
		if err != nil {
			return err
		}
		data, signaling = append(data, "127.0.0.1:"+g.DataPort), append(signaling, "127.0.0.1:"+g.SignalingPort)
	}
	s.front.Values = map[string]string{
		"DATA_UPSTREAMS": strings.Join(data, " "), "SIGNALING_UPSTREAMS": strings.Join(signaling, " "),
	}
	return s.Act("operator: caddy run, in front of them, with health checks", func() error {
		return s.front.Start(ctx, s.client, tokenTTL)
	})
}

// close ends what runs, the Caddy in front first.
func (s *stage) close() {
	if s.front != nil {
		s.front.Close()
	}
	for _, g := range s.gateways {
		g.Close()
	}
}
