package caddymodule

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/edrgate/edrgate/internal/canonical"
	"github.com/edrgate/edrgate/tokens"
)

func init() {
	caddy.RegisterModule(new(Proxy))
	httpcaddyfile.RegisterHandlerDirective("edr_proxy", parseProxy)
	httpcaddyfile.RegisterDirectiveOrder("edr_proxy", httpcaddyfile.Before, "reverse_proxy")
}

// Proxy checks a data request as edr_auth does, and sends it to the flow's own backend: the address in the start
// message of a classic flow (HttpData, ProxyHttpData), or the backend of the flow's route. It needs no edr_auth before
// it and no dataset rule, since a token reaches only its own flow's backend. It answers every request: a handler after
// it is never reached.
//
// What lies below the flow's endpoint is appended to the backend's base path; the query passes byte for byte. Bodies
// are streamed both ways and no request is sent again. Of the client's headers only Accept*, Content-Type,
// Content-Encoding, Content-Language, Expect, If-*, Prefer, Range, traceparent, tracestate and User-Agent pass.
// Edc-Bpn, Edc-Contract-Agreement-Id and the headers and credentials of the flow's address are added.
//
// Redirects are not followed; a Location below the flow's base is rewritten to the endpoint, another one is removed, as
// are cookies, unless they are allowed, and what tells of the backend's software. A backend's 401, 403 and 407 are answered 502, but for
// ProxyHttpData. Refusals are answered as edr_auth answers them; an error of the backend (502, 504) is returned, so
// that error routes (handle_errors) apply.
//
// Where the address names a token endpoint (oauth2:tokenUrl), requests go out with a token of it, which is kept until it
// expires. A server that refuses one is 502, one that cannot be asked 503.
type Proxy struct {
	// Backends are the servers that flows may be proxied to, scheme://host[:port], or host:port for both schemes. The
	// addresses that a listed name resolves to are allowed, private ones too, but never those at which clouds hand out
	// credentials. Required.
	Backends []string `json:"backends,omitempty"`

	// Secrets are credentials that data addresses and routes may name, by name.
	Secrets map[string]*BackendSecret `json:"secrets,omitempty"`

	// RequestHeaders are names of client headers that are passed on beside those that always are.
	RequestHeaders []string `json:"request_headers,omitempty"`

	// FlattenStatus answers 200 for each 2xx of an HttpData backend and 500 for everything else, as the Tractus-X data
	// plane does. Range and If-* headers are then not passed on. Default: the backend's status.
	FlattenStatus bool `json:"flatten_status,omitempty"`

	// DialTimeout bounds connecting to a backend, name resolution included, and then the TLS handshake. Default: 3s.
	DialTimeout caddy.Duration `json:"dial_timeout,omitempty"`

	// ResponseHeaderTimeout bounds the wait for a backend's answer after the request was sent. Default: 30s.
	ResponseHeaderTimeout caddy.Duration `json:"response_header_timeout,omitempty"`

	// TrustPoolRaw says which authorities the certificates of backends may come from. Default: the system's.
	TrustPoolRaw json.RawMessage `json:"tls_trust_pool,omitempty" caddy:"namespace=tls.ca_pool.source inline_key=provider"`

	// ClientCertificate and ClientKey are PEM files of the certificate that is shown to backends. Default: none.
	ClientCertificate string `json:"tls_client_certificate,omitempty"`
	ClientKey         string `json:"tls_client_key,omitempty"`

	GateOptions

	gate      *gate
	backends  *backendList
	secrets   backendSecrets
	headers   map[string]bool
	transport *flowTransport
	inner     *reverseproxy.Handler
}

// CaddyModule returns the Caddy module information.
func (*Proxy) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.edr_proxy", New: func() caddy.Module { return new(Proxy) }}
}

// Provision reads the secrets, sets up the proxy and tells the app of it.
func (h *Proxy) Provision(ctx caddy.Context) error {
	p, err := configuredParticipant(ctx, h.Participant)
	if err != nil {
		return fmt.Errorf("edr_proxy: %w", err)
	}
	return h.provision(ctx, p)
}

func (h *Proxy) provision(ctx caddy.Context, app dataApp) error {
	err := h.check()
	if err != nil {
		return err
	}
	replacer := caddy.NewReplacer()
	h.secrets, err = newBackendSecrets(h.Secrets, h.backends, func(text string) (string, error) {
		return replacePlaceholders(replacer, text)
	})
	if err != nil {
		return fmt.Errorf("edr_proxy: %w", err)
	}
	h.gate = newGate(app, "edr_proxy", h.GateOptions, &tokens.Site{OwnBackend: true}, ctx.Logger())
	tlsConfig := &reverseproxy.TLSConfig{
		CARaw:                    h.TrustPoolRaw,
		ClientCertificateFile:    h.ClientCertificate,
		ClientCertificateKeyFile: h.ClientKey,
	}
	clientTLS, err := tlsConfig.MakeTLSClientConfig(ctx)
	if err != nil {
		return fmt.Errorf("edr_proxy: TLS to backends: %w", err)
	}
	h.transport, err = newFlowTransport(h.backends, transportSettings{
		dialTimeout:           time.Duration(h.DialTimeout),
		responseHeaderTimeout: time.Duration(h.ResponseHeaderTimeout),
		tls:                   clientTLS,
	}, h.headers, h.FlattenStatus, h.gate.observer)
	if err != nil {
		return fmt.Errorf("edr_proxy: %w", err)
	}
	// Built in code rather than from configuration, so that nothing can add retries, buffers or header operations.
	inner := &reverseproxy.Handler{Transport: h.transport, DynamicUpstreams: flowUpstreams{}}
	err = inner.Provision(ctx)
	if err != nil {
		return fmt.Errorf("edr_proxy: %w", err)
	}
	h.inner = inner
	return app.registerProxy(h)
}

// check reads what needs no file.
func (h *Proxy) check() error {
	var err error
	h.backends, err = newBackendList(h.Backends)
	if err != nil {
		return err
	}
	h.headers, err = allowedHeaders(h.RequestHeaders)
	if err != nil {
		return err
	}
	if h.DialTimeout < 0 || h.ResponseHeaderTimeout < 0 {
		return errors.New("dial_timeout and response_header_timeout must not be negative")
	}
	if (h.ClientCertificate == "") != (h.ClientKey == "") {
		return errors.New("tls_client_auth needs a certificate file and a key file")
	}
	for _, method := range h.Methods {
		if !dataMethods[method] && isToken(method) {
			return fmt.Errorf("methods: %s is never served by edr_proxy, only %s", method, methodsOfAll)
		}
	}
	return h.GateOptions.validate()
}

// Cleanup closes connections that are not in use. Caddy calls it also when Provision failed half way.
func (h *Proxy) Cleanup() error {
	if h.transport != nil {
		h.transport.CloseIdleConnections()
	}
	if h.inner != nil {
		return h.inner.Cleanup()
	}
	return nil
}

// checkSource returns nil if a flow with this data address can be served here. The error names the property at fault
// and quotes no value.
func (h *Proxy) checkSource(s *tokens.Source) error {
	_, err := newSourceTarget(s, h.backends, h.secrets)
	return err
}

// checkRoute returns nil if some flows of a route with this backend can be served here, as far as that can be told without
// one.
func (h *Proxy) checkRoute(t *routeTemplate) error { return t.check(h.backends, h.secrets) }

// checkTarget returns nil if a flow whose route comes to this backend can be served here.
func (h *Proxy) checkTarget(t *routeTarget) error {
	_, err := newRouteTarget(t, h.backends, h.secrets)
	return err
}

// ServeHTTP implements caddyhttp.MiddlewareHandler.
func (h *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	admitted := h.gate.admit(w, r)
	if admitted == nil {
		return nil
	}
	defer admitted.end()
	to, err := h.targetOf(admitted.access)
	if err != nil {
		return h.refuseTarget(w, r, admitted.access, err)
	}
	passed, err := to.shape(r)
	if err != nil {
		h.gate.refuse(w, r, refusal{reason: reasonBody, detail: err.Error(), dialect: admitted.access.Dialect()})
		return nil
	}
	token, err := h.backendToken(r.Context(), to)
	if err != nil {
		return h.refuseBackendToken(w, r, admitted.access, err)
	}
	h.dropUnforwarded(r.Header)
	caddyhttp.SetVar(r.Context(), deliveryVar, &delivery{
		grant:   admitted,
		target:  to,
		below:   belowEndpoint(admitted.access.EndpointPath(), admitted.path, r.URL.EscapedPath()),
		shape:   passed,
		writer:  w,
		token:   token,
		cookies: h.AllowSetCookie,
	})
	return h.inner.ServeHTTP(w, r, next)
}

// dropUnforwarded removes what the transport would not send. Caddy's proxy logs the request that it gets, at DEBUG, and
// must not show the consumer's credentials for somebody else, such as an X-Api-Key.
func (h *Proxy) dropUnforwarded(header http.Header) {
	for name := range header {
		ours := name == headerBPN || name == headerAgreement
		if !ours && !contentHeaders[name] && !forwardedByDefault(name) && !h.headers[name] {
			delete(header, name)
		}
	}
}

// errNoBackend is for a flow whose start message named no backend and whose route has none.
var errNoBackend = errors.New("the flow has no backend of its own")

// refuseTarget answers a request whose flow has no backend that may be asked.
func (h *Proxy) refuseTarget(w http.ResponseWriter, r *http.Request, access *tokens.Access, err error) error {
	if errors.Is(err, errNoBackend) {
		h.gate.refuse(w, r, refusal{reason: string(tokens.CodeWrongDataset), dialect: access.Dialect()})
		return nil
	}
	var trouble *tokens.Error
	if errors.As(err, &trouble) {
		h.gate.refuseUnavailable(w, r, err)
		return nil
	}
	// The configuration has changed since the flow was started: a backend or secret is not listed any more.
	h.gate.observer.Backend(backendMisconfigured)
	leaveBody(w, r)
	return caddyhttp.Error(http.StatusBadGateway, fmt.Errorf("backend of flow %s: %w", access.FlowID(), err))
}

// targets are the targets of one token's flow by edr_proxy: what a flow may reach depends on the site's configuration,
// and several sites share the verdict on a token.
type targets struct{ byProxy sync.Map }

// targetOf returns the flow's backend as this edr_proxy sees it. It is built once for each token.
func (h *Proxy) targetOf(access *tokens.Access) (*target, error) {
	memo, err := access.Backend(func(*tokens.Access) (any, error) { return new(targets), nil })
	if err != nil {
		return nil, err
	}
	known, ok := memo.(*targets)
	if !ok {
		return nil, fmt.Errorf("a %T is kept in place of the targets", memo)
	}
	built, ok := known.byProxy.Load(h)
	if ok {
		return built.(*target), nil
	}
	to, err := h.buildTarget(access)
	if err != nil {
		return nil, err
	}
	known.byProxy.Store(h, to)
	return to, nil
}

func (h *Proxy) buildTarget(access *tokens.Access) (*target, error) {
	source, err := access.Source()
	if err != nil {
		return nil, err
	}
	if source != nil {
		return newSourceTarget(source, h.backends, h.secrets)
	}
	routed := access.Routed()
	if routed.Err != nil {
		return nil, fmt.Errorf("route %s: %w", routed.Route, routed.Err)
	}
	route, ok := routed.Backend.(*routeTarget)
	if !ok {
		return nil, errNoBackend
	}
	return newRouteTarget(route, h.backends, h.secrets)
}

// belowEndpoint returns what lies below the flow's endpoint. sent is the canonical path that the client sent, current
// what handlers before us made of it; endpoint has no trailing slash.
func belowEndpoint(endpoint, sent, current string) string {
	below, _ := canonical.Under(sent, endpoint) // the gate has checked that it lies there
	if sent == current {
		return below
	}
	if strings.HasSuffix(sent, current) {
		// A prefix was taken off. If part of the endpoint is left, that is not the backend's business either.
		if len(current) > len(below) {
			return below
		}
		return current
	}
	rest, ok := canonical.Under(current, endpoint)
	if ok {
		return rest
	}
	return current
}

// flowUpstreams tells Caddy's proxy where a request goes, for its placeholders and metrics; flowTransport decides. The
// host's grammar has been checked, so that Caddy's replacer finds no placeholder in it.
type flowUpstreams struct{}

// GetUpstreams implements reverseproxy.UpstreamSource.
func (flowUpstreams) GetUpstreams(r *http.Request) ([]*reverseproxy.Upstream, error) {
	d, ok := caddyhttp.GetVar(r.Context(), deliveryVar).(*delivery)
	if !ok {
		return nil, errNoDelivery
	}
	return []*reverseproxy.Upstream{{Dial: d.target.origin.authority()}}, nil
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Proxy)(nil)
	_ caddy.CleanerUpper          = (*Proxy)(nil)
	_ caddyhttp.MiddlewareHandler = (*Proxy)(nil)
	_ caddyfile.Unmarshaler       = (*Proxy)(nil)
	_ reverseproxy.UpstreamSource = flowUpstreams{}
)
