package tokens

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Sealed is a secret of somebody else's at rest: AES-256-GCM under a key of a Sealer, bound to the record it belongs to,
// so that a value moved to another record does not open.
type Sealed struct {
	Key  KeyID  `json:"key"`
	Data []byte `json:"data"` // nonce and ciphertext
}

// String prints nothing of it.
func (*Sealed) String() string { return "redacted" }

// same reports whether both are the same ciphertext.
func (s *Sealed) same(other *Sealed) bool {
	if s == nil || other == nil {
		return s == other
	}
	return s.Key == other.Key && bytes.Equal(s.Data, other.Data)
}

// Sealer seals other parties' secrets before they are stored. It never changes and may be used by many goroutines at
// once. Ring.Sealer gives the one whose keys are derived from signing keys, NewSealer one of keys alone.
type Sealer struct {
	keys   map[KeyID]cipher.AEAD
	active KeyID
}

// NewSealer returns a sealer of secret keys of at least 32 bytes each, for a process that has no ring. The first seals,
// all of them open.
func NewSealer(keys ...[]byte) (*Sealer, error) {
	if len(keys) == 0 {
		return nil, errors.New("a sealing key is needed")
	}
	s := newSealer()
	for _, key := range keys {
		id, err := s.add(key)
		if err != nil {
			return nil, fmt.Errorf("sealing key: %w", err)
		}
		setDefault(&s.active, id)
	}
	return s, nil
}

func newSealer() *Sealer { return &Sealer{keys: map[KeyID]cipher.AEAD{}} }

func (s *Sealer) add(secret []byte) (KeyID, error) {
	id, err := secretKeyID(secret)
	if err != nil {
		return "", err
	}
	// The secret may be longer than an AES key and is not necessarily uniform, so it is drawn through HKDF.
	key, err := hkdf.Key(sha256.New, secret, nil, infoSealing, 32)
	if err != nil {
		return "", err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return "", err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return "", err
	}
	s.keys[id] = aead
	return id, nil
}

// String says how many keys there are.
func (s *Sealer) String() string { return fmt.Sprintf("sealer of %d keys", len(s.keys)) }

// Seal seals the JSON text of v for the record that owner names. random nil is crypto/rand.
func (s *Sealer) Seal(random io.Reader, owner string, v any) (*Sealed, error) {
	if random == nil {
		random = rand.Reader
	}
	plain, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("sealing: %w", err)
	}
	aead := s.keys[s.active]
	nonce := make([]byte, aead.NonceSize(), aead.NonceSize()+len(plain)+aead.Overhead())
	_, err = io.ReadFull(random, nonce)
	if err != nil {
		return nil, fmt.Errorf("sealing: reading random bytes: %w", err)
	}
	return &Sealed{Key: s.active, Data: aead.Seal(nonce, nonce, plain, []byte(owner))}, nil
}

// Unseal opens what was sealed for owner and decodes it into v. An error quotes nothing of it.
func (s *Sealer) Unseal(value *Sealed, owner string, v any) error {
	aead := s.keys[value.Key]
	if aead == nil {
		return fmt.Errorf("sealing key %s is not configured", value.Key)
	}
	if len(value.Data) < aead.NonceSize() {
		return errors.New("sealed value is too short")
	}
	nonce, data := value.Data[:aead.NonceSize()], value.Data[aead.NonceSize():]
	plain, err := aead.Open(nil, nonce, data, []byte(owner))
	if err != nil {
		return errors.New("sealed value does not open: it was changed, or belongs to another record")
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
