package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// maxAnswerBytes is above any answer of the gateway.
const maxAnswerBytes = 1 << 20 // 1 MiB

// answer is what came back for a request.
type answer struct {
	status int
	body   []byte
}

// wanted is what must come back.
type wanted struct {
	status int

	// read looks at the body of an answer with that status and returns what is worth telling of it. Nil: nothing.
	read func(body []byte) (string, error)
}

// narrator tells the steps, one line each, and counts them.
type narrator struct {
	out   io.Writer
	steps int
}

func (n *narrator) title(text string) {
	fmt.Fprintf(n.out, "\n%s\n", text)
}

// step tells what was sent and what came back, or returns an error that names the step.
func (n *narrator) step(what string, want wanted, send func() (answer, error)) error {
	n.steps++
	got, err := send()
	if err != nil {
		return fmt.Errorf("step %d, %s: %w", n.steps, what, err)
	}
	told, err := want.check(got)
	if err != nil {
		return fmt.Errorf("step %d, %s: %w", n.steps, what, err)
	}
	fmt.Fprintln(n.out, strings.TrimRight(fmt.Sprintf("%3d  %-58s %d  %s", n.steps, what, got.status, told), " "))
	return nil
}

// act tells of a step that is no request.
func (n *narrator) act(what string, do func() error) error {
	n.steps++
	err := do()
	if err != nil {
		return fmt.Errorf("step %d, %s: %w", n.steps, what, err)
	}
	fmt.Fprintf(n.out, "%3d  %-58s ok\n", n.steps, what)
	return nil
}

func (w wanted) check(got answer) (string, error) {
	if got.status != w.status {
		return "", fmt.Errorf("want %d, but the answer is %d%s", w.status, got.status, excerpt(got))
	}
	if w.read == nil {
		return "", nil
	}
	return w.read(got.body)
}

// excerpt quotes the body of a refusal. A body that grants something may hold tokens.
func excerpt(got answer) string {
	const shown = 300
	body := bytes.TrimSpace(got.body)
	if got.status < http.StatusBadRequest || len(body) == 0 {
		return ""
	}
	return fmt.Sprintf(" %q", body[:min(len(body), shown)])
}

// exactly wants these bytes and tells them.
func exactly(want string) func([]byte) (string, error) {
	return func(body []byte) (string, error) {
		if string(body) != want {
			return "", fmt.Errorf("want the body %q, but it is %q", want, body)
		}
		return fmt.Sprintf("%q", body), nil
	}
}

// saying wants a body that has these words and tells them.
func saying(words string) func([]byte) (string, error) {
	return func(body []byte) (string, error) {
		if !bytes.Contains(body, []byte(words)) {
			return "", fmt.Errorf("want a body that says %q, but it is %q", words, body)
		}
		return words, nil
	}
}

// exchange sends a request and reads the answer whole.
func exchange(ctx context.Context, client *http.Client, method, url string, header http.Header, body []byte) (answer, error) {
	request, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	for name, values := range header {
		request.Header[name] = values
	}
	response, err := client.Do(request)
	if err != nil {
		return answer{}, err
	}
	defer response.Body.Close()
	read, err := io.ReadAll(io.LimitReader(response.Body, maxAnswerBytes))
	if err != nil {
		return answer{}, fmt.Errorf("reading the answer: %w", err)
	}
	return answer{status: response.StatusCode, body: read}, nil
}
