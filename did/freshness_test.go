package did

import (
	"net/http"
	"testing"
	"time"
)

func TestLifetime(t *testing.T) {
	const limit = 5 * time.Minute
	for _, c := range []struct {
		name   string
		values []string
		age    string
		want   lifetime
	}{
		{"nothing said", nil, "", lifetime{fresh: limit}},
		{"shorter", []string{"max-age=60"}, "", lifetime{fresh: time.Minute}},
		{"longer", []string{"max-age=86400"}, "", lifetime{fresh: limit}},
		{"overflow", []string{"max-age=99999999999999999999"}, "", lifetime{fresh: minMaxAge}},
		{"very long", []string{"max-age=9223372036854775807"}, "", lifetime{fresh: limit}},
		{"quoted", []string{`max-age="60"`}, "", lifetime{fresh: time.Minute}},
		{"case and spaces", []string{" public ,  Max-Age=60 "}, "", lifetime{fresh: time.Minute}},
		{"twice", []string{"max-age=120", "max-age=60"}, "", lifetime{fresh: time.Minute}},
		{"zero", []string{"max-age=0"}, "", lifetime{fresh: minMaxAge}},
		{"negative", []string{"max-age=-1"}, "", lifetime{fresh: minMaxAge}},
		{"no number", []string{"max-age=soon"}, "", lifetime{fresh: minMaxAge}},
		{"no-store", []string{"no-store"}, "", lifetime{fresh: minMaxAge, strict: true}},
		{"no-cache", []string{"no-cache, max-age=600"}, "", lifetime{fresh: minMaxAge, strict: true}},
		{"must-revalidate", []string{"must-revalidate"}, "", lifetime{fresh: limit, strict: true}},
		{"shared caches only", []string{"s-maxage=1"}, "", lifetime{fresh: limit}},
		{"other words", []string{"immutable, x-max-age=1"}, "", lifetime{fresh: limit}},
		{"old already", []string{"max-age=200"}, "150", lifetime{fresh: 50 * time.Second}},
		{"too old already", []string{"max-age=200"}, "400", lifetime{fresh: minMaxAge}},
		{"age no number", []string{"max-age=200"}, "x", lifetime{fresh: 200 * time.Second}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := http.Header{"Cache-Control": c.values}
			if c.age != "" {
				h.Set("Age", c.age)
			}
			got := lifetimeOf(h, limit)
			if got != c.want {
				t.Errorf("%+v, want %+v", got, c.want)
			}
		})
	}
	if got := lifetimeOf(http.Header{}, time.Second); got.fresh != time.Second {
		t.Errorf("a limit below the least: %s", got.fresh)
	}
}
