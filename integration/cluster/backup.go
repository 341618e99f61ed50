package cluster

import (
	"fmt"
	"os/exec"
	"path/filepath"
)

// Dump backs the database up, as docs/postgresql.md has it, and returns the file.
func (c *Cluster) Dump() string {
	c.t.Helper()
	file := filepath.Join(c.t.TempDir(), "edrgate.dump")
	c.program("pg_dump", "--format=custom", "--file="+file, "--dbname="+c.database)
	return file
}

// Restore puts what a dump holds in the place of the database, as docs/postgresql.md has it: beside it, and then by its name.
// Gateways may run; for a moment they cannot connect.
func (c *Cluster) Restore(file string) {
	c.t.Helper()
	restored, lost := c.database+"_restored", c.database+"_lost"
	c.Execute("postgres", "CREATE DATABASE "+restored+" OWNER "+ownerRole)
	c.program("pg_restore", "--exit-on-error", "--dbname="+restored, file)
	c.Execute("postgres", "ALTER DATABASE "+c.database+" ALLOW_CONNECTIONS false")
	c.Execute("postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '"+c.database+"'")
	c.Execute("postgres", "ALTER DATABASE "+c.database+" RENAME TO "+lost)
	c.Execute("postgres", "ALTER DATABASE "+restored+" RENAME TO "+c.database)
	c.Execute("postgres", "DROP DATABASE "+lost)
}

// program runs one of PostgreSQL's programs as the superuser, at the server's socket.
func (c *Cluster) program(name string, args ...string) {
	c.t.Helper()
	host, port := c.Server.Socket()
	output, err := exec.Command(c.Server.Program(name), append([]string{"--host=" + host, fmt.Sprintf("--port=%d", port), "--username=postgres"}, args...)...).CombinedOutput()
	if err != nil {
		c.t.Fatalf("%s: %v: %s", name, err, output)
	}
}
