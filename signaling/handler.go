// Package signaling is the control plane's side of the gateway: it takes the messages by which a control plane starts,
// suspends, resumes and ends data flows, and answers them.
//
// Two dialects are spoken: Data Plane Signaling, plain JSON below /dataflows, and the classic signaling of EDC up to 0.17
// and of Tractus-X, JSON-LD below /v1/dataflows. Both drive the same state machine; a dialect only reads and writes
// messages. What the gateway serves is a provider's pull: the control plane asks for a flow and gets an EDR (endpoint data
// reference) that the consumer uses on its own. With Received it serves a consumer's pull as well: the control plane brings the
// EDR that a provider gave.
//
// Whoever may signal may create tokens, so a Handler belongs on a listener that only control planes reach.
package signaling

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/edrgate/edrgate/routing"
	"github.com/edrgate/edrgate/tokens"
)

// Observer is told of every message, for metrics. It is called on the request path and must not block.
type Observer interface {
	// Signaled reports an answered message. operation and outcome are of closed sets.
	Signaled(dialect tokens.Dialect, operation, outcome string, took time.Duration)
}

// Config is what a Handler needs. Fields without a stated default are required.
type Config struct {
	Flows Flows

	// Received keeps the transfers in which the participant is the consumer. Default: none, and prepare and started are
	// refused.
	Received Received

	// AsyncPrepare says by its dataset whether a transfer is prepared asynchronously: its control plane is told later. Default:
	// none is.
	AsyncPrepare func(dataset string) bool

	// Access tells who may signal.
	Access Access

	// Serving says what the configuration can do with a flow. It is asked at each start, since sites may become known
	// after the handler. nil: not known yet, so starts get 503.
	Serving func() *Serving

	// Participant is the name of the participant context: every path is also served below /NAME. Empty: only without.
	Participant string

	// BelowName leaves the paths without the name to somebody else: to the handler of another participant. Default: both.
	BelowName bool

	// DID is the participant's id, which DPS start messages must name as their participantId. Required for DPS.
	DID string

	// Dialects are the dialects spoken. Default: both.
	Dialects []tokens.Dialect

	// CheckSource decides whether a classic source address may be used: whether the operator lists its backend, and
	// whether secrets it names exist and may go there. It must not fetch anything. Default: none may.
	CheckSource func(*tokens.Source) error

	// CheckRoute decides whether a route can serve a flow: whether its templates come to a backend that the operator lists,
	// and to secrets that may go there. It must not fetch anything. Errors name no value of the message. Default: all can.
	CheckRoute func(route string, f *routing.Facts) error

	// Checked is told who asked whether the data plane is there, which EDC does regularly up to 0.15. It must not block.
	// Default: nobody is told.
	Checked func(tokens.Caller)

	// Planes keeps what control planes say of themselves. Default: none, and /controlplanes is not served.
	Planes Planes

	// CheckCallback decides whether a control plane may be called back at an endpoint that it registers. Default: nowhere.
	CheckCallback func(caller tokens.Caller, endpoint string) error

	// Differs names the member of an authorization object which a control plane registers, that is not what the operator
	// configured for it; empty: they agree. Default: none is configured for any.
	Differs func(caller tokens.Caller, said *tokens.PlaneAuthorization) string

	MaxBodyBytes int64 // the largest message; default 64 KiB

	StartsAtOnce int           // starts worked on at once for each control plane; default 16
	StartWait    time.Duration // how long further ones wait for their turn; default 20 s

	Observer Observer         // default: none
	Logger   *slog.Logger     // default: none
	Now      func() time.Time // default: time.Now
	NewID    func() string    // ids of answers, which the log repeats; default: 26 random characters
}

// Handler answers signaling messages. It is safe for concurrent use.
type Handler struct {
	machine       machine
	maxBodyBytes  int64
	codecs        map[tokens.Dialect]codec
	access        Access
	participant   string
	belowName     bool
	checked       func(tokens.Caller)
	planes        Planes
	checkCallback func(caller tokens.Caller, endpoint string) error
	differs       func(caller tokens.Caller, said *tokens.PlaneAuthorization) string
	observer      Observer
	logger        *slog.Logger
	now           func() time.Time
	newID         func() string
}

// defaultBodyBytes is the largest message where nothing else is said.
const defaultBodyBytes = 64 << 10 // 64 KiB

// answerWithin bounds the work on a message. EDC gives up reading an answer after 30 s; then the same message comes again.
const answerWithin = 28 * time.Second

// New returns a Handler.
func New(c Config) (*Handler, error) {
	if c.Flows == nil || c.Access == nil || c.Serving == nil {
		return nil, errors.New("signaling: flows, access and serving are required")
	}
	err := CheckParticipant(c.Participant)
	if err != nil {
		return nil, fmt.Errorf("signaling: %w", err)
	}
	if c.BelowName && c.Participant == "" {
		return nil, errors.New("signaling: only below the name of the participant, but it has none")
	}
	if len(c.Dialects) == 0 {
		c.Dialects = []tokens.Dialect{tokens.DPS, tokens.Classic}
	}
	codecs := make(map[tokens.Dialect]codec, len(c.Dialects))
	for _, d := range c.Dialects {
		switch d {
		case tokens.DPS:
			codecs[d] = dps{did: c.DID}
		case tokens.Classic:
			codecs[d] = classic{}
		default:
			return nil, fmt.Errorf("signaling: unknown dialect %q, want dps or edc", d)
		}
	}
	if slices.Contains(c.Dialects, tokens.DPS) && c.DID == "" {
		return nil, errors.New("signaling: data plane signaling needs the participant's DID")
	}
	if c.StartsAtOnce < 0 || c.StartWait < 0 || c.MaxBodyBytes < 0 {
		return nil, errors.New("signaling: limits must not be negative")
	}
	if c.MaxBodyBytes == 0 {
		c.MaxBodyBytes = defaultBodyBytes
	}
	if c.StartsAtOnce == 0 {
		c.StartsAtOnce = 16
	}
	if c.StartWait == 0 {
		c.StartWait = 20 * time.Second
	}
	if c.AsyncPrepare == nil {
		c.AsyncPrepare = func(string) bool { return false }
	}
	if c.CheckCallback == nil {
		c.CheckCallback = func(tokens.Caller, string) error { return errors.New("no control plane is called back") }
	}
	if c.Checked == nil {
		c.Checked = func(tokens.Caller) {}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.NewID == nil {
		c.NewID = rand.Text
	}
	return &Handler{
		machine: machine{
			flows:        c.Flows,
			received:     c.Received,
			serving:      c.Serving,
			checkSource:  c.CheckSource,
			checkRoute:   c.CheckRoute,
			asyncPrepare: c.AsyncPrepare,
			turns:        newTurns(c.StartsAtOnce, c.StartWait),
		},
		maxBodyBytes:  c.MaxBodyBytes,
		codecs:        codecs,
		access:        c.Access,
		participant:   c.Participant,
		belowName:     c.BelowName,
		checked:       c.Checked,
		planes:        c.Planes,
		checkCallback: c.CheckCallback,
		differs:       c.Differs,
		observer:      c.Observer,
		logger:        c.Logger,
		now:           c.Now,
		newID:         c.NewID,
	}, nil
}

// Serves reports whether the path of r is one of signaling's. If not, it is somebody else's request.
func (h *Handler) Serves(r *http.Request) bool {
	_, ok := h.target(r)
	return ok
}

// exchange is one message and its answer.
type exchange struct {
	target
	id     string // of the answer, and in the log
	path   string // of the request, as it was sent
	caller tokens.Caller

	// Of a classic start, for its answer.
	namespace  string
	sourceType string
}

// name sets the id of the flow that a start message asks for, if it can be one.
func (x *exchange) name(flow string) {
	if tokens.ValidFlowID(flow) {
		x.flow = flow
	}
}

// statusPath is where the status is of the flow that a start or prepare has made.
func (x *exchange) statusPath(flow string) string {
	return strings.TrimSuffix(x.path, string(x.operation)) + url.PathEscape(flow) + "/status"
}

// ServeHTTP answers a message. A path that is none of signaling's gets 404; see Serves.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	t, ok := h.target(r)
	if !ok {
		http.NotFound(w, r)
		return
	}
	began := h.now()
	x := &exchange{target: t, id: h.newID(), path: r.URL.EscapedPath()}
	answer, spoken := h.codecs[t.dialect]
	if !spoken {
		answer = dps{} // a refusal's body in plain JSON is read by everybody
	}
	res, err := h.answer(w, r, x, spoken)
	if err != nil {
		var refused *refusal
		if !errors.As(err, &refused) {
			refused = refusalOf(err, false)
		}
		answer.refused(w, x, refused)
		h.report(r.Context(), x, began, refused.outcome, refused.status, refused.level(), slog.String("reason", refused.reason()))
		return
	}
	level := res.level()
	if t.operation.reads() {
		level = slog.LevelDebug // control planes poll
	}
	var extra []slog.Attr
	if res.ignoredSource {
		extra = append(extra, slog.String("source_address", "ignored"))
	}
	status := http.StatusOK
	switch {
	case res.edr != nil:
		status = answer.granted(w, x, res.edr)
	case res.transfer != nil:
		status = writeTransfer(w, x, res.transfer)
	case res.flow != nil:
		answer.status(w, x, res.flow)
	default:
		status = answer.done()
		if res.noContent {
			status = http.StatusNoContent
		}
		w.WriteHeader(status)
	}
	h.report(r.Context(), x, began, res.outcome, status, level, extra...)
}

// answer checks a request and carries it out. Who asks is the first question, so that strangers learn nothing else.
func (h *Handler) answer(w http.ResponseWriter, r *http.Request, x *exchange, spoken bool) (*result, error) {
	caller, err := h.access.Identify(r)
	if err != nil {
		return nil, err
	}
	if caller == "" {
		return nil, Forbidden("the control plane has no name") // its flows would be everybody's
	}
	x.caller = caller
	unserved := (x.operation == opPutPlane || x.operation == opDelPlane) && h.planes == nil
	if !spoken || unserved || x.operation == opUnknown {
		return nil, &refusal{status: http.StatusNotFound, outcome: outcomeNoPath, text: "no such operation here"}
	}
	err = checkMethod(r, x.operation)
	if err != nil {
		return nil, err
	}
	if x.flow != "" && !tokens.ValidFlowID(x.flow) {
		return nil, invalid("the id in the path cannot be that of a data flow")
	}
	var body []byte
	if x.operation.method() != http.MethodGet && x.operation != opDelPlane {
		body, err = h.readBody(w, r, x.dialect)
		if err != nil {
			return nil, err
		}
	}
	ctx := r.Context()
	if x.operation.ends() {
		// A control plane that hangs up does not want the flow to live on.
		ctx = context.WithoutCancel(ctx)
	}
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	return h.carryOut(ctx, x, body)
}

func (h *Handler) carryOut(ctx context.Context, x *exchange, body []byte) (*result, error) {
	c := h.codecs[x.dialect]
	switch x.operation {
	case opCheck:
		h.checked(x.caller)
		return &result{outcome: string(tokens.Applied)}, nil
	case opPrepare, opStarted:
		return h.receive(ctx, x, body)
	case opPutPlane:
		return h.putPlane(ctx, x, body)
	case opDelPlane:
		return h.deletePlane(ctx, x)
	case opStatus:
		return h.machine.status(ctx, x.dialect, x.caller, x.flow)
	case opStart:
		msg, err := c.readStart(body, x)
		if err != nil {
			return nil, err
		}
		return h.machine.start(ctx, x.caller, msg)
	}
	n := c.readNotice(body)
	msg := tokens.Message{ProcessID: x.flow, MessageID: n.messageID, Dialect: x.dialect, Reason: n.reason}
	if x.operation == opResume {
		var address json.RawMessage
		if h.machine.receives(x.dialect) {
			var err error
			_, address, err = dps{}.readStarted(body)
			if err != nil {
				return nil, err
			}
		}
		return h.machine.resume(ctx, x.caller, msg, address)
	}
	return h.machine.end(ctx, x.operation, x.caller, msg)
}

func checkMethod(r *http.Request, op operation) error {
	want := op.method()
	if r.Method == want || r.Method == http.MethodHead && want == http.MethodGet {
		return nil
	}
	allow := want
	if want == http.MethodGet {
		allow = "GET, HEAD"
	}
	return &refusal{status: http.StatusMethodNotAllowed, outcome: outcomeMethod, text: "want " + want, allow: allow}
}

// readBody reads the message. An empty one needs no media type: DPS §1.1 has an empty body for completed.
func (h *Handler) readBody(w http.ResponseWriter, r *http.Request, d tokens.Dialect) ([]byte, error) {
	tooLarge := &refusal{
		status: http.StatusRequestEntityTooLarge, outcome: outcomeTooLarge,
		text: fmt.Sprintf("a message has at most %d bytes", h.maxBodyBytes),
	}
	if r.ContentLength > h.maxBodyBytes {
		return nil, tooLarge
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, h.maxBodyBytes))
	var limit *http.MaxBytesError
	switch {
	case errors.As(err, &limit):
		return nil, tooLarge
	case errors.Is(err, os.ErrDeadlineExceeded):
		// Which says nothing about the message, and control planes take a 4xx for final.
		return nil, &refusal{
			status: http.StatusServiceUnavailable, outcome: outcomeUnavailable, text: textUnavailable, detail: "the body came too slowly",
		}
	case err != nil:
		return nil, invalid("the body ends early").because(err)
	case len(body) == 0:
		return nil, nil
	}
	if !isJSON(r.Header, d) {
		return nil, &refusal{
			status: http.StatusUnsupportedMediaType, outcome: outcomeMediaType, text: "want application/json",
		}
	}
	return body, nil
}

// isJSON reports whether the body is JSON. Parameters are ignored: control planes send charset=utf-8, and JSON has no
// other encoding (RFC 8259 §8.1).
func isJSON(h http.Header, d tokens.Dialect) bool {
	encoding := h.Get("Content-Encoding")
	if encoding != "" && encoding != "identity" {
		return false
	}
	mediaType, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err != nil {
		return false
	}
	return mediaType == "application/json" || d == tokens.Classic && mediaType == "application/ld+json"
}

// report writes the one log line of a message and tells the observer. Neither ever sees a body, a token or a property.
func (h *Handler) report(
	ctx context.Context, x *exchange, began time.Time, outcome string, status int, level slog.Level, extra ...slog.Attr,
) {
	if h.observer != nil {
		h.observer.Signaled(x.dialect, string(x.operation), outcome, h.now().Sub(began))
	}
	attrs := []slog.Attr{
		slog.String("operation", string(x.operation)),
		slog.String("outcome", outcome),
		slog.String("dialect", string(x.dialect)),
		slog.String("flow", loggable(x.flow)),
		slog.String("control_plane", string(x.caller)),
		slog.Int("status", status),
		slog.String("log_id", x.id),
	}
	h.logger.LogAttrs(ctx, level, "data flow signaling", append(attrs, extra...)...)
}

// loggable cuts what a path claims to be a flow id to the length of one.
func loggable(id string) string {
	return strings.ToValidUTF8(id[:min(len(id), tokens.MaxFlowIDBytes)], "")
}
