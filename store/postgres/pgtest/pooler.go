package pgtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

// Pooler is a running PgBouncer that gives each transaction any connection (pool_mode transaction).
type Pooler struct {
	dir     string
	port    int
	process *process
}

// StartPooler starts a PgBouncer before a server, with few connections, so that those of clients are mixed up. Clients
// need no password; with the server it speaks as user. Stop must be called.
func StartPooler(ctx context.Context, s *Server, user, password, database string) (*Pooler, error) {
	program, err := exec.LookPath("pgbouncer")
	if err != nil {
		program = "/usr/sbin/pgbouncer" // which the PATH of a plain user does not have
	}
	if !isFile(program) {
		return nil, errors.New("PgBouncer is missing: pgbouncer is not in PATH (Debian: apt-get install pgbouncer)")
	}
	dir, err := os.MkdirTemp("", "edrgate-pgb-")
	if err != nil {
		return nil, err
	}
	p := &Pooler{dir: dir}
	p.port, err = FreePort()
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "pgbouncer.ini"), fmt.Appendf(nil, `[databases]
%[1]s = host=127.0.0.1 port=%[2]d dbname=%[1]s user=%[3]s password=%[4]s
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %[5]d
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 3
max_client_conn = 200
server_tls_sslmode = require
`, database, s.port, user, password, p.port), 0o600)
	}
	if err == nil {
		err = giveAway(dir)
	}
	if err == nil {
		p.process, err = begin(dir, program, filepath.Join(dir, "pgbouncer.ini"))
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	err = p.process.answers(ctx, fmt.Sprintf("127.0.0.1:%d", p.port))
	if err != nil {
		return nil, errors.Join(err, p.Stop())
	}
	return p, nil
}

// DSN returns a connection string.
func (p *Pooler) DSN(user, database string) string {
	return fmt.Sprintf("host=127.0.0.1 port=%d user=%s dbname=%s sslmode=disable", p.port, user, database)
}

// Stop ends the pooler and removes its directory.
func (p *Pooler) Stop() error {
	return errors.Join(p.process.end(syscall.SIGTERM), os.RemoveAll(p.dir))
}
