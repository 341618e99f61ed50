package rig

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestJudged(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		ratio Ratio
		want  string
	}{
		"nothing demanded": {Ratio{Spread: Spread{Median: 0.1}}, ""},
		"goal":             {Ratio{Spread: Spread{Median: 0.95}, Must: 0.9, Goal: 0.95}, "goal"},
		"good":             {Ratio{Spread: Spread{Median: 0.94}, Must: 0.9, Goal: 0.95}, "good"},
		"missed":           {Ratio{Spread: Spread{Median: 0.89}, Must: 0.9, Goal: 0.95}, "MISSED"},
		"at most, goal":    {Ratio{Spread: Spread{Median: 5}, Must: 10, Goal: 5, AtMost: true}, "goal"},
		"at most, missed":  {Ratio{Spread: Spread{Median: 11}, Must: 10, Goal: 5, AtMost: true}, "MISSED"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := Judged(tt.ratio).Verdict; got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// TestPutKeepsOtherTables: a run of some tables leaves the others as they were measured before.
func TestPutKeepsOtherTables(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "results.json")
	for _, table := range []*Table{{Name: "b", Title: "first"}, {Name: "a"}, {Name: "b", Title: "second"}} {
		err := table.Put(file, []string{"a", "b"})
		if err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var got Report
	err = json.Unmarshal(data, &got)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Tables) != 2 || got.Tables[0].Name != "a" || got.Tables[1].Title != "second" {
		t.Errorf("the file holds %s", data)
	}
}

// TestPrintPutsControlsLast: whoever reads a ratio finds beside it how much a thing differs from itself.
func TestPrintPutsControlsLast(t *testing.T) {
	t.Parallel()
	table := Table{
		Title: "title", Machine: "machine", Measures: []string{"req/s"},
		Rows:   []Row{{Name: "side", Values: map[string]Spread{"req/s": {12345, 1, 99999}}}},
		Ratios: []Ratio{{What: "control", Control: true}, {What: "ratio", Must: 1, Goal: 2, Verdict: "MISSED", AtMost: true}},
	}
	var text strings.Builder
	err := table.Print(&text)
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Join(strings.Fields(text.String()), " ")
	want := "title machine req/s side 12345 (1.00–99999) ratio 0.00 must ≤ 1.00, goal 2.00 MISSED control 0.00 control: A/A"
	if fields != want {
		t.Errorf("got  %s\nwant %s", fields, want)
	}
}
