package caddymodule

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/dustin/go-humanize"
	"go.uber.org/zap"

	"github.com/edrgate/edrgate/oauth"
	"github.com/edrgate/edrgate/tokens"
)

// Limits bound what one party can take of the gateway. How long clients may take with headers, and with reading and
// writing, and how large headers may be, are limits of Caddy's servers.
type Limits struct {
	// RequestsPerFlow is how many data requests of one flow are served at once; further ones get 429. -1: any number.
	// Default: 512, or RequestsPerConsumer where that is less.
	RequestsPerFlow int `json:"requests_per_flow,omitempty"`

	// RequestsPerConsumer is the same for all flows together of one consumer: of the DID that they are bound to, otherwise
	// of the counterparty. -1: any number. Default: 2048, or four times RequestsPerFlow where that is more.
	RequestsPerConsumer int `json:"requests_per_consumer,omitempty"`

	// Renewals is how many renewals are worked on at once; further ones get 503, and consumers try again. They have a bound
	// of their own, so that data is served when all tokens are renewed at one time. Default: 256.
	Renewals int `json:"renewals,omitempty"`

	// RenewalsPerConsumer is the same for those of one consumer: where its DID host is slow, the others have room. Default: half
	// of Renewals, 128.
	RenewalsPerConsumer int `json:"renewals_per_consumer,omitempty"`

	// Starts is how many starts and prepares of one control plane are worked on at once at each edr_signaling. Default: 16.
	Starts int `json:"starts,omitempty"`

	// StartWait is how long further ones wait for their turn, before they get 503. At most 25s, since EDC waits 30 s for an
	// answer. Default: 20s.
	StartWait caddy.Duration `json:"start_wait,omitempty"`

	// TokenBytes is the longest access token, and the longest proof of a renewal. From 1 KiB to 64 KiB. Longer ones than
	// max_header_size of Caddy's server do not get here. Default: 16 KiB.
	TokenBytes int `json:"token_bytes,omitempty"`

	// MessageBytes is the largest body of a renewal and of a signaling message, and the longest query of a renewal. From
	// 4 KiB to 16 MiB. Bodies of data requests have no limit. Default: 64 KiB.
	MessageBytes int64 `json:"message_bytes,omitempty"`

	// MessageTimeout is how long the body of a renewal or of a signaling message may take to come; then it is 503. The
	// doors of a consumer take it for what they read themselves, too. Default: 10s.
	MessageTimeout caddy.Duration `json:"message_timeout,omitempty"`
}

// unlimited in place of a number says that there is no limit.
const unlimited = -1

// The defaults, and the bounds of what makes sense (docs/decisions: limits).
const (
	defaultRequestsPerFlow     = 512
	defaultRequestsPerConsumer = 4 * defaultRequestsPerFlow // at least; a consumer has several flows
	defaultRenewals            = 256
	defaultStarts              = 16
	defaultStartWait           = caddy.Duration(20 * time.Second)
	defaultMessageTimeout      = caddy.Duration(10 * time.Second)

	maxStartWait    = caddy.Duration(25 * time.Second)
	minTokenBytes   = 1 << 10
	maxTokenBytes   = 64 << 10
	minMessageBytes = 4 << 10
	maxMessageBytes = 16 << 20
)

func (l *Limits) setDefaults() {
	perFlow := defaultRequestsPerFlow
	if l.RequestsPerConsumer > 0 {
		perFlow = min(perFlow, l.RequestsPerConsumer)
	}
	l.RequestsPerFlow = orDefault(l.RequestsPerFlow, perFlow)
	l.RequestsPerConsumer = orDefault(l.RequestsPerConsumer, max(4*l.RequestsPerFlow, defaultRequestsPerConsumer))
	l.Renewals = orDefault(l.Renewals, defaultRenewals)
	l.RenewalsPerConsumer = orDefault(l.RenewalsPerConsumer, (l.Renewals+1)/2)
	l.Starts = orDefault(l.Starts, defaultStarts)
	l.StartWait = orDefault(l.StartWait, defaultStartWait)
	l.TokenBytes = orDefault(l.TokenBytes, oauth.DefaultTokenLimit)
	l.MessageBytes = orDefault(l.MessageBytes, oauth.DefaultFormLimit)
	l.MessageTimeout = orDefault(l.MessageTimeout, defaultMessageTimeout)
}

func (l *Limits) check() error {
	switch {
	case l.RequestsPerFlow < unlimited || l.RequestsPerConsumer < unlimited:
		return errors.New("requests_per_flow and requests_per_consumer must be above 0, or -1 for any number")
	case l.Renewals < 0 || l.RenewalsPerConsumer < 0 || l.Starts < 0:
		return errors.New("renewals, renewals_per_consumer and starts must be above 0")
	case l.RequestsPerConsumer > 0 && l.RequestsPerFlow > l.RequestsPerConsumer:
		return errors.New("requests_per_flow is above requests_per_consumer, so that no flow ever gets there")
	case l.RenewalsPerConsumer > l.Renewals:
		return errors.New("renewals_per_consumer is above renewals, so that one consumer can take all of them")
	case l.StartWait < 0 || l.StartWait > maxStartWait:
		return fmt.Errorf("start_wait must be above 0 and at most %s", time.Duration(maxStartWait))
	case l.TokenBytes < minTokenBytes || l.TokenBytes > maxTokenBytes:
		return fmt.Errorf("token must be from %s to %s", humanize.IBytes(minTokenBytes), humanize.IBytes(maxTokenBytes))
	case l.MessageBytes < minMessageBytes || l.MessageBytes > maxMessageBytes:
		return fmt.Errorf("message must be from %s to %s", humanize.IBytes(minMessageBytes), humanize.IBytes(maxMessageBytes))
	case l.MessageTimeout < 0:
		return errors.New("message_timeout must be above 0")
	}
	return nil
}

// requests are the limits of data requests.
func (l *Limits) requests() tokens.RequestLimits {
	return tokens.RequestLimits{PerFlow: max(l.RequestsPerFlow, 0), PerConsumer: max(l.RequestsPerConsumer, 0)}
}

// parseLimits reads the block limits.
func (a *App) parseLimits(d *caddyfile.Dispenser) error {
	if d.NextArg() {
		return d.ArgErr()
	}
	if a.Limits == nil {
		a.Limits = new(Limits)
	}
	l := a.Limits
	return parseBlock(d, "limits", map[string]func(*caddyfile.Dispenser) error{
		"requests_per_flow":     number(&l.RequestsPerFlow, true),
		"requests_per_consumer": number(&l.RequestsPerConsumer, true),
		"renewals":              number(&l.Renewals, false),
		"renewals_per_consumer": number(&l.RenewalsPerConsumer, false),
		"starts":                number(&l.Starts, false),
		"start_wait":            positive(&l.StartWait),
		"token":                 bytesBetween(&l.TokenBytes, minTokenBytes, maxTokenBytes),
		"message":               bytesBetween(&l.MessageBytes, minMessageBytes, maxMessageBytes),
		"message_timeout":       positive(&l.MessageTimeout),
	})
}

// number is for a count above 0, or the word off where there can be no limit.
func number(field *int, canBeOff bool) func(*caddyfile.Dispenser) error {
	return func(d *caddyfile.Dispenser) error {
		name := d.Val()
		var value string
		if !d.AllArgs(&value) {
			return d.ArgErr()
		}
		if canBeOff && value == "off" {
			return setOnce(d, name, field, unlimited)
		}
		parsed, err := strconv.Atoi(value)
		if err != nil || parsed <= 0 {
			alternative := ""
			if canBeOff {
				alternative = ", or off"
			}
			return d.Errf("%s: %q is not a number above 0%s", name, value, alternative)
		}
		return setOnce(d, name, field, parsed)
	}
}

// bytesBetween is for a size in bytes with bounds.
func bytesBetween[T int | int64](field *T, least, most uint64) func(*caddyfile.Dispenser) error {
	return func(d *caddyfile.Dispenser) error {
		name := d.Val()
		var value string
		if !d.AllArgs(&value) {
			return d.ArgErr()
		}
		parsed, err := humanize.ParseBytes(value)
		if err != nil || parsed < least || parsed > most {
			return d.Errf("%s: %q is not a size from %s to %s, such as 16KiB", name, value, humanize.IBytes(least), humanize.IBytes(most))
		}
		return setOnce(d, name, field, T(parsed))
	}
}

// inFlight counts what is worked on at once.
type inFlight struct {
	now   atomic.Int64
	limit int64
}

// enter reports whether there is room for one more. Then leave must be called at its end.
func (f *inFlight) enter() bool {
	if f.now.Add(1) <= f.limit {
		return true
	}
	f.now.Add(-1)
	return false
}

func (f *inFlight) leave() { f.now.Add(-1) }

// timeBody cuts a body off that does not come in time: a client that sends a byte now and then holds no more than its
// connection, and that for a known time. readLeft of what it returns is to be called when the request is answered; not by
// defer, since a panic has no answer yet.
func timeBody(w http.ResponseWriter, r *http.Request, timeout time.Duration) *timedBody {
	if r.Body == nil || r.Body == http.NoBody || r.ContentLength == 0 {
		return nil
	}
	controller := http.NewResponseController(w)
	err := controller.SetReadDeadline(time.Now().Add(timeout))
	if err != nil {
		return nil // not a connection
	}
	// A client that asks before it sends its body needs the answer only (RFC 9110 §10.1.1).
	body := &timedBody{ReadCloser: r.Body, controller: controller, closing: r.Close && r.Header.Get("Expect") == ""}
	r.Body = body
	return body
}

// timedBody takes the deadline back at the body's end: later it would end the request.
type timedBody struct {
	io.ReadCloser
	controller *http.ResponseController
	closing    bool // the client closes the connection after this request
	ended      bool
}

func (b *timedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.ended = b.ended || err != nil
	if err == io.EOF {
		_ = b.controller.SetReadDeadline(time.Time{}) // it could be set, so it can be taken back
	}
	return n, err
}

// maxLeftBytes is what is read at most of the rest of a body that was answered before its end: as much as net/http reads.
const maxLeftBytes = 256 << 10

// readLeft sends the answer and reads the rest of a body that was answered before its end, when the client closes the connection
// after its request. net/http does so only where it keeps the connection. Others it closes over what is still on its way, which
// resets them, and the answer may be lost (RFC 9112 §9.6).
func (b *timedBody) readLeft() {
	if b == nil || !b.closing || b.ended {
		return
	}
	err := b.controller.Flush()
	if err == nil {
		_, _ = io.CopyN(io.Discard, b, maxLeftBytes) // it is answered whatever comes
	}
}

// warnOfPatience warns of a server whose clients may take as long as they like. Headers and idle connections cost memory
// before any handler is asked, so these are Caddy's to limit. It also warns of an option that makes one request out of another.
func warnOfPatience(ctx caddy.Context, logger *zap.Logger) {
	server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if !ok {
		return
	}
	if server.EnableFullDuplex && server.ReadIdleTimeout >= 0 {
		// net/http does not see behind the reader that read_body_idle puts around a body (RFC 9112 §11.2, and answersEarly).
		logger.Error("enable_full_duplex lets clients write requests into bodies that are answered before they are read: "+
			"remove it, or set read_body_idle to -1s", zap.Strings("listen", server.Listen))
	}
	var missing []string
	if server.ReadHeaderTimeout <= 0 {
		missing = append(missing, "read_header")
	}
	if server.IdleTimeout <= 0 {
		missing = append(missing, "idle")
	}
	// Caddy's own defaults of these two are a minute; 0 is what is not set yet.
	if server.ReadIdleTimeout < 0 {
		missing = append(missing, "read_body_idle")
	}
	if server.WriteIdleTimeout < 0 {
		missing = append(missing, "write_idle")
	}
	if len(missing) > 0 {
		logger.Warn("slow clients are not limited, or by Caddy's defaults only: set servers { timeouts { … } } in the global options",
			zap.Strings("timeouts", missing), zap.Strings("listen", server.Listen))
	}
}
