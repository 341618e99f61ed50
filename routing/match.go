package routing

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Match says which flows a route is for. A flow must meet all of it; what is empty asks for nothing. At least one field is
// required.
type Match struct {
	// Datasets are dataset ids, one of which must be the flow's. One that ends in "*" stands for all ids with that
	// beginning.
	Datasets []string

	// Profiles are one of them the DPS profile of the flow, or its transfer type, exactly as the start message has it.
	Profiles []string

	// Labels must all be on the flow. Only Data Plane Signaling has any.
	Labels []string

	// Metadata must all be met. Only Data Plane Signaling has any.
	Metadata []Member
}

// Member asks for a member of a flow's metadata.
type Member struct {
	// Path is the member's path, see ParsePath.
	Path string

	// Values are what it must be equal to one of: a string by its text, a number by its value, true or false. A list must
	// hold such an element.
	Values []string
}

// Route is a name for the flows that match.
type Route struct {
	Name string // unique
	Match
}

// Table finds the route of a flow. It is immutable.
//
// An exact dataset counts before a longer beginning, that before a shorter one, that before none; then more conditions
// before fewer. Of two routes that are then still equal neither is chosen.
type Table struct {
	exact    map[string][]*entry
	open     map[string][]*entry // by the beginning
	openings []string            // the keys of open, longest first
	rest     []*entry            // of routes without datasets
}

// entry is what a route asks for beside the dataset.
type entry struct {
	route    string
	key      string // equal for equal conditions
	count    int    // of conditions
	profiles []string
	labels   []string
	members  []wantedMember
}

type wantedMember struct {
	source Member
	path   Path
	values []wantedValue
}

type wantedValue struct {
	text     string
	number   decimal
	isNumber bool
}

// NewTable checks the routes and indexes them.
func NewTable(routes []Route) (*Table, error) {
	t := &Table{exact: map[string][]*entry{}, open: map[string][]*entry{}}
	names := make(map[string]struct{}, len(routes))
	for _, r := range routes {
		_, twice := names[r.Name]
		if r.Name == "" || twice {
			return nil, fmt.Errorf("route %q: names must be unique and not empty", r.Name)
		}
		names[r.Name] = struct{}{}
		err := t.add(r)
		if err != nil {
			return nil, fmt.Errorf("route %q: %w", r.Name, err)
		}
	}
	for prefix := range t.open {
		t.openings = append(t.openings, prefix)
	}
	slices.SortFunc(t.openings, func(a, b string) int { return len(b) - len(a) })
	return t, nil
}

func (t *Table) add(r Route) error {
	e, err := newEntry(r)
	if err != nil {
		return err
	}
	if len(r.Datasets) == 0 {
		if e.count == 0 {
			return errors.New("matches nothing: dataset, profile, label or metadata is required")
		}
		other := same(t.rest, e)
		if other != "" {
			return fmt.Errorf("what it matches is also in route %q", other)
		}
		t.rest = append(t.rest, e)
		return nil
	}
	for _, pattern := range r.Datasets {
		prefix, open := strings.CutSuffix(pattern, "*")
		if strings.Contains(prefix, "*") || pattern == "" {
			return fmt.Errorf("dataset %q: want an id, or the beginning of ids followed by *", pattern)
		}
		index := t.exact
		if open {
			index = t.open
		}
		other := same(index[prefix], e)
		switch {
		case other != "" && e.count == 0:
			return fmt.Errorf("dataset %q is also in route %q", pattern, other)
		case other != "":
			return fmt.Errorf("dataset %q is also in route %q, with the same profile, label and metadata", pattern, other)
		}
		index[prefix] = append(index[prefix], e)
	}
	return nil
}

// same returns the route among the entries that asks for the same.
func same(entries []*entry, e *entry) string {
	i := slices.IndexFunc(entries, func(o *entry) bool { return o.key == e.key })
	if i < 0 {
		return ""
	}
	return entries[i].route
}

func newEntry(r Route) (*entry, error) {
	for option, texts := range map[string][]string{"profile": r.Profiles, "label": r.Labels} {
		if slices.Contains(texts, "") {
			return nil, fmt.Errorf("%s takes no empty text", option)
		}
	}
	e := &entry{route: r.Name, profiles: set(r.Profiles), labels: set(r.Labels)}
	key := [][]string{e.profiles, e.labels}
	lines := make([]string, 0, len(r.Metadata))
	for _, m := range r.Metadata {
		w, err := newWantedMember(m)
		if err != nil {
			return nil, fmt.Errorf("metadata %s: %w", m.Path, err)
		}
		line := fmt.Sprintf("%q %q", w.path, set(m.Values))
		if slices.Contains(lines, line) {
			continue // said twice, it counts once
		}
		lines = append(lines, line)
		e.members = append(e.members, w)
	}
	e.count = len(e.labels) + len(e.members)
	if len(e.profiles) > 0 {
		e.count++
	}
	slices.Sort(lines)
	e.key = fmt.Sprintf("%q", append(key, lines))
	return e, nil
}

// set returns the texts sorted and without repetitions.
func set(texts []string) []string {
	return slices.Compact(slices.Sorted(slices.Values(texts)))
}

func newWantedMember(m Member) (wantedMember, error) {
	path, err := ParsePath(m.Path)
	if err != nil {
		return wantedMember{}, err
	}
	if len(m.Values) == 0 || slices.Contains(m.Values, "") {
		return wantedMember{}, errors.New("a value is required, and none may be empty")
	}
	w := wantedMember{source: m, path: path}
	for _, text := range m.Values {
		number, isNumber := parseDecimal(text)
		w.values = append(w.values, wantedValue{text: text, number: number, isNumber: isNumber})
	}
	return w, nil
}

// AmbiguousError says that a flow matches two routes of equal rank.
type AmbiguousError struct {
	Routes []string // their names
}

func (e *AmbiguousError) Error() string {
	return "the flow matches the routes " + strings.Join(e.Routes, ", ") + " equally well: give one of them a further condition"
}

// Route returns the name of the route that a flow takes; empty: none. The error is an *AmbiguousError.
func (t *Table) Route(f *Facts) (string, error) {
	for _, group := range t.groups(f.dataset) {
		var best []string
		most := -1
		for _, e := range group {
			if e.count < most || e.misses(f) != "" {
				continue
			}
			if e.count > most {
				best, most = nil, e.count
			}
			best = append(best, e.route)
		}
		switch len(best) {
		case 0:
			continue
		case 1:
			return best[0], nil
		}
		slices.Sort(best)
		return "", &AmbiguousError{Routes: best}
	}
	return "", nil
}

// groups returns the entries that a dataset leaves, best first.
func (t *Table) groups(dataset string) [][]*entry {
	groups := [][]*entry{t.exact[dataset]}
	for _, prefix := range t.openings {
		if strings.HasPrefix(dataset, prefix) {
			groups = append(groups, t.open[prefix])
		}
	}
	return append(groups, t.rest)
}

// maxMisses is how many routes an explanation names.
const maxMisses = 5

// Misses says, for the log, why routes that the flow's dataset leaves do not match. It names what the configuration asks
// for, and nothing that the message said.
func (t *Table) Misses(f *Facts) string {
	var reasons []string
	for _, group := range t.groups(f.dataset) {
		for _, e := range group {
			missing := e.misses(f)
			if missing == "" {
				continue
			}
			if len(reasons) == maxMisses {
				return strings.Join(append(reasons, "…"), "; ")
			}
			reasons = append(reasons, fmt.Sprintf("route %s wants %s", e.route, missing))
		}
	}
	return strings.Join(reasons, "; ")
}

// misses returns the first condition that the flow does not meet; empty: it meets all.
func (e *entry) misses(f *Facts) string {
	if len(e.profiles) > 0 && !slices.Contains(e.profiles, f.profile) {
		return "another profile"
	}
	for _, label := range e.labels {
		if !slices.Contains(f.labels, label) {
			return fmt.Sprintf("the label %q", label)
		}
	}
	for _, m := range e.members {
		raw := f.metadata.find(m.path)
		if raw == nil {
			return "the metadata member " + m.source.Path
		}
		if !m.met(raw) {
			return "another value of the metadata member " + m.source.Path
		}
	}
	return ""
}

func (m *wantedMember) met(raw json.RawMessage) bool {
	if raw[0] != '[' {
		return m.equals(raw)
	}
	var items []json.RawMessage
	err := json.Unmarshal(raw, &items)
	if err != nil {
		return false
	}
	return slices.ContainsFunc(items, m.equals)
}

// equals compares a string, number or boolean. Nothing else is equal to a text.
func (m *wantedMember) equals(raw json.RawMessage) bool {
	s, err := readScalar(raw)
	if err != nil {
		return false
	}
	return slices.ContainsFunc(m.values, func(w wantedValue) bool {
		if s.isNumber {
			return w.isNumber && w.number == s.number
		}
		return w.text == s.text
	})
}
