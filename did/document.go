package did

import (
	"crypto"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/edrgate/edrgate/internal/publicjwk"
	"github.com/edrgate/edrgate/internal/strictjson"
)

// Bounds of a document. 64 methods are more than any rotation needs; each costs a point multiplication to check.
const (
	maxDocumentDepth = 16
	maxMethods       = 64
)

// Relationship says for which purposes a document must list a key before its signatures count (DID Core 1.0 §5.3).
type Relationship string

const (
	// RelationshipAny asks for authentication, assertionMethod or capabilityInvocation. A document that lists no
	// relationship of any kind passes too: wallets of the EDC family publish bare verification methods, and the data
	// plane that this one replaces never looks at relationships. The default.
	RelationshipAny Relationship = "any"
	// RelationshipCapabilityInvocation asks for capabilityInvocation, as DCP 1.0.1 does for self-issued tokens.
	RelationshipCapabilityInvocation Relationship = "capability_invocation"
	// RelationshipNone asks for none, as EDC.
	RelationshipNone Relationship = "none"
)

// relationships are the verification relationships of DID Core 1.0 §5.3, with true for those that let a key sign. An
// embedded key of the others is for encryption or delegation and never becomes a candidate.
var relationships = map[string]bool{
	"authentication":       true,
	"assertionMethod":      true,
	"capabilityInvocation": true,
	"capabilityDelegation": false,
	"keyAgreement":         false,
}

// methodTypes are the verification method types that carry publicKeyJwk: the two of the W3C, and those that EDC 0.17
// accepts besides. The name says nothing about the key inside; publicKey looks at that.
var methodTypes = map[string]bool{
	"JsonWebKey2020":                    true,
	"JsonWebKey":                        true,
	"EcdsaSecp256k1VerificationKey2019": true,
	"RsaVerificationKey2018":            true,
	"Ed25519VerificationKey2018":        true,
}

// document is what is kept of a DID document. It never changes.
type document struct {
	id      identifier
	methods map[string]method // by fragment
	count   int               // verification methods of any kind, also those that can never match
	refusal *Error            // why no key of it counts
}

// method is a verification method: a key, or why it must not be used.
type method struct {
	key     crypto.PublicKey
	refusal *Error
}

// key returns the key with the fragment, or with "" the only one of the document.
func (d *document) key(fragment string) (crypto.PublicKey, *Error) {
	if d.refusal != nil {
		return nil, d.refusal
	}
	m, found := d.methods[fragment]
	if fragment == "" && d.count == 1 {
		for _, m = range d.methods {
			found = true
		}
	}
	if !found {
		return nil, d.id.fail(CodeNoKey, nil)
	}
	if m.refusal != nil {
		return nil, m.refusal
	}
	return m.key, nil
}

// bytes estimates the memory that d takes.
func (d *document) bytes() int64 {
	size := int64(256 + len(d.id.did))
	for fragment, m := range d.methods {
		size += int64(512 + len(fragment))
		key, ok := m.key.(*rsa.PublicKey)
		if ok {
			size += int64(key.Size())
		}
	}
	return size
}

// reader collects what parseDocument needs while it walks over the document.
type reader struct {
	doc    *document
	listed map[string]bool // fragments that the policy accepts
	bare   bool            // the document lists no relationship at all
	policy Relationship
}

// parseDocument reads a DID document (DID Core 1.0 §5) that claims to be of id. An error means that it is none and
// nothing follows from it. A document of another DID is no error but a document that refuses every key: the host has
// given a clear answer. The same goes for a single key that must not be used: the others stay good.
func parseDocument(data []byte, id identifier, policy Relationship) (*document, error) {
	m, err := strictjson.Parse(data, maxDocumentDepth)
	if err != nil {
		return nil, err
	}
	subject, err := m.String("id")
	if err != nil {
		return nil, errors.New("document has no id")
	}
	doc := &document{id: id, methods: make(map[string]method)}
	// DID Core 1.0 §5.1.1. Without this check one host answers for the DIDs of all others.
	if subject != id.did {
		doc.refusal = id.fail(CodeOtherID, nil)
		return doc, nil
	}
	r := reader{doc: doc, listed: make(map[string]bool), bare: true, policy: policy}
	embedded, err := r.readRelationships(m)
	if err != nil {
		return nil, err
	}
	methods, err := array(m, "verificationMethod")
	if err != nil {
		return nil, err
	}
	for _, raw := range append(methods, embedded...) {
		err = r.addMethod(raw)
		if err != nil {
			return nil, err
		}
	}
	return doc, nil
}

// readRelationships notes which keys are listed and returns the methods that are embedded in the lists.
func (r *reader) readRelationships(m strictjson.Members) ([]json.RawMessage, error) {
	var embedded []json.RawMessage
	for name, signs := range relationships {
		entries, err := array(m, name)
		if err != nil {
			return nil, err
		}
		for _, raw := range entries {
			r.bare = false
			if !signs {
				continue
			}
			reference, isEmbedded, err := methodID(raw)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			if isEmbedded {
				embedded = append(embedded, raw)
			}
			fragment, own := r.resolve(reference)
			if own && (r.policy != RelationshipCapabilityInvocation || name == "capabilityInvocation") {
				r.listed[fragment] = true
			}
		}
	}
	return embedded, nil
}

// addMethod takes one verification method into the document. Its error is one of the document.
func (r *reader) addMethod(raw json.RawMessage) error {
	r.doc.count++
	if r.doc.count > maxMethods {
		return fmt.Errorf("document has more than %d verification methods", maxMethods)
	}
	id, isObject, err := methodID(raw)
	if err != nil {
		return err
	}
	if !isObject {
		return errors.New("verification method is not an object")
	}
	fragment, own := r.resolve(id)
	if !own {
		return nil
	}
	// Two keys under one name: which one counts would depend on the reader.
	_, duplicate := r.doc.methods[fragment]
	if duplicate {
		return errors.New("document has two verification methods of one id")
	}
	r.doc.methods[fragment] = r.readMethod(raw, fragment)
	return nil
}

func (r *reader) readMethod(raw json.RawMessage, fragment string) method {
	id := r.doc.id
	var m strictjson.Members
	err := json.Unmarshal(raw, &m)
	if err != nil {
		return method{refusal: id.fail(CodeBadKey, errors.New("verification method is not an object"))}
	}
	// DID Core 1.0 §5.2. The controller holds the private key: if it is somebody else, the signature is theirs.
	controller, err := m.String("controller")
	if err != nil || controller != id.did {
		return method{refusal: id.fail(CodeOtherController, nil)}
	}
	kind, err := m.String("type")
	if err != nil || !methodTypes[kind] {
		return method{refusal: id.fail(CodeBadKey, errors.New("verification method has an unsupported type"))}
	}
	listed := r.listed[fragment] || r.policy == RelationshipNone || r.policy == RelationshipAny && r.bare
	if !listed {
		return method{refusal: id.fail(CodeNotListed, nil)}
	}
	key, err := publicjwk.Parse(m["publicKeyJwk"])
	if err != nil {
		return method{refusal: id.fail(CodeBadKey, err)}
	}
	return method{key: key}
}

// resolve returns the fragment that a method's id or a reference to it names, and whether it is one of this DID. It may
// be absolute, relative ("#key-1", DID Core 1.0 §3.2.2) or the fragment alone, as EDC takes it.
func (r *reader) resolve(id string) (string, bool) {
	fragment, err := r.doc.id.fragment(id)
	if err != nil {
		return "", false
	}
	return strings.Clone(fragment), fragment != ""
}

// methodID returns the id of a method and true, or if raw is only a reference to one, that reference and false.
func methodID(raw json.RawMessage) (string, bool, error) {
	if len(raw) > 0 && raw[0] == '"' {
		var reference string
		err := json.Unmarshal(raw, &reference)
		return reference, false, err
	}
	var m strictjson.Members
	err := json.Unmarshal(raw, &m)
	if err != nil {
		return "", false, errors.New("verification method is neither an object nor a reference")
	}
	id, err := m.String("id")
	if err != nil {
		return "", false, errors.New("verification method has no id")
	}
	return id, true, nil
}

// array returns the elements of a member, none if it is absent or null (some serializers write every member).
func array(m strictjson.Members, name string) ([]json.RawMessage, error) {
	if !m.Has(name) {
		return nil, nil
	}
	var list []json.RawMessage
	err := json.Unmarshal(m[name], &list)
	if err != nil {
		return nil, fmt.Errorf("%s is not an array", name)
	}
	return list, nil
}
