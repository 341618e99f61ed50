package did

import (
	"errors"
	"strings"
)

// base58Alphabet is that of Bitcoin, named base58btc by the multibase registry: no 0, O, I and l.
const base58Alphabet = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"

// decodeBase58 decodes base58btc. Every byte string has exactly one encoding, so nothing has to be compared afterwards.
// Its time is quadratic in the length: callers bound it.
func decodeBase58(s string) ([]byte, error) {
	zeros := len(s) - len(strings.TrimLeft(s, "1"))
	digits := []byte{} // base 256, least significant first
	for i := zeros; i < len(s); i++ {
		carry := strings.IndexByte(base58Alphabet, s[i])
		if carry < 0 {
			return nil, errors.New("character outside base58btc")
		}
		for j := range digits {
			carry += int(digits[j]) * len(base58Alphabet)
			digits[j] = byte(carry)
			carry >>= 8
		}
		if carry > 0 {
			digits = append(digits, byte(carry))
		}
	}
	out := make([]byte, zeros+len(digits))
	for i, d := range digits {
		out[len(out)-1-i] = d
	}
	return out, nil
}
