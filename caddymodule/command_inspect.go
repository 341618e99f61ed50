package caddymodule

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/edrgate/edrgate/internal/compactjws"
)

func inspectCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "inspect [<token>|-]",
		Short: "Shows what an access token or a proof says, without verifying it",
		Long: `
Reads a token from the argument or, so that it does not end in the shell's
history, from standard input. Works offline and verifies nothing. The signature
is not printed, so the output cannot be used as a token.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			token := "-"
			if len(args) == 1 {
				token = args[0]
			}
			if token == "-" {
				data, err := io.ReadAll(io.LimitReader(cmd.InOrStdin(), compactjws.DefaultLimit+1))
				if err != nil {
					return fmt.Errorf("reading the token: %w", err)
				}
				token = string(data)
			}
			return inspect(cmd.OutOrStdout(), token, time.Now())
		},
	}
}

// inspection is what inspect prints.
type inspection struct {
	Header   inspectedHeader `json:"header"`
	Claims   json.RawMessage `json:"claims"`
	Times    map[string]any  `json:"times,omitempty"` // of iat, nbf and exp
	Expired  *bool           `json:"expired,omitempty"`
	Verified string          `json:"verified"`
}

type inspectedHeader struct {
	Alg string `json:"alg"`
	Typ string `json:"typ,omitempty"`
	Kid string `json:"kid,omitempty"`
}

func inspect(w io.Writer, token string, now time.Time) error {
	token = strings.TrimSpace(token)
	if token == "" {
		return errors.New("no token was given")
	}
	scheme, rest, found := strings.Cut(token, " ")
	if found && strings.EqualFold(scheme, "Bearer") {
		token = strings.TrimSpace(rest)
	}
	parsed, err := compactjws.Parse(token, 0)
	if err != nil {
		return err
	}
	shown := inspection{
		Header:   inspectedHeader{Alg: parsed.Header.Alg, Typ: parsed.Header.Typ, Kid: parsed.Header.Kid},
		Claims:   parsed.Payload,
		Verified: "no: nothing was verified",
	}
	var claims map[string]any
	decoder := json.NewDecoder(bytes.NewReader(parsed.Payload))
	decoder.UseNumber() // so that large numbers are shown as they are
	err = decoder.Decode(&claims)
	if err != nil {
		return errors.New("the claims cannot be read")
	}
	// A proof has an access token in its token claim, and that one's signature is good too.
	if inner, ok := claims["token"].(string); ok {
		claims["token"] = withoutSignature(inner)
		shown.Claims, err = json.Marshal(claims)
		if err != nil {
			return err
		}
	}
	shown.Times = map[string]any{}
	for _, name := range []string{"iat", "nbf", "exp"} {
		at, ok := numericDate(claims[name])
		if ok {
			shown.Times[name] = at.UTC().Format(time.RFC3339)
		}
	}
	expires, ok := numericDate(claims["exp"])
	if ok {
		expired := now.After(expires)
		shown.Expired = &expired
	}
	return printJSON(w, shown)
}

// withoutSignature cuts what makes a token valid.
func withoutSignature(token string) string {
	i := strings.LastIndexByte(token, '.')
	if i < 0 {
		return "(not a token)"
	}
	return token[:i] + ".(signature not shown)"
}

// numericDate reads seconds since the epoch (RFC 7519 §2), within what a time can show.
func numericDate(claim any) (time.Time, bool) {
	number, ok := claim.(json.Number)
	if !ok {
		return time.Time{}, false
	}
	seconds, err := number.Float64()
	if err != nil || math.Abs(seconds) > 1<<37 { // the year 6325
		return time.Time{}, false
	}
	return time.Unix(int64(seconds), 0), true
}
