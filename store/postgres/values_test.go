package postgres

import (
	"errors"
	"maps"
	"math"
	"math/big"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgtype"
)

func TestMoment(t *testing.T) {
	for _, want := range []time.Time{
		{},
		time.Unix(0, 0),
		time.Unix(0, 1),
		time.Unix(-1, 999_999_999),
		time.Date(2026, 11, 25, 12, 0, 0, 123_456_789, time.FixedZone("east", 3*3600)),
		time.Date(9999, 12, 31, 23, 59, 59, 999_999_999, time.UTC),
		time.Date(-4000, 1, 1, 0, 0, 0, 1, time.UTC),
		time.Unix(math.MaxInt32*1000, 5),
	} {
		stored := seconds(want)
		got, err := moment(stored)
		if err != nil || !got.Equal(want) || stored.Valid == want.IsZero() {
			t.Errorf("%v came back as %v, %v", want, got, err)
		}
		if !stored.Valid {
			continue
		}
		// As PostgreSQL gives it: without zeros at the end, or with more.
		text, err := stored.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		var read pgtype.Numeric
		err = read.Scan(string(text))
		if err != nil {
			t.Fatal(err)
		}
		got, err = moment(read)
		if err != nil || !got.Equal(want) {
			t.Errorf("%v came back as %v, %v from %s", want, got, err, text)
		}
	}
	got, err := moment(pgtype.Numeric{Int: big.NewInt(3), Exp: 1, Valid: true})
	if err != nil || got.Unix() != 30 {
		t.Errorf("3e1 is %v, %v", got, err)
	}
	for _, bad := range []pgtype.Numeric{
		{Valid: true, NaN: true},
		{Valid: true, Int: big.NewInt(0), InfinityModifier: pgtype.Infinity},
		{Valid: true, Int: new(big.Int).Lsh(big.NewInt(1), 64)},
	} {
		_, err := moment(bad)
		if !errors.Is(err, errDamaged) {
			t.Errorf("%+v: got error %v, want %v", bad, err, errDamaged)
		}
	}
}

func TestLabels(t *testing.T) {
	for _, want := range []map[string]string{nil, {"a": ""}, {"b": "2", "a": "1"}, {"\xff": "\xfe"}} {
		got, err := unflat(flat(want))
		if err != nil || !maps.Equal(got, want) {
			t.Errorf("%v came back as %v, %v", want, got, err)
		}
	}
	_, err := unflat([][]byte{[]byte("a")})
	if !errors.Is(err, errDamaged) {
		t.Errorf("got error %v, want %v", err, errDamaged)
	}
}
