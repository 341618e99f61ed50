// Command chart draws the tables of a file of results as bar charts, one a table, into one SVG: the median of the table's main
// measure for each side, and the least and most of its rounds as a line.
//
//	go run -C bench/chart . ../results.json ../results.svg
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"image/color"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// results is what the benchmarks write (bench/rig, Report).
type results struct {
	Tables []table `json:"tables"`
}

type table struct {
	Title string `json:"title"`
	Chart string `json:"chart"` // the measure to draw
	Rows  []row  `json:"rows"`
}

type row struct {
	Name   string            `json:"name"`
	Values map[string]spread `json:"values"`
	Beside bool              `json:"beside"` // not one of those compared
}

type spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

const (
	width     = 22 * vg.Centimeter
	barHeight = 0.55 * vg.Centimeter
	margins   = 2.6 * vg.Centimeter // title, axis and its label
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: chart RESULTS.json PICTURE.svg")
		os.Exit(2)
	}
	err := run(os.Args[1], os.Args[2])
	if err != nil {
		fmt.Fprintln(os.Stderr, "chart:", err)
		os.Exit(1)
	}
}

func run(from, to string) error {
	plot.DefaultFont = font.Font{Typeface: "Liberation", Variant: "Sans"}
	plotter.DefaultFont = plot.DefaultFont
	data, err := os.ReadFile(filepath.Clean(from))
	if err != nil {
		return err
	}
	var r results
	err = json.Unmarshal(data, &r)
	if err != nil {
		return err
	}
	if len(r.Tables) == 0 {
		return fmt.Errorf("%s has no tables", from)
	}
	for i := range r.Tables {
		r.Tables[i].Rows = slices.DeleteFunc(r.Tables[i].Rows, func(r row) bool { return r.Beside })
	}
	var height vg.Length
	for _, t := range r.Tables {
		height += t.height()
	}
	canvas := vgsvg.New(width, height)
	whole := draw.New(canvas)
	top := height
	for _, t := range r.Tables {
		p, err := t.plot()
		if err != nil {
			return fmt.Errorf("%s: %w", t.Title, err)
		}
		area := whole
		area.Max.Y, area.Min.Y = top, top-t.height()
		p.Draw(draw.Crop(area, 0.3*vg.Centimeter, -0.6*vg.Centimeter, 0.2*vg.Centimeter, -0.2*vg.Centimeter))
		top -= t.height()
	}
	var picture bytes.Buffer
	_, err = canvas.WriteTo(&picture)
	if err != nil {
		return err
	}
	// Texts are placed by the widths of Liberation Sans, which are those of Arial and Helvetica.
	families := bytes.ReplaceAll(picture.Bytes(), []byte("font-family:Liberation Sans"), []byte("font-family:Liberation Sans,Arial,Helvetica,sans-serif"))
	return os.WriteFile(filepath.Clean(to), families, 0o644)
}

func (t table) height() vg.Length { return margins + barHeight*vg.Length(len(t.Rows)) }

// ranges are the least and the most of each bar.
type ranges struct {
	plotter.XYs
	plotter.XErrors
}

// plot draws one table: the first row on top.
func (t table) plot() (*plot.Plot, error) {
	p := plot.New()
	p.Title.Text = t.Title
	p.Title.TextStyle.Font.Size = font.Points(9)
	p.Title.Padding = 0.15 * vg.Centimeter
	p.X.Label.Text = t.Chart
	p.X.Label.TextStyle.Font.Size = font.Points(8)
	p.X.Tick.Label.Font.Size = font.Points(8)
	p.Y.Tick.Label.Font.Size = font.Points(8)
	p.X.Min = 0
	p.BackgroundColor = color.White

	n := len(t.Rows)
	medians := make(plotter.Values, n)
	names := make([]string, n)
	spreads := ranges{XYs: make(plotter.XYs, n), XErrors: make(plotter.XErrors, n)}
	for i, row := range t.Rows {
		at := n - 1 - i
		value := row.Values[t.Chart]
		// Room for a viewer whose font is wider than the one that texts are placed by.
		medians[at], names[at] = value.Median, row.Name+strings.Repeat("\u00a0", len(row.Name)/4)
		spreads.XYs[at] = plotter.XY{X: value.Median, Y: float64(at)}
		spreads.XErrors[at].Low, spreads.XErrors[at].High = value.Median-value.Min, value.Max-value.Median
	}
	bars, err := plotter.NewBarChart(medians, 0.6*barHeight)
	if err != nil {
		return nil, err
	}
	bars.Horizontal = true
	bars.Color = color.NRGBA{R: 0x3b, G: 0x7d, B: 0xb8, A: 0xff}
	bars.LineStyle.Width = 0
	lines, err := plotter.NewXErrorBars(spreads)
	if err != nil {
		return nil, err
	}
	p.Add(plotter.NewGrid(), bars, lines)
	p.NominalY(names...)
	return p, nil
}
