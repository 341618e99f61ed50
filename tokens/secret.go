package tokens

import "log/slog"

// Secret is a token or credential. Whatever prints, logs or marshals it gets "redacted"; only Reveal gives the value.
type Secret string

// Reveal returns the value, for the one place that puts it on the wire.
func (s Secret) Reveal() string { return string(s) }

// String returns "redacted".
func (Secret) String() string { return "redacted" }

// GoString returns "redacted", for %#v.
func (Secret) GoString() string { return "redacted" }

// MarshalText returns "redacted", for encoding/json and its like.
func (Secret) MarshalText() ([]byte, error) { return []byte("redacted"), nil }

// LogValue returns "redacted", for log/slog.
func (Secret) LogValue() slog.Value { return slog.StringValue("redacted") }
