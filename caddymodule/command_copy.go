package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/spf13/cobra"

	"github.com/edrgate/edrgate/store"
	"github.com/edrgate/edrgate/store/badger"
	"github.com/edrgate/edrgate/store/move"
	"github.com/edrgate/edrgate/store/postgres"
)

// copyTimeout is how long one step of a copy may take: a page of large records.
const copyTimeout = time.Minute

// copyRequest is what copy is told to do.
type copyRequest struct {
	from, to string // engines
	path     string // of the directory
	database databaseFlags
	dry      bool
}

func copyCommand() *cobra.Command {
	var r copyRequest
	cmd := &cobra.Command{
		Use:   "copy --from badger|postgres --to badger|postgres [--path <directory>] --dsn <connection string> [--dry-run]",
		Short: "Copies all of a store into an empty one of the other engine",
		Long: `
Copies the flows, the EDRs and the log from a directory into a PostgreSQL
database, or back, and then compares both. The gateways must be stopped, and the
target be empty: a new directory, or a schema that migrate-schema has just made.
If it fails, take what is in the target away and begin again; the source is only
read. With --dry-run it counts and writes nothing.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return r.run(cmd.Context(), cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVar(&r.from, "from", "", "Engine of the source: badger or postgres")
	cmd.Flags().StringVar(&r.to, "to", "", "Engine of the target: badger or postgres")
	cmd.Flags().StringVar(&r.path, "path", "", "Directory of badger; default: edrgate in Caddy's data directory")
	cmd.Flags().BoolVar(&r.dry, "dry-run", false, "Count what would be copied")
	r.database.register(cmd)
	return cmd
}

func (r *copyRequest) run(ctx context.Context, w io.Writer) (err error) {
	for _, engine := range []string{r.from, r.to} {
		if engine != "badger" && engine != "postgres" {
			return fmt.Errorf("--from and --to: %q is neither badger nor postgres", engine)
		}
	}
	if r.from == r.to {
		return errors.New("--from and --to name the same engine: use its own backup")
	}
	from, err := r.open(ctx, r.from)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	if r.dry {
		counts, err := move.Count(ctx, from)
		if err != nil {
			return err
		}
		return printCounts(w, "would copy", counts)
	}
	to, err := r.open(ctx, r.to)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	counts, err := move.Copy(ctx, from, to)
	if err != nil {
		return fmt.Errorf("copy: %w", err)
	}
	err = move.Verify(ctx, from, to)
	if err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	return printCounts(w, "copied, and found the same in both:", counts)
}

func (r *copyRequest) open(ctx context.Context, engine string) (store.Mover, error) {
	if engine == "badger" {
		directory := BadgerStore{Path: r.path}
		err := directory.Provision(caddy.Context{})
		if err != nil {
			return nil, err
		}
		return badger.Open(badger.Options{Dir: directory.dir, ReserveBytes: -1})
	}
	dsn, err := r.database.database()
	if err != nil {
		return nil, err
	}
	return postgres.Open(ctx, postgres.Options{DSN: dsn, Schema: r.database.schema, Timeout: copyTimeout})
}

func printCounts(w io.Writer, what string, counts move.Counts) error {
	_, err := fmt.Fprintln(w, what)
	for _, kind := range slices.Sorted(maps.Keys(counts.Records)) {
		if err == nil {
			_, err = fmt.Fprintf(w, "  %d %s\n", counts.Records[kind], kind)
		}
	}
	if err == nil {
		_, err = fmt.Fprintf(w, "  %d log entries\n", counts.Entries)
	}
	return err
}
