package integration

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"

	"github.com/edrgate/edrgate/internal/testkit"
)

// TestKilledBetweenCommitAndAnswer: the process is killed when it has made a flow durable and the control plane has not
// seen the answer. A control plane repeats what got no answer, byte for byte: the same message id in Data Plane
// Signaling, the same message in the classic one (observed on EDC 0.18, 0.15.1). The repeat has to find its flow.
func TestKilledBetweenCommitAndAnswer(t *testing.T) {
	t.Parallel()
	for _, p := range planes {
		t.Run(p.name(), func(t *testing.T) {
			t.Parallel()
			const starts, killAfter = 8, 4 // so that some are caught before their commit, or in it
			hosts, weather := newDIDHost(t), newBackend(t, "weather")
			g := startGateway(t, config{site: serves("weather", weather)})
			line := newSilentLine(t, g.signaling)

			parties, messages := make([]*party, starts), make([]message, starts)
			for i := range parties {
				wallet := hosts.wallet(fmt.Sprintf("consumer-%d", i))
				parties[i] = &party{wallet: wallet, terms: newTerms("weather", wallet.DID)}
				messages[i] = p.startMessage(g, parties[i].terms)
			}
			unanswered := make([]error, starts)
			var wait sync.WaitGroup
			for i, m := range messages {
				wait.Go(func() { _, unanswered[i] = m.trySend(line.address(), line.client) })
			}
			lost := []reply{line.swallowed(t)}
			for len(lost) < killAfter {
				lost = append(lost, line.swallowed(t))
			}
			g.kill()
			line.cut()
			wait.Wait()
			for _, err := range unanswered {
				if err == nil {
					t.Fatal("an answer came through the line")
				}
			}

			g.start()
			refreshTokens := map[string]bool{}
			for i, c := range parties {
				c.edr = readEDR(g, c.terms.flow, messages[i].send(g).want(t, http.StatusOK))
				refreshTokens[c.edr.refresh] = true
			}
			for _, answer := range lost {
				before := readEDR(g, "", answer.want(t, http.StatusOK))
				if !refreshTokens[before.refresh] {
					t.Error("a start was answered before its flow was durable: the repeat made another one")
				}
				wantData(t, g, "/", before.access, "data of weather")
			}
			for _, c := range parties {
				wantData(t, g, "/", c.edr.access, "data of weather")
				renewed := renew(g, c.wallet, c.edr)
				wantData(t, g, "/", renewed.access, "data of weather")
				renew(g, c.wallet, renewed)
			}
			n := len(listFlows(g))
			if n != starts {
				t.Errorf("%d starts and their repeats made %d flows", starts, n)
			}
		})
	}
}

// TestStartsAtTheSameMoment: EDC can have several tries of one start under way (observed on 0.15.1). Each may be the one
// whose answer reaches the consumer.
func TestStartsAtTheSameMoment(t *testing.T) {
	t.Parallel()
	for _, p := range planes {
		t.Run(p.name(), func(t *testing.T) {
			t.Parallel()
			const tries = 8
			hosts, weather := newDIDHost(t), newBackend(t, "weather")
			g := startGateway(t, config{site: serves("weather", weather)})
			wallet := hosts.wallet("consumer")
			f := newTerms("weather", wallet.DID)
			m := p.startMessage(g, f)

			begin := make(chan struct{})
			answers, failures := make([]reply, tries), make([]error, tries)
			var wait sync.WaitGroup
			for i := range tries {
				wait.Go(func() {
					<-begin
					answers[i], failures[i] = m.trySend(g.signaling, g.client)
				})
			}
			close(begin)
			wait.Wait()

			edrs := make([]edr, tries)
			for i := range tries {
				if failures[i] != nil {
					t.Fatal(failures[i])
				}
				edrs[i] = readEDR(g, f.flow, answers[i].want(t, http.StatusOK))
				if edrs[i].refresh != edrs[0].refresh {
					t.Errorf("try %d got another refresh token than try 0", i)
				}
				wantData(t, g, "/", edrs[i].access, "data of weather")
			}
			shown := listFlows(g)
			if len(shown) != 1 || shown[0].ID != f.flow || shown[0].Generation != 1 {
				t.Errorf("%d tries of one start made the flows %+v", tries, shown)
			}
			// Whichever EDR the consumer got, it renews.
			renewed := renew(g, wallet, edrs[tries-1])
			wantData(t, g, "/", renewed.access, "data of weather")
		})
	}
}

// silentLine is a line to the gateway by which requests arrive and no byte of an answer comes back.
type silentLine struct {
	listener net.Listener
	target   string
	client   *http.Client
	answers  chan reply    // what the gateway answered
	ended    chan struct{} // closed when the line is cut
	cut      func()        // closes all connections

	serving sync.WaitGroup
}

func newSilentLine(t testing.TB, target string) *silentLine {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	const most = 64 // answers that nobody has asked for yet
	l := &silentLine{
		listener: listener, target: target, answers: make(chan reply, most), ended: make(chan struct{}),
		client: &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}},
	}
	l.cut = sync.OnceFunc(func() { close(l.ended) })
	l.serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			l.serving.Go(func() { l.serve(conn) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		l.cut()
		l.serving.Wait()
	})
	return l
}

func (l *silentLine) address() string { return l.listener.Addr().String() }

// serve passes one request on and keeps its answer.
func (l *silentLine) serve(controlPlane net.Conn) {
	defer controlPlane.Close()
	gateway, err := net.Dial("tcp", l.target)
	if err != nil {
		return
	}
	defer gateway.Close()
	l.serving.Go(func() { _, _ = io.Copy(gateway, controlPlane) }) // ends when either side is closed
	answer, err := readAnswer(gateway)
	if err == nil {
		l.answers <- answer
	}
	<-l.ended
}

func readAnswer(r io.Reader) (reply, error) {
	response, err := http.ReadResponse(bufio.NewReader(r), nil)
	if err != nil {
		return reply{}, err
	}
	defer response.Body.Close()
	var body bytes.Buffer
	_, err = body.ReadFrom(response.Body)
	return reply{status: response.StatusCode, header: response.Header, body: body.String()}, err
}

// swallowed waits for an answer that the line has kept.
func (l *silentLine) swallowed(t testing.TB) reply {
	t.Helper()
	var answer reply
	testkit.Eventually(t, "the gateway answers", func() bool {
		select {
		case answer = <-l.answers:
			return true
		default:
			return false
		}
	})
	return answer
}
