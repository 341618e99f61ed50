package caddymodule

import (
	"fmt"

	"github.com/edrgate/edrgate/routing"
)

// routeTemplate is the backend of a configured route, with placeholders for what is known of a flow. Caddy's placeholders
// have been replaced. It never changes.
type routeTemplate struct {
	backend *routing.URL
	headers []headerTemplate
	secrets []secretTemplate

	static *routeTarget // what it comes to for all flows; nil: it differs
}

type headerTemplate struct {
	name  string
	value *routing.Template
}

// secretTemplate is a header with a credential that edr_proxy declares by a name.
type secretTemplate struct {
	header string
	name   *routing.Template
	scheme string
}

// routeTarget is what a route's backend comes to for a flow. Flows share it where they can; it never changes.
type routeTarget struct {
	Configured string            // the backend as configured, for errors
	Backend    string            // absolute http or https URL: the base that the path below the endpoint is appended to
	Headers    map[string]string // sent with each request; values may hold credentials
	Secrets    []routeSecret
}

// routeSecret is a header with a credential. A flow may have chosen its name, so errors say how it was configured.
type routeSecret struct {
	header     string
	name       string
	configured string
	scheme     string
}

func (t *routeTemplate) isStatic() bool {
	static := t.backend.Static()
	for _, h := range t.headers {
		static = static && h.value.Static()
	}
	for _, s := range t.secrets {
		static = static && s.name.Static()
	}
	return static
}

// target returns what the route comes to for a flow. An error says which placeholder has no value for it; what the message
// said is not quoted, since it can hold what is meant for nobody's log.
func (t *routeTemplate) target(f *routing.Facts) (*routeTarget, error) {
	if t.static != nil {
		return t.static, nil
	}
	return t.fill(f)
}

func (t *routeTemplate) fill(f *routing.Facts) (*routeTarget, error) {
	backend, err := t.backend.Render(f)
	if err != nil {
		return nil, fmt.Errorf("backend: %w", err)
	}
	target := &routeTarget{Configured: t.backend.String(), Backend: backend, Headers: make(map[string]string, len(t.headers))}
	for _, h := range t.headers {
		value, err := h.value.Render(f)
		if err != nil {
			return nil, fmt.Errorf("header %s: %w", h.name, err)
		}
		target.Headers[h.name] = value
	}
	for _, s := range t.secrets {
		name, err := s.name.Render(f)
		if err != nil {
			return nil, fmt.Errorf("secret %s: %w", s.header, err)
		}
		target.Secrets = append(target.Secrets, routeSecret{header: s.header, name: name, configured: s.name.String(), scheme: s.scheme})
	}
	return target, nil
}

// check finds what an edr_proxy could serve for no flow. Where placeholders stand the rest shows at a start.
func (t *routeTemplate) check(backends *backendList, secrets backendSecrets) error {
	if t.static != nil {
		_, err := newRouteTarget(t.static, backends, secrets)
		return err
	}
	known, err := t.checkOrigin(backends)
	if err != nil {
		return err
	}
	for _, h := range t.headers {
		if !h.value.Static() {
			continue
		}
		value, err := h.value.Render(nil)
		if err != nil {
			return err
		}
		err = new(target).setHeader(h.name, value, backends)
		if err != nil {
			return fmt.Errorf("header %w", err)
		}
	}
	for _, s := range t.secrets {
		if !s.name.Static() {
			continue
		}
		name, err := s.name.Render(nil)
		if err != nil {
			return err
		}
		secret, declared := secrets[name]
		if !declared {
			return fmt.Errorf("secret %s: %w", s.header, errSecretUnknown)
		}
		if known != nil && !secret.reaches(*known) {
			return fmt.Errorf("secret %s: %w", s.header, errSecretElsewhere)
		}
	}
	return nil
}

// checkOrigin returns the server, unless flows choose it.
func (t *routeTemplate) checkOrigin(backends *backendList) (*origin, error) {
	text, same := t.backend.StaticOrigin()
	if !same {
		return nil, nil
	}
	_, o, _, err := parseBackendURL(text)
	if err != nil {
		return nil, fmt.Errorf("backend: %w", err)
	}
	if !backends.allows(o) {
		return nil, fmt.Errorf("backend: %w", errNotInBackends)
	}
	return &o, nil
}
