package routing

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/edrgate/edrgate/tokens"
)

// start is a start request; change changes it.
func start(change func(*tokens.StartRequest)) *Facts {
	r := &tokens.StartRequest{
		ProcessID: "tp-1", Profile: "HttpData-PULL", BPN: "BPNL00000000TEST",
		Terms: tokens.Terms{Dataset: "part-1", Agreement: "agreement-1", Counterparty: "did:web:consumer.example"},
	}
	if change != nil {
		change(r)
	}
	return FactsOfStart(r)
}

func ofDataset(id string) *Facts {
	return start(func(r *tokens.StartRequest) { r.Terms.Dataset = id })
}

func withMetadata(json string) *Facts {
	return start(func(r *tokens.StartRequest) { r.Metadata = []byte(json) })
}

func datasets(ids ...string) Match { return Match{Datasets: ids} }

func table(t testing.TB, routes ...Route) *Table {
	t.Helper()
	table, err := NewTable(routes)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func TestRouteOfADataset(t *testing.T) {
	routes := table(
		t,
		Route{"all", datasets("*")},
		Route{"parts", datasets("part-*", "extra")},
		Route{"bolts", datasets("part-bolt-*")},
		Route{"one", datasets("part-bolt-1")},
	)
	for dataset, want := range map[string]string{
		"part-bolt-1": "one", "part-bolt-2": "bolts", "part-nut": "parts", "part-": "parts", "extra": "parts", "extra2": "all", "x": "all",
	} {
		got, err := routes.Route(ofDataset(dataset))
		if err != nil || got != want {
			t.Errorf("%s: %q, %v, want %s", dataset, got, err, want)
		}
	}
}

// TestConditions: each condition alone, met and not met.
func TestConditions(t *testing.T) {
	member := func(path string, values ...string) Match {
		return Match{Metadata: []Member{{path, values}}}
	}
	const metadata = `{"tenant":"acme","n":3.0,"big":12345678901234567890,"huge":1e400,"on":true,"text":"3","none":null,
		"list":["x",2.50,false,["y"]],"o":{"a":{"b":"deep"}},"a.b":"dotted","back\\slash":"b","empty":""}`
	labelled := start(func(r *tokens.StartRequest) { r.Labels = []string{"eu", "gold"} })
	for name, c := range map[string]struct {
		match Match
		facts *Facts
		want  bool
	}{
		"profile":                   {Match{Profiles: []string{"HttpData-PULL"}}, start(nil), true},
		"one of the profiles":       {Match{Profiles: []string{"http-pull", "HttpData-PULL"}}, start(nil), true},
		"another profile":           {Match{Profiles: []string{"http-pull"}}, start(nil), false},
		"other case of the profile": {Match{Profiles: []string{"httpdata-pull"}}, start(nil), false},
		"label":                     {Match{Labels: []string{"gold"}}, labelled, true},
		"both labels":               {Match{Labels: []string{"gold", "eu"}}, labelled, true},
		"one label missing":         {Match{Labels: []string{"gold", "us"}}, labelled, false},
		"no labels on the flow":     {Match{Labels: []string{"gold"}}, start(nil), false},
		"dataset and label":         {Match{Datasets: []string{"part-*"}, Labels: []string{"gold"}}, labelled, true},
		"other dataset and label":   {Match{Datasets: []string{"weather"}, Labels: []string{"gold"}}, labelled, false},

		"string":                     {member("tenant", "acme"), withMetadata(metadata), true},
		"one of the strings":         {member("tenant", "other", "acme"), withMetadata(metadata), true},
		"another string":             {member("tenant", "acm"), withMetadata(metadata), false},
		"other case of a string":     {member("tenant", "ACME"), withMetadata(metadata), false},
		"other case of a name":       {member("Tenant", "acme"), withMetadata(metadata), false},
		"3 is 3.0":                   {member("n", "3"), withMetadata(metadata), true},
		"3.00 is 3.0":                {member("n", "3.00"), withMetadata(metadata), true},
		"3e0 is 3.0":                 {member("n", "3e0"), withMetadata(metadata), true},
		"3.1 is not":                 {member("n", "3.1"), withMetadata(metadata), false},
		"a text is no number":        {member("n", "three"), withMetadata(metadata), false},
		"a number as text":           {member("text", "3"), withMetadata(metadata), true},
		"texts are not numbers":      {member("text", "3.0"), withMetadata(metadata), false},
		"exactly":                    {member("big", "12345678901234567890"), withMetadata(metadata), true},
		"next to it":                 {member("big", "12345678901234567891"), withMetadata(metadata), false},
		"beyond floating point":      {member("huge", "1e400"), withMetadata(metadata), true},
		"boolean":                    {member("on", "true"), withMetadata(metadata), true},
		"other boolean":              {member("on", "false"), withMetadata(metadata), false},
		"null is absent":             {member("none", "null"), withMetadata(metadata), false},
		"in a list":                  {member("list", "x"), withMetadata(metadata), true},
		"a number in a list":         {member("list", "2.5"), withMetadata(metadata), true},
		"a boolean in a list":        {member("list", "false"), withMetadata(metadata), true},
		"not in the list":            {member("list", "z"), withMetadata(metadata), false},
		"in a list in a list":        {member("list", "y"), withMetadata(metadata), false},
		"through an object":          {member("o.a.b", "deep"), withMetadata(metadata), true},
		"an object":                  {member("o.a", "deep"), withMetadata(metadata), false},
		"through a string":           {member("tenant.a", "acme"), withMetadata(metadata), false},
		"a dot in a name":            {member(`a\.b`, "dotted"), withMetadata(metadata), true},
		"a dot in a name, unescaped": {member("a.b", "dotted"), withMetadata(metadata), false},
		"a backslash in a name":      {member(`back\\slash`, "b"), withMetadata(metadata), true},
		"no metadata":                {member("tenant", "acme"), start(nil), false},
		"metadata that is null":      {member("tenant", "acme"), withMetadata("null"), false},
		"two members":                {Match{Metadata: []Member{{"tenant", []string{"acme"}}, {"on", []string{"true"}}}}, withMetadata(metadata), true},
		"two members, one not":       {Match{Metadata: []Member{{"tenant", []string{"acme"}}, {"on", []string{"false"}}}}, withMetadata(metadata), false},
		"one member, twice":          {Match{Metadata: []Member{{"list", []string{"x"}}, {"list", []string{"2.5"}}}}, withMetadata(metadata), true},
		"one member, twice, one not": {Match{Metadata: []Member{{"list", []string{"x"}}, {"list", []string{"z"}}}}, withMetadata(metadata), false},
	} {
		t.Run(name, func(t *testing.T) {
			routes := table(t, Route{"r", c.match})
			got, err := routes.Route(c.facts)
			if err != nil || (got == "r") != c.want {
				t.Errorf("%q, %v", got, err)
			}
			missed := routes.Misses(c.facts)
			if c.want && missed != "" || strings.Contains(missed, "acme") {
				t.Errorf("misses %q", missed)
			}
		})
	}
}

// TestOrderOfRoutes: which of several matching routes counts does not depend on their names.
func TestOrderOfRoutes(t *testing.T) {
	flow := func() *Facts {
		return start(func(r *tokens.StartRequest) {
			r.Labels, r.Metadata = []string{"eu", "gold"}, []byte(`{"tenant":"acme","n":1}`)
		})
	}
	tenant := Member{"tenant", []string{"acme"}}
	number := Member{"n", []string{"1"}}
	for name, c := range map[string]struct {
		best, other Match
	}{
		"exact before a beginning":              {datasets("part-1"), datasets("part-*")},
		"exact before conditions":               {datasets("part-1"), Match{Datasets: []string{"part-*"}, Labels: []string{"eu", "gold"}, Metadata: []Member{tenant}}},
		"a longer beginning":                    {datasets("part-*"), Match{Datasets: []string{"part*"}, Labels: []string{"eu"}}},
		"a beginning before none":               {datasets("p*"), Match{Labels: []string{"eu", "gold"}, Profiles: []string{"HttpData-PULL"}}},
		"the shortest beginning before none":    {datasets("*"), Match{Labels: []string{"eu"}}},
		"a condition before none":               {Match{Datasets: []string{"part-1"}, Labels: []string{"eu"}}, datasets("part-1")},
		"two labels before one":                 {Match{Labels: []string{"eu", "gold"}}, Match{Labels: []string{"eu"}}},
		"a label said twice counts once":        {Match{Labels: []string{"eu", "gold"}}, Match{Labels: []string{"eu", "eu", "eu"}}},
		"two members before one":                {Match{Metadata: []Member{tenant, number}}, Match{Metadata: []Member{tenant}}},
		"a member said twice counts once":       {Match{Metadata: []Member{tenant, number}}, Match{Metadata: []Member{tenant, tenant, tenant}}},
		"profiles count once":                   {Match{Labels: []string{"eu", "gold"}}, Match{Profiles: []string{"HttpData-PULL", "http-pull", "x"}}},
		"the best of a route's own":             {datasets("*", "part-1"), datasets("part-*")},
		"what does not match does not count":    {datasets("*"), Match{Datasets: []string{"part-1"}, Labels: []string{"us"}}},
		"a route that asks for more and misses": {Match{Labels: []string{"eu"}}, Match{Labels: []string{"eu", "us", "gold"}}},
	} {
		for _, names := range [][2]string{{"a", "b"}, {"b", "a"}} {
			routes := []Route{{names[0], c.best}, {names[1], c.other}}
			for range 2 {
				slices.Reverse(routes)
				got, err := table(t, routes...).Route(flow())
				if err != nil || got != names[0] {
					t.Errorf("%s: %q, %v, want %q", name, got, err, names[0])
				}
			}
		}
	}
}

// TestTwoRoutesOfEqualRank: to choose one of them would give the data of the other away.
func TestTwoRoutesOfEqualRank(t *testing.T) {
	routes := table(
		t,
		Route{"fallback", datasets("*")},
		Route{"gold", Match{Datasets: []string{"part-*"}, Labels: []string{"gold"}}},
		Route{"eu", Match{Datasets: []string{"part-*"}, Labels: []string{"eu"}}},
	)
	labelled := func(labels ...string) *Facts {
		return start(func(r *tokens.StartRequest) { r.Labels = labels })
	}
	_, err := routes.Route(labelled("gold", "eu"))
	var ambiguous *AmbiguousError
	if !errors.As(err, &ambiguous) || !slices.Equal(ambiguous.Routes, []string{"eu", "gold"}) {
		t.Errorf("error %v", err)
	}
	for label, want := range map[string]string{"gold": "gold", "eu": "eu", "us": "fallback"} {
		got, err := routes.Route(labelled(label))
		if err != nil || got != want {
			t.Errorf("%s: %q, %v, want %q", label, got, err, want)
		}
	}
}

func TestTableIsRefused(t *testing.T) {
	tenant := func(values ...string) Match { return Match{Metadata: []Member{{"tenant", values}}} }
	for name, c := range map[string]struct {
		routes []Route
		want   string
	}{
		"no name":              {[]Route{{"", datasets("a")}}, "unique"},
		"name twice":           {[]Route{{"r", datasets("a")}, {"r", datasets("b")}}, "unique"},
		"nothing":              {[]Route{{"r", Match{}}}, "matches nothing"},
		"empty dataset":        {[]Route{{"r", datasets("")}}, "want an id"},
		"star in the middle":   {[]Route{{"r", datasets("a*b")}}, "want an id"},
		"empty label":          {[]Route{{"r", Match{Labels: []string{""}}}}, "label takes no empty text"},
		"empty profile":        {[]Route{{"r", Match{Profiles: []string{"a", ""}}}}, "profile takes no empty text"},
		"member without value": {[]Route{{"r", tenant()}}, "metadata tenant: a value is required"},
		"empty value":          {[]Route{{"r", tenant("")}}, "none may be empty"},
		"empty member":         {[]Route{{"r", Match{Metadata: []Member{{"a..b", []string{"x"}}}}}}, "a member has no name"},
		"lone backslash":       {[]Route{{"r", Match{Metadata: []Member{{`a\b`, []string{"x"}}}}}}, "a backslash"},
		"last backslash":       {[]Route{{"r", Match{Metadata: []Member{{`a\`, []string{"x"}}}}}}, "ends in a backslash"},
		"dataset twice":        {[]Route{{"r", datasets("a")}, {"s", datasets("a")}}, `dataset "a" is also in route "r"`},
		"beginning twice":      {[]Route{{"r", datasets("a*")}, {"s", datasets("b", "a*")}}, `dataset "a*" is also in route "r"`},
		"twice in one":         {[]Route{{"r", datasets("a", "a")}}, `also in route "r"`},
		"labels in other order": {[]Route{
			{"r", Match{Datasets: []string{"a"}, Labels: []string{"x", "y"}}},
			{"s", Match{Datasets: []string{"a"}, Labels: []string{"y", "x", "y"}}},
		}, "with the same profile, label and metadata"},
		"values in other order":    {[]Route{{"r", tenant("x", "y")}, {"s", tenant("y", "x")}}, `what it matches is also in route "r"`},
		"profiles without dataset": {[]Route{{"r", Match{Profiles: []string{"x"}}}, {"s", Match{Profiles: []string{"x"}}}}, "what it matches"},
	} {
		_, err := NewTable(c.routes)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q in it", name, err, c.want)
		}
	}
	table(
		t,
		Route{"r", Match{Datasets: []string{"a"}, Labels: []string{"x"}}},
		Route{"s", Match{Datasets: []string{"a"}, Labels: []string{"y"}}},
		Route{"t", datasets("a", "a*")},
		Route{"u", Match{Labels: []string{"x"}}},
		Route{"v", Match{Profiles: []string{"x"}}},
	)
}

// TestMisses: the log says what the configuration wants of a flow that it does not match, and nothing of the message.
func TestMisses(t *testing.T) {
	routes := table(
		t,
		Route{"a", Match{Datasets: []string{"part-1"}, Profiles: []string{"http-pull"}}},
		Route{"b", Match{Datasets: []string{"part-*"}, Labels: []string{"gold"}}},
		Route{"c", Match{Metadata: []Member{{"tenant", []string{"acme"}}}}},
		Route{"d", Match{Metadata: []Member{{"absent", []string{"x"}}}}},
		Route{"e", datasets("elsewhere")},
	)
	got := routes.Misses(withMetadata(`{"tenant":"CANARY"}`))
	want := `route a wants another profile; route b wants the label "gold"; route c wants another value of the metadata member tenant; ` +
		`route d wants the metadata member absent`
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	var many []Route
	for _, name := range strings.Split("abcdefgh", "") {
		many = append(many, Route{name, Match{Labels: []string{name}}})
	}
	got = table(t, many...).Misses(start(nil))
	if strings.Count(got, "route") != maxMisses || !strings.HasSuffix(got, "…") {
		t.Errorf("got %s", got)
	}
}

// TestFactsOfAFlow: a flow that is read from the store takes the route that its start message took.
func TestFactsOfAFlow(t *testing.T) {
	r := &tokens.StartRequest{
		ProcessID: "tp-1", Profile: "http-pull", BPN: "BPNL00000000TEST", AgreementID: "asserted",
		Terms:  tokens.Terms{Dataset: "d", Agreement: "a", Counterparty: "c"},
		Labels: []string{"l"}, Metadata: []byte(`{"m":1}`), Claims: []byte(`{"c":2}`),
	}
	f := &tokens.Flow{
		ID: r.ProcessID, Profile: r.Profile, BPN: r.BPN, AgreementID: r.AgreementID,
		Dataset: r.Terms.Dataset, Agreement: r.Terms.Agreement, Counterparty: r.Terms.Counterparty,
		Labels: r.Labels, Metadata: r.Metadata, Claims: r.Claims,
	}
	template, err := ParseTemplate("{edr.flow} {edr.profile} {edr.bpn} {edr.agreement} {edr.dataset} {edr.counterparty} {edr.metadata.m} {edr.claims.c}", nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, facts := range map[string]*Facts{"start": FactsOfStart(r), "flow": FactsOf(f)} {
		got, err := template.Render(facts)
		if err != nil || got != "tp-1 http-pull BPNL00000000TEST asserted d c 1 2" || !slices.Equal(facts.labels, []string{"l"}) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

// TestRouteAllocations keeps the price of finding a flow's route, which the first request of each token pays.
func TestRouteAllocations(t *testing.T) {
	routes := table(
		t,
		Route{"all", datasets("*")},
		Route{"parts", datasets("part-*", "extra")},
		Route{"one", Match{Datasets: []string{"part-1"}, Profiles: []string{"HttpData-PULL"}}},
	)
	facts := ofDataset("part-1")
	allocs := testing.AllocsPerRun(100, func() {
		got, err := routes.Route(facts)
		if err != nil || got != "one" {
			t.Errorf("%q, %v", got, err)
		}
	})
	if allocs > 4 { // 3, and one of the race detector
		t.Errorf("%v allocations, want at most 4", allocs)
	}
}
