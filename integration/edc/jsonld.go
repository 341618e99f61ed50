package edc

import (
	"maps"
	"slices"
	"strings"
)

// Namespaces of what we send.
const (
	edcNS  = "https://w3id.org/edc/v0.0.1/ns/"
	odrlNS = "http://www.w3.org/ns/odrl.jsonld"
)

// node is a JSON-LD object as EDC writes it: compacted, with names that releases prefix differently.
type node map[string]any

// newNode returns an object of a type with the context that its names need.
func newNode(kind string, members node) node {
	n := node{"@context": node{"@vocab": edcNS}, "@type": kind}
	maps.Copy(n, members)
	return n
}

// member returns the member whose name is, or ends in, a local name; nil if there is none. Of several it is the one that
// is named exactly so, else the first in alphabetical order.
func (n node) member(local string) any {
	exact, ok := n[local]
	if ok {
		return exact
	}
	for _, name := range slices.Sorted(maps.Keys(n)) {
		if name[strings.LastIndexAny(name, ":/#")+1:] == local {
			return n[name]
		}
	}
	return nil
}

// text returns a member that is a string; empty if it is not there or something else.
func (n node) text(local string) string {
	s, _ := n.member(local).(string)
	return s
}

// id returns a member that names something: text, or an object with an @id, as releases differ.
func (n node) id(local string) string {
	named, ok := n.member(local).(map[string]any)
	if ok {
		return node(named).text("@id")
	}
	return n.text(local)
}

// nodes returns a member that is a list of objects. EDC writes a list of one as the one.
func (n node) nodes(local string) []node {
	return nodesOf(n.member(local))
}

func nodesOf(value any) []node {
	switch v := value.(type) {
	case map[string]any:
		return []node{v}
	case []any:
		var all []node
		for _, element := range v {
			all = append(all, nodesOf(element)...)
		}
		return all
	}
	return nil
}

// fullNames returns the members that are text, each under its absolute name: prefixes and @vocab of the object's own
// context are written out. Names that the context says nothing of stay as they are.
func (n node) fullNames() map[string]string {
	context, _ := n["@context"].(map[string]any)
	vocabulary, _ := context["@vocab"].(string)
	full := map[string]string{}
	for name, value := range n {
		text, ok := value.(string)
		if !ok || strings.HasPrefix(name, "@") {
			continue
		}
		prefix, rest, prefixed := strings.Cut(name, ":")
		namespace, known := context[prefix].(string)
		switch {
		case prefixed && known:
			name = namespace + rest
		case !prefixed:
			name = vocabulary + name
		}
		full[name] = text
	}
	return full
}
