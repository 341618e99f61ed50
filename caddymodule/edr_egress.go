package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/textproto"
	"net/url"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/edrgate/edrgate/consumer"
	"github.com/edrgate/edrgate/internal/strictjson"
	"github.com/edrgate/edrgate/oauth"
)

func init() {
	caddy.RegisterModule(new(Egress))
	httpcaddyfile.RegisterHandlerDirective("edr_egress", func(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		handler := new(Egress)
		return handler, handler.UnmarshalCaddyfile(h.Dispenser)
	})
	httpcaddyfile.RegisterDirectiveOrder("edr_egress", httpcaddyfile.Before, "reverse_proxy")
}

// Egress sends the requests of local clients to other companies' data planes, with the tokens of the EDRs that a
// participant was given. It renews a token that has expired, and one that the data plane refuses, and sends the request
// again. Requests and answers stream, through Caddy's own proxy.
//
//	/{transfer process id}/…                   goes below the endpoint of the transfer's EDR
//	/-/…?asset=<id>[&provider=<id>]            goes to the only EDR of an asset; both parameters are not sent on
//	POST /aas/request                          the consumer proxy of Tractus-X EDC: says in its body what to GET
//
// The client's own credentials and cookies, and what tells of the network it is in, are not forwarded. CONNECT, TRACE and
// requests for another protocol are refused.
type Egress struct {
	EDRDoor

	// Prefix is the path below which all this lies. Default: /, all paths of the site.
	Prefix string `json:"prefix,omitempty"`

	inner *reverseproxy.Handler
}

// CaddyModule returns the Caddy module information.
func (*Egress) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.edr_egress", New: func() caddy.Module { return new(Egress) }}
}

// Provision takes the participant, reads the API keys and sets up the proxy.
func (h *Egress) Provision(ctx caddy.Context) error {
	h.Prefix = orDefault(h.Prefix, "/")
	err := checkPrefixes("prefix", []string{h.Prefix})
	if err != nil {
		return err
	}
	err = h.provision(ctx, "edr_egress")
	if err != nil {
		return err
	}
	h.inner, err = newEgressProxy(ctx, &h.EDRDoor)
	if err != nil {
		return fmt.Errorf("edr_egress: %w", err)
	}
	return nil
}

// Cleanup gives back what Caddy's proxy holds. Caddy calls it also when Provision failed half way.
func (h *Egress) Cleanup() error {
	if h.inner == nil {
		return nil
	}
	return h.inner.Cleanup()
}

const (
	bySelection  = "-" // in place of an id
	proxyRequest = "/aas/request"
)

// ServeHTTP sends a request on. Paths outside of the prefix go on to the next handler.
func (h *Egress) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	path, inside := below(h.Prefix, r.URL.EscapedPath())
	if !inside {
		return next.ServeHTTP(w, r)
	}
	if !h.admit(w, r) || !h.takes(w, r) {
		return nil
	}
	kept := h.opened(w)
	if kept == nil {
		return nil
	}
	var to *outgoing
	var refusal *oauth.Refusal
	var body *timedBody // what is only passed on is not timed
	if r.Method == http.MethodPost && path == proxyRequest {
		body = timeBody(w, r, time.Duration(h.participant.app.Limits.MessageTimeout))
		to, refusal = kept.proxyRequest(w, r)
	} else {
		to, refusal = kept.addressed(r, path)
	}
	if refusal != nil {
		h.refuse(w, *refusal)
		body.readLeft()
		return nil
	}
	to.edrs, to.writer = kept, w
	caddyhttp.SetVar(r.Context(), outgoingVar, to)
	err := h.inner.ServeHTTP(w, to.Request, next)
	if to.refusal != nil {
		h.refuse(w, *to.refusal)
		return nil
	}
	return err
}

// takes answers a request for what no data plane is asked for: TRACE would show the client the provider's token, CONNECT and
// a change of the protocol open tunnels, which outlive their flow.
func (h *Egress) takes(w http.ResponseWriter, r *http.Request) bool {
	switch {
	case r.Method == http.MethodConnect || r.Method == http.MethodTrace || !isToken(r.Method): // HTTP/2 carries any text
		w.Header().Set("Allow", methodsOfAll) // RFC 9110 §15.5.6
		h.refuse(w, oauth.Refusal{Status: http.StatusMethodNotAllowed, Message: "the method is not supported"})
	case wantsUpgrade(r.Header):
		h.refuse(w, oauth.Refusal{Status: http.StatusBadRequest, Message: "protocol upgrades are not supported"})
	default:
		return true
	}
	return false
}

func badRequest(format string, args ...any) *oauth.Refusal {
	return &oauth.Refusal{Status: http.StatusBadRequest, Message: fmt.Sprintf(format, args...)}
}

// addressed reads a request that names its EDR in its path.
func (e *edrs) addressed(r *http.Request, path string) (*outgoing, *oauth.Refusal) {
	first, rest, more := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	if more {
		rest = "/" + rest
	}
	id, err := url.PathUnescape(first)
	if err != nil || id == "" {
		return nil, &oauth.Refusal{Status: http.StatusNotFound, Message: "the path must begin with the id of a transfer process"}
	}
	query := r.URL.RawQuery
	if id == bySelection {
		var q consumer.Query
		query, err = takeSelection(query, &q)
		if err != nil {
			return nil, badRequest("%v", err)
		}
		var refusal *oauth.Refusal
		id, refusal = e.only(r.Context(), q, http.StatusNotFound)
		if refusal != nil {
			return nil, refusal
		}
	}
	decoded, err := url.PathUnescape(rest)
	if err != nil {
		return nil, badRequest("the path is not well encoded")
	}
	return newOutgoing(r, id, &url.URL{Path: decoded, RawPath: rest, RawQuery: query}), nil
}

// takeSelection takes asset and provider out of a query, and returns the rest as it was written.
func takeSelection(query string, q *consumer.Query) (string, error) {
	var rest []string
	for pair := range strings.SplitSeq(query, "&") {
		name, value, _ := strings.Cut(pair, "=")
		var field *string
		switch name {
		case "asset":
			field = &q.Asset
		case "provider":
			field = &q.Counterparty
		default:
			if pair != "" {
				rest = append(rest, pair)
			}
			continue
		}
		decoded, err := url.QueryUnescape(value)
		if err != nil || decoded == "" || *field != "" {
			return "", fmt.Errorf("%s must be there once, well encoded and not empty", name)
		}
		*field = decoded
	}
	if q.Asset == "" {
		return "", errors.New("asset is missing: /-/ takes the EDR of ?asset=<id>[&provider=<id>]")
	}
	return strings.Join(rest, "&"), nil
}

// only returns the one EDR that a selection has. Of several none is taken: they may be of different agreements.
func (e *edrs) only(ctx context.Context, q consumer.Query, none int) (string, *oauth.Refusal) {
	found, err := e.find(ctx, edrQuery{Query: q, limit: maxEntries})
	if err != nil {
		refusal := refusalOfEDR("", err)
		return "", &refusal
	}
	switch len(found) {
	case 0:
		return "", &oauth.Refusal{Status: none, Message: "no EDR found for the asset"}
	case 1:
		return found[0].ID, nil
	}
	// As Tractus-X's consumer proxy has it (RFC 6585 §3).
	return "", &oauth.Refusal{
		Status:  http.StatusPreconditionRequired,
		Message: fmt.Sprintf("%d EDRs found for the asset: say which by the provider, or by the id of the transfer process", len(found)),
	}
}

const maxProxyRequestBytes = 64 << 10

// proxyRequest reads a request to the consumer proxy of Tractus-X EDC, which always asks by GET.
func (e *edrs) proxyRequest(w http.ResponseWriter, r *http.Request) (*outgoing, *oauth.Refusal) {
	data, refusal := readDoorBody(w, r, maxProxyRequestBytes)
	if refusal != nil {
		return nil, refusal
	}
	asked, err := parseProxyRequest(data)
	if err != nil {
		return nil, badRequest("%v", err)
	}
	id := asked.id
	if id == "" {
		id, refusal = e.only(r.Context(), asked.Query, http.StatusBadRequest)
		if refusal != nil {
			return nil, refusal
		}
	}
	out := newOutgoing(r, id, asked.url)
	out.Method, out.Body, out.ContentLength, out.body = http.MethodGet, http.NoBody, 0, nil // it has been read here
	for name := range out.Header {
		if strings.HasPrefix(name, "Content-") { // of the body that was read here
			out.Header.Del(name)
		}
	}
	return out, nil
}

// proxyAsk is what a body of the consumer proxy asks for.
type proxyAsk struct {
	consumer.Query
	id  string
	url *url.URL
}

func parseProxyRequest(data []byte) (*proxyAsk, error) {
	m, err := strictjson.Parse(data, 0)
	if err != nil {
		return nil, fmt.Errorf("the body: %w", err)
	}
	p := &proxyAsk{url: new(url.URL)}
	path := ""
	fields := map[string]*string{
		"transferProcessId": &p.id, "assetId": &p.Asset, "providerId": &p.Counterparty,
		"pathSegments": &path, "queryParams": &p.url.RawQuery,
	}
	for name, raw := range m {
		field, known := fields[name]
		if !known {
			return nil, fmt.Errorf("member %.40q is not known", name)
		}
		if string(raw) == "null" {
			continue
		}
		*field, err = m.String(name)
		if err != nil {
			return nil, err
		}
	}
	if p.id == "" && p.Asset == "" {
		return nil, errors.New("transferProcessId is missing, and so is assetId")
	}
	if path != "" {
		path = "/" + strings.TrimPrefix(path, "/")
		p.url.Path, err = url.PathUnescape(path)
		if err != nil {
			return nil, errors.New("pathSegments is not well encoded")
		}
		p.url.RawPath = path
	}
	for _, c := range []byte(p.url.RawQuery) {
		if c <= ' ' || c > '~' || c == '#' {
			return nil, errors.New("queryParams is not well encoded")
		}
	}
	return p, nil
}

// localHeaders are about the client, its credentials and its network, and no business of another company.
var localHeaders = map[string]bool{
	"Authorization": true, "Cookie": true, headerAPIKey: true, "Forwarded": true, "Via": true, "Origin": true, "Referer": true,
}

// egressHeader is what a data plane gets to see of a client's header.
func egressHeader(in http.Header) http.Header {
	out := make(http.Header, len(in))
	named := connectionNamed(in)
	for name, values := range in {
		canonicalName := textproto.CanonicalMIMEHeaderKey(name)
		if isConnectionHeader(canonicalName) || named[canonicalName] || localHeaders[canonicalName] ||
			strings.HasPrefix(canonicalName, "X-Forwarded-") || strings.HasPrefix(canonicalName, "Sec-") || canonicalName == "X-Real-Ip" {
			continue
		}
		out[canonicalName] = values
	}
	if len(out["User-Agent"]) == 0 {
		out["User-Agent"] = []string{""} // net/http would add its own
	}
	return out
}

// connectionNamed are the headers that Connection makes ones of this connection only (RFC 9110 §7.6.1).
func connectionNamed(h http.Header) map[string]bool {
	named := map[string]bool{}
	for _, line := range h["Connection"] {
		for name := range strings.SplitSeq(line, ",") {
			named[textproto.CanonicalMIMEHeaderKey(strings.TrimSpace(name))] = true
		}
	}
	return named
}

// UnmarshalCaddyfile sets up the handler. Syntax:
//
//	edr_egress {
//		participant  <name>
//		api_key      <key>
//		allow_remote
//		host         <name...>
//		prefix       <path>
//	}
//
// api_key and host may be repeated.
func (h *Egress) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	options := h.options()
	options["prefix"] = text(&h.Prefix)
	return unmarshalOptions(d, options)
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Egress)(nil)
	_ caddy.CleanerUpper          = (*Egress)(nil)
	_ caddyhttp.MiddlewareHandler = (*Egress)(nil)
	_ caddyfile.Unmarshaler       = (*Egress)(nil)
)
