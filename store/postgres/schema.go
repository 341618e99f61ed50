package postgres

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// DefaultSchema is the schema of the tables when none is named.
const DefaultSchema = "edrgate"

// migrateTimeout is how long Migrate may take, waiting for another one included.
const migrateTimeout = 5 * time.Minute

//go:embed migrations/*.sql
var migrationFiles embed.FS

// migrations are the steps from an empty schema to this version's. The first makes version 1.
var migrations = readMigrations()

func readMigrations() []string {
	files, err := fs.Glob(migrationFiles, "migrations/*.sql")
	if err != nil {
		panic(err)
	}
	steps := make([]string, 0, len(files))
	for _, name := range files { // in the order of their names
		text, err := migrationFiles.ReadFile(name)
		if err != nil {
			panic(err)
		}
		steps = append(steps, string(text))
	}
	return steps
}

// schemaNames are those that need no quoting anywhere, so that what this package, an operator and the docs write is one
// name.
var schemaNames = regexp.MustCompile(`^[a-z_][a-z0-9_]{0,62}$`)

// CheckSchemaName returns an error if name cannot be the name of the store's schema.
func CheckSchemaName(name string) error {
	if !schemaNames.MatchString(name) {
		return fmt.Errorf("schema %q: at most 63 lower-case letters, digits and underscores, beginning with no digit", name)
	}
	return nil
}

// Migrated is what Migrate has done: the version of the schema before, 0 for none, and now.
type Migrated struct{ From, To int }

// Migrate brings the schema to this version's, in one transaction, and gives runtime roles the rights that a gateway
// needs. It connects as the owner of the schema, who may create it. Run again it changes nothing; several at once wait
// for each other. A schema that a newer version has made is left alone, with an error.
func Migrate(ctx context.Context, dsn *DSN, schema string, roles ...string) (Migrated, error) {
	err := CheckSchemaName(schema)
	if err != nil {
		return Migrated{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, migrateTimeout)
	defer cancel()
	config := dsn.pool.ConnConfig.Copy()
	forPoolers(config)
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return Migrated{}, fmt.Errorf("migrate %s: %w", dsn, err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	var done Migrated
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		done, err = migrate(ctx, tx, schema)
		if err != nil {
			return err
		}
		for _, role := range roles {
			err = run(ctx, tx, Grants(schema, role))
			if err != nil {
				return fmt.Errorf("rights of role %s: %w", role, err)
			}
		}
		return nil
	})
	if err != nil {
		return Migrated{}, fmt.Errorf("migrate %s: %w", dsn, err)
	}
	return done, nil
}

// migrate runs in a transaction, whose end gives back the lock too.
func migrate(ctx context.Context, tx pgx.Tx, schema string) (Migrated, error) {
	_, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock(hashtextextended('edrgate migrate-schema ' || $1::text, 0))", schema)
	if err != nil {
		return Migrated{}, err
	}
	// Not CREATE SCHEMA IF NOT EXISTS, for which one needs the right to create any: the schema may be made by somebody
	// who owns the database, for an owner who may do nothing else there.
	var exists bool
	err = tx.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = $1)", schema).Scan(&exists)
	if err != nil {
		return Migrated{}, err
	}
	if !exists {
		err = run(ctx, tx, "CREATE SCHEMA "+schema)
		if err != nil {
			return Migrated{}, err
		}
	}
	err = run(ctx, tx, "SET LOCAL search_path TO "+schema+", pg_catalog;"+
		"CREATE TABLE IF NOT EXISTS schema_version (version integer PRIMARY KEY, applied timestamptz NOT NULL DEFAULT now());")
	if err != nil {
		return Migrated{}, err
	}
	version, err := schemaVersion(ctx, tx, schema)
	if err != nil {
		return Migrated{}, err
	}
	if version > len(migrations) {
		return Migrated{}, newerSchema(schema, version)
	}
	for i, step := range migrations[version:] {
		err = run(ctx, tx, step)
		if err != nil {
			return Migrated{}, fmt.Errorf("to version %d: %w", version+i+1, err)
		}
		_, err = tx.Exec(ctx, "INSERT INTO schema_version (version) VALUES ($1)", version+i+1)
		if err != nil {
			return Migrated{}, err
		}
	}
	return Migrated{From: version, To: len(migrations)}, nil
}

// run executes statements without parameters.
func run(ctx context.Context, tx pgx.Tx, sql string) error {
	_, err := tx.Conn().PgConn().Exec(ctx, sql).ReadAll()
	return err
}

// Grants are the statements that give a role the rights that a running gateway needs, and no others: it can neither
// create, alter nor drop anything, nor change the version of the schema.
func Grants(schema, role string) string {
	to := " TO " + pgx.Identifier{role}.Sanitize() + ";\n"
	return "GRANT USAGE ON SCHEMA " + schema + to +
		"GRANT SELECT, INSERT, UPDATE, DELETE ON " + schema + ".record" + to +
		"GRANT SELECT, INSERT, DELETE ON " + schema + ".record_label" + to +
		"GRANT SELECT, INSERT, DELETE ON " + schema + ".log_entry" + to +
		"GRANT SELECT, UPDATE ON " + schema + ".log_position" + to +
		"GRANT SELECT ON " + schema + ".schema_version" + to
}

// querier is what a pool and a transaction have in common.
type querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

func schemaVersion(ctx context.Context, q querier, schema string) (int, error) {
	var version int
	err := q.QueryRow(ctx, "SELECT coalesce(max(version), 0) FROM "+schema+".schema_version").Scan(&version)
	return version, err
}

// checkSchema returns an error that says what to do if the schema is not this version's.
func checkSchema(ctx context.Context, pool *pgxpool.Pool, schema string) error {
	version, err := schemaVersion(ctx, pool, schema)
	var said *pgconn.PgError
	if errors.As(err, &said) && (said.Code == undefinedTable || said.Code == invalidSchemaName) {
		return schemaErrorf("schema %s has no tables of the gateway: run `caddy edr migrate-schema`", schema)
	}
	if errors.As(err, &said) && said.Code == insufficientPrivilege {
		return schemaErrorf("role %s has no rights on schema %s: run `caddy edr migrate-schema --grant %[1]s`", pool.Config().ConnConfig.User, schema)
	}
	if err != nil {
		return fmt.Errorf("version of schema %s: %w", schema, err)
	}
	if version < len(migrations) {
		return schemaErrorf("schema %s has version %d, and this gateway needs %d: run `caddy edr migrate-schema`", schema, version, len(migrations))
	}
	if version > len(migrations) {
		return newerSchema(schema, version)
	}
	return nil
}

func newerSchema(schema string, version int) error {
	return schemaErrorf("schema %s was made by a newer version of the gateway: it has version %d, and this one knows %d: install the newer one",
		schema, version, len(migrations))
}
