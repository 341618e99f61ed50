package hostile

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/edrgate/edrgate/internal/testkit"
)

// watch looks at all that the gateway shows beside its answers: logs, files, the admin API, the metrics, its own size.
type watch struct {
	w       *world
	offsets map[string]int64 // how far the logs were read
	series  map[string]bool  // that there were before the first bad input
	size    size
	pid     int
	refused map[string]int // paths of the admin API that must not answer with 200, and what with
}

func newWatch(w *world) (*watch, error) {
	o := &watch{w: w, offsets: map[string]int64{}, pid: w.process.Process.Pid}
	families, err := w.scrape()
	if err != nil {
		return nil, err
	}
	o.series = seriesOf(families)
	// Of the configured upstream, which Caddy's metrics get some seconds later.
	o.series["caddy_reverse_proxy_upstreams_healthy{upstream="+w.weather.address()+"}"] = true
	o.size, err = w.measure()
	return o, err
}

// panicText is how a panic shows in a log, of Go's HTTP server, of Caddy or of the runtime.
var panicText = regexp.MustCompile(`panic serving|panic: |\[recovered\]|goroutine \d+ \[|runtime error`)

// readLogs looks through what the logs have got since the last time.
func (o *watch) readLogs() []string {
	var problems []string
	for _, path := range o.w.logs() {
		text, err := o.next(path)
		if err != nil {
			problems = append(problems, err.Error())
			continue
		}
		problems = append(problems, inspect(o.w.canaries, path, text)...)
		problems = append(problems, notJSON(path, text)...)
	}
	return problems
}

// notJSON returns the lines of a log that are not one JSON object each: so what stands in them was not written by us alone.
func notJSON(path string, text []byte) []string {
	if !strings.HasSuffix(path, ".log") || strings.HasSuffix(path, "process.log") {
		return nil // what the runtime and Caddy write before there is a configuration
	}
	var problems []string
	for line := range bytes.Lines(text) {
		var entry map[string]json.RawMessage
		err := json.Unmarshal(line, &entry)
		if err != nil {
			problems = append(problems, fmt.Sprintf("%s has a line that is no entry: %.200q", path, line))
		}
	}
	return problems
}

// next returns the whole lines that were added to a file.
func (o *watch) next(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	_, err = file.Seek(o.offsets[path], io.SeekStart)
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(file)
	text = text[:bytes.LastIndexByte(text, '\n')+1]
	o.offsets[path] += int64(len(text))
	return text, err
}

// inspect returns the secrets and the panics in a text.
func inspect(canaries *testkit.Canaries, where string, text []byte) []string {
	var problems []string
	for _, what := range canaries.Find(text) {
		problems = append(problems, where+" holds "+what)
	}
	at := panicText.FindIndex(text)
	if at != nil {
		problems = append(problems, fmt.Sprintf("%s tells of a panic: %.500s", where, text[at[0]:]))
	}
	return problems
}

// adminPaths are what an operator sees.
var adminPaths = []string{
	"/config/", "/metrics", "/edrgate/status", "/edrgate/keys", "/edrgate/flows?limit=1000", "/edrgate/edrs", "/debug/vars",
	"/debug/pprof/goroutine?debug=2",
}

// readRest looks through the admin API's answers and the file in which Caddy keeps the configuration.
func (o *watch) readRest() []string {
	var problems []string
	for _, path := range adminPaths {
		status, body, err := o.w.adminGet(path)
		want, ok := o.refused[path]
		if !ok {
			want = http.StatusOK
		}
		if err != nil || status != want {
			problems = append(problems, fmt.Sprintf("GET %s of the admin API: %d, %v", path, status, err))
		}
		for _, what := range o.w.canaries.Find([]byte(body)) {
			problems = append(problems, "the answer of "+path+" holds "+what)
		}
	}
	saved, err := os.ReadFile(o.w.autosave())
	if err != nil {
		problems = append(problems, err.Error())
	}
	return append(problems, inspect(o.w.canaries, o.w.autosave(), saved)...)
}

// samePID checks that the process is the one that was started.
func (o *watch) samePID() []string {
	if !o.w.running() {
		return []string{"the process has ended"}
	}
	if o.w.process.Process.Pid != o.pid {
		return []string{fmt.Sprintf("the process is %d, it was %d", o.w.process.Process.Pid, o.pid)}
	}
	return nil
}

// settled waits until the gateway is as small as it was, and tells what stayed.
func (o *watch) settled() []string {
	var last []string
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		now, err := o.w.measure()
		if err != nil {
			return []string{err.Error()}
		}
		last = o.size.grown(now)
		if len(last) == 0 || time.Now().After(deadline) {
			return last
		}
	}
}

// size is what a process must not grow in.
type size struct{ goroutines, files, heap float64 }

// slack is what may come and go without a leak: idle connections to the backends, and the goroutines of these.
const slack = 24

// grown tells what is more than it was.
func (s size) grown(now size) []string {
	var problems []string
	if now.goroutines > s.goroutines+slack {
		problems = append(problems, fmt.Sprintf("%v goroutines, there were %v", now.goroutines, s.goroutines))
	}
	if now.files > s.files+slack {
		problems = append(problems, fmt.Sprintf("%v open files, there were %v", now.files, s.files))
	}
	if now.heap > 2*s.heap {
		problems = append(problems, fmt.Sprintf("%v bytes of heap after a collection, there were %v", now.heap, s.heap))
	}
	return problems
}

// measure collects garbage and returns the size of the process.
func (w *world) measure() (size, error) {
	status, _, err := w.adminGet("/debug/pprof/heap?gc=1")
	if err != nil || status != http.StatusOK {
		return size{}, fmt.Errorf("forced collection: %d, %w", status, err)
	}
	families, err := w.scrape()
	if err != nil {
		return size{}, err
	}
	gauge := func(name string) float64 {
		metrics := families[name].GetMetric()
		if len(metrics) != 1 {
			err = fmt.Errorf("the metrics have no %s", name)
			return 0
		}
		return metrics[0].GetGauge().GetValue()
	}
	s := size{
		goroutines: gauge("go_goroutines"), files: gauge("process_open_fds"), heap: gauge("go_memstats_heap_alloc_bytes"),
	}
	return s, err
}

func (w *world) scrape() (map[string]*dto.MetricFamily, error) {
	status, body, err := w.adminGet("/metrics")
	if err != nil || status != http.StatusOK {
		return nil, fmt.Errorf("scrape: %d, %w", status, err)
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	return parser.TextToMetricFamilies(strings.NewReader(body))
}

// seriesOf returns the names of all series with their labels, but for the buckets of histograms.
func seriesOf(families map[string]*dto.MetricFamily) map[string]bool {
	all := map[string]bool{}
	for name, family := range families {
		for _, metric := range family.GetMetric() {
			labels := make([]string, 0, len(metric.GetLabel()))
			for _, l := range metric.GetLabel() {
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			slices.Sort(labels)
			all[name+"{"+strings.Join(labels, ",")+"}"] = true
		}
	}
	return all
}

// What a message to edr_signaling can be counted as (README: metrics).
const (
	operations = `(start|resume|suspend|terminate|complete|status|check|prepare|started|put_control_plane|delete_control_plane|unknown)`
	outcomes   = `(applied|already|invalid|unserved|unavailable|unknown|flow_unknown|ended|conflict|foreign|state|renewal_unbound|policy_denied|unauthorized|` +
		`forbidden|method|media_type|too_large|no_path|dialect|consumer_role|push|busy)`
)

// bounded are the series that may appear while bad inputs come: their labels have values of closed sets, and the sets are
// small. Caddy's own have the status code and the method, where an unknown one is OTHER.
var bounded = []*regexp.Regexp{
	regexp.MustCompile(`^caddy_http_\w+\{(code=\d{3},)?handler=\w+,(method=(GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS|CONNECT|TRACE|OTHER),)?server=srv\d\}$`),
	regexp.MustCompile(`^caddy_admin_http_\w+\{(code=\d{3},)?(handler=\w*,)?method=(GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS|CONNECT|TRACE|OTHER),path=[\w/]*\}$`),
	regexp.MustCompile(`^edrgate_signaling_requests_total\{dialect=(dps|edc),operation=` + operations + `,outcome=` + outcomes + `,participant=default\}$`),
	regexp.MustCompile(`^edrgate_signaling_duration_seconds\{operation=` + operations + `\}$`),
	regexp.MustCompile(`^promhttp_\w+\{code=\d{3}\}$`),
}

// newSeries returns the series that were not there before and are not among the bounded.
func newSeries(before, now map[string]bool) []string {
	var grown []string
	for series := range now {
		isBounded := slices.ContainsFunc(bounded, func(r *regexp.Regexp) bool { return r.MatchString(series) })
		if !before[series] && !isBounded {
			grown = append(grown, "a new series: "+series)
		}
	}
	slices.Sort(grown)
	return grown
}

// labels checks that no bad input has become a series.
func (o *watch) labels() []string {
	families, err := o.w.scrape()
	if err != nil {
		return []string{err.Error()}
	}
	return newSeries(o.series, seriesOf(families))
}

// afterCategory is everything that is looked at once a category is through.
func (o *watch) afterCategory() []string {
	return slices.Concat(o.samePID(), o.w.works(), o.readLogs(), o.readRest(), o.labels(), o.settled())
}
