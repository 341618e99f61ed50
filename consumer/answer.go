package consumer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	"github.com/edrgate/edrgate/internal/strictjson"
)

// Limits of one request to a provider or a signer.
const (
	defaultExchangeTimeout = 10 * time.Second
	maxAnswerBytes         = 64 << 10
)

// fetch sends a request to a signer and returns the members of its answer, which must have one of the statuses. It follows
// no redirect.
func fetch(req *http.Request, transport http.RoundTripper, statuses ...int) (strictjson.Members, error) {
	ctx, cancel := context.WithTimeout(req.Context(), defaultExchangeTimeout)
	defer cancel()
	req.Header.Set("Accept", "application/json")
	res, err := transport.RoundTrip(req.WithContext(ctx))
	if err != nil {
		return nil, connectionError(err)
	}
	defer res.Body.Close()
	body, err := readAnswer(res)
	if err != nil {
		return nil, err
	}
	if !slices.Contains(statuses, res.StatusCode) {
		return nil, fmt.Errorf("answered with status %d", res.StatusCode)
	}
	return strictjson.Parse(body, 0)
}

// readAnswer reads a bounded answer.
func readAnswer(res *http.Response) ([]byte, error) {
	coding := res.Header.Get("Content-Encoding")
	if coding != "" && coding != "identity" {
		return nil, errors.New("answer is compressed")
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswerBytes+1))
	if err != nil {
		return nil, err
	}
	if len(body) > maxAnswerBytes {
		return nil, fmt.Errorf("answer is larger than %d bytes", maxAnswerBytes)
	}
	return body, nil
}

// memberSeconds reads a number of seconds, written as a number or as text. null is "not said".
func memberSeconds(m strictjson.Members, name string) (time.Duration, error) {
	raw := string(m[name])
	if isNull(m, name) {
		raw = ""
	}
	text, err := m.String(name)
	if err == nil {
		raw = text
	}
	life, err := parseSeconds(raw)
	if err != nil {
		return 0, fmt.Errorf("member %q: %w", name, err)
	}
	return life, nil
}
