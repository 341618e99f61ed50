package caddymodule

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/edrgate/edrgate/internal/canonical"
	"github.com/edrgate/edrgate/tokens"
)

// Types of data addresses that edr_proxy serves.
const (
	typeHTTPData      = "HttpData"
	typeProxyHTTPData = "ProxyHttpData"
)

// newSourceTarget reads a data address. Its rules are those observed of the Tractus-X data plane (docs/decisions:
// source addresses). Errors name the property and never quote a value: they go to the control plane, and from there to
// the other company.
func newSourceTarget(s *tokens.Source, backends *backendList, secrets backendSecrets) (*target, error) {
	t := &target{strict: true}
	switch s.Type {
	case typeHTTPData:
		t.flat = true
	case typeProxyHTTPData:
		t.passStatus = true
	default:
		return nil, fmt.Errorf("type %q is not served by edr_proxy", s.Type)
	}
	base, ok := s.Properties["baseUrl"]
	if !ok || base == "" {
		return nil, errors.New("baseUrl is missing")
	}
	err := t.setBase(base, backends)
	if err != nil {
		return nil, fmt.Errorf("baseUrl: %w", err)
	}
	t.passPath = isTrue(s.Properties["proxyPath"])
	t.passQuery = isTrue(s.Properties["proxyQueryParams"])
	t.passMethod = isTrue(s.Properties["proxyMethod"])
	t.passBody = isTrue(s.Properties["proxyBody"])
	err = t.setFixed(s.Properties)
	if err != nil {
		return nil, err
	}
	err = t.setHeaders(s.Properties, backends)
	if err != nil {
		return nil, err
	}
	err = t.setCredential(s.Properties, backends, secrets)
	if err != nil {
		return nil, err
	}
	err = t.setOAuth2(s.Properties, backends, secrets)
	if err != nil {
		return nil, err
	}
	return t, nil
}

func isTrue(flag string) bool { return strings.EqualFold(flag, "true") }

// setFixed reads what stands in for the parts of the request that are not passed.
func (t *target) setFixed(properties map[string]string) error {
	path := strings.TrimLeft(properties["path"], "/")
	if path != "" {
		// Not yet encoded: a question mark in it is part of the path.
		escaped, err := canonical.Path((&url.URL{Path: "/" + path}).EscapedPath(), backendPaths)
		if err != nil {
			return fmt.Errorf("path: %w", err)
		}
		t.path, err = canonical.Join(t.base, escaped)
		if err != nil {
			return fmt.Errorf("path: %w", err)
		}
	}
	t.params = strings.TrimLeft(properties["queryParams"], "?&")
	err := checkQuery(t.params)
	if err != nil {
		return fmt.Errorf("queryParams: %w", err)
	}
	t.method = strings.ToUpper(properties["method"])
	if t.passMethod {
		t.method = ""
	}
	if t.method != "" && !dataMethods[t.method] {
		return errors.New("method is not one that can be proxied")
	}
	if takesBody(t.method) && !t.passBody {
		return errors.New("method needs a request body, so proxyBody must be true")
	}
	t.contentType = properties["contentType"]
	if t.contentType != "" && !isFieldValue(t.contentType) {
		return errors.New("contentType cannot stand in a header")
	}
	return nil
}

const headerProperty = "header:"

func (t *target) setHeaders(properties map[string]string, backends *backendList) error {
	seen := map[string]bool{}
	for _, property := range slices.Sorted(maps.Keys(properties)) {
		name, ok := strings.CutPrefix(property, headerProperty)
		if !ok {
			continue
		}
		canonicalName := http.CanonicalHeaderKey(name)
		if seen[canonicalName] {
			return fmt.Errorf("%s%s is there twice, in different case", headerProperty, canonicalName)
		}
		seen[canonicalName] = true
		err := t.setHeader(name, properties[property], backends)
		if err != nil {
			return fmt.Errorf("%s%w", headerProperty, err)
		}
	}
	return nil
}

// setCredential reads authKey with authCode, or with the secret that secretName names. Without authKey neither means
// anything.
func (t *target) setCredential(properties map[string]string, backends *backendList, secrets backendSecrets) error {
	value := properties["authCode"]
	name := properties["secretName"]
	if value == "" && name != "" {
		secret, err := t.declared(name, secrets)
		if err != nil {
			return fmt.Errorf("secretName: %w", err)
		}
		value = secret.Reveal()
	}
	key := properties["authKey"]
	if key == "" || value == "" {
		return nil
	}
	if !takesCredential(http.CanonicalHeaderKey(key)) {
		return errors.New("authKey is no header for a credential")
	}
	err := t.setHeader(key, value, backends)
	if err != nil {
		return fmt.Errorf("authKey: %w", err)
	}
	t.addSecret(value)
	return nil
}

// takesCredential reports whether a header can hold a credential: of these the values are known, or decide about more.
func takesCredential(canonicalName string) bool {
	switch canonicalName {
	case "Host", "Content-Type", headerBPN, headerAgreement:
		return false
	}
	return true
}

// floor is the path that every request to the target lies at or below.
func (t *target) floor() string {
	if t.passPath {
		return t.base
	}
	return t.path
}
