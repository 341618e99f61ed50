package integration

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
)

// failure is an answer that is not the expected one, or none.
type failure struct {
	answer reply
	err    error
}

func (f failure) Error() string {
	if f.err != nil {
		return f.err.Error()
	}
	return fmt.Sprintf("status %d: %s", f.answer.status, f.answer.body)
}

// cutter is a line to the gateway that breaks in the middle of an answer's body.
type cutter struct {
	listener net.Listener
	target   string
}

func newCutter(t testing.TB, target string) *cutter {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cutter{listener: listener, target: target}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			c.serve(conn)
		}
	}()
	t.Cleanup(func() {
		_ = listener.Close()
		<-done
	})
	return c
}

// client returns a client whose connections all go through the line.
func (c *cutter) client() *http.Client {
	return &http.Client{Timeout: patience, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, c.listener.Addr().String())
		},
	}}
}

// serve passes a request on, and of the answer the header and the first bytes of the body.
func (c *cutter) serve(consumer net.Conn) {
	defer consumer.Close()
	gateway, err := net.Dial("tcp", c.target)
	if err != nil {
		return
	}
	defer gateway.Close()
	go func() { _, _ = io.Copy(gateway, consumer) }() // ends when either side is closed

	const bodyBytes = 25
	var answer []byte
	buffer := make([]byte, 4096)
	for {
		n, err := gateway.Read(buffer)
		answer = append(answer, buffer[:n]...)
		end := bytes.Index(answer, []byte("\r\n\r\n"))
		if end >= 0 && len(answer) >= end+4+bodyBytes {
			_, _ = consumer.Write(answer[:end+4+bodyBytes])
			return
		}
		if err != nil {
			return
		}
	}
}
