package edc

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

const (
	callTimeout    = 40 * time.Second // EDC itself gives a peer 30 s
	maxAnswerBytes = 8 << 20          // 8 MiB
	pollEvery      = 100 * time.Millisecond
)

// RefusedError is an answer of a control plane that is no success.
type RefusedError struct {
	Method, URL string
	Status      int
	Body        string
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("%s %s: status %d: %s", e.Method, e.URL, e.Status, e.Body)
}

// call sends body, unless it is nil, and decodes the answer into answer, unless that is nil or there is nothing to
// decode.
func call(ctx context.Context, client *http.Client, method, url string, body, answer any) error {
	var content io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return fmt.Errorf("%s %s: %w", method, url, err)
		}
		content = bytes.NewReader(data)
	}
	request, err := http.NewRequestWithContext(ctx, method, url, content)
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(io.LimitReader(response.Body, maxAnswerBytes))
	if err != nil {
		return fmt.Errorf("%s %s: reading the answer: %w", method, url, err)
	}
	if response.StatusCode < 200 || response.StatusCode > 299 {
		return &RefusedError{Method: method, URL: url, Status: response.StatusCode, Body: string(data)}
	}
	if answer == nil || len(data) == 0 {
		return nil
	}
	err = json.Unmarshal(data, answer)
	if err != nil {
		return fmt.Errorf("%s %s: decoding the answer: %w", method, url, err)
	}
	return nil
}

// errNotYet says that a condition does not hold yet.
var errNotYet = errors.New("not yet")

// errIdle is an errNotYet: a control plane has taken a command and has not done it yet.
var errIdle = fmt.Errorf("%w: the control plane has more to do", errNotYet)

// await asks again and again until ask succeeds, or fails with anything but an error that wraps errNotYet, or the
// context ends.
func await(ctx context.Context, ask func() error) error {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	var last error
	for {
		err := ask()
		if err == nil {
			return nil
		}
		if !errors.Is(err, errNotYet) {
			if ctx.Err() != nil && last != nil {
				return last // what was seen before says more than that the time is over
			}
			return err
		}
		last = err
		select {
		case <-ctx.Done():
			return last
		case <-tick.C:
		}
	}
}
