package demo

import (
	"fmt"
	"strconv"
	"strings"
)

// Series is one line of the metrics.
type Series struct {
	Text  string // name and labels, as written
	Value float64
}

// ParseMetrics reads the lines with a value of the Prometheus text format.
func ParseMetrics(text string) ([]Series, error) {
	var all []Series
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		i := strings.LastIndexByte(line, ' ')
		if i < 0 {
			return nil, fmt.Errorf("metrics: line %q has no value", line)
		}
		value, err := strconv.ParseFloat(line[i+1:], 64)
		if err != nil {
			return nil, fmt.Errorf("metrics: line %q: %w", line, err)
		}
		all = append(all, Series{Text: line[:i], Value: value})
	}
	return all, nil
}

// Is reports whether the series has this name and these labels, each written as name="value".
func (s Series) Is(name string, labels ...string) bool {
	rest, ok := strings.CutPrefix(s.Text, name)
	if !ok || rest != "" && rest[0] != '{' {
		return false
	}
	for _, label := range labels {
		if !strings.Contains(rest, "{"+label) && !strings.Contains(rest, ","+label) {
			return false
		}
	}
	return true
}

// Sum adds up the series of a name that have the labels, each written as name="value".
func Sum(all []Series, name string, labels ...string) float64 {
	var total float64
	for _, s := range all {
		if s.Is(name, labels...) {
			total += s.Value
		}
	}
	return total
}
