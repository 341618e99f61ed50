package postgres

import (
	"fmt"
	"maps"
	"math/big"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/edrgate/edrgate/store"
)

// Times are stored as seconds since 1970 with nine decimals: PostgreSQL's own times have no nanoseconds and end too
// early. to_timestamp(expires) shows one.

var nanosPerSecond = big.NewInt(int64(time.Second))

// seconds is the stored form of t; NULL for the zero time.
func seconds(t time.Time) pgtype.Numeric {
	if t.IsZero() {
		return pgtype.Numeric{}
	}
	n := new(big.Int).Mul(big.NewInt(t.Unix()), nanosPerSecond)
	return pgtype.Numeric{Int: n.Add(n, big.NewInt(int64(t.Nanosecond()))), Exp: -9, Valid: true}
}

// moment is the inverse of seconds.
func moment(n pgtype.Numeric) (time.Time, error) {
	if !n.Valid {
		return time.Time{}, nil
	}
	if n.NaN || n.InfinityModifier != pgtype.Finite || n.Int == nil {
		return time.Time{}, fmt.Errorf("%w: a time that is no number", errDamaged)
	}
	nanos := new(big.Int).Set(n.Int)
	shift := int64(n.Exp) + 9
	factor := new(big.Int).Exp(big.NewInt(10), big.NewInt(max(shift, -shift)), nil)
	if shift >= 0 {
		nanos.Mul(nanos, factor)
	} else {
		nanos.Quo(nanos, factor) // the column has nine decimals, so what is cut off are zeros
	}
	whole, rest := new(big.Int).DivMod(nanos, nanosPerSecond, new(big.Int))
	if !whole.IsInt64() {
		return time.Time{}, fmt.Errorf("%w: a time out of range", errDamaged)
	}
	return time.Unix(whole.Int64(), rest.Int64()).UTC(), nil
}

// flat is the stored form of labels: name, value, name, value, in the order of names.
func flat(labels map[string]string) [][]byte {
	list := make([][]byte, 0, 2*len(labels))
	for _, name := range slices.Sorted(maps.Keys(labels)) {
		list = append(list, []byte(name), []byte(labels[name]))
	}
	return list
}

// unflat is the inverse of flat.
func unflat(list [][]byte) (map[string]string, error) {
	if len(list)%2 != 0 {
		return nil, fmt.Errorf("%w: a label without a value", errDamaged)
	}
	if len(list) == 0 {
		return nil, nil
	}
	labels := make(map[string]string, len(list)/2)
	for pair := range slices.Chunk(list, 2) {
		labels[string(pair[0])] = string(pair[1])
	}
	return labels, nil
}

// normal is t in the form in which it comes back.
func normal(t time.Time) time.Time {
	return t.Round(0).UTC()
}

// alive reports whether r exists at the time now.
func alive(r store.Record, now time.Time) bool {
	return r.Expires.IsZero() || now.Before(r.Expires)
}
