package strictjson

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestCheck(t *testing.T) {
	many := func(n int, last string) string {
		var b strings.Builder
		b.WriteString("{")
		for i := range n {
			fmt.Fprintf(&b, `"m%d":%d,`, i, i)
		}
		b.WriteString(`"` + last + `":0}`)
		return b.String()
	}
	tests := []struct {
		name string
		data string
		want error
	}{
		{"object", `{"a":1}`, nil},
		{"scalar", `1`, nil},
		{"string", `"a"`, nil},
		{"white space around", " \t\r\n{} \n", nil},
		{"same name in sibling objects", `[{"a":1},{"a":2}]`, nil},
		{"same name inside", `{"a":{"a":{"a":1}}}`, nil},
		{"name equal to a value", `{"a":"a","b":["a","a"],"c":{"d":"a"}}`, nil},
		{"names that differ in case", `{"a":1,"A":2}`, nil},
		{"escaped quotes and backslashes", `{"a\"":1,"a\\":2,"a\\\"":"\\u00e9\\"}`, nil},
		{"surrogate pair", `{"a":"\ud83d\ude00"}`, nil},
		{"escaped backslash before u", `{"a":"\\ud83d"}`, nil},
		{"pair after a pair", `"\ud83d\ude00\uD83D\uDE00"`, nil},
		{"raw four-byte rune", `{"😀":"😀"}`, nil},
		{"many members", many(200, "x"), nil},

		{"empty", ``, ErrSyntax},
		{"white space only", ` `, ErrSyntax},
		{"two values", `{}{}`, ErrSyntax},
		{"trailing comma", `{"a":1,}`, ErrSyntax},
		{"trailing text", `{"a":1} x`, ErrSyntax},
		{"trailing NUL", "{}\x00", ErrSyntax},
		{"byte order mark", "\ufeff{}", ErrSyntax},
		{"NaN", `{"a":NaN}`, ErrSyntax},
		{"leading zero", `{"a":01}`, ErrSyntax},
		{"plus sign", `{"a":+1}`, ErrSyntax},
		{"control byte in a string", "{\"a\":\"\n\"}", ErrSyntax},
		{"single quotes", `{'a':1}`, ErrSyntax},
		{"comment", `{"a":1/**/}`, ErrSyntax},
		{"cut off in an escape", `{"a":"\u12`, ErrSyntax},
		{"deeper than the standard library goes", strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000), ErrSyntax},

		{"invalid UTF-8", "{\"a\":\"\xff\"}", ErrEncoding},
		{"overlong UTF-8", "{\"a\":\"\xc0\xae\"}", ErrEncoding},
		{"UTF-8 of a surrogate", "{\"a\":\"\xed\xa0\x80\"}", ErrEncoding},
		{"high surrogate alone", `{"a":"\ud800"}`, ErrEncoding},
		{"high surrogate before text", `{"a":"\ud800abcdef"}`, ErrEncoding},
		{"high surrogate before another escape", `{"a":"\ud800\n12345"}`, ErrEncoding},
		{"low surrogate alone", `{"a":"\udc00"}`, ErrEncoding},
		{"low before high", `{"a":"\udc00\ud800"}`, ErrEncoding},
		{"two high", `{"a":"\ud800\ud800"}`, ErrEncoding},
		{"lone surrogate in a name", `{"\ud800":1}`, ErrEncoding},

		{"duplicate", `{"a":1,"a":1}`, ErrDuplicate},
		{"duplicate with a nested object between", `{"a":{"b":1},"a":1}`, ErrDuplicate},
		{"duplicate inside", `{"x":[1,{"a":1,"b":2,"a":3}]}`, ErrDuplicate},
		{"duplicate once decoded", `{"exp":1,"\u0065xp":2}`, ErrDuplicate},
		{"duplicate once decoded, slash", `{"a/b":1,"a\/b":2}`, ErrDuplicate},
		{"duplicate once decoded, pair", `{"😀":1,"\ud83d\ude00":2}`, ErrDuplicate},
		{"duplicate empty name", `{"":1,"":2}`, ErrDuplicate},
		{"duplicate among many", many(200, "m0"), ErrDuplicate},
		{"duplicate at the switch to a map", many(linear, "m15"), ErrDuplicate},

		{"depth at the limit", strings.Repeat("[", 8) + strings.Repeat("]", 8), nil},
		{"depth over the limit", strings.Repeat("[", 9) + strings.Repeat("]", 9), ErrDepth},
		{"depth of mixed kinds", strings.Repeat(`{"a":[`, 5) + strings.Repeat(`]}`, 5), ErrDepth},
		{"wide is not deep", `[[],[],[],[],[],[],[],[],[],[]]`, nil},
		{"brackets in strings are not depth", `"[[[[[[[[[[[[[["`, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := Check([]byte(tt.data), 8)
			if !errors.Is(err, tt.want) {
				t.Fatalf("got %v, want %v", err, tt.want)
			}
		})
	}
}

func TestCheckDefaultDepth(t *testing.T) {
	at := strings.Repeat("[", DefaultDepth) + strings.Repeat("]", DefaultDepth)
	err := Check([]byte(at), 0)
	if err != nil {
		t.Fatal(err)
	}
	err = Check([]byte("["+at+"]"), 0)
	if !errors.Is(err, ErrDepth) {
		t.Fatalf("got %v, want %v", err, ErrDepth)
	}
}

// A hundred thousand members must cost what their bytes cost: the count of allocations says so without a clock.
func TestCheckWorkIsBounded(t *testing.T) {
	var b strings.Builder
	b.WriteString(`{"m":0`)
	const n = 100_000
	for i := range n {
		fmt.Fprintf(&b, `,"m%d":0`, i)
	}
	b.WriteString("}")
	data := []byte(b.String())
	allocs := testing.AllocsPerRun(1, func() {
		err := Check(data, 8)
		if err != nil {
			t.Error(err)
		}
	})
	if allocs > 2*n {
		t.Fatalf("%v allocations for %d members", allocs, n)
	}
}

func TestErrorsDoNotQuote(t *testing.T) {
	const canary = "canary"
	for _, data := range []string{
		`{"canary":1,"canary":2}`,
		`{"canary":"\ud800"}`,
		`canary`,
		`{"a":canary}`,
		`[[[[["canary"]]]]]`,
	} {
		err := Check([]byte(data), 3)
		if err == nil || strings.Contains(err.Error(), canary) {
			t.Errorf("%s: got %v", data, err)
		}
	}
	var target struct {
		A int `json:"a"`
	}
	err := Object([]byte(`{"a":"canary"}`), 0, &target)
	if err == nil || strings.Contains(err.Error(), canary) {
		t.Errorf("got %v", err)
	}
}

func FuzzCheck(f *testing.F) {
	for _, s := range []string{
		`{"a":1,"b":[true,null,{"c":"\ud83d\ude00"}]}`, `{"a":1,"\u0061":2}`, `"\ud800"`, `[[[[[[[[[]]]]]]]]]`, "\xff", `{"\\":"\"","\"":"\\"}`,
		`{"a":{"a":1},"a":2}`, "", `{}{}`, `-1.5e+300`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		err := Check(data, 8)
		if err == nil && (!json.Valid(data) || !utf8.Valid(data)) {
			t.Fatal("accepted what the standard library refuses")
		}
		if !json.Valid(data) {
			return
		}
		unique, deep := reference(json.NewDecoder(strings.NewReader(string(data))), 0)
		switch {
		case err == nil && !unique:
			t.Fatal("accepted a duplicate name")
		case err == nil && deep > 8:
			t.Fatalf("accepted a depth of %d", deep)
		case errors.Is(err, ErrDepth) && deep <= 8:
			t.Fatalf("refused a depth of %d", deep)
		case errors.Is(err, ErrDuplicate) && unique:
			t.Fatal("refused names that are unique")
		}
		if err != nil {
			return
		}
		// What was accepted survives a round trip: no rune was replaced on the way.
		var v any
		err = json.Unmarshal(data, &v)
		if err != nil {
			return // a number beyond float64
		}
		m, err := Parse(data, 8)
		object, isObject := v.(map[string]any)
		if isObject != (err == nil) {
			t.Fatalf("Parse: %v", err)
		}
		if isObject && len(m) != len(object) {
			t.Fatal("Parse lost a member")
		}
	})
}

// reference reads one value with the token reader of the standard library, and returns whether the names of each object
// are unique, and how deep the value nests.
func reference(d *json.Decoder, depth int) (bool, int) {
	d.UseNumber()
	tok, err := d.Token()
	if err != nil {
		return true, depth
	}
	delim, ok := tok.(json.Delim)
	if !ok {
		return true, depth
	}
	unique, deepest := true, depth+1
	names := map[string]bool{}
	for d.More() {
		if delim == '{' {
			name, err := d.Token()
			if err != nil {
				return unique, deepest
			}
			unique = unique && !names[name.(string)]
			names[name.(string)] = true
		}
		u, deep := reference(d, depth+1)
		unique = unique && u
		deepest = max(deepest, deep)
	}
	_, _ = d.Token()
	return unique, deepest
}
