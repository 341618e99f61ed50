package tokens

import (
	"fmt"
	"log/slog"
)

// Secret is a token or credential. Whatever prints, logs or marshals it gets "redacted"; only Reveal gives the value.
type Secret string

// Reveal returns the value, for the one place that puts it on the wire.
func (s Secret) Reveal() string { return string(s) }

// String returns "redacted".
func (Secret) String() string { return "redacted" }

// Format writes "redacted", so that no verb and no flag of package fmt reaches the value.
func (Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte("redacted")) }

// MarshalText returns "redacted", for encoding/json and its like.
func (Secret) MarshalText() ([]byte, error) { return []byte("redacted"), nil }

// LogValue returns "redacted", for log/slog.
func (Secret) LogValue() slog.Value { return slog.StringValue("redacted") }
