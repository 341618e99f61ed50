package integration

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"

	"github.com/edrgate/edrgate/internal/testkit"
)

// TestThousandFlowsLeaveNothingBehind: flows that were started, used, renewed and terminated hold no goroutine, no open
// file and no metric, and what is kept of them is that they have been.
func TestThousandFlowsLeaveNothingBehind(t *testing.T) {
	t.Parallel()
	// The first flows make what is made once and on demand, such as the metrics of each outcome.
	const flows, first, consumers = 1000, 64, 16
	hosts, weather := newDIDHost(t), newBackend(t, "weather")
	// Idle connections would be taken for leaks.
	hosts.server.Config.SetKeepAlivesEnabled(false)
	weather.server.Config.SetKeepAlivesEnabled(false)
	g := startGateway(t, config{site: serves("weather", weather)})
	wallets := make([]*testkit.Wallet, consumers)
	for i := range wallets {
		wallets[i] = hosts.wallet(fmt.Sprintf("consumer-%d", i))
	}
	lives := make([]life, flows)
	for i := range lives {
		// The dialect changes with every round of consumers, so that each has flows of both.
		lives[i] = newLife(g, planes[i/consumers%len(planes)], wallets[i%consumers])
	}

	g.get("/", "nonsense").want(t, http.StatusUnauthorized) // opens the access log
	idle := settled(g)
	liveAtOnce(t, g, consumers, lives[:first])
	warm := resourcesOf(g)
	liveAtOnce(t, g, consumers, lives[first:])
	wantNoMore(g, resources{files: idle.files, goroutines: idle.goroutines, series: warm.series})

	wantTombstones(g, lives)
	g.restart()
	wantTombstones(g, lives)
	// At the end all answers, logs and files of the store are looked through for the tokens of the thousand.
}

// life is one flow from start to end.
type life struct {
	plane            plane
	wallet           *testkit.Wallet
	terms            terms
	start, terminate message
}

func newLife(g *gateway, p plane, w *testkit.Wallet) life {
	g.t.Helper()
	f := newTerms("weather", w.DID)
	return life{plane: p, wallet: w, terms: f, start: p.startMessage(g, f), terminate: p.terminateMessage(g, f.flow)}
}

// liveAtOnce lets flows live, some at a time, and waits for all.
func liveAtOnce(t *testing.T, g *gateway, atOnce int, lives []life) {
	t.Helper()
	next := make(chan life)
	failures := make([]error, atOnce)
	var wait sync.WaitGroup
	for i := range atOnce {
		wait.Go(func() {
			for l := range next {
				failures[i] = errors.Join(failures[i], l.live(g))
			}
		})
	}
	for _, l := range lives {
		next <- l
	}
	close(next)
	wait.Wait()
	err := errors.Join(failures...)
	if err != nil {
		t.Fatal(err)
	}
}

func (l life) live(g *gateway) error {
	answer, err := l.start.trySend(g.signaling, g.client)
	if err != nil || answer.status != http.StatusOK {
		return fmt.Errorf("start: %w", failure{answer, err})
	}
	first, err := tryReadEDR(g, l.terms.flow, answer)
	if err != nil {
		return err
	}
	answer, err = renewalOf(g, l.wallet, first).trySend(g, g.client)
	if err != nil || answer.status != http.StatusOK {
		return fmt.Errorf("renewal: %w", failure{answer, err})
	}
	renewed, err := first.renewedBy(g, answer)
	if err != nil {
		return err
	}
	request, err := http.NewRequest(http.MethodGet, g.publicURL()+"/", nil)
	if err != nil {
		return err
	}
	request.Header.Set("Authorization", "Bearer "+renewed.access)
	answer, err = trySend(g.client, request)
	if err != nil || answer.status != http.StatusOK {
		return fmt.Errorf("data: %w", failure{answer, err})
	}
	answer, err = l.terminate.trySend(g.signaling, g.client)
	if err != nil || answer.status != l.plane.done() {
		return fmt.Errorf("terminate: %w", failure{answer, err})
	}
	return nil
}

// resources are what the process has at a moment.
type resources struct {
	files, goroutines int
	series            []string // metrics with their labels
}

func resourcesOf(g *gateway) resources {
	g.t.Helper()
	// What our own connections take is not the flows'.
	g.client.CloseIdleConnections()
	g.admin.CloseIdleConnections()
	m := g.scrape()
	r := resources{files: openFiles(g, m), goroutines: int(m.value("go_goroutines"))}
	if r.goroutines == 0 {
		g.t.Fatal("the metrics do not tell the number of goroutines")
	}
	for name, family := range m {
		for _, metric := range family.GetMetric() {
			series := name
			for _, label := range metric.GetLabel() {
				series += " " + label.GetName() + "=" + strconv.Quote(label.GetValue())
			}
			r.series = append(r.series, series)
		}
	}
	slices.Sort(r.series)
	return r
}

// settled waits until the process has done with what comes with its start, and returns what it has then.
func settled(g *gateway) resources {
	g.t.Helper()
	const calm = 10 // measurements in a row without a smaller one
	least, since := resourcesOf(g), 0
	testkit.Eventually(g.t, "the process is idle", func() bool {
		now := resourcesOf(g)
		since++
		if now.files < least.files || now.goroutines < least.goroutines {
			least, since = now, 0
		}
		return since == calm
	})
	return least
}

// openFiles counts the file descriptors of the process: in /proc where there is one, otherwise by what the process says
// of itself.
func openFiles(g *gateway, m metrics) int {
	g.t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", g.process.Process.Pid))
	if err == nil {
		return len(entries)
	}
	open := int(m.value("process_open_fds"))
	if !errors.Is(err, fs.ErrNotExist) || open == 0 {
		g.t.Fatalf("the open files of the process cannot be counted: %v", err)
	}
	return open
}

// wantNoMore waits until the process has no more than before: connections take a moment to close.
func wantNoMore(g *gateway, before resources) {
	g.t.Helper()
	var now resources
	testkit.Eventually(g.t, "files and goroutines are as few as before", func() bool {
		now = resourcesOf(g)
		return now.files <= before.files && now.goroutines <= before.goroutines
	})
	for _, series := range now.series {
		_, had := slices.BinarySearch(before.series, series)
		if !had {
			g.t.Errorf("a metric has come with the flows: %s", series)
		}
	}
	g.t.Logf("%d files, %d goroutines and %d metrics; before: %d, %d, %d", now.files, now.goroutines, len(now.series),
		before.files, before.goroutines, len(before.series))
}

// wantTombstones checks that operators see each flow once, ended, and that none of them has a secret.
func wantTombstones(g *gateway, lives []life) {
	g.t.Helper()
	listed := listAllFlows(g)
	dialects := map[string]string{"dps": "dps", "classic": "edc"}
	want := map[string]flowShown{}
	for _, l := range lives {
		want[l.terms.flow] = flowShown{
			ID: l.terms.flow, State: "TERMINATED", Dialect: dialects[l.plane.name()], Counterparty: l.wallet.DID,
			Dataset: "weather", Agreement: l.terms.agreement,
		}
	}
	if len(listed) != len(want) {
		g.t.Errorf("%d flows are listed, want %d", len(listed), len(want))
	}
	for _, shown := range listed {
		shown.Reason, shown.Generation = "", 0
		if shown != want[shown.ID] {
			g.t.Fatalf("a terminated flow is listed as %+v, want %+v", shown, want[shown.ID])
		}
		delete(want, shown.ID)
	}
	keys := keyUse(g)
	if len(keys) != 0 {
		g.t.Errorf("terminated flows have secrets of the keys %v", keys)
	}
}

// listAllFlows returns what `caddy edr list` shows, page by page.
func listAllFlows(g *gateway) []flowShown {
	g.t.Helper()
	var all []flowShown
	after := ""
	for {
		stdout, stderr, err := g.cli("edr", "list", "--address", "unix/"+g.socket(), "--limit", "400", "--after", after, "--json")
		if err != nil {
			g.t.Fatalf("caddy edr list: %v: %s", err, stderr)
		}
		var page struct {
			Flows []flowShown `json:"flows"`
			Next  string      `json:"next"`
		}
		err = json.Unmarshal([]byte(stdout), &page)
		if err != nil {
			g.t.Fatalf("caddy edr list --json: %v", err)
		}
		all = append(all, page.Flows...)
		if page.Next == "" {
			return all
		}
		after = page.Next
	}
}
