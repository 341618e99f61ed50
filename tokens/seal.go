package tokens

import (
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// sealed is a secret of somebody else's at rest: AES-256-GCM under a key of the ring, bound to the flow it belongs to,
// so that a row moved to another flow does not open.
type sealed struct {
	Key  KeyID  `json:"key"`
	Data []byte `json:"data"` // nonce and ciphertext
}

// String prints nothing of it.
func (*sealed) String() string { return "redacted" }

func (r *Ring) seal(random io.Reader, flow string, v any) (*sealed, error) {
	plain, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("sealing: %w", err)
	}
	aead := r.sealing[r.activeSealing]
	nonce := make([]byte, aead.NonceSize(), aead.NonceSize()+len(plain)+aead.Overhead())
	_, err = io.ReadFull(random, nonce)
	if err != nil {
		return nil, fmt.Errorf("sealing: reading random bytes: %w", err)
	}
	return &sealed{Key: r.activeSealing, Data: aead.Seal(nonce, nonce, plain, []byte(flow))}, nil
}

func (r *Ring) unseal(s *sealed, flow string, v any) error {
	aead := r.sealing[s.Key]
	if aead == nil {
		return fmt.Errorf("sealing key %s is not configured", s.Key)
	}
	if len(s.Data) < aead.NonceSize() {
		return errors.New("sealed value is too short")
	}
	nonce, data := s.Data[:aead.NonceSize()], s.Data[aead.NonceSize():]
	plain, err := aead.Open(nil, nonce, data, []byte(flow))
	if err != nil {
		return errors.New("sealed value does not open: it was changed, or belongs to another flow")
	}
	err = json.Unmarshal(plain, v)
	if err != nil {
		return errors.New("sealed value is not readable")
	}
	return nil
}

func equalSecret(a, b string) bool {
	return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1
}
