package caddymodule

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/edrgate/edrgate/internal/testkit"
)

// authority issues certificates, to the server and to whoever else asks.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{t, cert, key}
}

func (a *authority) issue(usage x509.ExtKeyUsage, dns []string, uris ...*url.URL) tls.Certificate {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), DNSNames: dns, URIs: uris, ExtKeyUsage: []x509.ExtKeyUsage{usage},
		KeyUsage: x509.KeyUsageDigitalSignature, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func pemOf(t *testing.T, c tls.Certificate) (certificate, key string) {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	certificate = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]}))
	return certificate, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// loadTLS loads a config with a certificate for its TLS servers.
func (g *liveGateway) loadTLS(server tls.Certificate, servers object) error {
	g.t.Helper()
	var config struct {
		Admin, Storage, Logging any
		Apps                    object
	}
	err := json.Unmarshal(g.config(g.app(), servers), &config)
	if err != nil {
		g.t.Fatal(err)
	}
	certificate, key := pemOf(g.t, server)
	config.Apps["tls"] = object{"certificates": object{"load_pem": []object{{"certificate": certificate, "key": key}}}}
	data, err := json.Marshal(object{"admin": config.Admin, "storage": config.Storage, "logging": config.Logging, "apps": config.Apps})
	if err != nil {
		g.t.Fatal(err)
	}
	return caddy.Load(data, true)
}

// messageOver sends a signaling message over TLS and returns its status.
func (g *liveGateway) messageOver(roots *x509.CertPool, client ...tls.Certificate) (int, error) {
	transport := &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig:   &tls.Config{RootCAs: roots, ServerName: "gateway.example", Certificates: client},
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", g.path("signaling"))
		},
	}
	response, err := (&http.Client{Transport: transport, Timeout: 20 * time.Second}).Do(g.request(http.MethodPost,
		"https://gateway.example/dataflows/flow-1/terminate", strings.NewReader(`{"messageId":"m"}`), "Content-Type", "application/json"))
	if err != nil {
		return 0, err
	}
	_, err = io.Copy(io.Discard, response.Body)
	return response.StatusCode, errors.Join(err, response.Body.Close())
}

func TestSignalingByCertificate(t *testing.T) {
	g := newLiveGateway(t)
	ours, theirs := newAuthority(t), newAuthority(t)
	roots := x509.NewCertPool()
	roots.AddCert(ours.cert)
	server := ours.issue(x509.ExtKeyUsageServerAuth, []string{"gateway.example"})
	spiffe := &url.URL{Scheme: "spiffe", Host: "trust.example", Path: "/edc"}
	known := ours.issue(x509.ExtKeyUsageClientAuth, []string{"edc.example"})

	load := func(mode string) {
		t.Helper()
		site := g.site("signaling", object{"handler": "edr_signaling", "auth": []object{{"sans": []string{"edc.example", spiffe.String()}}}})
		authentication := object{"mode": mode}
		if strings.Contains(mode, "verify") {
			authentication["ca"] = object{"provider": "inline", "trusted_ca_certs": [][]byte{ours.cert.Raw}}
		}
		site["tls_connection_policies"] = []object{{"client_authentication": authentication}}
		servers := g.servers()
		servers["signaling"] = site
		err := g.loadTLS(server, servers)
		if err != nil {
			t.Fatal(err)
		}
	}

	load("verify_if_given")
	for name, tt := range map[string]struct {
		client []tls.Certificate
		status int // 0: no TLS connection
	}{
		"DNS name":               {[]tls.Certificate{known}, http.StatusOK},
		"SPIFFE ID":              {[]tls.Certificate{ours.issue(x509.ExtKeyUsageClientAuth, nil, spiffe)}, http.StatusOK},
		"no certificate":         {nil, http.StatusForbidden},
		"another name, same CA":  {[]tls.Certificate{ours.issue(x509.ExtKeyUsageClientAuth, []string{"evil.example"})}, http.StatusForbidden},
		"same name, another CA":  {[]tls.Certificate{theirs.issue(x509.ExtKeyUsageClientAuth, []string{"edc.example"})}, 0},
		"certificate of servers": {[]tls.Certificate{ours.issue(x509.ExtKeyUsageServerAuth, []string{"edc.example"})}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			status, err := g.messageOver(roots, tt.client...)
			if status != tt.status || (err != nil) != (tt.status == 0) {
				t.Errorf("%d, %v, want %d", status, err, tt.status)
			}
		})
	}

	// A server that takes any certificate proves nothing by it.
	load("require")
	for name, client := range map[string]tls.Certificate{
		"unverified":             known,
		"unverified, another CA": theirs.issue(x509.ExtKeyUsageClientAuth, []string{"edc.example"}),
	} {
		t.Run(name, func(t *testing.T) {
			// A connection may still be taken, and dropped, by the server of the config before.
			testkit.Eventually(t, "403", func() bool {
				status, err := g.messageOver(roots, client)
				if err == nil && status != http.StatusForbidden {
					t.Errorf("%d", status)
				}
				return err == nil
			})
		})
	}
}

func TestCertificateNamesWithoutClientAuth(t *testing.T) {
	g := newLiveGateway(t)
	servers := g.servers()
	servers["signaling"] = g.site("signaling", object{"handler": "edr_signaling", "auth": []object{{"sans": []string{"edc.example"}}}})
	err := g.tryLoad(g.app(), servers)
	if err == nil || !strings.Contains(err.Error(), "asks for no client certificate") {
		t.Errorf("got %v", err)
	}
}
