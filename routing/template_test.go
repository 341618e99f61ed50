package routing

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/edrgate/edrgate/tokens"
)

// replaced stands for Caddy's placeholders: {x} becomes what a hostile environment might hold.
func replaced(text string) (string, error) {
	if strings.Contains(text, "{missing}") {
		return "", errors.New("{missing} is not known")
	}
	return strings.ReplaceAll(text, "{x}", "{edr.dataset}"), nil
}

const templateMetadata = `{"s":"acme","n":3.0,"f":-1.50,"e":1.2E12,"small":25e-3,"zero":-0.0,"huge":1e300,"on":false,"o":{"a":"deep"},
	"list":[1],"none":null,"empty":"","dot":".","dots":"..","slash":"a/b","climb":"../x","space":"a b","query":"a&b=c;d+e#f","percent":"100%",
	"umlaut":"ä","brace":"{env.HOME}","edr":"{edr.dataset}","line":"a\r\nX: y","tab":"a\tb","del":"\u007f","at":"u@h","colon":"h:1","back":"a\\b","semi":"..;a","question":"a?b"}`

func facts() *Facts {
	return start(func(r *tokens.StartRequest) {
		r.Metadata = []byte(templateMetadata)
		r.Claims = []byte(`{"role":"admin","vc":{"region":"eu"}}`)
	})
}

func TestTemplate(t *testing.T) {
	for source, want := range map[string]string{
		"":                                    "",
		"plain":                               "plain",
		"{edr.dataset}":                       "part-1",
		"a {edr.flow} b {edr.counterparty} c": "a tp-1 b did:web:consumer.example c",
		"{edr.agreement}{edr.bpn}":            "agreement-1BPNL00000000TEST",
		"{edr.profile}":                       "HttpData-PULL",
		"{edr.metadata.s}":                    "acme",
		"{edr.metadata.n}":                    "3",
		"{edr.metadata.f}":                    "-1.5",
		"{edr.metadata.e}":                    "1200000000000",
		"{edr.metadata.small}":                "0.025",
		"{edr.metadata.zero}":                 "0",
		"{edr.metadata.on}":                   "false",
		"{edr.metadata.o.a}":                  "deep",
		"{edr.claims.role}/{edr.claims.vc.region}": "admin/eu",
		// What is replaced when the config is loaded is no template, and what a message says is no placeholder.
		"{x}":                       "{edr.dataset}",
		"{x}{edr.dataset}{x}":       "{edr.dataset}part-1{edr.dataset}",
		"{edr.metadata.edr}":        "{edr.dataset}",
		"{edr.metadata.brace}{x}":   "{env.HOME}{edr.dataset}",
		`\{edr.dataset}`:            `\{edr.dataset}`, // escaped for Caddy, whose replacer takes the backslash away
		"{edr.dataset}}":            "part-1}",
		"{ {x}":                     "{ {edr.dataset}",
		"{not closed":               "{not closed",
		"{edr.metadata.umlaut}{unk": "ä{unk",
	} {
		template, err := ParseTemplate(source, replaced)
		if err != nil {
			t.Errorf("%s: %v", source, err)
			continue
		}
		got, err := template.Render(facts())
		if err != nil || got != want {
			t.Errorf("%s: %q, %v, want %q", source, got, err, want)
		}
		if template.String() != source {
			t.Errorf("%s is %s", source, template)
		}
	}
}

func TestTemplateIsRefused(t *testing.T) {
	for source, want := range map[string]string{
		"{edr.}":                       "unknown placeholder {edr.}: there are {edr.dataset}",
		"{edr.datset}":                 "unknown placeholder {edr.datset}",
		"{edr.metadata}":               "unknown placeholder",
		"{edr.metadata.}":              "a member has no name",
		"{edr.metadata.a..b}":          "a member has no name",
		`{edr.metadata.a\}`:            "ends in a backslash",
		"{edr.metadata.{edr.dataset}}": "must not hold braces",
		"{file./x/{edr.dataset}}":      "inside of another one",
		"{ {edr.dataset}":              "inside of another one",
		"{edr.dataset":                 "not closed",
		"a{missing}b{edr.dataset}":     "{missing} is not known",
		"{edr.dataset}{missing}":       "{missing} is not known",
	} {
		_, err := ParseTemplate(source, replaced)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q in it", source, err, want)
		}
	}
}

// TestTemplateWithoutValue: the errors say which placeholder, and nothing of what the message said.
func TestTemplateWithoutValue(t *testing.T) {
	for member, want := range map[string]string{
		"absent": "is not in the start message", "none": "is not in the start message", "o.b": "is not in the start message",
		"s.a": "is not in the start message", "list.0": "is not in the start message",
		"o": "is an object or a list", "list": "is an object or a list", "empty": "is empty for this flow",
		"huge": "too long to be written out", "line": "control character", "tab": "control character", "del": "control character",
	} {
		template, err := ParseTemplate("x{edr.metadata."+member+"}", nil)
		if err != nil {
			t.Fatal(err)
		}
		got, err := template.Render(facts())
		if err == nil || err.Error() != "{edr.metadata."+member+"} "+lastOf(err.Error(), want) {
			t.Errorf("%s: %q, error %v, want %q", member, got, err, want)
		}
	}
	template, err := ParseTemplate("{edr.bpn}", nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = template.Render(start(func(r *tokens.StartRequest) { r.BPN = "" }))
	if err == nil || !strings.Contains(err.Error(), "{edr.bpn} is empty") {
		t.Errorf("error %v", err)
	}
	template, err = ParseTemplate("{edr.metadata.long}", nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = template.Render(withMetadata(`{"long":"` + strings.Repeat("CANARY", maxValueBytes) + `"}`))
	if err == nil || !strings.Contains(err.Error(), "longer than") || strings.Contains(err.Error(), "CANARY") {
		t.Errorf("error %v", err)
	}
}

// lastOf returns what an error says of a placeholder, if it holds the text.
func lastOf(text, want string) string {
	_, says, _ := strings.Cut(text, "} ")
	if !strings.Contains(says, want) {
		return "..." + want
	}
	return says
}

func TestURL(t *testing.T) {
	for source, want := range map[string]string{
		"https://b.example/api":                                     "https://b.example/api",
		"https://b.example":                                         "https://b.example",
		"https://b.example/{edr.dataset}":                           "https://b.example/part-1",
		"https://b.example/t-{edr.metadata.s}/x?v=1":                "https://b.example/t-acme/x?v=1",
		"https://b.example/{edr.metadata.slash}":                    "https://b.example/a%2Fb",
		"https://b.example/{edr.metadata.climb}":                    "https://b.example/..%2Fx", // one segment; the canonical form of it is refused
		"https://b.example/{edr.metadata.space}":                    "https://b.example/a%20b",
		"https://b.example/{edr.metadata.percent}":                  "https://b.example/100%25",
		"https://b.example/{edr.metadata.question}":                 "https://b.example/a%3Fb",
		"https://b.example/{edr.metadata.semi}":                     "https://b.example/..%3Ba",
		"https://b.example/{edr.metadata.umlaut}":                   "https://b.example/%C3%A4",
		"https://b.example/{edr.metadata.brace}":                    "https://b.example/%7Benv.HOME%7D",
		"https://b.example/{edr.counterparty}":                      "https://b.example/did:web:consumer.example",
		"https://b.example/x?t={edr.metadata.query}&u=1":            "https://b.example/x?t=a%26b%3Dc%3Bd%2Be%23f&u=1",
		"https://b.example?t={edr.metadata.space}":                  "https://b.example?t=a%20b",
		"https://b.example/?a=b&t=x-{edr.metadata.n}":               "https://b.example/?a=b&t=x-3",
		"https://{edr.metadata.s}.example/x":                        "https://acme.example/x",
		"https://b.example:{edr.metadata.n}/{edr.claims.role}":      "https://b.example:3/admin",
		"HTTP://{edr.metadata.s}":                                   "HTTP://acme",
		"{x}":                                                       "{edr.dataset}",
		"https://b.example/{edr.metadata.s}{edr.metadata.n}/?a={x}": "https://b.example/acme3/?a={edr.dataset}",
	} {
		u, err := ParseURL(source, replaced)
		if err != nil {
			t.Errorf("%s: %v", source, err)
			continue
		}
		got, err := u.Render(facts())
		if err != nil || got != want {
			t.Errorf("%s: %q, %v, want %q", source, got, err, want)
		}
	}
}

func TestURLIsRefused(t *testing.T) {
	for source, want := range map[string]string{
		"{edr.metadata.s}://b.example":                 "begin with http:// or https://",
		"{edr.metadata.s}":                             "begin with http:// or https://",
		"http{edr.metadata.s}://b.example":             "begin with http:// or https://",
		"//{edr.metadata.s}/":                          "begin with http:// or https://",
		"ftp://b.example/{edr.dataset}":                "the scheme must be http or https",
		"https://u:{edr.metadata.s}@b.example":         "a user or password",
		"https://{edr.metadata.s}@b.example":           "a user or password",
		"https://u@b.example/{edr.dataset}":            "a user or password",
		"https://b.example/x#{edr.dataset}":            "no fragment",
		"https://b.example/{edr.dataset}#x":            "no fragment",
		`https://b.example\{edr.dataset}\x`:            "", // an escaped brace: no placeholder
		`https://b.example/{edr.dataset}\x`:            "no backslash",
		"https://b.example/../{edr.dataset}":           "no . and .. segments",
		"https://b.example/{edr.dataset}/./x":          "no . and .. segments",
		"https://b.example/%{edr.dataset}":             "broken percent-encoding in the path",
		"https://b.example/{x}/{edr.dataset}":          "must be percent-encoded",
		"https://b.example/a b/{edr.dataset}":          "must be percent-encoded",
		"https://b.example/%2{edr.dataset}":            "broken percent-encoding in the path",
		"https://b.example/?a=%{edr.dataset}":          "broken percent-encoding in the query",
		"https://b.example/?{edr.dataset}":             "?name={edr.dataset}",
		"https://b.example/?a=b&{edr.dataset}=c":       "?name={edr.dataset}",
		"https://b.example/?a={edr.dataset}&{edr.bpn}": "?name={edr.bpn}",
		"https://b.example/{edr.nothing}":              "unknown placeholder",
		"https://b.example/{missing}{edr.dataset}":     "{missing} is not known",
	} {
		_, err := ParseURL(source, replaced)
		if want == "" && err == nil {
			continue
		}
		if want == "" || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q in it", source, err, want)
		}
	}
}

// TestURLWithoutValue: a value that could leave its place is refused, whoever stands beside it.
func TestURLWithoutValue(t *testing.T) {
	for source, want := range map[string]string{
		"https://b.example/{edr.metadata.empty}/x":             "is empty",
		"https://b.example/x?a={edr.metadata.empty}":           "is empty",
		"https://b.example/{edr.metadata.dot}/x":               "is . or ..",
		"https://b.example/{edr.metadata.dots}/x":              "is . or ..",
		"https://b.example/x?a={edr.metadata.dots}":            "is . or ..",
		"https://b.example/{edr.metadata.line}":                "control character",
		"https://b.example/{edr.metadata.absent}":              "is not in the start message",
		"https://b.example/{edr.metadata.o}":                   "is an object",
		"https://{edr.metadata.at}.example/":                   "cannot stand in a host name or port",
		"https://{edr.metadata.colon}/":                        "cannot stand in a host name or port",
		"https://{edr.metadata.slash}/":                        "cannot stand in a host name or port",
		"https://{edr.metadata.back}/":                         "cannot stand in a host name or port",
		"https://{edr.metadata.question}/":                     "cannot stand in a host name or port",
		"https://{edr.metadata.umlaut}/":                       "cannot stand in a host name or port",
		"https://{edr.metadata.brace}/":                        "cannot stand in a host name or port",
		"https://b.example:{edr.metadata.colon}/":              "cannot stand in a host name or port",
		"https://b.example/.{edr.metadata.dot}/x":              "is . or ..",
		"https://b.example/x/{edr.metadata.dot}{edr.dataset}/": "is . or ..",
	} {
		u, err := ParseURL(source, nil)
		if err != nil {
			t.Errorf("%s: %v", source, err)
			continue
		}
		got, err := u.Render(facts())
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "{edr.") {
			t.Errorf("%s: %q, error %v, want %q in it", source, got, err, want)
		}
	}
}

func TestStaticParts(t *testing.T) {
	for source, want := range map[string]string{
		"https://b.example:8443/{edr.dataset}?a=b": "https://b.example:8443",
		"https://b.example?a={edr.dataset}":        "https://b.example",
		"https://{edr.metadata.a}.example/x":       "",
		"https://b.example:{edr.metadata.a}":       "",
	} {
		u, err := ParseURL(source, nil)
		if err != nil {
			t.Fatal(err)
		}
		got, same := u.StaticOrigin()
		if got != want || same != (want != "") || u.Static() || u.String() != source {
			t.Errorf("%s: %q, %v", source, got, same)
		}
	}
	u, err := ParseURL("https://b.example/x", nil)
	if err != nil || !u.Static() {
		t.Errorf("%v, %v", u, err)
	}
}

func TestDecimal(t *testing.T) {
	for text, want := range map[string]string{
		"0": "0", "-0": "0", "0.000": "0", "0e9": "0", "3": "3", "3.0": "3", "30": "30", "-30.50": "-30.5", "1e3": "1000", "1E+3": "1000",
		"1.2345e2": "123.45", "5e-3": "0.005", "0.10": "0.1", "12345678901234567890.5": "12345678901234567890.5",
		"1e63": "1" + strings.Repeat("0", 63), "1e64": "", "1e-64": "", "1e1048577": "-", "1e99999999999999999999": "-",
		"": "-", "-": "-", "03": "-", "+3": "-", "3.": "-", ".3": "-", "3e": "-", "3e+": "-", "3 ": "-", "0x3": "-", "1_0": "-", "NaN": "-", "3e+-1": "-",
	} {
		d, ok := parseDecimal(text)
		got := "-"
		if ok {
			got, ok = d.text()
			if !ok {
				got = ""
			}
		}
		if got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

// FuzzURL: whatever the configuration and the message say, what comes out is a URL in which the value stands where it was
// put, and nowhere else.
func FuzzURL(f *testing.F) {
	for _, source := range []string{
		"https://b.example/t/{edr.metadata.v}/x?a={edr.metadata.v}&b=c", "http://{edr.metadata.v}.example:8443/x", "https://b:{edr.metadata.v}/",
		"{x}/{edr.metadata.v}", "https://b/{edr.metadata.v}{edr.metadata.v}", "https://b/{edr.metadata.v", `https://b/\{edr.metadata.v}`, "https://b/%4{edr.metadata.v}", "http:/// {edr.metadata.v}",
	} {
		for _, value := range []string{"acme", "..", "a/b", "a b", "?#&=;", "%2e%2e", "\\", "u:p@h", "{env.X}", "\x00", "ä", "1"} {
			f.Add(source, value)
		}
	}
	f.Fuzz(func(t *testing.T, source, value string) {
		u, err := ParseURL(source, replaced)
		if err != nil || u.Static() {
			return
		}
		render := func(value string) (*url.URL, error) {
			text, err := json.Marshal(value)
			if err != nil {
				t.Fatal(err)
			}
			got, err := u.Render(withMetadata(fmt.Sprintf(`{"v":%s}`, text)))
			if err != nil {
				return nil, err
			}
			return url.Parse(got)
		}
		plain, err := render("1")
		if err != nil {
			return // another placeholder, or never a URL
		}
		got, err := render(value)
		if err != nil {
			return
		}
		origin, same := u.StaticOrigin()
		if got.Scheme != plain.Scheme || got.User != nil || got.Fragment != "" || same && !strings.HasPrefix(got.String(), origin) && got.Host != plain.Host {
			t.Fatalf("%s with %q: %s", source, value, got)
		}
		if strings.Count(got.EscapedPath(), "/") != strings.Count(plain.EscapedPath(), "/") || hasDotSegment(got.EscapedPath()) && !hasDotSegment(plain.EscapedPath()) {
			t.Fatalf("%s with %q: path %s", source, value, got.EscapedPath())
		}
		if strings.Count(got.RawQuery, "&") != strings.Count(plain.RawQuery, "&") || strings.Count(got.RawQuery, "=") != strings.Count(plain.RawQuery, "=") {
			t.Fatalf("%s with %q: query %s", source, value, got.RawQuery)
		}
	})
}

// FuzzTemplate: what is parsed renders, names itself, and is never parsed again.
func FuzzTemplate(f *testing.F) {
	for _, source := range []string{"{edr.dataset}", "a{edr.metadata.v.w}b", `\{edr.dataset}`, "{x}{edr.bpn}", "{{edr.flow}}", "{edr.claims.a\\.b}", "{", "}"} {
		f.Add(source, "value")
	}
	f.Fuzz(func(t *testing.T, source, value string) {
		template, err := ParseTemplate(source, nil)
		if err != nil {
			return
		}
		if template.String() != source {
			t.Fatalf("%q is %q", source, template)
		}
		got, err := template.Render(ofDataset(value))
		if err != nil {
			return
		}
		if template.Static() && got != source {
			t.Fatalf("%q came to %q", source, got)
		}
		if strings.Count(got, opening) > strings.Count(source, opening)*(1+strings.Count(value, opening)) {
			t.Fatalf("%q with %q came to %q", source, value, got)
		}
	})
}
