package signaling

import (
	"strings"
	"testing"

	"github.com/edrgate/edrgate/routing"
)

func TestServingConfiguration(t *testing.T) {
	dataset := routing.Match{Datasets: []string{"a"}}
	tests := []struct {
		name   string
		routes []Route
		want   string
	}{
		{"no name", []Route{{Match: dataset}}, "unique"},
		{"dataset twice", []Route{{Name: "r", Match: dataset}, {Name: "s", Match: dataset}}, `also in route "r"`},
		{"public_url", []Route{{Name: "r", Match: dataset, PublicURL: "data.example"}}, "public_url"},
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
