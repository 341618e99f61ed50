package postgres

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"

	"github.com/jackc/pgx/v5/pgconn"
)

// schemaError says that the schema is not this version's, and what to run.
type schemaError struct{ text string }

// Error implements error.
func (e *schemaError) Error() string { return e.text }

func schemaErrorf(format string, args ...any) error {
	return &schemaError{fmt.Sprintf(format, args...)}
}

// schemaCheck lets nothing pass to a database before its schema has been found to be this version's, once: a database that
// was away when the store was opened may turn out to have another one.
type schemaCheck struct {
	look func(context.Context) error
	turn chan struct{} // held by the one who looks
	log  *slog.Logger

	done  atomic.Bool
	wrong atomic.Bool // it was said in the log
}

// passed returns nil if the schema is right, else why that cannot be told or what is wrong.
func (c *schemaCheck) passed(ctx context.Context) error {
	if c.done.Load() {
		return nil
	}
	select {
	case c.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-c.turn }()
	if c.done.Load() {
		return nil
	}
	err := c.look(ctx)
	var wrong *schemaError
	if errors.As(err, &wrong) && !c.wrong.Swap(true) {
		c.log.Error("the database cannot be used", "error", wrong)
	}
	if err == nil {
		c.done.Store(true)
	}
	return err
}

// awayClasses are the classes of PostgreSQL's errors that say that the server, or the one behind a pooler, cannot serve just
// now (PostgreSQL documentation, appendix A): connection exception, insufficient resources, operator intervention, system
// error.
var awayClasses = []string{"08", "53", "57", "58"}

// isAway reports whether a database that gave this error may be used later as it is configured. A wrong schema, role,
// password or name of a database is for an operator to mend.
func isAway(err error) bool {
	var wrong *schemaError
	if errors.As(err, &wrong) {
		return false
	}
	var said *pgconn.PgError
	return !errors.As(err, &said) || len(said.Code) == 5 && slices.Contains(awayClasses, said.Code[:2])
}
