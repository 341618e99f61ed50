// Package jwks gets and keeps the key set (RFC 7517 §5) with which an issuer's tokens are verified, from a URL or a file.
//
// A set that cannot be had is no reason to refuse a token: control planes take a refusal for final. So the last good set
// goes on being used for a while, and after that the answer is "try later".
package jwks

import (
	"crypto"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/edrgate/edrgate/internal/publicjwk"
	"github.com/edrgate/edrgate/internal/strictjson"
)

// Limits of a set. Real ones have a few keys in a few KiB.
const (
	maxBytes = 256 << 10
	maxKeys  = 64
	maxDepth = 8
)

// keys are the usable keys of a set by their ids.
type keys map[string][]crypto.PublicKey

// parse reads a set. A key that is not usable is left out, as RFC 7517 §5 has it: sets hold keys for encryption too. One
// without id is never used, since tokens choose by it. A set without any usable key is an error, so that an empty answer
// of a proxy in front of the issuer does not replace a good set.
func parse(data []byte) (keys, error) {
	document, err := strictjson.Parse(data, maxDepth)
	if err != nil {
		return nil, fmt.Errorf("key set: %w", err)
	}
	var list []json.RawMessage
	err = json.Unmarshal(document["keys"], &list)
	if err != nil {
		return nil, errors.New("key set: member \"keys\" is not an array")
	}
	if len(list) > maxKeys {
		return nil, fmt.Errorf("key set has more than %d keys", maxKeys)
	}
	set := keys{}
	for _, raw := range list {
		var header struct {
			KID string `json:"kid"`
		}
		err = json.Unmarshal(raw, &header)
		if err != nil || header.KID == "" {
			continue
		}
		key, err := publicjwk.Parse(raw)
		if err != nil {
			continue
		}
		set[header.KID] = append(set[header.KID], key)
	}
	if len(set) == 0 {
		return nil, errors.New("key set has no usable key with an id")
	}
	return set, nil
}
