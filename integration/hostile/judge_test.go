package hostile

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// surface is where bad input is sent.
type surface int

const (
	data      surface = iota // edr_auth before reverse_proxy, and edr_refresh
	proxied                  // edr_proxy, and edr_refresh
	signaling                // edr_signaling
	edrs                     // edr_consumer
	egress                   // edr_egress
	health                   // edr_health
)

func (s surface) address(w *world) string {
	return [...]string{w.data, w.proxied, w.signaling, w.edrs, w.egress, w.health}[s]
}

// closed is the expected status where the connection is closed without an answer.
const closed = 0

// anyFetches is for proofs that can be refused only with the consumer's key. The document is fetched at most once more than
// it is known, since the key may have been replaced.
const anyFetches = 2

// shape is one distinct bad input and what has to come of it.
type shape struct {
	name string // says what is bad about it; unique in its category
	to   surface
	send func(w *world) string // the bytes, made when it is their turn
	// ask gets the answer in another way than by bytes over one TCP connection; nil: exchange(send).
	ask func(w *world) (reply, error)

	status  int    // the one status that is right, or closed
	code    string // text that the answer holds: an error code or a fixed message
	backend bool   // a backend gets the request
	target  string // with which request target; "" if that does not matter
	fetches int    // how many DID documents may be fetched at most
	hands   bool   // the answer hands out tokens or data addresses, which are secrets everywhere else

	// also checks what is special about this one; it returns "" if all is well.
	also func(w *world, answer reply) string
}

// raw are bytes that are known beforehand.
func raw(text string) func(*world) string { return func(*world) string { return text } }

func (s shape) exchange(w *world) (reply, error) {
	if s.ask != nil {
		return s.ask(w)
	}
	return exchange(s.to.address(w), s.send(w))
}

// run sends a shape and returns what is wrong about what comes of it.
func (w *world) run(s shape) []string {
	before, fetchedBefore := w.backendRequests(), w.hosts.fetches()
	answer, err := s.exchange(w)
	if err != nil {
		return []string{err.Error()}
	}
	problems := s.judge(answer)
	if !s.hands {
		for _, what := range w.canaries.Find([]byte(answer.raw)) {
			problems = append(problems, "the answer holds "+what)
		}
	}
	asked := w.backendRequests() - before
	if s.backend && asked != 1 || !s.backend && asked != 0 {
		problems = append(problems, fmt.Sprintf("the backends got %d requests", asked))
	}
	if s.backend && s.target != "" && asked == 1 {
		sent := w.lastSeen(s.to)
		if sent.target != s.target {
			problems = append(problems, fmt.Sprintf("the backend got %q, want %q", sent.target, s.target))
		}
	}
	fetched := w.hosts.fetches() - fetchedBefore
	if fetched > s.fetches {
		problems = append(problems, fmt.Sprintf("%d DID documents were fetched", fetched))
	}
	if s.also != nil {
		problem := s.also(w, answer)
		if problem != "" {
			problems = append(problems, problem)
		}
	}
	if !w.running() {
		problems = append(problems, "the process has ended")
	}
	return problems
}

// judge compares an answer with the expected one.
func (s shape) judge(answer reply) []string {
	var problems []string
	if answer.status == http.StatusInternalServerError {
		problems = append(problems, "status 500, which is never right")
	}
	if answer.status != s.status {
		problems = append(problems, fmt.Sprintf("status %d, want %d: %.300q", answer.status, s.status, answer.raw))
	}
	if s.code != "" && !strings.Contains(answer.raw, s.code) {
		problems = append(problems, fmt.Sprintf("no %q in the answer: %.600q", s.code, answer.raw))
	}
	if answer.more > 0 && s.status != closed {
		problems = append(problems, fmt.Sprintf("%d more answers than requests", answer.more))
	}
	// RFC 9110 §15.5.2: a 401 has a challenge; RFC 9110 §10.2.3: "cannot tell" says when to come again.
	if answer.status == http.StatusUnauthorized && !strings.HasPrefix(answer.header.Get("WWW-Authenticate"), "Bearer") && s.to <= proxied {
		problems = append(problems, "a 401 without a challenge")
	}
	if answer.status == http.StatusServiceUnavailable && answer.header.Get("Retry-After") == "" {
		problems = append(problems, "a 503 without Retry-After")
	}
	return problems
}

func (w *world) backendRequests() int {
	weather, _ := w.weather.count()
	orders, _ := w.orders.count()
	return weather + orders
}

func (w *world) lastSeen(to surface) seen {
	b := w.weather
	if to == proxied {
		b = w.orders
	}
	_, last := b.count()
	return last
}

// duplicates returns the names that more than one shape of a category has: they would count for more than they are.
func duplicates(shapes []shape) []string {
	names := make([]string, len(shapes))
	for i, s := range shapes {
		names[i] = s.name
	}
	slices.Sort(names)
	var twice []string
	for i := 1; i < len(names); i++ {
		if names[i] == names[i-1] {
			twice = append(twice, names[i])
		}
	}
	return slices.Compact(twice)
}

// printable is a name for bytes.
func printable(input string) string {
	quoted := fmt.Sprintf("%q", input)
	const most = 80
	if len(quoted) > most {
		return fmt.Sprintf("%s and so on, %d bytes", quoted[:most], len(input))
	}
	return quoted
}
