package demo

import (
	"context"
	"fmt"
	"net/http"
)

// Renewal is a request to the refresh endpoint.
type Renewal struct {
	url    string
	header http.Header
	body   []byte
}

// NewRenewal makes a renewal of an EDR that a wallet vouches for.
func NewRenewal(d Dialect, e *EDR, w *Wallet) (Renewal, error) {
	proof, err := w.prove(e.refreshAudience, e.AccessToken)
	if err != nil {
		return Renewal{}, fmt.Errorf("signing the proof: %w", err)
	}
	query, body := d.parameters(e.RefreshToken)
	r := Renewal{
		url: e.RefreshEndpoint,
		header: http.Header{
			"Authorization": {"Bearer " + proof},
			"Content-Type":  {"application/x-www-form-urlencoded"},
		},
		body: []byte(body.Encode()),
	}
	if len(query) > 0 {
		r.url += "?" + query.Encode()
	}
	return r, nil
}

// Send asks for it.
func (r Renewal) Send(ctx context.Context, client *http.Client) (Answer, error) {
	return Exchange(ctx, client, http.MethodPost, r.url, r.header, r.body)
}
