package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"math/big"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/edrgate/edrgate/bench/rig"
)

// issuer is the authorization server that the peers trust: its metadata and its keys, by http and by https. They get their
// tokens with the claims that the gateway's have, so that all sides verify the same signature over about the same bytes.
type issuer struct {
	plain  *http.Server
	secure *http.Server

	url    string // http://127.0.0.1:port
	https  string // the same by https, with a certificate of nobody
	signer *rig.Signer
}

// peerAudience is whom the peers' tokens are for.
const peerAudience = "edrgate"

func startIssuer(signer *rig.Signer) (*issuer, error) {
	keys, err := signer.JWKS()
	if err != nil {
		return nil, err
	}
	certificate, err := selfSigned()
	if err != nil {
		return nil, err
	}
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	secure, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	i := &issuer{signer: signer, url: "http://" + plain.Addr().String(), https: "https://" + secure.Addr().String()}
	metadata, err := json.Marshal(map[string]any{
		"issuer": i.url, "jwks_uri": i.url + "/jwks.json", "authorization_endpoint": i.url + "/authorize", "token_endpoint": i.url + "/token",
		"response_types_supported": []string{"code"}, "subject_types_supported": []string{"public"},
		"id_token_signing_alg_values_supported": []string{"ES256"},
	})
	if err != nil {
		return nil, err
	}
	answer := func(body []byte) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write(body)
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/openid-configuration", answer(metadata))
	mux.HandleFunc("GET /jwks.json", answer(keys))
	i.plain = &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	i.secure = &http.Server{
		Handler: mux, ReadHeaderTimeout: 10 * time.Second,
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12},
	}
	go func() { _ = i.plain.Serve(plain) }() // until they are closed
	go func() { _ = i.secure.ServeTLS(secure, "", "") }()
	return i, nil
}

func (i *issuer) close() {
	_ = i.plain.Close()
	_ = i.secure.Close()
}

// like returns what the peers' tokens are made like: a token of the gateway, but issued here.
func (i *issuer) like(t *rig.Token) *rig.Token {
	return i.signer.NewToken(nil).With(t.Claims()).With(map[string]any{"iss": i.url, "aud": peerAudience})
}

func selfSigned() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

// portOf returns the port of host:port.
func portOf(address string) string { return address[strings.LastIndexByte(address, ':')+1:] }
