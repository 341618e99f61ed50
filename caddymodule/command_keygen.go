package caddymodule

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/edrgate/edrgate/tokens"
)

func keygenCommand() *cobra.Command {
	var algorithm, did string
	cmd := &cobra.Command{
		Use:   "keygen <file> [--algorithm ES256|EdDSA] [--did <did>]",
		Short: "Makes a signing key and prints its public part",
		Long: `
Writes a new private key to the file, as PKCS #8 in PEM, readable by its owner
only. A file that exists is left as it is. Prints the public key as a JSON Web
Key Set or, with --did, as what the DID document of the participant has to say.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return keygen(cmd.OutOrStdout(), rand.Reader, args[0], algorithm, did)
		},
	}
	cmd.Flags().StringVar(&algorithm, "algorithm", "ES256", "ES256, which all wallets know, or EdDSA")
	cmd.Flags().StringVar(&did, "did", "", "The participant's DID: prints the part of its document")
	return cmd
}

func keygen(w io.Writer, random io.Reader, file, algorithm, did string) error {
	if did != "" && !didSyntax.MatchString(did) {
		return fmt.Errorf("%q is not a DID", did)
	}
	signer, err := newSigner(random, algorithm)
	if err != nil {
		return err
	}
	ring, err := tokens.NewRing([]tokens.RingKey{{Signer: signer, State: tokens.KeyActive, Name: file}}, nil, nil)
	if err != nil {
		return err
	}
	set, err := ring.JWKS()
	if err != nil {
		return err
	}
	printed, err := publicPart(set, did)
	if err != nil {
		return err
	}
	err = writeKey(file, signer)
	if err != nil {
		return err
	}
	return printJSON(w, printed)
}

func newSigner(random io.Reader, algorithm string) (crypto.Signer, error) {
	switch algorithm {
	case "ES256":
		return ecdsa.GenerateKey(elliptic.P256(), random)
	case "EdDSA":
		_, private, err := ed25519.GenerateKey(random)
		return private, err
	}
	return nil, fmt.Errorf("algorithm %q is none of ES256, EdDSA", algorithm)
}

// writeKey writes the key to a new file. It never overwrites one: the tokens of the key in it would be lost.
func writeKey(file string, signer crypto.Signer) error {
	der, err := x509.MarshalPKCS8PrivateKey(signer)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf("%s exists and is left as it is", file)
	}
	if err != nil {
		return err
	}
	err = pem.Encode(f, &pem.Block{Type: "PRIVATE KEY", Bytes: der})
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// didDocumentPart is what a DID document says about a key (DID Core 1.0 §5.2, §5.3.2).
type didDocumentPart struct {
	VerificationMethod []verificationMethod `json:"verificationMethod"`
	AssertionMethod    []string             `json:"assertionMethod"`
}

type verificationMethod struct {
	ID           string          `json:"id"`
	Type         string          `json:"type"`
	Controller   string          `json:"controller"`
	PublicKeyJWK json.RawMessage `json:"publicKeyJwk"`
}

func publicPart(set []byte, did string) (any, error) {
	if did == "" {
		return json.RawMessage(set), nil
	}
	var keys struct {
		Keys []json.RawMessage `json:"keys"`
	}
	err := json.Unmarshal(set, &keys)
	if err != nil {
		return nil, err
	}
	var part didDocumentPart
	for _, key := range keys.Keys {
		var named struct {
			KeyID string `json:"kid"`
		}
		err := json.Unmarshal(key, &named)
		if err != nil {
			return nil, err
		}
		method := verificationMethod{
			ID:           did + "#" + named.KeyID,
			Type:         "JsonWebKey2020", // the one type that Eclipse EDC reads with publicKeyJwk
			Controller:   did,
			PublicKeyJWK: key,
		}
		part.VerificationMethod = append(part.VerificationMethod, method)
		part.AssertionMethod = append(part.AssertionMethod, method.ID)
	}
	return part, nil
}
