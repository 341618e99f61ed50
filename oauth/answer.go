package oauth

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/edrgate/edrgate/tokens"
)

// Token is what a successful token request is answered with.
type Token struct {
	AccessToken  tokens.Secret
	RefreshToken tokens.Secret // empty: none is issued

	// ExpiresIn is the access token's life. It is sent in whole seconds, rounded down, and at least one: consumers of
	// Tractus-X want a positive number.
	ExpiresIn time.Duration
}

// Format is the shape of a refusal's body.
type Format int

const (
	// OAuth is the object of RFC 6749 §5.2.
	OAuth Format = iota
	// EDC is the array of error details of the EDC APIs, which Tractus-X has at its refresh endpoint.
	EDC
)

// realm is the protection space that a challenge names. RFC 6750 §3 wants at least one parameter in it.
const realm = "edrgate"

// WriteToken writes the answer to a token request (RFC 6749 §5.1). The life is sent as expires_in, and as expires for
// consumers up to Tractus-X 0.12.1, which know no other name. The error is the writer's: the client may not have got the
// token.
func WriteToken(w http.ResponseWriter, t Token) error {
	seconds := max(int64(t.ExpiresIn/time.Second), 1)
	body, err := encode(struct {
		AccessToken  string `json:"access_token"`
		RefreshToken string `json:"refresh_token,omitempty"`
		Expires      int64  `json:"expires"`
		ExpiresIn    int64  `json:"expires_in"`
		TokenType    string `json:"token_type"`
	}{t.AccessToken.Reveal(), t.RefreshToken.Reveal(), seconds, seconds, "bearer"})
	if err != nil {
		return fmt.Errorf("encode token answer: %w", err)
	}
	return write(w, http.StatusOK, body)
}

// WriteError writes a refusal of a token endpoint. A 401 has the challenge that RFC 9110 §15.5.2 asks for. The error is the
// writer's.
func WriteError(w http.ResponseWriter, f Format, r Refusal) error {
	r = r.complete()
	if r.Status == http.StatusUnauthorized {
		if r.Code == "" {
			r.Code = CodeInvalidClient // also where no authentication was included: RFC 6749 §5.2
		}
		challenge := Refusal{}
		if r.Code == CodeInvalidToken {
			challenge = r // the only one of these codes that means something in a challenge (RFC 6750 §3.1)
		}
		w.Header().Set("WWW-Authenticate", challenge.challenge())
	}
	return writeRefusal(w, f, r)
}

// complete fills in what the writer of a refusal may leave out.
func (r Refusal) complete() Refusal {
	if r.Status < 400 || r.Status > 599 {
		r.Status = http.StatusInternalServerError
	}
	r.Message = printable(r.Message)
	if r.Message == "" {
		r.Message = http.StatusText(r.Status)
	}
	r.Code = printable(r.Code)
	if r.Code != "" || r.Status == http.StatusUnauthorized {
		return r
	}
	switch {
	case r.Status == http.StatusForbidden:
		r.Code = CodeInsufficientScope
	case r.Status == http.StatusServiceUnavailable || r.Status == http.StatusTooManyRequests:
		r.Code = CodeTemporarilyUnavailable
	case r.Status >= 500:
		r.Code = CodeServerError
	default:
		r.Code = CodeInvalidRequest
	}
	return r
}

// challenge returns the value of WWW-Authenticate (RFC 6750 §3). It cannot end the quoted string: see printable.
func (r Refusal) challenge() string {
	c := `Bearer realm="` + realm + `"`
	if r.Code == "" {
		return c
	}
	return c + `, error="` + r.Code + `", error_description="` + r.Message + `"`
}

// printable leaves of a text what error and error_description may hold: %x20-21, %x23-5B, %x5D-7E (RFC 6749 §5.2, RFC 6750
// §3).
func printable(text string) string {
	out := []byte(text)
	for i, c := range out {
		switch {
		case c == '"':
			out[i] = '\''
		case c < 0x20 || c > 0x7e || c == '\\':
			out[i] = ' '
		}
	}
	return string(out)
}

func writeRefusal(w http.ResponseWriter, f Format, r Refusal) error {
	if r.Status == http.StatusServiceUnavailable || r.Status == http.StatusTooManyRequests {
		seconds := int64((r.RetryAfter + time.Second - 1) / time.Second)
		w.Header().Set("Retry-After", strconv.FormatInt(max(seconds, 1), 10)) // RFC 9110 §10.2.3
	}
	body, err := r.body(f)
	if err != nil {
		return fmt.Errorf("encode refusal: %w", err)
	}
	return write(w, r.Status, body)
}

// edcTypes are the names that EDC gives to statuses.
var edcTypes = map[int]string{
	http.StatusUnauthorized: "AuthenticationFailed",
	http.StatusForbidden:    "NotAuthorized",
	http.StatusNotFound:     "ObjectNotFound",
	http.StatusConflict:     "ObjectConflict",
	http.StatusBadGateway:   "BadGateway",
}

func (r Refusal) body(f Format) ([]byte, error) {
	if f == OAuth {
		return encode(struct {
			Error       string `json:"error"`
			Description string `json:"error_description,omitempty"`
		}{r.Code, r.Message})
	}
	return encode([]struct {
		Message      string  `json:"message"`
		Type         string  `json:"type"`
		Path         *string `json:"path"` // always null, and never left out
		InvalidValue *string `json:"invalidValue"`
	}{{Message: r.Message, Type: edcType(r.Status)}})
}

func edcType(status int) string {
	name, ok := edcTypes[status]
	switch {
	case ok:
		return name
	case status == http.StatusServiceUnavailable:
		return "ServiceUnavailable" // EDC has no name for it, and its consumers read the status only
	case status >= 500:
		return "InternalServerError"
	}
	return "InvalidRequest"
}

func encode(v any) ([]byte, error) {
	var buf bytes.Buffer
	e := json.NewEncoder(&buf)
	e.SetEscapeHTML(false) // it is not HTML, and the texts are compared
	err := e.Encode(v)
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n")), err
}

func write(w http.ResponseWriter, status int, body []byte) error {
	h := w.Header()
	if len(body) > 0 {
		h.Set("Content-Type", "application/json")
	}
	h.Set("Content-Length", strconv.Itoa(len(body)))
	// A token must not be kept by a cache on the way, and a refusal must not outlive its cause (RFC 6749 §5.1).
	h.Set("Cache-Control", "no-store")
	h.Set("Pragma", "no-cache")
	w.WriteHeader(status)
	_, err := w.Write(body)
	if err != nil {
		return fmt.Errorf("write answer: %w", err)
	}
	return nil
}
