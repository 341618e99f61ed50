package consumer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/edrgate/edrgate/internal/strictjson"
	"github.com/edrgate/edrgate/tokens"
)

// ClientCredentials is an OAuth2 client (RFC 6749 §4.4). Fields without a stated default are required.
type ClientCredentials struct {
	TokenURL string
	ID       string
	Secret   tokens.Secret

	// Transport sends the requests. The operator chose these addresses, so it may reach inside.
	Transport http.RoundTripper
	Timeout   time.Duration    // of one request; default 10 s
	Now       func() time.Time // default: time.Now
}

const (
	defaultExchangeTimeout = 10 * time.Second
	maxAnswerBytes         = 64 << 10
)

func (c *ClientCredentials) complete() error {
	err := checkURL("token URL", c.TokenURL, true)
	if err != nil {
		return err
	}
	if c.ID == "" || c.Secret == "" || c.Transport == nil {
		return refuse(CodeInvalid, "client id, client secret and transport are needed")
	}
	if c.Timeout == 0 {
		c.Timeout = defaultExchangeTimeout
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return nil
}

// granted is the answer to a token request.
type granted struct {
	token tokens.Secret
	life  time.Duration // 0: not said
}

// ask sends a token request with the client's credentials in the body, where EDC's OAuth2 client has them (observed on
// Tractus-X 0.12.1), and further parameters.
func (c *ClientCredentials) ask(ctx context.Context, more url.Values) (granted, error) {
	form := url.Values{"grant_type": {"client_credentials"}, "client_id": {c.ID}, "client_secret": {c.Secret.Reveal()}}
	for name, values := range more {
		form[name] = values
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.TokenURL, strings.NewReader(form.Encode()))
	if err != nil {
		return granted{}, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	m, err := c.fetch(req, http.StatusOK)
	if err != nil {
		return granted{}, err
	}
	token, err := m.String("access_token")
	if err != nil {
		return granted{}, err
	}
	g := granted{token: tokens.Secret(token)}
	if m.Has("expires_in") {
		g.life, err = memberSeconds(m, "expires_in")
	}
	return g, err
}

// fetch sends a request and returns the members of its answer, which must have one of the statuses. It follows no
// redirect.
func (c *ClientCredentials) fetch(req *http.Request, statuses ...int) (strictjson.Members, error) {
	ctx, cancel := context.WithTimeout(req.Context(), c.Timeout)
	defer cancel()
	req.Header.Set("Accept", "application/json")
	res, err := c.Transport.RoundTrip(req.WithContext(ctx))
	if err != nil {
		return nil, connectionError(err)
	}
	defer res.Body.Close()
	body, err := readAnswer(res)
	if err != nil {
		return nil, err
	}
	for _, status := range statuses {
		if res.StatusCode == status {
			return strictjson.Parse(body, 0)
		}
	}
	return nil, fmt.Errorf("answered with status %d", res.StatusCode)
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

// remembered is a client's access token that is used until shortly before its end.
type remembered struct {
	mu    sync.Mutex
	token tokens.Secret
	until time.Time
}

// get returns the remembered token, or asks for one. A token without a life is used once.
func (r *remembered) get(ctx context.Context, c *ClientCredentials) (tokens.Secret, error) {
	r.mu.Lock()
	token, until := r.token, r.until
	r.mu.Unlock()
	if token != "" && c.Now().Before(until) {
		return token, nil
	}
	asked := c.Now()
	g, err := c.ask(ctx, nil)
	if err != nil {
		return "", err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.token, r.until = g.token, asked.Add(g.life*9/10)
	return g.token, nil
}

// forget drops a token that was refused.
func (r *remembered) forget(token tokens.Secret) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.token == token {
		r.token = ""
	}
}
