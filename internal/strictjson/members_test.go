package strictjson

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"time"
)

func parse(t *testing.T, data string) Members {
	t.Helper()
	m, err := Parse([]byte(data), 0)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestParseWantsObject(t *testing.T) {
	for _, data := range []string{`[]`, `"a"`, `1`, `null`, `true`, ` []`} {
		_, err := Parse([]byte(data), 0)
		if !errors.Is(err, ErrNotObject) {
			t.Errorf("%s: got %v", data, err)
		}
	}
}

func TestMembersMatchCase(t *testing.T) {
	m := parse(t, ` {"Exp":1,"EXP":2}`)
	_, err := m.NumericDate("exp")
	if !errors.Is(err, ErrMissing) {
		t.Fatalf("got %v", err)
	}
	if m.Has("exp") || !m.Has("Exp") {
		t.Fatal("Has folds case")
	}
}

func TestString(t *testing.T) {
	m := parse(t, `{"s":"a\u00e9\n","empty":"","null":null,"n":1,"l":["a"],"o":{},"b":true}`)
	got, err := m.String("s")
	if err != nil || got != "aé\n" {
		t.Fatalf("got %q, %v", got, err)
	}
	got, err = m.String("empty")
	if err != nil || got != "" {
		t.Fatalf("got %q, %v", got, err)
	}
	for _, name := range []string{"null", "n", "l", "o", "b"} {
		_, err = m.String(name)
		if !errors.Is(err, ErrType) || !strings.Contains(err.Error(), `"`+name+`"`) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	_, err = m.String("absent")
	if !errors.Is(err, ErrMissing) || !strings.Contains(err.Error(), `"absent"`) {
		t.Errorf("got %v", err)
	}
}

func TestStringOrList(t *testing.T) {
	m := parse(t, `{"s":"a","l":["a","b"],"e":[],"mixed":["a",1],"null":null,"hole":["a",null],"o":{},"n":1,"nested":[["a"]]}`)
	for name, want := range map[string][]string{"s": {"a"}, "l": {"a", "b"}, "e": {}} {
		got, err := m.StringOrList(name)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: got %q, %v", name, got, err)
		}
	}
	for _, name := range []string{"mixed", "null", "hole", "o", "n", "nested"} {
		_, err := m.StringOrList(name)
		if !errors.Is(err, ErrType) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	_, err := m.StringOrList("absent")
	if !errors.Is(err, ErrMissing) {
		t.Errorf("got %v", err)
	}
}

func TestBool(t *testing.T) {
	m := parse(t, `{"t":true,"f":false,"s":"true","n":1,"null":null}`)
	yes, err := m.Bool("t")
	if err != nil || !yes {
		t.Fatalf("got %v, %v", yes, err)
	}
	no, err := m.Bool("f")
	if err != nil || no {
		t.Fatalf("got %v, %v", no, err)
	}
	for _, name := range []string{"s", "n", "null"} {
		_, err := m.Bool(name)
		if !errors.Is(err, ErrType) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	_, err = m.Bool("absent")
	if !errors.Is(err, ErrMissing) {
		t.Errorf("got %v", err)
	}
}

func TestNumbers(t *testing.T) {
	const none = math.MinInt64
	tests := []struct {
		name    string
		value   string
		integer int64 // none: refused
		date    int64 // none: refused
		err     error // of the date
	}{
		{"seconds", `1700000000`, 1700000000, 1700000000, nil},
		{"zero", `0`, 0, 0, nil},
		{"negative", `-1`, -1, -1, nil},
		{"fraction", `1700000000.9`, none, 1700000000, nil},
		{"zero fraction", `1700000000.0`, none, 1700000000, nil},
		{"negative fraction", `-0.5`, none, -1, nil},
		{"small exponent", `1.7e9`, none, 1700000000, nil},
		{"largest", `9007199254740992`, 1 << 53, 1 << 53, nil},
		{"over the largest", `9007199254740993`, none, none, ErrRange},
		{"smallest", `-9007199254740992`, -1 << 53, -1 << 53, nil},
		{"under the smallest", `-9007199254740993`, none, none, ErrRange},
		{"over 64 bits", `18446744073709551616`, none, none, ErrRange},
		{"a thousand digits", strings.Repeat("9", 1000), none, none, ErrRange},
		{"1e300", `1e300`, none, none, ErrRange},
		{"beyond float64", `1e999999999`, none, none, ErrRange},
		{"minus beyond float64", `-1e999999999`, none, none, ErrRange},
		{"underflow", `1e-999999999`, none, 0, nil},
		{"string", `"1700000000"`, none, none, ErrType},
		{"bool", `true`, none, none, ErrType},
		{"null", `null`, none, none, ErrType},
		{"array", `[1]`, none, none, ErrType},
		{"object", `{}`, none, none, ErrType},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := parse(t, `{"v": `+tt.value+` }`)
			n, err := m.Int("v")
			if (err != nil) != (tt.integer == none) || err == nil && n != tt.integer {
				t.Errorf("Int: got %d, %v", n, err)
			}
			d, err := m.NumericDate("v")
			if !errors.Is(err, tt.err) || err == nil && !d.Equal(time.Unix(tt.date, 0)) {
				t.Errorf("NumericDate: got %v, %v", d, err)
			}
		})
	}
	_, err := Members{}.NumericDate("exp")
	if !errors.Is(err, ErrMissing) {
		t.Errorf("got %v", err)
	}
	_, err = Members{}.Int("exp")
	if !errors.Is(err, ErrMissing) {
		t.Errorf("got %v", err)
	}
}

func TestMemberObject(t *testing.T) {
	m := parse(t, `{"o":{"a":"b"},"l":[],"null":null}`)
	o, err := m.Object("o")
	if err != nil {
		t.Fatal(err)
	}
	s, err := o.String("a")
	if err != nil || s != "b" {
		t.Fatalf("got %q, %v", s, err)
	}
	for _, name := range []string{"l", "null"} {
		_, err := m.Object(name)
		if !errors.Is(err, ErrType) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}
