package oauth

import "fmt"

// Secret is a token as it travels. It prints as "redacted" whatever the verb, and marshals as that too: a token that ends
// up in a log line or an error by mistake must not be worth stealing.
type Secret string

const redacted = "redacted"

// Reveal returns the token itself.
func (s Secret) Reveal() string { return string(s) }

func (s Secret) String() string { return redacted }

// Format implements fmt.Formatter, so that no verb and no flag reaches the bytes.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// MarshalText implements encoding.TextMarshaler, which JSON and log encoders use.
func (s Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }
