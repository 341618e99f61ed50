package integration

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/edrgate/edrgate/internal/testkit"
)

const (
	downloadPieces = 3
	pieceBytes     = 48 << 10
)

// archive is a backend that sends a body piece by piece, each when the test says so: the first at once, and no other.
type archive struct {
	*backend
	released [downloadPieces]chan struct{}
	release  [downloadPieces]func()
}

func newArchive(t testing.TB) *archive {
	a := &archive{backend: newBackend(t, "archive")}
	for i := range a.released {
		a.released[i] = make(chan struct{})
		a.release[i] = sync.OnceFunc(func() { close(a.released[i]) })
		t.Cleanup(a.release[i])
	}
	a.release[0]()
	a.answer = a.send
	return a
}

// piece returns a part of the one body that there is.
func (a *archive) piece(i int) string { return strings.Repeat(string(rune('a'+i)), pieceBytes) }

func (a *archive) send(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/sized":
		w.Header().Set("Content-Length", strconv.Itoa(downloadPieces*pieceBytes))
	case "/short":
		_, _ = io.WriteString(w, "short")
		return
	}
	for i := range downloadPieces {
		select {
		case <-r.Context().Done():
			return
		case <-a.released[i]:
		}
		_, _ = io.WriteString(w, a.piece(i))
		_ = http.NewResponseController(w).Flush()
	}
}

// downloads are many of them at once, half with a Content-Length and half chunked.
type downloads struct {
	archive *archive
	results []chan error // one of each piece, and one of the end of the body
}

// beginDownloads begins n downloads, and returns when the first piece of each has come.
func (u *user) beginDownloads(a *archive, flow string, n int) *downloads {
	u.t.Helper()
	d := &downloads{archive: a}
	client := newClient()
	client.Timeout = 4 * patience // a download lasts for as long as the test holds it
	for i := range n {
		request, err := http.NewRequestWithContext(u.t.Context(), http.MethodGet, u.egressURL(flow, []string{"/sized", "/chunked"}[i%2]), nil)
		if err != nil {
			u.t.Fatal(err)
		}
		results := make(chan error, downloadPieces+1)
		d.results = append(d.results, results)
		go func() {
			defer close(results)
			a.download(client, request, results)
		}()
	}
	d.wantPiece(u.t)
	return d
}

func (u *user) egressURL(flow, path string) string { return "http://" + u.egress + "/" + flow + path }

// download reads a body and says of each piece whether it came as it is, until something is wrong.
func (a *archive) download(client *http.Client, request *http.Request, results chan<- error) {
	response, err := client.Do(request)
	if err != nil {
		results <- err
		return
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		results <- fmt.Errorf("status %d", response.StatusCode)
		return
	}
	buffer := make([]byte, pieceBytes)
	for i := range downloadPieces {
		_, err = io.ReadFull(response.Body, buffer)
		if err == nil && string(buffer) != a.piece(i) {
			err = fmt.Errorf("piece %d is another one", i)
		}
		results <- err
		if err != nil {
			return
		}
	}
	n, err := response.Body.Read(buffer)
	switch {
	case n != 0:
		err = errors.New("the body goes on behind its end")
	case err == io.EOF:
		err = nil
	}
	results <- err
}

// wantPiece waits until each download has its next piece, or its end.
func (d *downloads) wantPiece(t testing.TB) {
	t.Helper()
	for i, results := range d.results {
		err, more := <-results
		if err != nil || !more {
			t.Fatalf("download %d broke off: %v", i, err)
		}
	}
}

// wantWhole lets the downloads go on to their end, from a piece on.
func (d *downloads) wantWhole(t testing.TB, from int) {
	t.Helper()
	for i := from; i < downloadPieces; i++ {
		d.archive.release[i]()
		d.wantPiece(t)
	}
	d.wantPiece(t) // the end of the body
}

// wantBroken waits until each download has broken off. io.EOF would be one that looks complete.
func (d *downloads) wantBroken(t testing.TB) {
	t.Helper()
	for i, results := range d.results {
		err, more := <-results
		if !more || err == nil {
			t.Fatalf("download %d went on, want it broken off", i)
		}
		if !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("download %d broke off with %v", i, err)
		}
	}
}

// short asks for something small through the egress handler.
func (u *user) short(flow string) reply {
	u.t.Helper()
	request, err := http.NewRequest(http.MethodGet, u.egressURL(flow, "/short"), nil)
	if err != nil {
		u.t.Fatal(err)
	}
	return send(u.t, u.client, request)
}

func (u *user) wantShort(flow string) {
	u.t.Helper()
	if body := u.short(flow).want(u.t, http.StatusOK).body; body != "short" {
		u.t.Errorf("got %q", body)
	}
}

// shortTogether sends n requests at once and returns the answers.
func (u *user) shortTogether(flow string, n int) []reply {
	u.t.Helper()
	answers, failed := make([]reply, n), make([]error, n)
	var wait sync.WaitGroup
	for i := range n {
		request, err := http.NewRequest(http.MethodGet, u.egressURL(flow, "/short"), nil)
		if err != nil {
			u.t.Fatal(err)
		}
		wait.Go(func() { answers[i], failed[i] = trySend(u.client, request) })
	}
	wait.Wait()
	err := errors.Join(failed...)
	if err != nil {
		u.t.Fatal(err)
	}
	return answers
}

// TestDownloadsSurviveTheProvidersTrouble: through the gateways of both companies, what was admitted goes on to its end or
// breaks off so that its reader sees it; what comes later gets the answer that the trouble has.
func TestDownloadsSurviveTheProvidersTrouble(t *testing.T) {
	t.Parallel()
	const crowd, newcomers = 200, 20
	type scene struct {
		archive  *archive
		provider *gateway
		user     *user
		flow     terms
		edr      edr
	}
	stage := func(t *testing.T) (*scene, *downloads) {
		t.Helper()
		s := &scene{archive: newArchive(t), user: startUser(t, newDIDHost(t))}
		// Without flush_interval reverse_proxy keeps the end of a piece back where there is a Content-Length.
		s.provider = startGateway(t, config{site: serves("archive", s.archive.backend) + " {\nflush_interval -1\n}"})
		s.flow = newTerms("archive", s.user.wallet.DID)
		s.edr = startFlow(s.provider, dpsPlane{}, s.flow)
		s.user.receives(s.edr, "archive", "300")
		return s, s.user.beginDownloads(s.archive, s.edr.flow, crowd)
	}
	wantRenewals := func(s *scene, asked float64) {
		s.provider.t.Helper()
		s.provider.scrape().wantCount(s.provider, asked, "edrgate_renewals_total")
		s.user.scrape().wantCount(s.user.gateway, asked, "edrgate_consumer_renewals_total")
	}

	t.Run("suspended and resumed", func(t *testing.T) {
		s, running := stage(t)
		dpsPlane{}.suspend(s.provider, s.flow.flow).want(t, http.StatusOK)
		for _, answer := range s.user.shortTogether(s.edr.flow, newcomers) {
			wantRefusal(t, answer, "suspended", http.StatusForbidden, "flow_suspended")
		}
		wantRenewals(s, 0) // no new token would help
		s.archive.release[1]()
		running.wantPiece(t)
		dpsPlane{}.resume(s.provider, s.flow, s.edr).want(t, http.StatusOK)
		for _, answer := range s.user.shortTogether(s.edr.flow, newcomers) {
			answer.want(t, http.StatusOK)
		}
		running.wantWhole(t, 2)
		wantRenewals(s, 0)
	})
	t.Run("terminated", func(t *testing.T) {
		s, running := stage(t)
		dpsPlane{}.terminate(s.provider, s.flow.flow).want(t, http.StatusOK)
		refused := func() {
			t.Helper()
			for _, answer := range s.user.shortTogether(s.edr.flow, newcomers) {
				wantRefusal(t, answer, "a terminated flow's", http.StatusUnauthorized, "")
			}
		}
		refused()
		wantRenewals(s, 1) // whether the token had only expired is asked once, whoever wants to know
		running.wantWhole(t, 1)
		answer := dpsPlane{}.resume(s.provider, s.flow, s.edr)
		if answer.status < 400 || answer.status >= 500 {
			t.Errorf("resume of a terminated flow: status %d, want 4xx: %s", answer.status, answer.body)
		}
		refused()
		wantRenewals(s, 1)
		s.provider.restart()
		s.user.restart()
		refused()
		wantRenewals(s, 0) // counted since the restart: the no is remembered
		page := s.user.adminGet("/edrgate/edrs").want(t, http.StatusOK)
		if !strings.Contains(page.body, `"state":"refused"`) {
			t.Errorf("the EDR is shown as %s", page.body)
		}
	})
	t.Run("stopped and started", func(t *testing.T) {
		s, running := stage(t)
		err := s.provider.process.Process.Signal(syscall.SIGTERM)
		if err != nil {
			t.Fatal(err)
		}
		testkit.Eventually(t, "the provider takes no more connections", func() bool { return !answers(s.provider.public) })
		s.user.short(s.edr.flow).want(t, http.StatusBadGateway)
		running.wantWhole(t, 1)
		err = s.provider.awaitExit(syscall.SIGTERM)
		if err != nil {
			t.Errorf("the provider did not end well: %v", err)
		}
		s.user.short(s.edr.flow).want(t, http.StatusBadGateway)
		s.provider.start()
		s.user.wantShort(s.edr.flow)
		wantRenewals(s, 0)
	})
	t.Run("killed and started", func(t *testing.T) {
		s, running := stage(t)
		s.archive.release[1]()
		running.wantPiece(t)
		s.provider.kill()
		running.wantBroken(t)
		s.user.short(s.edr.flow).want(t, http.StatusBadGateway)
		s.provider.start()
		s.user.wantShort(s.edr.flow)
		again := s.user.beginDownloads(s.archive, s.edr.flow, newcomers)
		again.wantPiece(t) // was let go before
		again.wantWhole(t, 2)
		wantRenewals(s, 0)
	})
	t.Run("the backend breaks off", func(t *testing.T) {
		s, running := stage(t)
		s.archive.server.CloseClientConnections()
		running.wantBroken(t)
		s.user.wantShort(s.edr.flow)
		wantRenewals(s, 0)
	})
}
