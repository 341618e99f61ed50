package demo

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

// Answer is what came back for a request.
type Answer struct {
	Status int
	Body   []byte
}

// Wanted is what must come back.
type Wanted struct {
	Status int

	// Read looks at the body of an answer with that status and returns what is worth telling of it. Nil: nothing.
	Read func(body []byte) (string, error)
}

// Narrator tells the steps, one line each, and counts them.
type Narrator struct {
	Out   io.Writer
	steps int
}

// Title begins a part.
func (n *Narrator) Title(text string) {
	fmt.Fprintf(n.Out, "\n%s\n", text)
}

// Step tells what was sent and what came back, or returns an error that names the step.
func (n *Narrator) Step(what string, want Wanted, send func() (Answer, error)) error {
	n.steps++
	got, err := send()
	if err != nil {
		return fmt.Errorf("step %d, %s: %w", n.steps, what, err)
	}
	told, err := want.check(got)
	if err != nil {
		return fmt.Errorf("step %d, %s: %w", n.steps, what, err)
	}
	fmt.Fprintln(n.Out, strings.TrimRight(fmt.Sprintf("%3d  %-58s %d  %s", n.steps, what, got.Status, told), " "))
	return nil
}

// Act tells of a step that is no request.
func (n *Narrator) Act(what string, do func() error) error {
	n.steps++
	err := do()
	if err != nil {
		return fmt.Errorf("step %d, %s: %w", n.steps, what, err)
	}
	fmt.Fprintf(n.Out, "%3d  %-58s ok\n", n.steps, what)
	return nil
}

func (w Wanted) check(got Answer) (string, error) {
	if got.Status != w.Status {
		return "", fmt.Errorf("want %d, but the answer is %d%s", w.Status, got.Status, excerpt(got))
	}
	if w.Read == nil {
		return "", nil
	}
	return w.Read(got.Body)
}

// excerpt quotes the body of a refusal. A body that grants something may hold tokens.
func excerpt(got Answer) string {
	const shown = 300
	body := bytes.TrimSpace(got.Body)
	if got.Status < http.StatusBadRequest || len(body) == 0 {
		return ""
	}
	return fmt.Sprintf(" %q", body[:min(len(body), shown)])
}

// Exactly wants these bytes and tells them.
func Exactly(want string) func([]byte) (string, error) {
	return func(body []byte) (string, error) {
		if string(body) != want {
			return "", fmt.Errorf("want the body %q, but it is %q", want, body)
		}
		return fmt.Sprintf("%q", body), nil
	}
}

// Saying wants a body that has these words and tells them.
func Saying(words string) func([]byte) (string, error) {
	return func(body []byte) (string, error) {
		if !bytes.Contains(body, []byte(words)) {
			return "", fmt.Errorf("want a body that says %q, but it is %q", words, body)
		}
		return words, nil
	}
}

// Exchange makes a request of its parts and sends it.
func Exchange(ctx context.Context, client *http.Client, method, url string, header http.Header, body []byte) (Answer, error) {
	request, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return Answer{}, err
	}
	for name, values := range header {
		request.Header[name] = values
	}
	return Do(client, request)
}

// Do sends a request and reads the answer whole.
func Do(client *http.Client, request *http.Request) (Answer, error) {
	response, err := client.Do(request)
	if err != nil {
		return Answer{}, err
	}
	defer response.Body.Close()
	read, err := io.ReadAll(io.LimitReader(response.Body, maxAnswerBytes))
	if err != nil {
		return Answer{}, fmt.Errorf("reading the answer: %w", err)
	}
	return Answer{Status: response.StatusCode, Body: read}, nil
}
