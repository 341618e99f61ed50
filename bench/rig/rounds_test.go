package rig

import "testing"

func TestSpreadOf(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		values []float64
		want   Spread
	}{
		"none": {nil, Spread{}},
		"one":  {[]float64{3}, Spread{3, 3, 3}},
		"odd":  {[]float64{9, 1, 2}, Spread{2, 1, 9}},
		"even": {[]float64{4, 1, 2, 9}, Spread{3, 1, 9}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := SpreadOf(tt.values); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

func TestQuantile(t *testing.T) {
	t.Parallel()
	hundred := make([]int, 100)
	for i := range hundred {
		hundred[i] = i + 1
	}
	for q, want := range map[float64]int{0.5: 50, 0.99: 99, 1: 100} {
		if got := Quantile(hundred, q); got != want {
			t.Errorf("quantile %v: got %d, want %d", q, got, want)
		}
	}
	if got := Quantile([]int{}, 0.5); got != 0 {
		t.Errorf("of nothing: %d", got)
	}
}

// TestRatios: rounds are compared with the round beside them, and one without a divisor is none.
func TestRatios(t *testing.T) {
	t.Parallel()
	got := SpreadOf(Ratios([]float64{2, 9, 8}, []float64{1, 0, 2}))
	if want := (Spread{3, 2, 4}); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
}
