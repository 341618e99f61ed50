package signaling

import (
	"strings"
	"testing"
)

func TestRouteOfADataset(t *testing.T) {
	s, err := NewServing([]Route{
		{Name: "all", Datasets: []string{"*"}},
		{Name: "parts", Datasets: []string{"part-*", "extra"}},
		{Name: "bolts", Datasets: []string{"part-bolt-*"}},
		{Name: "one", Datasets: []string{"part-bolt-1"}, PublicURL: "https://one.example"},
	}, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	for dataset, want := range map[string]string{
		"part-bolt-1": "one", "part-bolt-2": "bolts", "part-nut": "parts", "part-": "parts", "extra": "parts", "extra2": "all", "x": "all",
	} {
		if got := s.route(dataset); got == nil || got.Name != want {
			t.Errorf("%s: %+v, want %s", dataset, got, want)
		}
	}
}

func TestServingConfiguration(t *testing.T) {
	tests := []struct {
		name   string
		routes []Route
		want   string
	}{
		{"no name", []Route{{Datasets: []string{"a"}}}, "unique"},
		{"name twice", []Route{{Name: "r", Datasets: []string{"a"}}, {Name: "r", Datasets: []string{"b"}}}, "unique"},
		{"no dataset", []Route{{Name: "r"}}, "no dataset"},
		{"empty dataset", []Route{{Name: "r", Datasets: []string{""}}}, "want an id"},
		{"star in the middle", []Route{{Name: "r", Datasets: []string{"a*b"}}}, "want an id"},
		{"dataset twice", []Route{{Name: "r", Datasets: []string{"a"}}, {Name: "s", Datasets: []string{"a"}}}, `also in route "r"`},
		{"beginning twice", []Route{{Name: "r", Datasets: []string{"a*"}}, {Name: "s", Datasets: []string{"a*"}}}, `also in route "r"`},
		{"public_url", []Route{{Name: "r", Datasets: []string{"a"}, PublicURL: "data.example"}}, "public_url"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := NewServing(tt.routes, nil, false)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q in it", err, tt.want)
			}
		})
	}
}
