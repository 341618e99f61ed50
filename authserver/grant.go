// Package authserver asks authorization servers (RFC 6749 §1.1) for the tokens that the gateway itself shows to others,
// and keeps them while they last: to backends whose data address names a token endpoint, and to control planes.
//
// A token is asked for once, however many requests need it, and a server that fails or refuses is left alone for a
// moment. Errors say which server and what it answered by number and code; what a server wrote is never repeated, since
// it may hold what we sent.
package authserver

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"os"
	"strings"

	"github.com/edrgate/edrgate/tokens"
)

// Grant is what a token is asked for with. It is comparable: two equal grants share one token, and a grant with another
// secret never gets it.
type Grant struct {
	// Endpoint is the URL of the token endpoint. Required.
	Endpoint string

	// ClientID and ClientSecret are sent in the form (RFC 6749 §2.3.1), as Eclipse EDC does. A grant with a
	// SubjectTokenFile can do without.
	ClientID     string
	ClientSecret tokens.Secret

	// Scope is a list with spaces between (RFC 6749 §3.3). Default: not sent.
	Scope string

	// Audience and Resource say who is to take the token (RFC 8693 §2.1, RFC 8707 §2). Default: not sent.
	Audience string
	Resource string

	// SubjectTokenFile makes the grant a token exchange (RFC 8693): the file holds the token that is exchanged, the
	// credential of this workload, and is read anew for each request since platforms renew it. Default: none, the grant
	// is client credentials (RFC 6749 §4.4).
	SubjectTokenFile string
}

// Server names the endpoint's scheme and host, for errors and logs: the rest of the URL may hold a key.
func (g Grant) Server() string {
	u, err := url.Parse(g.Endpoint)
	if err != nil {
		return "token endpoint"
	}
	return "token endpoint " + u.Scheme + "://" + u.Host
}

// Format prints the server only.
func (g Grant) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, g.Server()) }

// The values that RFC 8693 §2.1 and §3 give a token exchange. Workload credentials are JWTs.
const (
	exchangeGrantType = "urn:ietf:params:oauth:grant-type:token-exchange"
	jwtTokenType      = "urn:ietf:params:oauth:token-type:jwt"
)

// CheckEndpoint checks the URL of a token endpoint. The request has the secret in it, so RFC 6749 §3.2 requires TLS; on a
// loopback host nobody is in between.
func CheckEndpoint(text string) error {
	u, err := url.Parse(text)
	if err != nil || u.Hostname() == "" || u.Opaque != "" {
		return errors.New("not an absolute https URL") // the parser's error repeats what may hold a password
	}
	if u.User != nil || u.Fragment != "" {
		return errors.New("must have no user and no fragment") // RFC 6749 §3.2
	}
	addr, err := netip.ParseAddr(u.Hostname())
	loopback := u.Hostname() == "localhost" || err == nil && addr.IsLoopback()
	if u.Scheme != "https" && (u.Scheme != "http" || !loopback) {
		return errors.New("must be https, or http on a loopback host")
	}
	return nil
}

// params are the form's parameters beside the client's and the scope.
func (g Grant) params() (url.Values, error) {
	v := url.Values{}
	if g.Audience != "" {
		v.Set("audience", g.Audience)
	}
	if g.Resource != "" {
		v.Set("resource", g.Resource)
	}
	if g.SubjectTokenFile == "" {
		return v, nil
	}
	subject, err := readSubjectToken(g.SubjectTokenFile)
	if err != nil {
		return nil, err
	}
	v.Set("grant_type", exchangeGrantType)
	v.Set("subject_token", subject.Reveal())
	v.Set("subject_token_type", jwtTokenType)
	v.Set("requested_token_type", jwtTokenType)
	return v, nil
}

// maxSubjectTokenBytes bounds a workload credential. Real ones have 1 to 2 KiB.
const maxSubjectTokenBytes = 16 << 10

func readSubjectToken(path string) (tokens.Secret, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("subject token: %w", err)
	}
	if !info.Mode().IsRegular() {
		return "", errors.New("subject token: not a regular file") // opening a pipe waits for its writer
	}
	file, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("subject token: %w", err)
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxSubjectTokenBytes+1))
	if err != nil {
		return "", fmt.Errorf("subject token: %w", err)
	}
	text := strings.TrimSpace(string(data))
	if !isToken(text) || len(data) > maxSubjectTokenBytes {
		return "", errors.New("subject token: the file holds no token, or one of over 16 KiB")
	}
	return tokens.Secret(text), nil
}
