package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/edrgate/edrgate/bench/rig"
)

// The backends run as a process of their own: `peers backend SMALL LARGE`. The one for small answers speaks just enough of
// HTTP/1.1 to be cheap beside what is measured, which the row "no proxy" of each run shows. The other one is net/http's.

// runBackend serves until the process is ended.
func runBackend(small, large string) error {
	listener, err := net.Listen("tcp", small)
	if err != nil {
		return err
	}
	failed := make(chan error, 2)
	go func() { failed <- serveSmall(listener) }()
	go func() {
		server := &http.Server{Addr: large, Handler: http.HandlerFunc(serveLarge), ReadHeaderTimeout: 10 * time.Second}
		failed <- server.ListenAndServe()
	}()
	return <-failed
}

// smallBody is what small answers hold.
const smallBody = 1 << 10

func serveSmall(listener net.Listener) error {
	answer := fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: %d\r\n\r\n%s",
		smallBody, strings.Repeat("x", smallBody))
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			in := bufio.NewReaderSize(conn, 16<<10)
			for {
				// Requests without a body: the end of the header is the end of the request.
				line, err := in.ReadSlice('\n')
				if err != nil {
					return
				}
				if len(bytes.TrimRight(line, "\r\n")) > 0 {
					continue
				}
				_, err = conn.Write(answer)
				if err != nil {
					return
				}
			}
		}()
	}
}

// serveLarge answers a GET of /<n> with n bytes, and a POST with the number of bytes that came.
func serveLarge(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPost {
		n, err := io.Copy(io.Discard, r.Body)
		if err != nil {
			return // the proxy has given up
		}
		_, _ = fmt.Fprint(w, n)
		return
	}
	size, err := strconv.ParseInt(strings.TrimPrefix(r.URL.Path, "/"), 10, 64)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
	_, _ = io.Copy(w, io.LimitReader(endless{}, size))
}

// endless gives whatever is in the buffer.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// backend is that process, as the benchmark sees it.
type backend struct {
	small, large string // host:port
	process      *rig.Process
}

func startBackend(ctx context.Context, dir, cpus string) (*backend, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	b := new(backend)
	for _, address := range []*string{&b.small, &b.large} {
		*address, err = rig.FreeAddress()
		if err != nil {
			return nil, err
		}
	}
	b.process, err = rig.Start(rig.Command{Name: "backend", Path: self, Args: []string{"backend", b.small, b.large}, Dir: dir, CPUs: cpus})
	if err != nil {
		return nil, err
	}
	for _, address := range []string{b.small, b.large} {
		err = b.process.Await(ctx, address)
		if err != nil {
			b.process.Stop()
			return nil, err
		}
	}
	return b, nil
}
