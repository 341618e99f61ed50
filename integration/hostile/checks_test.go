package hostile

import (
	"bytes"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/edrgate/edrgate/internal/testkit"
)

// The checks of the harness have to find what they are there for. Each test here plants one fault.

const plantedToken = "eyJhbGciOiJFUzI1NiJ9.e30.c2lnbmF0dXJlIG9mIGEgdG9rZW4gdGhhdCBvcGVucyBzb21ldGhpbmc"

// wantProblem ends the test unless exactly the problem with the text was found.
func wantProblem(t *testing.T, problems []string, text string) {
	t.Helper()
	if len(problems) == 0 || !strings.Contains(strings.Join(problems, "\n"), text) {
		t.Fatalf("found %q, want a problem with %q", problems, text)
	}
}

func wantNoProblem(t *testing.T, problems []string) {
	t.Helper()
	if len(problems) > 0 {
		t.Fatalf("found %q where nothing is wrong", problems)
	}
}

// answering is a server that gives every connection the same bytes.
func answering(t *testing.T, answer string) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Read(make([]byte, 1<<16))
			_, _ = conn.Write([]byte(answer))
			conn.Close()
		}
	}()
	return listener.Addr().String()
}

// planted is a world whose gateway answers with the bytes, and whose process is this one's child.
func planted(t *testing.T, answer string) *world {
	t.Helper()
	w := &world{
		gateway: &gateway{t: t, dir: t.TempDir(), data: answering(t, answer)}, canaries: testkit.NewCanaries(),
		weather: newBackend(t, "weather"), orders: newBackend(t, "orders"), hosts: newDIDHost(t),
	}
	w.canaries.Token("a planted token", plantedToken)
	w.process, w.exited = sleeper(t)
	return w
}

// sleeper is a process that runs until it is killed.
func sleeper(t *testing.T) (*exec.Cmd, chan error) {
	t.Helper()
	cmd := exec.Command("sleep", "600")
	err := cmd.Start()
	if err != nil {
		t.Fatal(err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		err := <-exited
		exited <- err
	})
	return cmd, exited
}

const unauthorized = "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer realm=\"edr\", error=\"invalid_token\"\r\nConnection: close\r\n"

func TestChecksOfAnswers(t *testing.T) {
	t.Parallel()
	good := shape{name: "planted", send: raw("GET / HTTP/1.1\r\n\r\n"), status: http.StatusUnauthorized, code: "invalid_token"}
	for name, c := range map[string]struct{ answer, problem string }{
		"as expected":     {unauthorized + "Content-Length: 0\r\n\r\n", ""},
		"another status":  {"HTTP/1.1 403 Forbidden\r\nConnection: close\r\n\r\ninvalid_token", "status 403, want 401"},
		"500":             {"HTTP/1.1 500 Internal Server Error\r\nConnection: close\r\n\r\ninvalid_token", "status 500, which is never right"},
		"no code":         {strings.ReplaceAll(unauthorized, "invalid_token", "x") + "\r\n", `no "invalid_token"`},
		"no challenge":    {"HTTP/1.1 401 Unauthorized\r\nConnection: close\r\n\r\ninvalid_token", "without a challenge"},
		"no Retry-After":  {"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\n\r\ninvalid_token", "without Retry-After"},
		"token in a body": {unauthorized + "\r\n" + plantedToken, "the answer holds the end of a planted token"},
		"token in a header": {
			strings.Replace(unauthorized, "\r\n", "\r\nX-Token: "+plantedToken+"\r\n", 1) + "\r\n", "the answer holds the end of a planted token",
		},
		"two answers": {
			strings.Replace(unauthorized, "Connection: close\r\n", "Content-Length: 0\r\n\r\n", 1) + unauthorized + "\r\n", "",
		},
		"two answers before the end": {
			unauthorized + "Content-Length: 0\r\n\r\n" + unauthorized + "Content-Length: 0\r\n\r\n", "1 more answers than requests",
		},
		"nothing": {"", "status 0, want 401"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			problems := planted(t, c.answer).run(good)
			if c.problem == "" {
				wantNoProblem(t, problems)
				return
			}
			wantProblem(t, problems, c.problem)
		})
	}
}

// TestChecksOfNeighbours: a request that should not have got there, one that should have, one that is not what was decided on.
func TestChecksOfNeighbours(t *testing.T) {
	t.Parallel()
	w := planted(t, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
	asks := func(path string) func(*world) string {
		return func(w *world) string {
			response, err := http.Get("http://" + w.weather.address() + path)
			if err != nil {
				t.Error(err)
				return ""
			}
			response.Body.Close()
			return get(w.data, path)
		}
	}
	asksNot := func(w *world) string { return get(w.data, "/") }
	wantNoProblem(t, w.run(shape{send: asks("/x"), status: 200, backend: true, target: "/x"}))
	wantProblem(t, w.run(shape{send: asks("/x"), status: 200, backend: true, target: "/y"}), `the backend got "/x", want "/y"`)
	wantProblem(t, w.run(shape{send: asks("/x"), status: 200}), "the backends got 1 requests")
	wantProblem(t, w.run(shape{send: asksNot, status: 200, backend: true}), "the backends got 0 requests")
	fetches := func(w *world) string {
		response, err := http.Get(w.hosts.server.URL + "/thief/did.json")
		if err != nil {
			t.Error(err)
			return ""
		}
		response.Body.Close()
		return get(w.data, "/")
	}
	wantNoProblem(t, w.run(shape{send: fetches, status: 200, fetches: 1}))
	wantProblem(t, w.run(shape{send: fetches, status: 200}), "1 DID documents were fetched")
	wantProblem(t, w.run(shape{send: asksNot, status: 200, also: func(*world, reply) string { return "of its own" }}), "of its own")
}

func TestCheckOfTheProcess(t *testing.T) {
	t.Parallel()
	w := planted(t, "")
	o := &watch{w: w, pid: w.process.Process.Pid}
	wantNoProblem(t, o.samePID())

	other, exited := sleeper(t)
	first, firstExited := w.process, w.exited
	w.process, w.exited = other, exited
	wantProblem(t, o.samePID(), "it was")

	w.process, w.exited = first, firstExited
	err := first.Process.Kill()
	if err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "the end of the process is noticed", func() bool { return len(o.samePID()) == 1 })
	wantProblem(t, o.samePID(), "the process has ended")
	wantProblem(t, w.run(shape{send: raw("x"), status: closed}), "the process has ended")
}

func TestChecksOfLogs(t *testing.T) {
	t.Parallel()
	w := planted(t, "")
	o := &watch{w: w, offsets: map[string]int64{}}
	for _, path := range w.logs() {
		w.write(strings.TrimPrefix(path, w.dir), `{"msg":"started"}`+"\n")
	}
	wantNoProblem(t, o.readLogs())
	for line, problem := range map[string]string{
		`{"uri":"/token?refresh_token=` + plantedToken + `"}`:        "holds the end of a planted token",
		`{"msg":"http: panic serving 127.0.0.1:1: runtime error"}`:   "tells of a panic",
		"panic: assignment to entry in nil map":                      "tells of a panic",
		"goroutine 7 [running]:":                                     "tells of a panic",
		`{"error":"interface conversion [recovered]","msg":"oh no"}`: "tells of a panic",
	} {
		for _, path := range w.logs() {
			file, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0o600)
			if err != nil {
				t.Fatal(err)
			}
			_, err = file.WriteString(line + "\n")
			if err == nil {
				err = file.Close()
			}
			if err != nil {
				t.Fatal(err)
			}
			wantProblem(t, o.readLogs(), problem)
			wantNoProblem(t, o.readLogs()) // told once
		}
	}
	err := os.Remove(w.logs()[0])
	if err != nil {
		t.Fatal(err)
	}
	wantProblem(t, o.readLogs(), "no such file") // a search that finds no log is worth nothing
}

func TestCheckOfLabels(t *testing.T) {
	t.Parallel()
	before := map[string]bool{`edrgate_data_requests_total{handler=edr_auth,reason=path}`: true}
	with := func(series string) map[string]bool { return map[string]bool{series: true} }
	for _, series := range []string{
		`edrgate_data_requests_total{handler=edr_auth,reason=path}`,
		`caddy_http_requests_total{handler=subroute,server=srv0}`,
		`caddy_http_request_duration_seconds{code=400,handler=subroute,method=OTHER,server=srv2}`,
	} {
		wantNoProblem(t, newSeries(before, with(series)))
	}
	for _, series := range []string{
		`edrgate_data_requests_total{handler=edr_auth,reason=did:web:attacker.example}`,
		`edrgate_flows{state=flow-1}`,
		`caddy_http_request_duration_seconds{code=400,handler=subroute,method=BREW,server=srv2}`,
		`caddy_http_requests_total{handler=subroute,host=attacker.example,server=srv0}`,
		`new_metric{}`,
	} {
		wantProblem(t, newSeries(before, with(series)), series)
	}
}

func TestChecksOfSize(t *testing.T) {
	t.Parallel()
	before := size{goroutines: 100, files: 40, heap: 10 << 20}
	wantNoProblem(t, before.grown(size{goroutines: 110, files: 44, heap: 15 << 20}))
	wantProblem(t, before.grown(size{goroutines: 160, files: 40, heap: 10 << 20}), "160 goroutines")
	wantProblem(t, before.grown(size{goroutines: 100, files: 100, heap: 10 << 20}), "100 open files")
	wantProblem(t, before.grown(size{goroutines: 100, files: 40, heap: 21 << 20}), "bytes of heap")
}

func TestShapesCountOnce(t *testing.T) {
	t.Parallel()
	shapes := []shape{{name: "a"}, {name: "b"}, {name: "a"}, {name: "a"}}
	if got := strings.Join(duplicates(shapes), ","); got != "a" {
		t.Errorf("duplicates %q, want a", got)
	}
}

// TestReplies: an interim answer is none, the answer to HEAD has no body, and a body that is cut is what came of it.
func TestReplies(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		wire, body string
		head       bool
		status     int
	}{
		"interim": {wire: "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", status: 204},
		"head":    {wire: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", head: true, status: 200},
		"cut":     {wire: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab", body: "ab", status: 200},
		"nothing": {status: closed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, err := readReplies(bytes.NewReader([]byte(c.wire)), c.head)
			if err != nil || r.status != c.status || r.body != c.body || r.raw != c.wire {
				t.Errorf("got %d %q of %q, %v", r.status, r.body, r.raw, err)
			}
		})
	}
	_, err := readReplies(strings.NewReader("SSH-2.0-x\r\n"), false)
	if err == nil {
		t.Error("what is no HTTP passes for an answer")
	}
}

// TestCheckOfLogEntries: a line that somebody else has written into a log.
func TestCheckOfLogEntries(t *testing.T) {
	t.Parallel()
	wantNoProblem(t, notJSON("access.log", []byte(`{"msg":"a"}`+"\n"+`{"msg":"b\nc"}`+"\n")))
	wantProblem(t, notJSON("access.log", []byte(`{"msg":"a"}`+"\nlevel=info msg=\"logged in\"\n")), "is no entry")
	wantProblem(t, notJSON("error.log", []byte(`{"msg":"a"} {"msg":"b"}`+"\n")), "is no entry")
}
