// Package did finds the public keys of decentralized identifiers: did:web with a hardened fetch, did:jwk and did:key by
// decoding.
//
// A DID reaches this package from a signaling message, its document from a host that somebody else runs, and the request
// that needs the key from anybody at all. So a DID is turned into a URL by rules that leave no second reading, every
// address is checked at the moment of the dial, every answer is small, short and parsed strictly, and the number of
// fetches that a stranger can cause is bounded per DID.
//
// Every error is an *Error, and says whether it is a definite no or means that nobody can tell now.
package did

import (
	"cmp"
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/edrgate/edrgate/internal/dial"
)

// Defaults of Config.
const (
	defaultMaxAge       = 5 * time.Minute
	defaultStaleIfError = 15 * time.Minute
	defaultNegativeAge  = 30 * time.Second
	defaultDialTimeout  = 2 * time.Second
	defaultFetchTimeout = 4 * time.Second
	defaultMaxEntries   = 100_000
	defaultMaxBytes     = 64 << 20
)

// Observer is told what a Resolver does, for metrics. It must be safe for concurrent use and must not block.
type Observer interface {
	// Fetched is called after each fetch of a did:web document with one of FetchResults and the time it took.
	Fetched(result string, took time.Duration)
}

// Config holds the settings of a Resolver. The zero value is good for public hosts.
type Config struct {
	// AllowHTTP names the hosts whose documents are fetched by plain http, as "host" (any port), "host:port", or "*" for
	// all. Whoever is on the path to such a host can sign as its DIDs: it is for tests and for closed networks. The port
	// rule of AllowPorts does not apply to these hosts. Default: https for all.
	AllowHTTP []string

	// AllowPorts are ports for https beside 443. Default: none.
	AllowPorts []uint16

	// AllowAddresses are special-purpose ranges in which DID hosts may live, such as 10.0.0.0/8 for wallets in the
	// cluster. Addresses of metadata services stay denied. Default: public addresses only.
	AllowAddresses []netip.Prefix

	// DenyEndpoints are never connected, even inside AllowAddresses; meant for the gateway's own administration. The
	// unspecified address stands for every address, port 0 for every port. Default: none.
	DenyEndpoints []netip.AddrPort

	// Denied, if set, is told the reason for every address that is refused at the dial. Its values are few and fixed. It
	// must be safe for concurrent use.
	Denied func(reason string)

	// Relationship says for which purpose a document must list a key. Default RelationshipAny.
	Relationship Relationship

	// MaxAge is how long a document is used without asking again, and so how long a withdrawn key may go on working. The
	// host's Cache-Control can shorten it, to no less than 5 s. Default 5 min.
	MaxAge time.Duration

	// StaleIfError is how much longer a key that was seen before is used while its host fails. Default 15 min; negative:
	// not at all.
	StaleIfError time.Duration

	// NegativeAge is how long a failure of a host stands before it is asked again, give or take a quarter at random.
	// Default 30 s; negative: not at all.
	NegativeAge time.Duration

	// DialTimeout bounds name resolution and connecting, FetchTimeout a whole fetch with its wait for a free slot.
	// Defaults 2 s and 4 s.
	DialTimeout  time.Duration
	FetchTimeout time.Duration

	// MaxEntries and MaxBytes bound the cache; MaxBytes is an estimate. Defaults 100,000 DIDs and 64 MiB.
	MaxEntries int
	MaxBytes   int64

	// RootCAs are the issuers of the hosts' certificates. Default: the system's.
	RootCAs *x509.CertPool

	// NameServer looks host names up. Default: the system's resolver.
	NameServer *net.Resolver

	// Observer is told of fetches. Default: nobody.
	Observer Observer

	// Now is the clock. Default time.Now. Timeouts run by the machine's own.
	Now func() time.Time

	// Rand returns numbers in [0,1) for jitter. Default: math/rand. It must be safe for concurrent use.
	Rand func() float64
}

// Resolver finds the keys of DIDs and remembers them. It is safe for concurrent use. It owns idle connections and, while
// calls wait, the goroutines that fetch for them; Close ends both.
type Resolver struct {
	transport    *http.Transport
	reach        reach
	relationship Relationship
	slots        *slots
	observer     Observer
	now          func() time.Time
	rand         func() float64

	maxAge       time.Duration
	staleIfError time.Duration
	negativeAge  time.Duration
	fetchTimeout time.Duration

	fetching sync.WaitGroup

	mu      sync.Mutex // guards all below
	cache   *cache
	flights map[string]*flight // by DID
	started uint64             // number of the last flight
	closed  bool
}

// New returns a resolver for c.
func New(c Config) (*Resolver, error) {
	switch c.Relationship {
	case "":
		c.Relationship = RelationshipAny
	case RelationshipAny, RelationshipCapabilityInvocation, RelationshipNone:
	default:
		return nil, fmt.Errorf("did: unknown relationship policy %q", c.Relationship)
	}
	if c.MaxAge < 0 || c.DialTimeout < 0 || c.FetchTimeout < 0 || c.MaxEntries < 0 || c.MaxBytes < 0 {
		return nil, errors.New("did: a limit is negative")
	}
	reach, err := newReach(c.AllowHTTP, c.AllowPorts)
	if err != nil {
		return nil, err
	}
	transport, err := newTransport(c)
	if err != nil {
		return nil, fmt.Errorf("did: %w", err)
	}
	r := &Resolver{
		transport:    transport,
		reach:        reach,
		relationship: c.Relationship,
		slots:        newSlots(),
		observer:     c.Observer,
		now:          c.Now,
		rand:         c.Rand,
		maxAge:       cmp.Or(c.MaxAge, defaultMaxAge),
		staleIfError: max(cmp.Or(c.StaleIfError, defaultStaleIfError), 0),
		negativeAge:  max(cmp.Or(c.NegativeAge, defaultNegativeAge), 0),
		fetchTimeout: cmp.Or(c.FetchTimeout, defaultFetchTimeout),
		cache:        newCache(cmp.Or(c.MaxEntries, defaultMaxEntries), cmp.Or(c.MaxBytes, defaultMaxBytes)),
		flights:      make(map[string]*flight),
	}
	if r.observer == nil {
		r.observer = unobserved{}
	}
	if r.now == nil {
		r.now = time.Now
	}
	if r.rand == nil {
		r.rand = rand.Float64
	}
	return r, nil
}

func newTransport(c Config) (*http.Transport, error) {
	guard, err := dial.NewGuard(dial.Config{
		AllowAddresses: c.AllowAddresses,
		DenyEndpoints:  c.DenyEndpoints,
		Denied: func(e *dial.DeniedError) {
			if c.Denied != nil {
				c.Denied(string(e.Reason))
			}
		},
	})
	if err != nil {
		return nil, err
	}
	return dial.NewTransport(dial.TransportConfig{
		Guard:                  guard,
		Resolver:               c.NameServer,
		DialTimeout:            cmp.Or(c.DialTimeout, defaultDialTimeout),
		MaxResponseHeaderBytes: maxHeaderBytes,
		MaxConnsPerHost:        maxConnsPerHost,
		TLS:                    &tls.Config{RootCAs: c.RootCAs},
	})
}

// ResolveKey returns the key that kid names in the document of did: from the cache while that is fresh, otherwise after a
// fetch. kid is a DID URL of did, a fragment with or without "#", or did itself for the only key of its document. The
// caller has bound did to the request before: this method fetches for any DID.
//
// A key that a fresh document in the cache lacks is looked for once more at its host, so that a consumer's new key works
// at once. That is limited per DID; see ErrRefetchLimited. When the host fails, a key seen before is good for a while
// longer (Config.StaleIfError).
//
// The result is an *ecdsa.PublicKey (P-256, P-384), an ed25519.PublicKey or an *rsa.PublicKey. The error is an *Error.
func (r *Resolver) ResolveKey(ctx context.Context, did, kid string) (crypto.PublicKey, error) {
	return r.resolve(ctx, did, kid, false)
}

// RefetchKey is ResolveKey past the cache: it returns what the host says now. It is for a signature that the key of
// ResolveKey did not match, since a key can be replaced under its old name. It is limited per DID, five at once and then
// one every 5 s; beyond that the answer is that of a document younger than 5 s, or the error wraps ErrRefetchLimited and is
// no refusal.
func (r *Resolver) RefetchKey(ctx context.Context, did, kid string) (crypto.PublicKey, error) {
	return r.resolve(ctx, did, kid, true)
}

// Close ends the fetches under way, whose callers get an error that wraps ErrClosed, and waits for them. Later calls
// get the same error.
func (r *Resolver) Close() error {
	r.mu.Lock()
	r.closed = true
	for _, f := range r.flights {
		f.cancel(ErrClosed)
	}
	r.mu.Unlock()
	r.fetching.Wait()
	r.transport.CloseIdleConnections()
	return nil
}

// resolve turns the typed errors into an interface in one place: a nil *Error in an error is not nil.
func (r *Resolver) resolve(ctx context.Context, did, kid string, past bool) (crypto.PublicKey, error) {
	key, err := r.find(ctx, did, kid, past)
	if err != nil {
		return nil, err
	}
	return key, nil
}

func (r *Resolver) find(ctx context.Context, did, kid string, past bool) (crypto.PublicKey, *Error) {
	id, err := parse(did)
	if err != nil {
		return nil, err
	}
	fragment, err := id.fragment(kid)
	if err != nil {
		return nil, err
	}
	if id.method == methodWeb {
		return r.findWeb(ctx, id, fragment, past)
	}
	doc, err := r.decoded(id)
	if err != nil {
		return nil, err
	}
	return doc.key(fragment)
}

// decoded returns the document of a DID that is its own document. It never changes, so there is nothing to refetch.
func (r *Resolver) decoded(id identifier) (*document, *Error) {
	r.mu.Lock()
	closed, known := r.closed, r.cache.peek(id.did)
	r.mu.Unlock()
	if closed {
		return nil, id.fail(CodeClosed, ErrClosed)
	}
	if known != nil {
		return known, nil
	}
	// Only good ones are kept, so that made-up DIDs push nothing out.
	doc, err := selfContained(id)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	rec := r.cache.get(id.did)
	rec.doc = doc
	r.cache.account(rec)
	return doc, nil
}

type unobserved struct{}

func (unobserved) Fetched(string, time.Duration) {}
