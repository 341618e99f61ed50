//go:build postgres

package integration

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/edrgate/edrgate/internal/testkit"
	"github.com/edrgate/edrgate/store/postgres/pgtest"
)

const (
	databaseOwnerPassword   = "owner-canary/2b7e:1516"
	databaseRuntimePassword = "runtime-canary@28ae/d2a6"
)

// database is a PostgreSQL server with the roles that docs/postgresql.md has.
type database struct{ *pgtest.Server }

func newDatabase(t *testing.T) database {
	t.Helper()
	server, err := pgtest.Start(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		err := server.Stop()
		if err != nil {
			t.Error(err)
		}
	})
	d := database{server}
	for _, sql := range []string{
		"CREATE ROLE edrgate_owner LOGIN PASSWORD '" + databaseOwnerPassword + "'",
		"CREATE ROLE edrgate LOGIN PASSWORD '" + databaseRuntimePassword + "'",
		"CREATE DATABASE edrgate OWNER edrgate_owner",
	} {
		d.execute(t, "postgres", sql)
	}
	return d
}

func (d database) execute(t *testing.T, name, sql string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), d.SocketDSN(pgtest.Admin, name))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	_, err = conn.Exec(t.Context(), sql)
	if err != nil {
		t.Fatal(err)
	}
}

// data is all that the records and the log hold.
func (d database) data(t *testing.T) []byte {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), d.SocketDSN(pgtest.Admin, "edrgate"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	rows, err := conn.Query(t.Context(), "SELECT id || data FROM edrgate.record UNION ALL SELECT id || event FROM edrgate.log_entry")
	if err != nil {
		t.Fatal(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
	if err != nil || len(all) == 0 {
		t.Fatalf("%d rows: %v", len(all), err)
	}
	var joined []byte
	for _, row := range all {
		joined = append(joined, row...)
	}
	return joined
}

// state is what the database has as the state of a flow.
func (d database) state(t *testing.T, flow string) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), d.SocketDSN(pgtest.Admin, "edrgate"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	var state string
	err = conn.QueryRow(t.Context(), "SELECT convert_from(data, 'UTF8')::json->>'state' FROM edrgate.record WHERE convert_from(id, 'UTF8') = $1", "default/"+flow).Scan(&state)
	if err != nil {
		t.Fatal(err)
	}
	return state
}

// readiness is the status that a gateway's /ready answers. One that has not seen the log yet serves nothing from memory.
func readiness(t *testing.T, g *gateway) int {
	t.Helper()
	request, err := http.NewRequest(http.MethodGet, "http://"+g.health+"/ready", nil)
	if err != nil {
		t.Fatal(err)
	}
	return send(t, g.client, request).status
}

func awaitReadiness(t *testing.T, g *gateway) {
	t.Helper()
	testkit.Eventually(t, "the gateway is ready", func() bool { return readiness(t, g) == http.StatusOK })
}

// dsn has no password: that is in a file.
func (d database) dsn(role string) string {
	full := d.DSN(role, "", "edrgate")
	return strings.Replace(full, role+":@", role+"@", 1)
}

// gateway makes an installation whose store is the database.
func (d database) gateway(t *testing.T, c config) *gateway {
	t.Helper()
	g := newGateway(t, c)
	g.canaries.Credential("the password of the schema's owner", databaseOwnerPassword)
	g.canaries.Credential("the password of the gateway's role", databaseRuntimePassword)
	writeFile(t, g.path("keys", "owner"), databaseOwnerPassword+"\n")
	writeFile(t, g.path("keys", "runtime"), databaseRuntimePassword+"\n")
	g.config.store = fmt.Sprintf("store postgres {\n\t\t\tdsn %s\n\t\t\tpassword {file.%s}\n\t\t}", d.dsn("edrgate"), g.path("keys", "runtime"))
	return g
}

// migrate runs the command as an operator does.
func (d database) migrate(t *testing.T, g *gateway) string {
	t.Helper()
	stdout, stderr, err := g.cli("edr", "migrate-schema", "--dsn", d.dsn("edrgate_owner"), "--password", "{file."+g.path("keys", "owner")+"}", "--grant", "edrgate")
	if err != nil {
		t.Fatalf("migrate-schema: %v: %s", err, stderr)
	}
	g.canaries.check(t, "what migrate-schema prints", []byte(stdout+stderr))
	return stdout
}

// The whole life of a flow over PostgreSQL: two gateways, each of which goes on with what the other has begun.
func TestPostgresTwoGateways(t *testing.T) {
	d := newDatabase(t)
	hosts, weather := newDIDHost(t), newBackend(t, "weather")
	c := config{app: "token_ttl 1h", site: serves("weather", weather)}
	a := d.gateway(t, c)

	a.writeConfig()
	_, stderr, err := a.cli("run", "--config", a.caddyfile(), "--adapter", "caddyfile")
	said := stderr + read(t, a.errorLog())
	if err == nil || !strings.Contains(said, "run `caddy edr migrate-schema`") {
		t.Errorf("without a schema the gateway ended with %v: %s", err, said)
	}
	if said := d.migrate(t, a); !strings.Contains(said, "schema edrgate: version 1, before: 0") {
		t.Errorf("migrate-schema says %q", said)
	}
	if said := d.migrate(t, a); !strings.Contains(said, "schema edrgate is up to date: version 1") {
		t.Errorf("migrate-schema says %q", said)
	}

	b := d.gateway(t, c)
	key, err := os.ReadFile(a.keyFile("signing"))
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, b.keyFile("signing"), string(key))
	b.canaries = a.canaries
	b.config.publicURL = a.publicURL() // they are one to the consumers
	a.start()
	b.start()

	atB := func(token, body string) {
		t.Helper()
		request := b.dataRequest("/berlin", token)
		request.Host = a.public // as a load balancer before both leaves it
		answer := send(t, b.client, request).want(t, http.StatusOK)
		if answer.body != body {
			t.Errorf("the other gateway gives %q, want %q", answer.body, body)
		}
	}
	for _, p := range planes {
		wallet := hosts.wallet("consumer-" + p.name())
		f := newTerms("weather", wallet.DID)
		first := startFlow(a, p, f)
		wantData(t, a, "/berlin", first.access, "data of weather")
		atB(first.access, "data of weather")
		second := renew(a, wallet, first)
		third := renew(a, wallet, second)
		atB(third.access, "data of weather")
		a.restart()
		wantData(t, a, "/berlin", third.access, "data of weather")
		p.suspend(b, f.flow).want(t, p.done())
		a.restart()
		wantRefusal(t, a.get("/berlin", third.access), "suspended", http.StatusForbidden, "flow_suspended")
		p.terminate(a, f.flow).want(t, p.done())
		if got := showFlow(b, f.flow).State; got != "TERMINATED" {
			t.Errorf("%s: the other gateway shows state %s", p.name(), got)
		}
	}
	a.canaries.check(t, "the database", d.data(t))
}

// While the database is away nothing is decided: 503, and known tokens are good. When it is back all goes on.
func TestPostgresAway(t *testing.T) {
	d := newDatabase(t)
	hosts, weather := newDIDHost(t), newBackend(t, "weather")
	g := d.gateway(t, config{app: "token_ttl 1h", site: serves("weather", weather)})
	d.migrate(t, g)
	g.start()
	awaitReadiness(t, g)
	p := planes[0]
	known := newParty(g, p, hosts, "consumer", "weather")
	wantData(t, g, "/berlin", known.edr.access, "data of weather")

	err := d.Kill()
	if err != nil {
		t.Fatal(err)
	}
	answer := renewalOf(g, known.wallet, known.edr).send(g).want(t, http.StatusServiceUnavailable)
	if answer.header.Get("Retry-After") == "" {
		t.Error("503 without Retry-After")
	}
	p.start(g, newTerms("weather", known.wallet.DID)).want(t, http.StatusServiceUnavailable)
	wantData(t, g, "/berlin", known.edr.access, "data of weather")
	g.reload() // the open store is kept
	if g.scrape().value("edrgate_store_errors_total") == 0 {
		t.Error("no error of the store was counted")
	}

	testkit.Eventually(t, "what is known is too old", func() bool { return readiness(t, g) == http.StatusServiceUnavailable })

	err = d.Run(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	awaitReadiness(t, g)
	known.edr = renew(g, known.wallet, known.edr)
	wantData(t, g, "/berlin", known.edr.access, "data of weather")
	scraped := g.scrape()
	if scraped.value("edrgate_store_call_duration_seconds", "operation", "update") == 0 {
		t.Error("no call of the store was measured")
	}
	scraped.wantCount(g, 16, "edrgate_store_connections", "state", "limit")
	g.canaries.check(t, "the database", d.data(t))
}

// A gateway that is started while the database is away comes up and is not ready: its orchestrator waits for it.
func TestPostgresStartsBeforeTheDatabase(t *testing.T) {
	d := newDatabase(t)
	hosts, weather := newDIDHost(t), newBackend(t, "weather")
	g := d.gateway(t, config{app: "token_ttl 1h", site: serves("weather", weather)})
	d.migrate(t, g)
	g.start()
	p := planes[0]
	known, ended := newParty(g, p, hosts, "consumer", "weather"), newParty(g, p, hosts, "another", "weather")
	g.stop()
	err := d.Halt()
	if err != nil {
		t.Fatal(err)
	}

	g.start()
	status := func(path string) int {
		request, err := http.NewRequest(http.MethodGet, "http://"+g.health+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		return send(t, g.client, request).status
	}
	if live, ready := status("/live"), status("/ready"); live != http.StatusOK || ready != http.StatusServiceUnavailable {
		t.Errorf("live %d, ready %d", live, ready)
	}
	g.get("/berlin", known.edr.access).want(t, http.StatusServiceUnavailable)
	p.terminate(g, ended.terms.flow).want(t, p.done())

	err = d.Run(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "the gateway is ready", func() bool { return status("/ready") == http.StatusOK })
	wantData(t, g, "/berlin", known.edr.access, "data of weather")
	testkit.Eventually(t, "the end is recorded", func() bool { return showFlow(g, ended.terms.flow).State == "TERMINATED" })
}

// The database's disk is full: nothing is created or renewed, but endings are in effect and acknowledged, from the gateway's
// own journal. They outlive the process, and the database gets them when it has room.
func TestPostgresDiskFull(t *testing.T) {
	d := newDatabase(t)
	hosts, weather := newDIDHost(t), newBackend(t, "weather")
	g := d.gateway(t, config{app: "token_ttl 1h", site: serves("weather", weather)})
	d.migrate(t, g)
	g.start()
	awaitReadiness(t, g)
	p := planes[0]
	ended := newParty(g, p, hosts, "ended", "weather")
	open := newParty(g, p, hosts, "open", "weather")
	wantData(t, g, "/berlin", ended.edr.access, "data of weather")
	d.execute(t, "edrgate", "CREATE FUNCTION edrgate.refuse() RETURNS trigger LANGUAGE plpgsql AS "+
		"$$ BEGIN RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100'; END $$")
	d.execute(t, "edrgate", "CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON edrgate.record FOR EACH ROW EXECUTE FUNCTION edrgate.refuse()")

	renewalOf(g, open.wallet, open.edr).send(g).want(t, http.StatusServiceUnavailable)
	p.start(g, newTerms("weather", open.wallet.DID)).want(t, http.StatusServiceUnavailable)
	p.terminate(g, ended.terms.flow).want(t, p.done())
	wantRefusal(t, g.get("/berlin", ended.edr.access), "ended here", p.refused(), "")
	wantData(t, g, "/berlin", open.edr.access, "data of weather")
	g.kill()
	g.start()
	awaitReadiness(t, g) // degraded is ready
	wantRefusal(t, g.get("/berlin", ended.edr.access), "ended before the crash", p.refused(), "")
	if got := d.state(t, ended.terms.flow); got != "STARTED" {
		t.Errorf("the database has state %s although its disk is full", got)
	}

	d.execute(t, "edrgate", "DROP TRIGGER refuse ON edrgate.record")
	testkit.Eventually(t, "the database has the ending", func() bool { return d.state(t, ended.terms.flow) == "TERMINATED" })
	open.edr = renew(g, open.wallet, open.edr)
	wantData(t, g, "/berlin", open.edr.access, "data of weather")
}

// A gateway moves from its directory to PostgreSQL, and back, and its consumers notice nothing.
func TestPostgresCopy(t *testing.T) {
	d := newDatabase(t)
	hosts, weather := newDIDHost(t), newBackend(t, "weather")
	g := d.gateway(t, config{app: "token_ttl 1h", site: serves("weather", weather)})
	inDatabase := g.config.store
	d.migrate(t, g)
	g.config.store = ""
	g.start()
	awaitReadiness(t, g)
	p := planes[0]
	kept := newParty(g, p, hosts, "kept", "weather")
	ended := newParty(g, p, hosts, "ended", "weather")
	kept.edr = renew(g, kept.wallet, kept.edr)
	p.terminate(g, ended.terms.flow).want(t, p.done())

	database := []string{"--path", g.config.storePath, "--dsn", d.dsn("edrgate"), "--password", "{file." + g.path("keys", "runtime") + "}"}
	run := func(more ...string) (string, error) {
		stdout, stderr, err := g.cli(append(append([]string{"edr", "copy"}, database...), more...)...)
		return stdout + stderr, err
	}
	said, err := run("--from", "badger", "--to", "postgres")
	if err == nil || !strings.Contains(said, "another process has it open") {
		t.Errorf("copy beside a running gateway: %v: %s", err, said)
	}
	g.stop()
	const counts = "  2 flow\n  1 log entries\n"
	said, err = run("--from", "badger", "--to", "postgres", "--dry-run")
	if err != nil || said != "would copy\n"+counts {
		t.Errorf("dry run: %v: %s", err, said)
	}
	said, err = run("--from", "badger", "--to", "postgres")
	if err != nil || said != "copied, and found the same in both:\n"+counts {
		t.Fatalf("copy: %v: %s", err, said)
	}
	said, err = run("--from", "badger", "--to", "postgres")
	if err == nil || !strings.Contains(said, "the target is not empty") {
		t.Errorf("a second copy: %v: %s", err, said)
	}

	check := func() {
		t.Helper()
		g.start()
		wantData(t, g, "/berlin", kept.edr.access, "data of weather")
		kept.edr = renew(g, kept.wallet, kept.edr)
		wantRefusal(t, g.get("/berlin", ended.edr.access), "terminated", p.refused(), "")
		g.stop()
	}
	g.config.store = inDatabase
	check()
	err = os.RemoveAll(g.config.storePath)
	if err != nil {
		t.Fatal(err)
	}
	said, err = run("--from", "postgres", "--to", "badger")
	if err != nil {
		t.Fatalf("copy back: %v: %s", err, said)
	}
	g.config.store = ""
	check()
}
