package integration

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"testing"
	"time"
)

// authority is a CA and what it issued.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// issue signs a certificate; without an authority, with its own key.
func (a *authority) issue(template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert, key
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t}
	a.cert, a.key = a.issue(&x509.Certificate{
		Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	})
	return a
}

// client returns a client certificate with a URI.
func (a *authority) client(uri string) tls.Certificate {
	a.t.Helper()
	u, err := url.Parse(uri)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, key := a.issue(&x509.Certificate{URIs: []*url.URL{u}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key}
}

// TestSignalingByCertificate lets a control plane in by its SPIFFE ID, on a site whose TLS Caddy terminates, and nobody
// else of the same CA.
func TestSignalingByCertificate(t *testing.T) {
	t.Parallel()
	g := newGateway(t, config{global: "auto_https disable_redirects"})
	ca := newAuthority(t)
	cert, key := ca.issue(&x509.Certificate{DNSNames: []string{"localhost"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, g.path("tls.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})))
	writeFile(t, g.path("tls.key"), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
	writeFile(t, g.path("ca.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.cert.Raw})))
	address := freeAddress(t)
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	g.config.more = expand(`https://localhost:{port} {
	tls {dir}/tls.pem {dir}/tls.key {
		client_auth {
			mode require_and_verify
			trust_pool file {dir}/ca.pem
		}
	}
	edr_signaling {
		auth mtls {
			san spiffe://trust.example/edc
		}
	}
}`, map[string]string{"port": port, "dir": g.dir})
	g.start()

	roots := x509.NewCertPool()
	roots.AddCert(ca.cert)
	for name, tt := range map[string]struct {
		clients []tls.Certificate
		status  int // 0: no TLS connection
	}{
		"its SPIFFE ID":               {[]tls.Certificate{ca.client("spiffe://trust.example/edc")}, http.StatusNoContent},
		"another one":                 {[]tls.Certificate{ca.client("spiffe://trust.example/other")}, http.StatusForbidden},
		"no certificate":              {nil, 0},
		"its SPIFFE ID by another CA": {[]tls.Certificate{newAuthority(t).client("spiffe://trust.example/edc")}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			transport := &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: tt.clients}}
			client := &http.Client{Transport: transport, Timeout: patience}
			response, err := client.Get("https://localhost:" + port + "/v1/dataflows/check")
			if err != nil {
				if tt.status != 0 {
					t.Error(err)
				}
				return
			}
			defer response.Body.Close()
			body, err := io.ReadAll(response.Body)
			if response.StatusCode != tt.status {
				t.Errorf("%d %s %v, want %d", response.StatusCode, body, err, tt.status)
			}
		})
	}
}
