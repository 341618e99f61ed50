package signaling

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"github.com/edrgate/edrgate/internal/strictjson"
)

// Namespaces of classic signaling.
const (
	edcNS = "https://w3id.org/edc/v0.0.1/ns/"
	txNS  = "https://w3id.org/tractusx/auth/" // token renewal (Tractus-X refresh token grant)

	dspaceV08   = "https://w3id.org/dspace/v0.8/"   // EDC up to 0.15
	dspace2025  = "https://w3id.org/dspace/2025/1/" // EDC 0.16 and later
	bpnProperty = "https://w3id.org/catenax/credentials/bpn"
)

// The namespaces in which the members of a message and of an address are looked for. The empty one is a plain name that
// no @vocab has given a meaning to.
var (
	messageNS = []string{edcNS, ""}
	addressNS = []string{dspaceV08, dspace2025, edcNS, ""}
)

var (
	errNotLD     = errors.New("not a JSON-LD object")
	errAmbiguous = errors.New("more than one value")
	errShape     = errors.New("wrong type")
)

// maxDepth bounds the nesting of a message. The deepest that a control plane sends, in expanded form, has eight levels.
const maxDepth = 24

// ldNode is one JSON-LD object: its members by absolute name ("@type" and other keywords, and plain names without @vocab,
// as they are). A member that is null is absent. This is no JSON-LD processor: remote contexts are never fetched, and of
// a context only prefixes, @vocab and terms that stand for an IRI are read. Control planes send nothing else.
type ldNode map[string][]any

// readLD reads a message: one object, or the expanded form, an array of one object. It also returns the message's context.
func readLD(data []byte) (ldNode, *ldContext, error) {
	err := strictjson.Check(data, maxDepth)
	if err != nil {
		return nil, nil, err
	}
	var doc any
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	err = d.Decode(&doc)
	if err != nil {
		return nil, nil, errNotLD
	}
	list, ok := doc.([]any)
	if ok && len(list) == 1 {
		doc = list[0]
	}
	members, ok := doc.(map[string]any)
	if !ok {
		return nil, nil, errNotLD
	}
	node, context := expand(members, nil)
	return node, context, nil
}

// maxContexts bounds how many contexts apply to one name, and so the work for it. Later ones are not read.
const maxContexts = 8

// ldContext is what a context says of names. Entries are looked up from the last context to the first.
type ldContext struct {
	terms map[string]string // prefixes and terms
	vocab string
	outer *ldContext
	depth int
}

// inner puts a context in front of c.
func (c *ldContext) inner(terms map[string]string, vocab string) *ldContext {
	n := &ldContext{terms: terms, vocab: vocab, outer: c}
	if c != nil {
		n.depth = c.depth + 1
	}
	return n
}

// names reports whether a prefix or term stands for iri.
func (c *ldContext) names(iri string) bool {
	for ; c != nil; c = c.outer {
		for _, v := range c.terms {
			if v == iri {
				return true
			}
		}
	}
	return false
}

func (c *ldContext) term(name string) (string, bool) {
	for ; c != nil; c = c.outer {
		iri, ok := c.terms[name]
		if ok {
			return iri, iri != ""
		}
	}
	return "", false
}

func (c *ldContext) vocabulary() string {
	for ; c != nil; c = c.outer {
		if c.vocab != "" {
			return c.vocab
		}
	}
	return ""
}

// with returns the context that value, of a member @context, adds to c.
func (c *ldContext) with(value any) *ldContext {
	if c != nil && c.depth >= maxContexts {
		return c
	}
	switch v := value.(type) {
	case []any:
		for _, item := range v {
			c = c.with(item)
		}
	case string:
		// The context document of DSP 2025-1 defines the terms of an address without a prefix.
		if strings.HasPrefix(v, dspace2025) {
			terms := make(map[string]string, len(addressTerms))
			for _, term := range addressTerms {
				terms[term] = dspace2025 + term
			}
			return c.inner(terms, "")
		}
	case map[string]any:
		terms, vocab := make(map[string]string, len(v)), ""
		for name, definition := range v {
			d, ok := definition.(map[string]any)
			if ok {
				definition = d["@id"]
			}
			iri, _ := definition.(string) // null hides an outer definition
			switch {
			case name == "@vocab":
				vocab = iri
			case !strings.HasPrefix(name, "@"):
				terms[name] = iri
			}
		}
		return c.inner(terms, vocab)
	}
	return c
}

// addressTerms are the terms of a data address (DSP 2025-1).
var addressTerms = []string{"DataAddress", "EndpointProperty", "endpointType", "endpointProperties", "endpoint", "name", "value"}

// absolute returns the absolute form of a member's name or of a type.
func (c *ldContext) absolute(name string) string {
	if name == "" || name[0] == '@' {
		return name
	}
	iri, ok := c.term(name)
	if ok {
		return c.compact(iri)
	}
	if strings.Contains(name, ":") {
		return c.compact(name)
	}
	return c.vocabulary() + name
}

// compact resolves "prefix:rest" once. What has no known prefix, an absolute IRI among it, stays.
func (c *ldContext) compact(name string) string {
	prefix, rest, found := strings.Cut(name, ":")
	if !found || strings.HasPrefix(rest, "//") {
		return name
	}
	iri, ok := c.term(prefix)
	if !ok {
		return name
	}
	return iri + rest
}

// expand reads one object and returns the context inside it. Members stay unread until they are asked for.
func expand(members map[string]any, outer *ldContext) (ldNode, *ldContext) {
	c := outer
	own, ok := members["@context"]
	if ok {
		c = c.with(own)
	}
	node := make(ldNode, len(members))
	for name, value := range members {
		if name == "@context" {
			continue
		}
		key := c.absolute(name)
		for _, v := range values(value) {
			switch v := v.(type) {
			case map[string]any:
				node[key] = append(node[key], ldObject{v, c})
			case string:
				if key == "@type" {
					v = c.absolute(v)
				}
				node[key] = append(node[key], v)
			default:
				node[key] = append(node[key], v)
			}
		}
	}
	return node, c
}

// ldObject is a value that is an object, with the context it stands in.
type ldObject struct {
	members map[string]any
	context *ldContext
}

// values lists the values of a member. JSON-LD makes no difference between one value and an array of one, so control
// planes write a single endpoint property as a bare object (observed on EDC 0.11 to 0.17).
func values(value any) []any {
	switch v := value.(type) {
	case nil:
		return nil
	case []any:
		var list []any
		for _, item := range v {
			list = append(list, values(item)...)
		}
		return list
	case map[string]any:
		inner, ok := v["@value"]
		if ok && inner == nil {
			return nil
		}
		for _, container := range []string{"@list", "@set"} {
			list, ok := v[container].([]any)
			if ok {
				return values(list)
			}
		}
	}
	return []any{value}
}

// all returns the values of the member that any of the namespaces gives that name.
func (n ldNode) all(name string, namespaces []string) []any {
	var found []any
	for _, ns := range namespaces {
		found = append(found, n[ns+name]...)
	}
	return found
}

// text returns the member as a string, or "" if it is absent. Two values are an error: which of them counts would depend
// on the reader.
func (n ldNode) text(name string, namespaces []string) (string, error) {
	found := n.all(name, namespaces)
	switch len(found) {
	case 0:
		return "", nil
	case 1:
		return scalar(found[0])
	}
	return "", errAmbiguous
}

// node returns the member as an object, or nil if it is absent.
func (n ldNode) node(name string, namespaces []string) (ldNode, error) {
	found := n.all(name, namespaces)
	switch len(found) {
	case 0:
		return nil, nil
	case 1:
		return object(found[0])
	}
	return nil, errAmbiguous
}

// is reports whether the node has the type, or none at all.
func (n ldNode) is(name string, namespaces []string) bool {
	types := n["@type"]
	if len(types) == 0 {
		return true
	}
	for _, t := range types {
		s, ok := t.(string)
		if ok && slices.ContainsFunc(namespaces, func(ns string) bool { return s == ns+name }) {
			return true
		}
	}
	return false
}

func object(value any) (ldNode, error) {
	o, ok := value.(ldObject)
	if !ok {
		return nil, errShape
	}
	node, _ := expand(o.members, o.context)
	return node, nil
}

// scalar returns a value as text: a string, a number or boolean as it is written, {"@value": ..} or {"@id": ..}.
func scalar(value any) (string, error) {
	switch v := value.(type) {
	case string:
		return v, nil
	case json.Number:
		return v.String(), nil
	case bool:
		if v {
			return "true", nil
		}
		return "false", nil
	case ldObject:
		for _, keyword := range []string{"@value", "@id"} {
			inner, ok := v.members[keyword]
			if !ok {
				continue
			}
			_, nested := inner.(map[string]any)
			if nested {
				return "", errShape
			}
			return scalar(inner)
		}
	}
	return "", errShape
}
