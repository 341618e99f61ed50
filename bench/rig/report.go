package rig

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
)

// Report is what results.json holds: each table as it was measured last.
type Report struct {
	Tables []*Table `json:"tables"`
}

// Table is one comparison.
type Table struct {
	Name     string   `json:"name"`
	Title    string   `json:"title"`    // what was done
	Machine  string   `json:"machine"`  // on what
	Measures []string `json:"measures"` // columns in order
	Chart    string   `json:"chart"`    // the measure that the picture shows
	Rows     []Row    `json:"rows"`
	Ratios   []Ratio  `json:"ratios"`
	Notes    []string `json:"notes,omitempty"`
}

// Row is what one side gave, by measure.
type Row struct {
	Name   string            `json:"name"`
	Values map[string]Spread `json:"values"`
	Beside bool              `json:"beside,omitempty"` // not one of those compared, so not in the picture
}

// Ratio compares two rows round by round: the median of the ratios, or of the differences, of the same round.
type Ratio struct {
	What    string  `json:"what"`
	Spread  Spread  `json:"spread"`
	Must    float64 `json:"must,omitempty"` // 0 as well as Goal: nothing is demanded
	Goal    float64 `json:"goal,omitempty"`
	AtMost  bool    `json:"atMost,omitempty"`  // must and goal are upper bounds
	Control bool    `json:"control,omitempty"` // of a thing and itself: what lies within it says nothing
	Verdict string  `json:"verdict,omitempty"`
}

// Judged says of a ratio whether it is what it must be.
func Judged(r Ratio) Ratio {
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

// Print writes a table for people: the rows, the ratios, and last the controls.
func (t *Table) Print(to io.Writer) error {
	fmt.Fprintf(to, "\n%s\n%s\n\n", t.Title, t.Machine)
	w := tabwriter.NewWriter(to, 0, 8, 2, ' ', 0)
	fmt.Fprintf(w, "\t%s\n", strings.Join(t.Measures, "\t"))
	for _, r := range t.Rows {
		fmt.Fprint(w, r.Name)
		for _, measure := range t.Measures {
			text := ""
			value, found := r.Values[measure]
			if found {
				text = value.String()
			}
			fmt.Fprintf(w, "\t%s", text)
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintln(w)
	for _, controls := range []bool{false, true} {
		for _, r := range t.Ratios {
			if r.Control == controls {
				fmt.Fprintf(w, "%s\t%s\t%s\n", r.What, r.Spread, r.demand())
			}
		}
	}
	err := w.Flush()
	for _, note := range t.Notes {
		fmt.Fprintln(to, note)
	}
	return err
}

func (r Ratio) demand() string {
	relation := "≥"
	if r.AtMost {
		relation = "≤"
	}
	switch {
	case r.Control:
		return "control: A/A"
	case r.Verdict == "":
		return ""
	}
	return fmt.Sprintf("must %s %s, goal %s\t%s", relation, Number(r.Must), Number(r.Goal), r.Verdict)
}

// String returns the median with the least and the most.
func (s Spread) String() string {
	if s.Min == s.Max {
		return Number(s.Median)
	}
	return fmt.Sprintf("%s (%s–%s)", Number(s.Median), Number(s.Min), Number(s.Max))
}

// Number writes three digits that count.
func Number(x float64) string {
	digits := 2
	for limit := 10.0; math.Abs(x) >= limit && digits > 0; limit *= 10 {
		digits--
	}
	return fmt.Sprintf("%.*f", digits, x)
}

// Put replaces a table of a file of results, or adds it. The other tables stay, so that a run of some leaves the rest as it
// was. They are sorted as order names them.
func (t *Table) Put(file string, order []string) error {
	var all Report
	data, err := os.ReadFile(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = nil
	case err == nil:
		err = json.Unmarshal(data, &all)
	}
	if err != nil {
		return err
	}
	all.Tables = append(slices.DeleteFunc(all.Tables, func(old *Table) bool { return old.Name == t.Name }), t)
	slices.SortStableFunc(all.Tables, func(a, b *Table) int { return slices.Index(order, a.Name) - slices.Index(order, b.Name) })
	data, err = json.MarshalIndent(all, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(data, '\n'), 0o644)
}

// Order is that of the tables of both benchmarks in the file of results.
var Order = []string{"data", "peers", "edc", "slow", "renewal", "rotation", "bodies", "flows"}
