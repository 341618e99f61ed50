package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/edrgate/edrgate/bench/rig"
)

// report is what results.json holds: the tables of the last run of each.
type report struct {
	Tables []*table `json:"tables"`
}

// table is one comparison.
type table struct {
	Name     string   `json:"name"`  // as -only takes it
	Title    string   `json:"title"` // what was done
	Machine  string   `json:"machine"`
	Measures []string `json:"measures"` // columns in order
	Chart    string   `json:"chart"`    // the measure that the picture shows
	Rows     []row    `json:"rows"`
	Ratios   []ratio  `json:"ratios"`
	Notes    []string `json:"notes,omitempty"`
}

type row struct {
	Name   string                `json:"name"`
	Values map[string]rig.Spread `json:"values"`
}

// ratio compares two rows round by round: the median of the ratios, or of the differences, of the same round.
type ratio struct {
	What    string     `json:"what"`
	Spread  rig.Spread `json:"spread"`
	Must    float64    `json:"must,omitempty"` // 0: nothing is demanded
	Goal    float64    `json:"goal,omitempty"`
	AtMost  bool       `json:"atMost,omitempty"`  // must and goal are upper bounds
	Control bool       `json:"control,omitempty"` // of a thing and itself: what lies within it says nothing
	Verdict string     `json:"verdict,omitempty"`
}

// rowsOf turns what was sampled into rows.
func rowsOf(sides []*side) []row {
	rows := make([]row, 0, len(sides))
	for _, s := range sides {
		values := map[string]rig.Spread{}
		for measure, samples := range s.samples {
			values[measure] = rig.SpreadOf(samples)
		}
		rows = append(rows, row{Name: s.name, Values: values})
	}
	return rows
}

// atLeast compares a measure of two sides where more is better.
func atLeast(must, goal float64, measure string, of, by *side) ratio {
	return judged(ratio{
		What: fmt.Sprintf("%s ÷ %s: %s", of.name, by.name, measure), Must: must, Goal: goal,
		Spread: rig.SpreadOf(rig.Ratios(of.samples[measure], by.samples[measure])),
	})
}

// atMost compares a measure of two sides where less is better.
func atMost(must, goal float64, measure string, of, by *side) ratio {
	r := atLeast(must, goal, measure, of, by)
	r.AtMost = true
	return judged(r)
}

// added is how much more of a measure one side has, at most must.
func added(must, goal float64, measure string, of, by *side) ratio {
	differences := make([]float64, 0, len(of.samples[measure]))
	for i, value := range of.samples[measure] {
		differences = append(differences, value-by.samples[measure][i])
	}
	return judged(ratio{
		What: fmt.Sprintf("%s − %s: %s", of.name, by.name, measure), Must: must, Goal: goal, AtMost: true,
		Spread: rig.SpreadOf(differences),
	})
}

// control compares a side with its twin.
func control(measure string, of, by *side) ratio {
	r := atLeast(0, 0, measure, of, by)
	r.Control = true
	return r
}

// judged says whether a ratio is what it must be.
func judged(r ratio) ratio {
	good := func(bound float64) bool {
		if r.AtMost {
			return r.Spread.Median <= bound
		}
		return r.Spread.Median >= bound
	}
	switch {
	case r.Must == 0 && r.Goal == 0:
		r.Verdict = ""
	case good(r.Goal):
		r.Verdict = "goal"
	case good(r.Must):
		r.Verdict = "good"
	default:
		r.Verdict = "MISSED"
	}
	return r
}

// print writes a table for people: the rows, then the ratios, then the controls.
func (t *table) print(to io.Writer) error {
	fmt.Fprintf(to, "\n%s\n%s\n\n", t.Title, t.Machine)
	w := tabwriter.NewWriter(to, 0, 8, 2, ' ', 0)
	fmt.Fprintf(w, "\t%s\n", strings.Join(t.Measures, "\t"))
	for _, r := range t.Rows {
		fmt.Fprint(w, r.Name)
		for _, measure := range t.Measures {
			value, found := r.Values[measure]
			if !found {
				fmt.Fprint(w, "\t")
				continue
			}
			fmt.Fprintf(w, "\t%s", spreadText(value))
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintln(w)
	ordered := slices.Clone(t.Ratios)
	slices.SortStableFunc(ordered, func(a, b ratio) int { return boolToInt(a.Control) - boolToInt(b.Control) })
	for _, r := range ordered {
		demand := ""
		if r.Verdict != "" {
			relation := "≥"
			if r.AtMost {
				relation = "≤"
			}
			demand = fmt.Sprintf("must %s %s, goal %s\t%s", relation, number(r.Must), number(r.Goal), r.Verdict)
		}
		if r.Control {
			demand = "control: A/A"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", r.What, spreadText(r.Spread), demand)
	}
	err := w.Flush()
	for _, note := range t.Notes {
		fmt.Fprintln(to, note)
	}
	return err
}

func boolToInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

func spreadText(s rig.Spread) string {
	if s.Min == s.Max {
		return number(s.Median)
	}
	return fmt.Sprintf("%s (%s–%s)", number(s.Median), number(s.Min), number(s.Max))
}

// number writes three digits that count.
func number(x float64) string {
	digits := 2
	for limit := 10.0; math.Abs(x) >= limit && digits > 0; limit *= 10 {
		digits--
	}
	return fmt.Sprintf("%.*f", digits, x)
}

// put replaces a table of the file, or adds it, and keeps the others: a run of some tables leaves the rest as it was.
func put(file string, t *table) error {
	var all report
	data, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(data, &all)
	} else if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err != nil {
		return err
	}
	at := slices.IndexFunc(all.Tables, func(old *table) bool { return old.Name == t.Name })
	if at < 0 {
		all.Tables = append(all.Tables, t)
	} else {
		all.Tables[at] = t
	}
	slices.SortStableFunc(all.Tables, func(a, b *table) int { return slices.Index(order, a.Name) - slices.Index(order, b.Name) })
	data, err = json.MarshalIndent(all, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(data, '\n'), 0o644)
}
