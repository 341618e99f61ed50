package consumer

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"sync"
	"testing"

	"github.com/edrgate/edrgate/internal/testkit"
)

// Bodies stream in both directions: nothing is read ahead.
func TestSendStreams(t *testing.T) {
	t.Parallel()
	x := newFixture(t)
	x.provider.any = true
	x.provider.serve = func(w http.ResponseWriter, r *http.Request) {
		control := http.NewResponseController(w)
		_ = control.EnableFullDuplex()
		_ = control.Flush()
		part := make([]byte, 1)
		for {
			_, err := io.ReadFull(r.Body, part)
			if err != nil {
				return
			}
			_, _ = w.Write(part)
			_ = control.Flush()
		}
	}
	x.started("tp-1")
	reader, writer := io.Pipe()
	req, err := http.NewRequestWithContext(t.Context(), "POST", "/x", reader)
	if err != nil {
		t.Fatal(err)
	}
	a, err := x.transport().Send(req, "tp-1")
	if err != nil {
		t.Fatal(err)
	}
	defer a.Response.Body.Close()
	got := make([]byte, 1)
	for _, part := range []string{"a", "b", "c"} {
		_, err = io.WriteString(writer, part)
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.ReadFull(a.Response.Body, got)
		if err != nil || string(got) != part {
			t.Fatalf("%q, %v", got, err)
		}
	}
	_ = writer.Close()
	_, err = a.Response.Body.Read(got)
	if err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
}

// A data plane refuses before the application has sent its body: the rest of a body that is not read is not waited for.
func TestSendDoesNotWaitForABodyThatIsBeingSent(t *testing.T) {
	t.Parallel()
	x := newFixture(t)
	x.started("tp-1")
	x.provider.supersede()
	x.provider.refuse = func(w http.ResponseWriter, _ *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		w.WriteHeader(401)
		_ = http.NewResponseController(w).Flush()
	}
	reader, writer := io.Pipe()
	req, err := http.NewRequestWithContext(t.Context(), "POST", "/x", reader)
	if err != nil {
		t.Fatal(err)
	}
	a, err := x.transport().Send(req, "tp-1")
	if err != nil {
		t.Fatal(err)
	}
	if a.Response.StatusCode != 401 || a.Replayed || a.NotReplayed != NotReplayedSending || !a.Renewed {
		t.Errorf("%+v", a)
	}
	_ = a.Response.Body.Close()
	_ = writer.Close()
}

// The body of a request is closed whatever comes of it.
func TestSendClosesTheBody(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		set  func(*fixture)
		url  string
	}{
		{"served", func(x *fixture) { x.provider.any = true }, "/x"},
		{"refused and sent again", func(x *fixture) { x.provider.supersede() }, "/x"},
		{"refused and passed on", func(x *fixture) {
			x.provider.generation = 9
			x.provider.renew = func(_ int, w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(401); return true }
		}, "/x"},
		{"outside", func(*fixture) {}, "https://elsewhere.example/x"},
		{"suspended", func(x *fixture) { x.must(x.Suspend(context.Background(), "tp-1")) }, "/x"},
		{"provider gone", func(x *fixture) { x.provider.Close() }, "/x"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			x := newFixture(t)
			x.started("tp-1")
			c.set(x)
			body := &closing{Reader: bytes.NewReader([]byte("body")), closed: make(chan struct{})}
			req, err := http.NewRequestWithContext(t.Context(), "POST", c.url, body)
			if err != nil {
				t.Fatal(err)
			}
			a, err := x.transport().Send(req, "tp-1")
			if err == nil {
				_ = a.Response.Body.Close()
			}
			testkit.Eventually(t, "the body is closed", func() bool {
				select {
				case <-body.closed:
					return true
				default:
					return false
				}
			})
		})
	}
}

type closing struct {
	io.Reader
	once   sync.Once
	closed chan struct{}
}

func (c *closing) Close() error {
	c.once.Do(func() { close(c.closed) })
	return nil
}
