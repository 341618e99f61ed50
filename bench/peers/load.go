package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/edrgate/edrgate/bench/rig"
)

// load is what the generator does to one address: each connection sends a request, reads the answer, and sends the next.
// The generator writes bytes that were made beforehand and reads no more of an answer than it must; how far it is from
// being what is measured, the row "no proxy" says.
type load struct {
	address     string // host:port
	connections int
	requests    requests
	duration    time.Duration
}

// requests gives the bytes of a request after the other. It is called by many goroutines.
type requests interface {
	next() ([]byte, error)
}

// requestTimeout bounds one request; it is far above any answer that is measured.
const requestTimeout = 10 * time.Second

// observed is what a load has seen.
type observed struct {
	count     int
	elapsed   time.Duration
	latencies []time.Duration // sorted
}

func (o *observed) rate() float64 { return float64(o.count) / o.elapsed.Seconds() }

// run loads the address for the duration. Any answer but 200 is an error: what is refused is not what is measured.
func (l *load) run(ctx context.Context) (*observed, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	each := make([][]time.Duration, l.connections)
	start := time.Now()
	var wait sync.WaitGroup
	for i := range l.connections {
		wait.Go(func() {
			var err error
			each[i], err = l.connection(ctx, start.Add(l.duration))
			if err != nil {
				cancel(err)
			}
		})
	}
	wait.Wait()
	o := &observed{elapsed: time.Since(start), latencies: slices.Concat(each...)}
	slices.Sort(o.latencies)
	o.count = len(o.latencies)
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	if o.count == 0 {
		return nil, fmt.Errorf("no answer from %s", l.address)
	}
	return o, nil
}

// connection sends requests until the end, over a new connection whenever the server has closed the last one.
func (l *load) connection(ctx context.Context, end time.Time) ([]time.Duration, error) {
	latencies := make([]time.Duration, 0, 1<<12)
	var conn net.Conn
	var in *bufio.Reader
	defer func() {
		if conn != nil {
			_ = conn.Close()
		}
	}()
	for ctx.Err() == nil {
		request, err := l.requests.next()
		if err != nil {
			return nil, err
		}
		start := time.Now()
		if start.After(end) {
			break
		}
		if conn == nil {
			conn, err = net.Dial("tcp", l.address)
			if err != nil {
				return nil, err
			}
			in = bufio.NewReaderSize(conn, 16<<10)
			err = conn.SetDeadline(end.Add(requestTimeout))
			if err != nil {
				return nil, err
			}
		}
		_, err = conn.Write(request)
		if err != nil {
			return nil, err
		}
		keep, err := readAnswer(in)
		if err != nil {
			return nil, err
		}
		latencies = append(latencies, time.Since(start))
		if !keep {
			err = conn.Close()
			if err != nil {
				return nil, err
			}
			conn = nil
		}
	}
	return latencies, nil
}

// readAnswer reads one answer, and reports whether the connection stays.
func readAnswer(in *bufio.Reader) (keep bool, err error) {
	status, err := in.ReadSlice('\n')
	if err != nil {
		return false, fmt.Errorf("reading an answer: %w", err)
	}
	if !bytes.HasPrefix(status, []byte("HTTP/1.1 200")) {
		return false, notOK(string(status), in)
	}
	length, chunked, keep := int64(-1), false, true
	for {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return false, fmt.Errorf("reading an answer: %w", err)
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			break
		}
		switch {
		case hasField(line, "content-length:"):
			length, err = strconv.ParseInt(string(bytes.TrimSpace(line[len("content-length:"):])), 10, 64)
			if err != nil {
				return false, err
			}
		case hasField(line, "transfer-encoding:"):
			chunked = true
		case hasField(line, "connection:"):
			keep = !bytes.EqualFold(bytes.TrimSpace(line[len("connection:"):]), []byte("close"))
		}
	}
	switch {
	case chunked:
		return keep, discardChunks(in)
	case length >= 0:
		_, err = in.Discard(int(length))
		return keep, err
	}
	_, err = io.Copy(io.Discard, in)
	return false, err
}

// hasField reports whether a line is that of a header field, given in lower case with its colon.
func hasField(line []byte, field string) bool {
	return len(line) > len(field) && bytes.EqualFold(line[:len(field)], []byte(field))
}

// discardChunks reads a chunked body (RFC 9112 §7.1).
func discardChunks(in *bufio.Reader) error {
	for {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return err
		}
		size, err := strconv.ParseInt(strings.TrimSpace(string(line)), 16, 64)
		if err != nil {
			return err
		}
		_, err = in.Discard(int(size) + len("\r\n"))
		if err != nil || size == 0 {
			return err
		}
	}
}

// notOK says what else was answered.
func notOK(status string, in *bufio.Reader) error {
	answer, err := http.ReadResponse(bufio.NewReader(io.MultiReader(strings.NewReader(status), in)), nil)
	if err != nil {
		return fmt.Errorf("answered %q: %w", status, err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, 512))
	return fmt.Errorf("answered %s: %s (%w)", answer.Status, body, errOrNone(err))
}

func errOrNone(err error) error {
	if err == nil {
		return errUnexpectedStatus
	}
	return err
}

var errUnexpectedStatus = fmt.Errorf("200 was expected")

// percentile returns a latency in milliseconds.
func (o *observed) percentile(q float64) float64 {
	return float64(rig.Quantile(o.latencies, q)) / float64(time.Millisecond)
}
