package strictjson

import (
	"bytes"
	"encoding/json"
	"maps"
	"math"
	"testing"
	"unicode/utf8"
)

// FuzzMembers: what a getter gives is of its type, whole and in range.
func FuzzMembers(f *testing.F) {
	for _, s := range []string{
		`"x"`, `"\ud800"`, `"\u0000"`, `1`, `-1`, `1.5`, `1e300`, `99999999999999999999`, `1e2`, `-0`, `null`, `true`, `[]`, `["a",1]`, `["a","b"]`, `{}`,
		`{"a":1}`, `{"a":1,"a":2}`, `[[[[]]]]`, `1,"m":2`, `"x"} {"m":1`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, value string) {
		m, err := Parse([]byte(`{"m":`+value+`}`), 0)
		if err != nil {
			return
		}
		text, err := m.String("m")
		if err == nil && !utf8.ValidString(text) {
			t.Errorf("%s: text %q", value, text)
		}
		number, err := m.Int("m")
		if err == nil && (number > maxExact || number < -maxExact) {
			t.Errorf("%s: number %d", value, number)
		}
		date, err := m.NumericDate("m")
		if err == nil && math.Abs(float64(date.Unix())) > maxExact {
			t.Errorf("%s: date %s", value, date)
		}
		list, err := m.StringOrList("m")
		if err == nil && len(list) == 0 && value[0] != '[' {
			t.Errorf("%s: list %q", value, list)
		}
		_, boolErr := m.Bool("m")
		_, objectErr := m.Object("m")
		if boolErr == nil && objectErr == nil {
			t.Errorf("%s is of two types", value)
		}
	})
}

// FuzzParse: the members are those that encoding/json finds.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		`{}`, ` { } `, `{"a":1}`, "\t{ \"a\" :\r\n 1 , \"b\" : [ 1 , { \"a\" : \",}\" } ] , \"\" : \"\\\"}\" }\n", `{"\u0061":{"b":{"c":[]}},"b":null}`,
		`{"a":"","b":{},"c":[],"d":-1e2,"e":true}`, `[{"a":1}]`, `"a"`, `{"a":1}{}`, `{"a":{"a":{"a":1},"b":2},"b":3}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := Parse(data, 0)
		if err != nil {
			return
		}
		var want map[string]json.RawMessage
		err = json.Unmarshal(data, &want)
		if err != nil {
			t.Fatalf("%q: %v", data, err)
		}
		if !maps.EqualFunc(m, want, func(a, b json.RawMessage) bool { return bytes.Equal(a, b) }) {
			t.Errorf("%q: %q, want %q", data, m, want)
		}
	})
}
