package jwks

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"time"
)

// fetchTimeout is the default of Config.Timeout.
const fetchTimeout = 4 * time.Second

// Config says where a key set is.
type Config struct {
	// Location is an https URL, an http one of a loopback host, or the path of a file. Required.
	Location string

	// Transport fetches the set. It must check what it dials and unpack nothing (internal/dial.NewTransport). Required for a
	// URL.
	Transport http.RoundTripper

	// Timeout bounds one fetch. Default: 4 s. A control plane reads for 30 s, and has to get its answer within that.
	Timeout time.Duration

	// Now is the clock. Default: the system's.
	Now func() time.Time
}

// New returns a key set that has not been fetched yet: that happens when the first key is asked for.
func New(c Config) (*Set, error) {
	s := &Set{now: c.Now, fetching: make(chan struct{}, 1)}
	if s.now == nil {
		s.now = time.Now
	}
	err := CheckLocation(c.Location)
	if err != nil {
		return nil, err
	}
	if !strings.Contains(c.Location, "://") {
		s.source = file(c.Location)
		return s, nil
	}
	if c.Transport == nil {
		return nil, errors.New("key set: a transport is needed")
	}
	s.source = &remote{c.Location, c.Transport, cmp.Or(c.Timeout, fetchTimeout)}
	return s, nil
}

// CheckLocation checks the form of a location. It opens and asks nothing.
func CheckLocation(location string) error {
	if location == "" {
		return errors.New("location of the key set is missing: without it no signature can be verified")
	}
	if !strings.Contains(location, "://") {
		return nil
	}
	u, err := url.Parse(location)
	if err != nil || u.Host == "" || u.User != nil || u.Fragment != "" {
		return errors.New("location of the key set is not a URL without user and fragment")
	}
	// RFC 8725 §3.10 says to validate where keys come from: whoever is on the path of plain http can put in his own.
	if u.Scheme == "https" || u.Scheme == "http" && isLoopback(u.Hostname()) {
		return nil
	}
	return fmt.Errorf("location of the key set %s://%s: want https, or http on a loopback host, or a file", u.Scheme, u.Host)
}

func isLoopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}

// source is where a set comes from.
type source interface {
	fetch(ctx context.Context) (keys, error)
}

// file is the path of a set.
type file string

func (f file) fetch(context.Context) (keys, error) {
	info, err := os.Stat(string(f))
	if err != nil {
		return nil, fmt.Errorf("key set: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("key set: not a regular file") // opening a pipe waits for its writer
	}
	opened, err := os.Open(string(f))
	if err != nil {
		return nil, fmt.Errorf("key set: %w", err)
	}
	defer opened.Close()
	return read(opened)
}

// remote is the URL of a set.
type remote struct {
	location  string
	transport http.RoundTripper
	timeout   time.Duration
}

func (r *remote) fetch(ctx context.Context) (keys, error) {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, r.location, nil)
	if err != nil {
		return nil, errors.New("key set: the location is not a URL")
	}
	request.Header.Set("Accept", "application/jwk-set+json, application/json, */*;q=0.1") // RFC 7517 §8.5.2
	request.Header.Set("Accept-Encoding", "identity")                                     // nothing here unpacks
	request.Header.Set("User-Agent", "edrgate")
	// RoundTrip, not an http.Client: a redirect would let another host say which keys count.
	response, err := r.transport.RoundTrip(request)
	if err != nil {
		return nil, fmt.Errorf("key set: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("key set: host answers with status %d", response.StatusCode)
	}
	coding := response.Header.Get("Content-Encoding")
	if coding != "" && coding != "identity" {
		return nil, errors.New("key set: the answer is compressed")
	}
	return read(response.Body)
}

func read(r io.Reader) (keys, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxBytes+1))
	if err != nil {
		return nil, fmt.Errorf("key set: %w", err)
	}
	if len(data) > maxBytes {
		return nil, fmt.Errorf("key set is over %d bytes", maxBytes)
	}
	return parse(data)
}
