package main

import (
	"fmt"

	"github.com/edrgate/edrgate/bench/rig"
)

// rowsOf turns what was sampled into rows.
func rowsOf(sides []*side) []rig.Row {
	rows := make([]rig.Row, 0, len(sides))
	for _, s := range sides {
		values := map[string]rig.Spread{}
		for measure, samples := range s.samples {
			values[measure] = rig.SpreadOf(samples)
		}
		rows = append(rows, rig.Row{Name: s.name, Values: values, Beside: s.apart})
	}
	return rows
}

// atLeast compares a measure of two sides where more is better.
func atLeast(must, goal float64, measure string, of, by *side) rig.Ratio {
	return rig.Judged(rig.Ratio{
		What: fmt.Sprintf("%s ÷ %s: %s", of.name, by.name, measure), Must: must, Goal: goal,
		Spread: rig.SpreadOf(rig.Ratios(of.samples[measure], by.samples[measure])),
	})
}

// atMost compares a measure of two sides where less is better.
func atMost(must, goal float64, measure string, of, by *side) rig.Ratio {
	r := atLeast(must, goal, measure, of, by)
	r.AtMost = true
	return rig.Judged(r)
}

// added is how much more of a measure one side has, at most must.
func added(must, goal float64, measure string, of, by *side) rig.Ratio {
	differences := make([]float64, 0, len(of.samples[measure]))
	for i, value := range of.samples[measure] {
		differences = append(differences, value-by.samples[measure][i])
	}
	return rig.Judged(rig.Ratio{
		What: fmt.Sprintf("%s − %s: %s", of.name, by.name, measure), Must: must, Goal: goal, AtMost: true,
		Spread: rig.SpreadOf(differences),
	})
}

// control compares a side with its twin.
func control(measure string, of, by *side) rig.Ratio {
	r := atLeast(0, 0, measure, of, by)
	r.Control = true
	return r
}
