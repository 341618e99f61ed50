package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/edrgate/edrgate/store"
)

// Codes of PostgreSQL's errors (PostgreSQL documentation, appendix A).
const (
	diskFull              = "53100"
	undefinedTable        = "42P01"
	invalidSchemaName     = "3F000"
	insufficientPrivilege = "42501"
	completionUnknown     = "40003"
)

var (
	// errDamaged is wrapped by the errors for rows that this package did not write.
	errDamaged = errors.New("stored value is damaged")

	// errStandby is returned when the answer came from a server that only follows another: it is of a while ago, so an
	// ending may be missing from it.
	errStandby = errors.New("database is a standby: its answers are not up to date")

	// errReadOnly is returned by Health for a database that takes no writes.
	errReadOnly = errors.New("database is read-only")

	// errTimeout is returned when the database has not answered in time: the outcome of a write is unknown.
	errTimeout = errors.New("database has not answered in time")
)

// failed reports an error that came from the database or from the way to it, in "commit" or "read", and returns it as a
// caller gets it. ctx is the caller's.
func (s *Store) failed(ctx context.Context, in string, err error) error {
	var said *pgconn.PgError
	var connecting *pgconn.ConnectError
	switch {
	case errors.As(err, &said) && said.Code == diskFull:
		s.full.Store(true)
		s.observer.Failed("space")
		// The server has rolled the statement back.
		return fmt.Errorf("%w: %w", store.ErrFull, err)
	case errors.As(err, &connecting):
		s.observer.Failed("connect")
		return fmt.Errorf("connect to the database: %w", err)
	}
	s.observer.Failed(in)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return fmt.Errorf("%s: %w: %w", in, errTimeout, err)
	}
	if ctx.Err() != nil && !errors.Is(err, ctx.Err()) {
		return fmt.Errorf("%s: %w: %w", in, ctx.Err(), err)
	}
	return fmt.Errorf("%s: %w", in, err)
}
