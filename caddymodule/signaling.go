package caddymodule

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/edrgate/edrgate/signaling"
	"github.com/edrgate/edrgate/signaling/controlplane"
	"github.com/edrgate/edrgate/tokens"
)

func init() {
	caddy.RegisterModule(new(Signaling))
	httpcaddyfile.RegisterHandlerDirective("edr_signaling", func(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		handler := new(Signaling)
		return handler, handler.UnmarshalCaddyfile(h.Dispenser)
	})
	httpcaddyfile.RegisterDirectiveOrder("edr_signaling", httpcaddyfile.Before, "basic_auth")
}

// Signaling takes the messages by which a control plane starts, suspends, resumes and ends data flows: Data Plane
// Signaling on /dataflows and /controlplanes and EDC's classic signaling on /v1/dataflows, each also below
// /<participant>. Other participants than the app's own are only reached below their names. Other paths go on to the next
// handler.
//
// Whoever may signal makes tokens. Put it on a listener of its own that only the control plane reaches, and say who may
// use it. Without auth it answers nobody but this machine.
type Signaling struct {
	// Auth are the ways in. Default: none, which is an error unless all listeners are on the loopback interface.
	Auth []SignalingAuth `json:"auth,omitempty"`

	// Protocols are the dialects spoken: "dps" and "edc". Default: both.
	Protocols []string `json:"protocols,omitempty"`

	app          *App
	logger       *slog.Logger
	dialects     []tokens.Dialect
	loopbackOnly bool
	served       []servedParticipant
	keySets      []*http.Transport // to where key sets are
}

// servedParticipant is a participant whose control planes are let in.
type servedParticipant struct {
	*participant
	handler *signaling.Handler
}

// CaddyModule returns the Caddy module information.
func (*Signaling) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.edr_signaling", New: func() caddy.Module { return new(Signaling) }}
}

// Provision reads the tokens and builds the handler.
func (h *Signaling) Provision(ctx caddy.Context) error {
	var err error
	h.app, err = configuredApp(ctx)
	if err != nil {
		return err
	}
	h.logger = ctx.Slogger()
	h.dialects, err = dialectsOf(h.Protocols)
	if err != nil {
		return err
	}
	err = h.checkRefreshPath()
	if err != nil {
		return err
	}
	access, err := h.access(caddy.NewReplacer())
	if err != nil {
		return fmt.Errorf("auth: %w", err)
	}
	err = h.checkListeners(ctx)
	if err != nil {
		return err
	}
	err = h.checkClientAuth(ctx)
	if err != nil {
		return err
	}
	for _, p := range h.app.participants {
		list := access[p]
		if list == nil {
			continue // nobody is let in, so that its paths are not ours
		}
		handler, err := h.handlerOf(p, list)
		if err != nil {
			return p.fault(err)
		}
		h.served = append(h.served, servedParticipant{p, handler})
		p.sites.signalings = append(p.sites.signalings, h)
	}
	return nil
}

func (h *Signaling) handlerOf(p *participant, access signaling.Access) (*signaling.Handler, error) {
	logger := h.logger
	if len(h.app.participants) > 1 {
		logger = logger.With("participant", p.name)
	}
	return signaling.New(signaling.Config{
		Flows:       flowsOf{p},
		Received:    p.received(),
		Access:      access,
		Serving:     func() *signaling.Serving { return p.sites.serving },
		Participant: p.name,
		BelowName:   p.prefix != "",
		DID:         p.DID,
		Dialects:    h.dialects,
		CheckSource: p.sites.checkSource,
		CheckRoute:  p.checkRoute,
		Planes:      flowsOf{p},
		CheckCallback: func(c tokens.Caller, endpoint string) error {
			return controlplane.CheckCallback(p.calls[string(c)], endpoint)
		},
		Differs: func(c tokens.Caller, said *tokens.PlaneAuthorization) string {
			return p.grants[string(c)].Differs(said)
		},
		AsyncPrepare: p.preparesLater,
		StartsAtOnce: h.app.Limits.Starts,
		StartWait:    time.Duration(h.app.Limits.StartWait),
		MaxBodyBytes: h.app.Limits.MessageBytes,

		Checked:  func(c tokens.Caller) { p.register.Checked(string(c), time.Now()) },
		Observer: p.observer,
		Logger:   logger,
	})
}

func dialectsOf(protocols []string) ([]tokens.Dialect, error) {
	if len(protocols) == 0 {
		return []tokens.Dialect{tokens.DPS, tokens.Classic}, nil
	}
	dialects := make([]tokens.Dialect, 0, len(protocols))
	for _, protocol := range protocols {
		dialect := tokens.Dialect(protocol)
		if dialect != tokens.DPS && dialect != tokens.Classic {
			return nil, fmt.Errorf("protocol %q is none of dps, edc", protocol)
		}
		if slices.Contains(dialects, dialect) {
			return nil, fmt.Errorf("protocol %s is listed twice", protocol)
		}
		dialects = append(dialects, dialect)
	}
	return dialects, nil
}

func (h *Signaling) speaks(dialect tokens.Dialect) bool { return slices.Contains(h.dialects, dialect) }

// checkRefreshPath refuses a path that consumers of the classic dialect would not find: Tractus-X appends /token to a
// refreshEndpoint that does not end in it.
func (h *Signaling) checkRefreshPath() error {
	if !h.speaks(tokens.Classic) || strings.HasSuffix(h.app.RefreshPath, tokens.DefaultRefreshPath) {
		return nil
	}
	return fmt.Errorf("refresh_path %s must end in %s, since consumers of EDC's classic signaling append it; or give edr_signaling only `protocol dps`",
		h.app.RefreshPath, tokens.DefaultRefreshPath)
}

// checkListeners refuses edr_signaling without authentication where others than this machine can reach it: whoever
// signals makes tokens. Where Caddy does not say whose handler this is, the check of each request has to do.
func (h *Signaling) checkListeners(ctx caddy.Context) error {
	server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if !ok || !h.loopbackOnly {
		return nil
	}
	for _, listen := range server.Listen { // Caddy has replaced the placeholders in them
		err := checkLoopback(listen)
		if err != nil {
			return err
		}
	}
	return nil
}

// isOwnMachine reports whether only this machine can reach a listener.
func isOwnMachine(listen string) (bool, error) {
	address, err := caddy.ParseNetworkAddress(listen)
	if err != nil {
		return false, fmt.Errorf("listener %s: %w", listen, err)
	}
	return address.IsUnixNetwork() || address.IsFdNetwork() || isLoopback(address.Host), nil
}

func checkLoopback(listen string) error {
	own, err := isOwnMachine(listen)
	if err != nil || own {
		return err
	}
	return fmt.Errorf("listener %s can be reached from other machines, and nobody is asked who he is: "+
		"write `auth bearer`, `auth oauth2`, `auth mtls`, `auth network` or, if you must, `auth none insecure`, or bind it to 127.0.0.1", listen)
}

// Cleanup closes the connections to where key sets are.
func (h *Signaling) Cleanup() error {
	closeIdle(h.keySets)
	return nil
}

// ServeHTTP answers messages of control planes.
func (h *Signaling) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	at := slices.IndexFunc(h.served, func(s servedParticipant) bool { return s.handler.Serves(r) })
	if at < 0 {
		return next.ServeHTTP(w, r)
	}
	to := h.served[at]
	if h.loopbackOnly && !cameByLoopback(r) {
		// The check of the configured listeners has not seen this one, for example a socket that was handed to Caddy.
		h.logger.Error("signaling message refused: edr_signaling has no auth, and this listener can be reached from other machines",
			"remote", r.RemoteAddr)
		w.WriteHeader(http.StatusForbidden)
		return nil
	}
	_, err := to.Service()
	if err != nil {
		h.logger.Error("signaling message not answered", "error", err)
		w.Header().Set("Retry-After", "2")
		w.WriteHeader(http.StatusServiceUnavailable)
		return nil
	}
	body := timeBody(w, r, time.Duration(h.app.Limits.MessageTimeout))
	answeringPanics(w, h.logger, func(w http.ResponseWriter) { to.handler.ServeHTTP(w, r) })
	body.readLeft()
	return nil
}

// cameByLoopback reports whether the connection was accepted on the loopback interface or a unix socket.
func cameByLoopback(r *http.Request) bool {
	local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if !ok {
		return false
	}
	if strings.HasPrefix(local.Network(), "unix") {
		return true
	}
	host, _, err := net.SplitHostPort(local.String())
	return err == nil && isLoopback(host)
}

// flowsOf is the token service of a participant, for a handler that is built before the store may be opened.
type flowsOf struct{ *participant }

func (f flowsOf) Start(ctx context.Context, caller tokens.Caller, r tokens.StartRequest) (*tokens.EDR, error) {
	service, err := f.participant.Service()
	if err != nil {
		return nil, err
	}
	return service.Start(ctx, caller, r)
}

func (f flowsOf) Resume(ctx context.Context, caller tokens.Caller, m tokens.Message) (*tokens.EDR, error) {
	service, err := f.participant.Service()
	if err != nil {
		return nil, err
	}
	return service.Resume(ctx, caller, m)
}

func (f flowsOf) Suspend(ctx context.Context, caller tokens.Caller, m tokens.Message) (tokens.Ending, error) {
	service, err := f.participant.Service()
	if err != nil {
		return tokens.Ending{}, err
	}
	return service.Suspend(ctx, caller, m)
}

func (f flowsOf) Terminate(ctx context.Context, caller tokens.Caller, m tokens.Message) (tokens.Ending, error) {
	service, err := f.participant.Service()
	if err != nil {
		return tokens.Ending{}, err
	}
	return service.Terminate(ctx, caller, m)
}

func (f flowsOf) Complete(ctx context.Context, caller tokens.Caller, m tokens.Message) (tokens.Ending, error) {
	service, err := f.participant.Service()
	if err != nil {
		return tokens.Ending{}, err
	}
	return service.Complete(ctx, caller, m)
}

func (f flowsOf) Status(ctx context.Context, caller tokens.Caller, processID string) (*tokens.Flow, error) {
	service, err := f.participant.Service()
	if err != nil {
		return nil, err
	}
	return service.Status(ctx, caller, processID)
}

func (f flowsOf) PutControlPlane(ctx context.Context, caller tokens.Caller, p tokens.ControlPlane) error {
	service, err := f.participant.Service()
	if err != nil {
		return err
	}
	return service.PutControlPlane(ctx, caller, p)
}

func (f flowsOf) DeleteControlPlane(ctx context.Context, caller tokens.Caller, id string) (bool, error) {
	service, err := f.participant.Service()
	if err != nil {
		return false, err
	}
	return service.DeleteControlPlane(ctx, caller, id)
}

// UnmarshalCaddyfile sets up the handler. Syntax:
//
//	edr_signaling {
//		auth bearer <token> {
//			participant   <name>
//			control_plane <name>
//		}
//		auth oauth2 {
//			issuer        <url>
//			jwks          <url>|<file>
//			subject       <id...>
//			audience      <id...>
//			participant   <name>
//			control_plane <name>
//		}
//		auth oauth2_token_exchange {
//			issuer              <url>
//			jwks                <url>|<file>
//			subject             <uri...>
//			client              <id...>
//			audience            <id...>
//			scope               <scope...>
//			participant_context <name...>
//			control_plane       <name>
//		}
//		auth mtls {
//			san           <dns|uri...>
//			participant   <name>
//			control_plane <name>
//		}
//		auth network <cidr...> {
//			participant   <name>
//			control_plane <name>
//		}
//		auth none insecure {
//			participant   <name>
//			control_plane <name>
//		}
//		protocol dps edc
//	}
//
// auth may be repeated. oauth2_client_credentials is another name of oauth2. participant may be left out where there is one, or for the app's own; control_plane where the
// participant has one, or for the one called default.
func (h *Signaling) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the directive's name
	if d.NextArg() {
		return d.ArgErr()
	}
	for d.NextBlock(0) {
		var err error
		switch d.Val() {
		case "auth":
			err = h.parseAuth(d)
		case "protocol":
			err = h.parseProtocol(d)
		default:
			return d.Errf("unrecognized subdirective %q", d.Val())
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (h *Signaling) parseProtocol(d *caddyfile.Dispenser) error {
	protocols := d.RemainingArgs()
	if len(protocols) == 0 {
		return d.ArgErr()
	}
	h.Protocols = append(h.Protocols, protocols...)
	_, err := dialectsOf(h.Protocols)
	if err != nil {
		return d.WrapErr(err)
	}
	return endOfLine(d)
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Signaling)(nil)
	_ caddy.CleanerUpper          = (*Signaling)(nil)
	_ caddyhttp.MiddlewareHandler = (*Signaling)(nil)
	_ caddyfile.Unmarshaler       = (*Signaling)(nil)
)
