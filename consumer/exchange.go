package consumer

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/edrgate/edrgate/internal/canonical"
	"github.com/edrgate/edrgate/internal/dial"
	"github.com/edrgate/edrgate/internal/strictjson"
	"github.com/edrgate/edrgate/tokens"
)

// renewed is what a provider answered to a renewal.
type renewed struct {
	access  tokens.Secret
	refresh tokens.Secret // empty: the same as before (RFC 6749 §6)
	life    time.Duration // 0: not said
	asked   time.Time     // when the request was sent: the life counts from there, which is never too late
}

// failed is a renewal that was not answered with tokens.
type failed struct {
	status int           // of the provider; 0: no answer
	final  bool          // the provider said no
	alone  bool          // trying again at once cannot help
	after  time.Duration // when the provider wants to be asked again; 0: not said
	cause  error
}

// renewalURL is where the renewal goes. DPS: exactly the refresh endpoint. Classic consumers append "/token" unless it ends
// so, and data planes up to Tractus-X 0.12.1 read the parameters from the query only.
func renewalURL(e *EDR, form url.Values) (*url.URL, error) {
	u, err := url.Parse(e.RefreshEndpoint)
	if err != nil {
		return nil, errors.New("refresh endpoint is not a URL")
	}
	if e.Dialect != tokens.Classic {
		return u, nil
	}
	path := strings.TrimSuffix(u.EscapedPath(), "/")
	if !strings.HasSuffix(path, "/token") {
		path += "/token"
	}
	err = canonical.Set(u, path)
	if err != nil {
		return nil, errors.New("refresh endpoint is not a URL")
	}
	if u.RawQuery != "" {
		u.RawQuery += "&"
	}
	u.RawQuery += form.Encode()
	return u, nil
}

// exchange sends one renewal (RFC 6749 §6, with the proof of the DPS token renewal profile in the Authorization header). It
// follows no redirect: the tokens are for the address that the EDR named.
func (r *Renewer) exchange(ctx context.Context, e *EDR, proof tokens.Secret) (*renewed, *failed) {
	ctx, cancel := context.WithTimeout(ctx, r.c.Timeout)
	defer cancel()
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {e.RefreshToken.Reveal()}}
	u, err := renewalURL(e, form)
	if err != nil {
		return nil, &failed{alone: true, cause: err}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), strings.NewReader(form.Encode()))
	if err != nil {
		return nil, &failed{alone: true, cause: errors.New("request cannot be made")} // the error quotes the URL
	}
	// The transport repeats a request by itself that carries Idempotency-Key or has such a method; this one has neither.
	req.Header.Set("Authorization", "Bearer "+proof.Reveal())
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "edrgate")
	asked := r.cache.c.Now()
	res, err := r.c.Transport.RoundTrip(req)
	if err != nil {
		var denied *dial.DeniedError
		return nil, &failed{alone: errors.As(err, &denied), cause: connectionError(err)}
	}
	defer res.Body.Close()
	body, err := readAnswer(res)
	if !success(res.StatusCode) {
		return nil, refusal(res)
	}
	if err != nil {
		return nil, &failed{status: res.StatusCode, cause: err}
	}
	answer, err := readRenewed(body)
	if err != nil {
		return nil, &failed{status: res.StatusCode, cause: err}
	}
	answer.asked = asked
	return answer, nil
}

// connectionError is what a log may have of a transport's error: those about broken answers quote the provider, who knows
// our tokens.
func connectionError(err error) error {
	var (
		denied      *dial.DeniedError
		certificate *tls.CertificateVerificationError
		op          *net.OpError
	)
	switch {
	case errors.As(err, &denied):
		return denied
	case errors.As(err, &certificate):
		return certificate
	case errors.As(err, &op):
		return op
	case errors.Is(err, context.DeadlineExceeded):
		return context.DeadlineExceeded
	case errors.Is(err, context.Canceled):
		return context.Canceled
	}
	return errors.New("the connection failed, or the answer was broken")
}

// unquoted is a transport's error whose text has nothing of what the other side wrote.
type unquoted struct{ cause error }

func (e *unquoted) Error() string { return connectionError(e.cause).Error() }
func (e *unquoted) Unwrap() error { return e.cause }

func success(status int) bool { return status >= 200 && status < 300 }

// refusal sorts an answer that is no success: a 4xx is final (Tractus-X token refresh: the token must be regarded as
// invalid), but for those that ask to try again.
func refusal(res *http.Response) *failed {
	f := &failed{status: res.StatusCode, cause: errors.New("answered with status " + strconv.Itoa(res.StatusCode))}
	switch {
	case res.StatusCode == http.StatusTooManyRequests, res.StatusCode >= 500:
		f.after = retryAfter(res.Header)
	case res.StatusCode == http.StatusRequestTimeout, res.StatusCode == http.StatusTooEarly: // RFC 9110 §15.5.9, RFC 8470 §5.2
	case res.StatusCode >= 400:
		f.final = true
	default: // a redirect, which is not followed: somebody has to look at it
		f.alone = true
	}
	return f
}

// retryAfter reads the seconds of Retry-After (RFC 9110 §10.2.3); a date is as good as nothing for clocks that differ.
func retryAfter(h http.Header) time.Duration {
	n, err := strconv.ParseUint(h.Get("Retry-After"), 10, 32)
	if err != nil {
		return 0
	}
	return time.Duration(n) * time.Second
}

// readRenewed reads a token answer (RFC 6749 §5.1). Tractus-X up to 0.12.1 writes expires for expires_in, later ones both.
func readRenewed(body []byte) (*renewed, error) {
	m, err := strictjson.Parse(body, 0)
	if err != nil {
		return nil, err
	}
	access, err := m.String("access_token")
	if err != nil {
		return nil, err
	}
	if access == "" {
		return nil, errors.New(`member "access_token": empty`)
	}
	refresh := ""
	if m.Has("refresh_token") && !isNull(m, "refresh_token") {
		refresh, err = m.String("refresh_token")
		if err != nil {
			return nil, err
		}
	}
	for name, token := range map[string]string{"access_token": access, "refresh_token": refresh} {
		err = checkToken(name, token)
		if err != nil {
			return nil, err
		}
	}
	if m.Has("token_type") && !isNull(m, "token_type") {
		kind, err := m.String("token_type")
		if err != nil || !strings.EqualFold(kind, bearer) { // RFC 6749 §7.1: a client does not use a type that it does not know
			return nil, errors.New(`member "token_type": not bearer`)
		}
	}
	n := &renewed{access: tokens.Secret(access), refresh: tokens.Secret(refresh)}
	for _, name := range []string{"expires_in", "expires"} {
		if n.life == 0 && m.Has(name) {
			n.life, err = memberSeconds(m, name)
			if err != nil {
				return nil, err
			}
		}
	}
	return n, nil
}
