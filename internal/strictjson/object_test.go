package strictjson

import (
	"encoding/json"
	"errors"
	"reflect"
	"testing"
	"time"
)

type inner struct {
	Kid  string `json:"kid"`
	Note *string
}

type outer struct {
	Exp    int64            `json:"exp"`
	List   []inner          `json:"list,omitempty"`
	Map    map[string]inner `json:"map"`
	Ptr    *inner           `json:"ptr"`
	Raw    json.RawMessage  `json:"raw"`
	Any    any              `json:"any"`
	When   time.Time        `json:"when"`
	Bytes  []byte           `json:"bytes"`
	Hidden string           `json:"-"`
	lower  string
}

func TestObject(t *testing.T) {
	note := "n"
	tests := []struct {
		name string
		data string
		want outer
	}{
		{"everything", `{"exp":1,"list":[{"kid":"a"},{"kid":"b","Note":"n"}],"map":{"x":{"kid":"c"}},"ptr":{"kid":"d"},
			"raw":{"A":1},"any":{"A":[1]},"when":"2026-01-02T03:04:05Z","bytes":"AQI=","more":1}`, outer{
			Exp: 1, List: []inner{{Kid: "a"}, {Kid: "b", Note: &note}}, Map: map[string]inner{"x": {Kid: "c"}}, Ptr: &inner{Kid: "d"},
			Raw: json.RawMessage(`{"A":1}`), Any: map[string]any{"A": []any{1.0}}, When: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Bytes: []byte{1, 2},
		}},
		{"case is not folded", `{"Exp":5,"EXP":6}`, outer{}},
		{"the exact name wins whatever follows", `{"exp":1,"Exp":5}`, outer{Exp: 1}},
		{"case is not folded in lists, maps and pointers", `{"list":[{"KID":"x"}],"map":{"x":{"Kid":"x"}},"ptr":{"kiD":"x"}}`, outer{
			List: []inner{{}}, Map: map[string]inner{"x": {}}, Ptr: &inner{},
		}},
		{"unicode is not folded", `{"ptr":{"` + "\u212a" + `id":"kelvin sign"}}`, outer{Ptr: &inner{}}},
		{"null", `{"exp":null,"list":null,"ptr":null,"map":null}`, outer{}},
		{"hidden and unexported fields", `{"Hidden":"x","-":"x","lower":"x"}`, outer{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got outer
			err := Object([]byte(tt.data), 0, &got)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, tt.want) || got.lower != "" {
				t.Fatalf("got %+v\nwant %+v", got, tt.want)
			}
		})
	}
}

func TestObjectErrors(t *testing.T) {
	tests := []struct {
		name   string
		data   string
		target any
		want   error // nil: any error
	}{
		{"array", `[]`, &outer{}, ErrNotObject},
		{"duplicate", `{"exp":1,"exp":2}`, &outer{}, ErrDuplicate},
		{"string for a number", `{"exp":"1"}`, &outer{}, ErrType},
		{"object for a list", `{"list":{}}`, &outer{}, ErrType},
		{"string for an object", `{"ptr":"x"}`, &outer{}, ErrType},
		{"list for a map", `{"map":[]}`, &outer{}, ErrType},
		{"wrong type in a list", `{"list":[{"kid":1}]}`, &outer{}, ErrType},
		{"wrong type in a map", `{"map":{"x":{"kid":1}}}`, &outer{}, ErrType},
		{"not a pointer", `{}`, outer{}, nil},
		{"nil pointer", `{}`, (*outer)(nil), nil},
		{"embedded field", `{}`, &struct{ inner }{}, nil},
		{"option string", `{}`, &struct {
			N int `json:"n,string"`
		}{}, nil},
		{"array target", `{"A":[1]}`, &struct{ A [1]int }{}, nil},
		{"map with numbers as keys", `{"M":{"1":{}}}`, &struct{ M map[int]inner }{}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := Object([]byte(tt.data), 0, tt.target)
			if err == nil || tt.want != nil && !errors.Is(err, tt.want) {
				t.Fatalf("got %v, want %v", err, tt.want)
			}
		})
	}
}

// An interface that already points to a struct would be filled by the rules of encoding/json.
func TestObjectReplacesInterface(t *testing.T) {
	in := &inner{}
	target := struct{ A any }{A: in}
	err := Object([]byte(`{"A":{"KID":"x"}}`), 0, &target)
	if err != nil {
		t.Fatal(err)
	}
	if in.Kid != "" {
		t.Fatal("case was folded")
	}
}

func TestMembersDecode(t *testing.T) {
	m := parse(t, `{"keys":[{"kid":"a"},{"KID":"b"}]}`)
	var got []inner
	err := m.Decode("keys", &got)
	if err != nil || !reflect.DeepEqual(got, []inner{{Kid: "a"}, {}}) {
		t.Fatalf("got %+v, %v", got, err)
	}
	err = m.Decode("absent", &got)
	if !errors.Is(err, ErrMissing) {
		t.Fatalf("got %v", err)
	}
}
