package caddymodule

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/edrgate/edrgate/internal/dial"
	"github.com/edrgate/edrgate/signaling"
	"github.com/edrgate/edrgate/signaling/controlplane"
	"github.com/edrgate/edrgate/tokens"
)

// ControlPlane is a control plane by its name, which is what flows are owned by. Changing how it authenticates does not
// change the name.
type ControlPlane struct {
	// Name as edr_signaling refers to it. Required.
	Name string `json:"name,omitempty"`

	// Formerly are names that it had before, so that it keeps its flows.
	Formerly []string `json:"formerly,omitempty"`

	// Callback is where it is told that the gateway ended a flow by itself, that a flow of a route with async has started,
	// and, by a consumer's gateway, that a transfer is prepared or completed: its URL up to and without /transferprocess (EDC's classic signaling, for example
	// http://cp:8083/api/control) or /transfers (Data Plane Signaling, for example http://cp:8182/api/signaling). The
	// address that a start or prepare message names is used instead where it has the same scheme, host and port; any other is
	// ignored, so that whoever may start flows does not choose whom the gateway calls. Default: none; then it is told
	// nothing, the log says so, and neither a route can have async nor a consumer async_prepare.
	Callback string `json:"callback,omitempty"`

	// Authorization is what those calls are authorized with. Default: they carry no credential.
	Authorization *CallAuthorization `json:"authorization,omitempty"`

	// Register are the registrations that the gateway keeps at it. Default: none; somebody else registers the gateway.
	Register []Register `json:"register,omitempty"`
}

// connsPerControlPlane bounds the connections to one control plane.
const connsPerControlPlane = 4

// provisionClient builds what calls control planes. It connects to nobody yet.
func (a *App) provisionClient() error {
	calls, err := checkedTransport(connectionControlPlane, a.observer, dial.Config{AllowAddresses: everywhere()},
		dial.TransportConfig{MaxConnsPerHost: connsPerControlPlane})
	if err != nil {
		return err
	}
	forTokens, err := tokenTransport(a.observer)
	if err != nil {
		return err
	}
	a.calls = []*http.Transport{calls, forTokens}
	a.client = controlplane.NewClient(controlplane.ClientConfig{Transport: calls, TokenTransport: forTokens})
	return nil
}

func (s *ParticipantSettings) checkControlPlanes() error {
	seen := map[string]struct{}{}
	for _, plane := range s.ControlPlanes {
		for _, name := range append([]string{plane.Name}, plane.Formerly...) {
			if !nameSyntax.MatchString(name) {
				return fmt.Errorf("control_plane %q: a name has 1 to 63 letters, digits, dots, dashes or underscores", name)
			}
			_, twice := seen[name]
			if twice {
				return fmt.Errorf("control_plane %s is listed twice", name)
			}
			seen[name] = struct{}{}
		}
	}
	return nil
}

func (p *participant) controlPlaneNames() []string {
	names := make([]string, 0, len(p.ControlPlanes))
	for _, plane := range p.ControlPlanes {
		names = append(names, plane.Name)
	}
	return names
}

func (p *participant) formerNames() map[string]string {
	names := map[string]string{}
	for _, plane := range p.ControlPlanes {
		for _, former := range plane.Formerly {
			names[former] = plane.Name
		}
	}
	return names
}

// presentName is the name of a control plane that a flow may know by a former one.
func (p *participant) presentName(name string) string {
	return orDefault(p.config.Formerly[name], name)
}

// callbacks returns the callback addresses by the names of control planes.
func (p *participant) callbacks(replacer *caddy.Replacer) (map[string]*url.URL, error) {
	addresses := map[string]*url.URL{}
	for _, plane := range p.ControlPlanes {
		if plane.Callback == "" {
			continue
		}
		address, err := controlPlaneURL(replacer, plane.Callback)
		if err != nil {
			return nil, fmt.Errorf("control_plane %s: callback: %w", plane.Name, err)
		}
		addresses[plane.Name] = address
	}
	return addresses, nil
}

// checkAsync refuses an asynchronous start that nobody could be told the end of. The address that a start names is not
// enough: it counts only on the server that the operator named.
func (p *participant) checkAsync() error {
	for _, route := range p.routes.routes {
		for _, plane := range p.ControlPlanes {
			if route.Async && p.calls[plane.Name] == nil {
				return fmt.Errorf("route %s: async needs a callback of every control plane, since that is where the data address is sent: control_plane %s has none",
					route.Name, plane.Name)
			}
		}
	}
	return nil
}

// controlPlaneURL reads a URL of a control plane, which may be or hold a placeholder.
func controlPlaneURL(replacer *caddy.Replacer, configured string) (*url.URL, error) {
	address, err := replacer.ReplaceOrErr(configured, true, true)
	if err != nil {
		return nil, err
	}
	return controlplane.ParseBase(strings.TrimRight(address, "\r\n"))
}

// newOutbox returns the outbox of a service, and of the transfers in which the participant is the consumer, if it is in any.
func (p *participant) newOutbox(service *tokens.Service, kept *edrs) (*controlplane.Outbox, error) {
	reports := []controlplane.Reports{service}
	if kept != nil {
		reports = append(reports, kept.transfers)
	}
	return controlplane.NewOutbox(controlplane.OutboxConfig{
		Reports: reports, Client: p.app.client, Callbacks: p.calls, Authorizations: p.grants, DataAddress: signaling.DataAddress,
		Observer: p.observer, Logger: p.logger,
	})
}

func (s *ParticipantSettings) parseControlPlane(d *caddyfile.Dispenser) error {
	var plane ControlPlane
	if !d.AllArgs(&plane.Name) {
		return d.ArgErr()
	}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		var err error
		switch d.Val() {
		case "formerly":
			err = texts(&plane.Formerly)(d)
		case "callback":
			err = text(&plane.Callback)(d)
		case "authorization":
			if plane.Authorization == nil {
				plane.Authorization = new(CallAuthorization)
			}
			err = parseProfile(d, &plane.Authorization.Profile, callOptions, plane.Authorization.settings())
		case "register":
			err = plane.parseRegister(d)
		default:
			return d.Errf("unrecognized option %q of control_plane", d.Val())
		}
		if err != nil {
			return err
		}
	}
	s.ControlPlanes = append(s.ControlPlanes, plane)
	return nil
}
