package dial

import (
	"cmp"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"time"
)

const (
	defaultDialTimeout      = 2 * time.Second
	defaultTLSTimeout       = 2 * time.Second
	defaultIdleTimeout      = 30 * time.Second
	defaultHeaderBytes      = 16 << 10
	defaultIdleConns        = 64
	defaultIdleConnsPerHost = 4
	expectContinueTimeout   = time.Second
)

// TransportConfig holds what callers of NewTransport need to choose. Every field but Guard may stay zero.
type TransportConfig struct {
	// Guard checks each address that is dialled. Required.
	Guard *Guard

	// Resolver looks names up. Default: the system's.
	Resolver *net.Resolver

	// DialTimeout bounds name resolution and connecting together. Default 2 s.
	DialTimeout time.Duration

	// TLSHandshakeTimeout bounds the handshake. Default 2 s.
	TLSHandshakeTimeout time.Duration

	// ResponseHeaderTimeout bounds the wait from the end of the request to the answer's headers. Default: only the
	// request's context bounds it.
	ResponseHeaderTimeout time.Duration

	// IdleConnTimeout closes a connection that has been unused for so long. Default 30 s.
	IdleConnTimeout time.Duration

	// MaxResponseHeaderBytes bounds the answer's headers. Default 16 KiB.
	MaxResponseHeaderBytes int64

	// MaxConnsPerHost bounds the connections to one host and port, in use or idle. Default: no bound.
	MaxConnsPerHost int

	// MaxIdleConns and MaxIdleConnsPerHost bound the connections kept for reuse. Default 64 and 4.
	MaxIdleConns        int
	MaxIdleConnsPerHost int

	// TLS adds roots, client certificates or pins; it is copied. TLS 1.2 is the least version whatever it says, and
	// InsecureSkipVerify is refused. Default: the system's roots.
	TLS *tls.Config
}

// NewTransport returns an HTTP/1.1 transport whose connections c.Guard checks.
//
// It takes no proxy from the environment: a proxy would connect where the guard cannot see it. It asks for no
// compression and unpacks none, so no answer grows while it is read. It follows no redirect, as no RoundTripper does;
// callers that wrap it in an http.Client must set CheckRedirect.
func NewTransport(c TransportConfig) (*http.Transport, error) {
	if c.Guard == nil {
		return nil, errors.New("dial: transport without a guard")
	}
	config := &tls.Config{}
	if c.TLS != nil {
		config = c.TLS.Clone()
	}
	if config.InsecureSkipVerify {
		return nil, errors.New("dial: certificate verification cannot be switched off: add the issuer to the roots")
	}
	config.MinVersion = max(config.MinVersion, tls.VersionTLS12)

	dialer := c.Guard.Dialer(c.Resolver)
	dialer.Timeout = cmp.Or(c.DialTimeout, defaultDialTimeout)
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	return &http.Transport{
		Proxy:                  nil,
		DialContext:            dialer.DialContext,
		TLSClientConfig:        config,
		TLSHandshakeTimeout:    cmp.Or(c.TLSHandshakeTimeout, defaultTLSTimeout),
		DisableCompression:     true,
		MaxIdleConns:           cmp.Or(c.MaxIdleConns, defaultIdleConns),
		MaxIdleConnsPerHost:    cmp.Or(c.MaxIdleConnsPerHost, defaultIdleConnsPerHost),
		MaxConnsPerHost:        c.MaxConnsPerHost,
		IdleConnTimeout:        cmp.Or(c.IdleConnTimeout, defaultIdleTimeout),
		ResponseHeaderTimeout:  c.ResponseHeaderTimeout,
		ExpectContinueTimeout:  expectContinueTimeout,
		MaxResponseHeaderBytes: cmp.Or(c.MaxResponseHeaderBytes, defaultHeaderBytes),
		Protocols:              protocols,
	}, nil
}
