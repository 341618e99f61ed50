package caddymodule

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/edrgate/edrgate/consumer"
	"github.com/edrgate/edrgate/oauth"
)

// EDRDoor is what edr_consumer and edr_egress have in common: who may come in. Whoever does uses the data that other
// companies give to the participant, so without APIKeys and AllowRemote that is nobody but this machine, and never a web page.
type EDRDoor struct {
	// Participant is whose EDRs these are. Default: the only one, or of several the app's own.
	Participant string `json:"participant,omitempty"`

	// APIKeys are what clients show in the header X-Api-Key, or as a bearer token: placeholders such as
	// {file./run/secrets/key}, replaced when the config is loaded. Written here in clear they would be shown by the admin
	// API. Default: none is asked for.
	APIKeys []string `json:"api_keys,omitempty"`

	// AllowRemote lets clients of other machines in without an API key: a handler before this one, such as basic_auth, or
	// the TLS connection policies say who may come. Default: without API keys only this machine may.
	AllowRemote bool `json:"allow_remote,omitempty"`

	// Hosts are the names by which clients call this site, without ports. A request for another name is refused, since a
	// web page can have its own name point here (DNS rebinding). Default: the address of the listener, and localhost on the
	// loopback interface.
	Hosts []string `json:"hosts,omitempty"`

	participant *participant
	logger      *slog.Logger
	keys        [][sha256.Size]byte
	local       bool // only this machine may come
}

const headerAPIKey = "X-Api-Key" // as EDC's management API has it

func (d *EDRDoor) provision(ctx caddy.Context, directive string) error {
	var err error
	d.participant, err = configuredParticipant(ctx, d.Participant)
	if err != nil {
		return err
	}
	if d.participant.Consumer == nil {
		return fmt.Errorf("%s: %w", directive, d.participant.fault(errNoConsumer))
	}
	d.logger = ctx.Slogger()
	replacer := caddy.NewReplacer()
	for _, configured := range d.APIKeys {
		key, err := headerSecret(replacer, d.logger, "api_key", configured)
		if err != nil {
			return err
		}
		if key == "" {
			return errors.New("api_key is empty")
		}
		d.keys = append(d.keys, sha256.Sum256([]byte(key.Reveal())))
	}
	d.local = len(d.keys) == 0 && !d.AllowRemote
	return d.checkListeners(ctx, directive)
}

// checkListeners refuses a door without a lock where other machines reach it. Where Caddy does not say whose handler this
// is, the check of each request has to do.
func (d *EDRDoor) checkListeners(ctx caddy.Context, directive string) error {
	server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if !ok || !d.local {
		return nil
	}
	for _, listen := range server.Listen {
		own, err := isOwnMachine(listen)
		if err != nil {
			return err
		}
		if !own {
			return fmt.Errorf("%s: listener %s can be reached from other machines, and nobody is asked who he is: "+
				"write `api_key`, or `allow_remote` where basic_auth or the like comes before it, or bind the listener to 127.0.0.1", directive, listen)
		}
	}
	return nil
}

// admit answers a request that may not come in, and reports whether it may.
func (d *EDRDoor) admit(w http.ResponseWriter, r *http.Request) bool {
	if r.Header.Get(headerAPIKey) != "" {
		// The access log would show the header. A line of our own takes its place.
		caddyhttp.SetVar(r.Context(), caddyhttp.LogSkipVar, true)
		d.logger.Info("request with an API key", "method", r.Method, "path", r.URL.Path, "remote", r.RemoteAddr)
	}
	refusal := d.refusal(r)
	if refusal == nil {
		return true
	}
	d.logger.Info("request refused", "reason", refusal.Message, "host", r.Host, "remote", r.RemoteAddr)
	d.refuse(w, *refusal)
	return false
}

func (d *EDRDoor) refusal(r *http.Request) *oauth.Refusal {
	switch {
	case d.local && !cameByLoopback(r):
		return &oauth.Refusal{Status: http.StatusForbidden, Message: "only clients on the same machine are served here"}
	case !d.isOwnName(r):
		return &oauth.Refusal{Status: http.StatusMisdirectedRequest, Message: "the Host header does not name this site"}
	case isForeignPage(r):
		return &oauth.Refusal{Status: http.StatusForbidden, Message: "sent by a web page of another origin"}
	case len(d.keys) > 0 && !d.knowsKey(r):
		return &oauth.Refusal{Status: http.StatusUnauthorized, Message: "Request could not be authenticated"}
	}
	return nil
}

// isOwnName reports whether the Host header is one of the site's own: a page whose name is made to resolve to us (DNS
// rebinding) is of the same origin as we, for its browser.
func (d *EDRDoor) isOwnName(r *http.Request) bool {
	name := hostname(r.Host)
	if slices.ContainsFunc(d.Hosts, func(host string) bool { return strings.EqualFold(host, name) }) {
		return true
	}
	local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if !ok {
		return false
	}
	if strings.HasPrefix(local.Network(), "unix") {
		return true // no browser gets here
	}
	address, err := netip.ParseAddrPort(local.String())
	if err != nil {
		return false
	}
	at := address.Addr().Unmap().WithZone("")
	if strings.EqualFold(name, "localhost") {
		return at.IsLoopback()
	}
	named, err := netip.ParseAddr(name)
	return err == nil && named.Unmap() == at
}

// hostname returns a Host header without its port.
func hostname(host string) string { return (&url.URL{Host: host}).Hostname() }

// isForeignPage reports whether a browser sent the request for a page of another origin (Fetch Metadata; RFC 6454 §7). Even
// a GET lends credentials here, so no method is exempt.
func isForeignPage(r *http.Request) bool {
	for _, site := range r.Header["Sec-Fetch-Site"] {
		if site != "" && site != "same-origin" && site != "none" {
			return true
		}
	}
	for _, origin := range r.Header["Origin"] {
		u, err := url.Parse(origin)
		if origin != "" && (err != nil || !strings.EqualFold(u.Host, r.Host)) {
			return true
		}
	}
	return false
}

func (d *EDRDoor) knowsKey(r *http.Request) bool {
	shown := r.Header.Get(headerAPIKey)
	if shown == "" {
		scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		if strings.EqualFold(scheme, "bearer") {
			shown = token
		}
	}
	digest := sha256.Sum256([]byte(shown))
	known := 0
	for _, key := range d.keys {
		known |= subtle.ConstantTimeCompare(key[:], digest[:])
	}
	return known == 1
}

// refuse writes an error as the EDC APIs do.
func (d *EDRDoor) refuse(w http.ResponseWriter, refusal oauth.Refusal) {
	w.Header().Set("Cache-Control", "no-store")
	_ = oauth.WriteError(w, oauth.EDC, refusal) // a client that is gone cannot be told so
}

// edrRetryAfter is when to ask again if nothing better is known.
const edrRetryAfter = 2 * time.Second

// fail answers an error of package consumer, about the EDR of a transfer process.
func (d *EDRDoor) fail(w http.ResponseWriter, id string, err error) { d.refuse(w, d.failure(id, err)) }

// failure logs such an error and returns its answer.
func (d *EDRDoor) failure(id string, err error) oauth.Refusal {
	refusal := refusalOfEDR(id, err)
	level := slog.LevelInfo
	if refusal.Status >= http.StatusInternalServerError {
		level = slog.LevelError
	}
	d.logger.Log(context.Background(), level, "EDR not served", "edr", id, "status", refusal.Status, "error", err)
	return refusal
}

func refusalOfEDR(id string, err error) oauth.Refusal {
	no := func(status int, message string) oauth.Refusal { return oauth.Refusal{Status: status, Message: message} }
	var e *consumer.Error
	if !errors.As(err, &e) {
		e = &consumer.Error{Code: consumer.CodeUnavailable}
	}
	switch e.Code {
	case consumer.CodeUnknown, consumer.CodeEnded:
		return no(http.StatusNotFound, "Object of type EndpointDataReferenceEntry with ID="+id+" was not found")
	case consumer.CodeSuspended:
		// As at an EDC, where a suspended transfer has no EDR.
		return no(http.StatusNotFound, "Object of type EndpointDataReferenceEntry with ID="+id+" was not found: the transfer is suspended")
	case consumer.CodeInvalid:
		return no(http.StatusBadRequest, strings.TrimPrefix(e.Error(), "edr: "+string(consumer.CodeInvalid)+": "))
	case consumer.CodeState:
		return no(http.StatusConflict, e.Detail)
	case consumer.CodeInsecure:
		return no(http.StatusBadRequest, e.Detail) // which field it is
	case consumer.CodeConflict:
		return no(http.StatusConflict, "the transfer is known with another provider or asset")
	case consumer.CodeRefused:
		if e.Status == http.StatusUnauthorized || e.Status == http.StatusForbidden {
			return no(http.StatusForbidden, "Unauthorized") // observed on Tractus-X 0.12.1
		}
		return no(http.StatusBadRequest, fmt.Sprintf("Cannot perform token refresh: the provider answered %d", e.Status))
	case consumer.CodeUnavailable:
		return oauth.Refusal{
			Status: http.StatusServiceUnavailable, Message: "cannot tell now, ask again later",
			RetryAfter: max(consumer.RetryAfterOf(err), edrRetryAfter),
		}
	}
	message, known := edrMessages[e.Code]
	if !known {
		message = "the EDR cannot be used"
	}
	return no(http.StatusBadRequest, message)
}

// edrMessages say what is wrong with an EDR.
var edrMessages = map[consumer.Code]string{
	consumer.CodeAudience:     "Cannot perform token refresh: refreshAudience is neither the provider nor this participant",
	consumer.CodeForeignToken: "Cannot perform token refresh: another EDR holds the access token",
	consumer.CodeCounterparty: "Cannot perform token refresh: the provider's DID is not known",
	consumer.CodeNotRenewable: "Cannot perform token refresh: the EDR has no refresh token, or nothing signs proofs here",
	consumer.CodeAuthType:     "the EDR wants another authorization than a bearer token",
	consumer.CodeOutside:      "the request does not lie under the EDR's endpoint",
}

// opened returns the EDRs, or answers that they cannot be read.
func (d *EDRDoor) opened(w http.ResponseWriter) *edrs {
	kept, err := d.participant.EDRs()
	if err != nil {
		d.fail(w, "", err)
		return nil
	}
	return kept
}

// readDoorBody reads a body of at most so many bytes, or returns the answer to one that is larger or does not come.
func readDoorBody(w http.ResponseWriter, r *http.Request, most int64) ([]byte, *oauth.Refusal) {
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, most))
	var large *http.MaxBytesError
	switch {
	case err == nil:
		return data, nil
	case errors.As(err, &large): // RFC 9110 §15.5.14
		return nil, &oauth.Refusal{
			Status: http.StatusRequestEntityTooLarge, Message: fmt.Sprintf("the body is larger than %d bytes", most),
		}
	case errors.Is(err, os.ErrDeadlineExceeded): // which says nothing about what it asks for
		return nil, &oauth.Refusal{
			Status: http.StatusServiceUnavailable, Message: "the body came too slowly", RetryAfter: edrRetryAfter,
		}
	}
	return nil, badRequest("the body could not be read")
}

func (d *EDRDoor) options() map[string]func(*caddyfile.Dispenser) error {
	return map[string]func(*caddyfile.Dispenser) error{
		"participant":  text(&d.Participant),
		"api_key":      appendText(&d.APIKeys),
		"allow_remote": func(x *caddyfile.Dispenser) error { return setFlag(x, &d.AllowRemote) },
		"host":         texts(&d.Hosts),
	}
}

// unmarshalOptions reads a directive that has options only.
func unmarshalOptions(d *caddyfile.Dispenser, options map[string]func(*caddyfile.Dispenser) error) error {
	return unmarshalBlock(d, func(d *caddyfile.Dispenser) error {
		parse, known := options[d.Val()]
		if !known {
			return d.Errf("unrecognized subdirective %q", d.Val())
		}
		return parse(d)
	}, func() error { return nil })
}

// splitPath returns the segments of an escaped path, each decoded on its own.
func splitPath(escaped string) ([]string, error) {
	parts := strings.Split(strings.TrimPrefix(escaped, "/"), "/")
	for i, part := range parts {
		decoded, err := url.PathUnescape(part)
		if err != nil {
			return nil, err
		}
		parts[i] = decoded
	}
	return parts, nil
}

// checkPrefixes checks paths that a handler lies below; "/" is none.
func checkPrefixes(option string, prefixes []string) error {
	for _, prefix := range prefixes {
		if !strings.HasPrefix(prefix, "/") || prefix != "/" && strings.HasSuffix(prefix, "/") || strings.ContainsAny(prefix, "?#*%") {
			return fmt.Errorf("%s %q must begin with / and be a plain path, without a trailing /", option, prefix)
		}
	}
	return nil
}

// below returns what of an escaped path lies below a prefix.
func below(prefix, escaped string) (string, bool) {
	if prefix == "/" {
		return escaped, true
	}
	rest, found := strings.CutPrefix(escaped, prefix)
	return rest, found && (rest == "" || rest[0] == '/')
}
