package caddymodule

import (
	"encoding/json"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddytls"
)

func parseProxy(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	proxy := new(Proxy)
	err := proxy.UnmarshalCaddyfile(h.Dispenser)
	return proxy, err
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	edr_proxy [<matcher>] {
//		backends <scheme://host[:port]|host:port>...
//		secret <name> <value> for <scheme://host[:port]/path>...
//		request_headers <name>...
//		flatten_status
//		dial_timeout <duration>
//		response_header_timeout <duration>
//		tls_trust_pool <module>
//		tls_client_auth <cert_file> <key_file>
//		participant <name>
//		refusal_status rfc6750|tractusx
//		realm <text>
//		allow_encoded_slash
//		allow_encoded_percent
//		allow_double_slash
//		allow_set_cookie
//		methods <method>...
//		query <name>...
//		no_query
//	}
//
// backends is required; it, secret, request_headers, methods and query may be repeated. The value of a secret is best a placeholder,
// {file./run/secrets/name}.
func (h *Proxy) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	return unmarshalBlock(d, h.unmarshalOption, h.check)
}

// unmarshalBlock reads a directive of the data path that has options only. option reads one; check finds what only the whole
// block shows. Values are checked where they are read, so that errors have the line of the option.
func unmarshalBlock(d *caddyfile.Dispenser, option func(*caddyfile.Dispenser) error, check func() error) error {
	d.Next() // the directive's name
	if d.NextArg() {
		return d.ArgErr()
	}
	for d.NextBlock(0) {
		err := option(d)
		if err != nil {
			return err
		}
	}
	err := check()
	if err != nil {
		return d.WrapErr(err)
	}
	return nil
}

func (h *Proxy) unmarshalOption(d *caddyfile.Dispenser) error {
	switch option := d.Val(); option {
	case "backends":
		return h.unmarshalBackends(d)
	case "secret":
		return h.unmarshalSecret(d)
	case "request_headers":
		return h.unmarshalRequestHeaders(d)
	case "flatten_status":
		return setFlag(d, &h.FlattenStatus)
	case "dial_timeout":
		return positive(&h.DialTimeout)(d)
	case "response_header_timeout":
		return positive(&h.ResponseHeaderTimeout)(d)
	case "tls_trust_pool":
		return trustPool(&h.TrustPoolRaw)(d)
	case "tls_client_auth":
		return h.unmarshalClientAuth(d)
	default:
		known, err := h.GateOptions.unmarshalOption(d)
		if err != nil {
			return err
		}
		if !known {
			return d.Errf("unrecognized subdirective %q", option)
		}
		return nil
	}
}

func (h *Proxy) unmarshalBackends(d *caddyfile.Dispenser) error {
	entries := d.RemainingArgs()
	if len(entries) == 0 {
		return d.ArgErr()
	}
	_, err := newBackendList(entries)
	if err != nil {
		return d.WrapErr(err)
	}
	h.Backends = append(h.Backends, entries...)
	return endOfLine(d)
}

func (h *Proxy) unmarshalRequestHeaders(d *caddyfile.Dispenser) error {
	names := d.RemainingArgs()
	if len(names) == 0 {
		return d.ArgErr()
	}
	_, err := allowedHeaders(names)
	if err != nil {
		return d.WrapErr(err)
	}
	h.RequestHeaders = append(h.RequestHeaders, names...)
	return endOfLine(d)
}

// unmarshalSecret reads secret <name> <value> for <destination>...
func (h *Proxy) unmarshalSecret(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) < 4 || args[2] != "for" {
		return d.Err("secret takes a name, a value, the word \"for\" and destinations: secret <name> {file./path} for <scheme://host[:port]/path>...")
	}
	name := args[0]
	if h.Secrets[name] != nil {
		return d.Errf("secret %s is there twice", name)
	}
	if h.Secrets == nil {
		h.Secrets = map[string]*BackendSecret{}
	}
	h.Secrets[name] = &BackendSecret{Value: args[1], For: args[3:]}
	return endOfLine(d)
}

func (h *Proxy) unmarshalClientAuth(d *caddyfile.Dispenser) error {
	if h.ClientCertificate != "" {
		return d.Err("tls_client_auth is there twice")
	}
	if !d.AllArgs(&h.ClientCertificate, &h.ClientKey) {
		return d.ArgErr()
	}
	return endOfLine(d)
}

// trustPool is the form of tls_trust_pool <module>, as reverse_proxy reads it.
func trustPool(field *json.RawMessage) func(*caddyfile.Dispenser) error {
	return func(d *caddyfile.Dispenser) error {
		if *field != nil {
			return d.Err("tls_trust_pool is there twice")
		}
		if !d.NextArg() {
			return d.ArgErr()
		}
		name := d.Val()
		unmarshaler, err := caddyfile.UnmarshalModule(d, "tls.ca_pool.source."+name)
		if err != nil {
			return err
		}
		pool, ok := unmarshaler.(caddytls.CA)
		if !ok {
			return d.Errf("tls_trust_pool: module %s is not a source of certificates", name)
		}
		*field = caddyconfig.JSONModuleObject(pool, "provider", name, nil)
		return nil
	}
}
