package signaling

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/edrgate/edrgate/internal/testkit"
	"github.com/edrgate/edrgate/tokens"
)

func mustNames(t *testing.T, now func() time.Time, names ...string) *CertificateNames {
	t.Helper()
	c, err := NewCertificateNames(names, now)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// certificate returns a client certificate with these names, as a TLS server parses it.
func certificate(t *testing.T, expires time.Time, common string, names ...string) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: common}, NotAfter: expires, NotBefore: expires.Add(-time.Hour),
	}
	for _, name := range names {
		if !strings.Contains(name, ":") {
			template.DNSNames = append(template.DNSNames, name)
			continue
		}
		u, err := url.Parse(name)
		if err != nil {
			t.Fatal(err)
		}
		template.URIs = append(template.URIs, u)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

func TestAccessByCertificate(t *testing.T) {
	clock := testkit.NewClock()
	hour := clock.Now().Add(time.Hour)
	rules := []Rule{
		{ControlPlane: "edc", Certificates: mustNames(t, clock.Now, "edc.example", "spiffe://trust.example/edc", "urn:plane:edc")},
		{ControlPlane: "siglet", Certificates: mustNames(t, clock.Now, "Siglet.Example")},
	}
	with := func(more ...Rule) []Rule { return append(rules[:2:2], more...) }
	tests := []struct {
		name       string
		rules      []Rule
		leaf       *x509.Certificate
		plain      bool // no TLS
		unverified bool // the server asked for a certificate and did not verify it
		peer       string
		header     []string
		want       tokens.Caller
		status     int
		detail     string
	}{
		{name: "DNS name", leaf: certificate(t, hour, "", "other.example", "edc.example"), want: "edc"},
		{name: "DNS name in another case", leaf: certificate(t, hour, "", "SIGLET.example"), want: "siglet"},
		{name: "URI", leaf: certificate(t, hour, "", "urn:plane:edc"), want: "edc"},
		{name: "one of two URIs", leaf: certificate(t, hour, "", "urn:other", "urn:plane:edc"), want: "edc"},
		{name: "SPIFFE ID", leaf: certificate(t, hour, "", "spiffe://trust.example/edc"), want: "edc"},
		{
			name: "SPIFFE ID beside another URI", leaf: certificate(t, hour, "", "spiffe://trust.example/edc", "urn:other"),
			status: 403, detail: "none of the configured names",
		},
		{name: "longer SPIFFE ID", leaf: certificate(t, hour, "", "spiffe://trust.example/edc/x"), status: 403, detail: "none of the configured names"},
		{name: "other names of the same CA", leaf: certificate(t, hour, "", "evil.example"), status: 403, detail: "none of the configured names"},
		{name: "subdomain", leaf: certificate(t, hour, "", "a.edc.example"), status: 403, detail: "none of the configured names"},
		{name: "wildcard", leaf: certificate(t, hour, "", "*.example"), status: 403, detail: "none of the configured names"},
		{name: "common name only", leaf: certificate(t, hour, "edc.example"), status: 403, detail: "none of the configured names"},
		{name: "names of two", leaf: certificate(t, hour, "", "edc.example", "siglet.example"), status: 403, detail: "two control planes"},
		{name: "expired meanwhile", leaf: certificate(t, clock.Now().Add(-time.Second), "", "edc.example"), status: 403, detail: "expired"},
		{name: "unverified", leaf: certificate(t, hour, "", "edc.example"), unverified: true, status: 403, detail: "not been verified"},
		{name: "no certificate", status: 403, detail: "no client certificate"},
		{name: "no TLS", plain: true, status: 403, detail: "not sent over TLS"},
		{
			name: "header of a proxy", plain: true, header: []string{"X-Forwarded-Client-Cert", "URI=spiffe://trust.example/edc"},
			status: 403, detail: "not sent over TLS",
		},
		{
			name: "web page in a browser with the certificate", leaf: certificate(t, hour, "", "edc.example"),
			header: []string{"Sec-Fetch-Site", "cross-site", "Origin", "https://evil.example"}, status: 403, detail: "web page",
		},
		{
			name: "bearer token before certificate", rules: with(Rule{ControlPlane: "a", Bearer: []Digest{DigestOf(tokenA)}}),
			leaf: certificate(t, hour, "", "edc.example"), header: []string{"Authorization", "Bearer " + tokenA}, want: "a",
		},
		{
			name: "certificate before network", rules: with(Rule{ControlPlane: "net", Networks: networks("10.0.0.0/8")}),
			leaf: certificate(t, hour, "", "edc.example"), peer: "10.0.0.1:1", want: "edc",
		},
		{
			name: "network without certificate", rules: with(Rule{ControlPlane: "net", Networks: networks("10.0.0.0/8")}),
			peer: "10.0.0.1:1", want: "net",
		},
		{
			name: "neither token nor certificate", rules: with(Rule{ControlPlane: "a", Bearer: []Digest{DigestOf(tokenA)}}),
			status: 401, detail: "no bearer token",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.rules == nil {
				tt.rules = rules
			}
			r := httptest.NewRequest(http.MethodPost, "/dataflows/tp-1/terminate", nil)
			if tt.peer != "" {
				r.RemoteAddr = tt.peer
			}
			for i := 0; i < len(tt.header); i += 2 {
				r.Header.Add(tt.header[i], tt.header[i+1])
			}
			if !tt.plain {
				r.TLS = &tls.ConnectionState{}
			}
			if tt.leaf != nil {
				r.TLS.PeerCertificates = []*x509.Certificate{tt.leaf}
				if !tt.unverified {
					r.TLS.VerifiedChains = [][]*x509.Certificate{{tt.leaf}}
				}
			}
			got, err := mustAccess(t, tt.rules...).Identify(r)
			if got != tt.want {
				t.Errorf("caller %q, want %q", got, tt.want)
			}
			if tt.status == 0 {
				if err != nil {
					t.Error(err)
				}
				return
			}
			var refused *refusal
			if !errors.As(err, &refused) || refused.status != tt.status || !strings.Contains(refused.detail, tt.detail) {
				t.Errorf("error %+v, want status %d, detail %q", err, tt.status, tt.detail)
			}
		})
	}
}

func TestCertificateNamesRefused(t *testing.T) {
	for name, names := range map[string][]string{
		"none":                        nil,
		"empty":                       {""},
		"wildcard":                    {"*.example"},
		"address":                     {"10.0.0.1"},
		"IPv6 address":                {"2001:db8::1"},
		"final dot":                   {"edc.example."},
		"dash at the end of a label":  {"edc-.example"},
		"long label":                  {strings.Repeat("a", 64) + ".example"},
		"port":                        {"edc.example:443x"},
		"twice":                       {"edc.example", "EDC.example"},
		"URI in an unusual spelling":  {"urn:plane:a b"},
		"SPIFFE trust domain alone":   {"spiffe://trust.example"},
		"SPIFFE without trust domain": {"spiffe:///edc"},
		"SPIFFE in capitals":          {"spiffe://Trust.example/edc"},
		"SPIFFE with a port":          {"spiffe://trust.example:1/edc"},
		"SPIFFE with a query":         {"spiffe://trust.example/edc?a"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := NewCertificateNames(names, nil)
			if err == nil {
				t.Error("accepted")
			}
		})
	}
}

func TestCertificateNameOfTwoControlPlanes(t *testing.T) {
	_, err := NewAccessList([]Rule{
		{ControlPlane: "a", Certificates: mustNames(t, nil, "edc.example")},
		{ControlPlane: "b", Certificates: mustNames(t, nil, "EDC.example")},
	})
	if err == nil || !strings.Contains(err.Error(), "also that of") {
		t.Errorf("got %v", err)
	}
}
