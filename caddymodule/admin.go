package caddymodule

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/edrgate/edrgate/consumer"
	"github.com/edrgate/edrgate/internal/strictjson"
	"github.com/edrgate/edrgate/replica"
	"github.com/edrgate/edrgate/store"
	"github.com/edrgate/edrgate/tokens"
)

func init() {
	caddy.RegisterModule(adminAPI{})
}

// adminAPI serves what an operator may see and do, on Caddy's admin endpoint:
//
//	GET  /edrgate/status             who the gateway is and whether its store is well
//	GET  /edrgate/flows?after=&limit= a page of flows, in the order of their ids
//	GET  /edrgate/flows/{id}         one flow
//	POST /edrgate/flows/{id}/revoke  ends a flow for ever; optional body {"reason": "...", "quiet": true}
//	GET  /edrgate/edrs?after=&limit=  a page of the EDRs that other companies gave to the participant, without their tokens
//	POST /edrgate/edrs/{id}/complete ends a transfer in which the participant is the consumer, and has both sides told
//	POST /edrgate/accept-restore     goes on with a store that has lost writes, where several gateways share one
//	GET  /edrgate/keys               the signing keys, and how many flows and EDRs need each secret key
//
// The query parameter participant says whose flows and keys are meant: ids of flows are unique with one participant only.
// Default: the only one, or of several the app's own.
//
// No answer holds a token, a credential, a property of a source address, or the query of a URL.
//
// Caddy makes the module before the apps are loaded, once for each admin endpoint, and never cleans it up: it has no
// state of its own.
type adminAPI struct{}

// CaddyModule returns the Caddy module information.
func (adminAPI) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "admin.api.edrgate", New: func() caddy.Module { return new(adminAPI) }}
}

const adminRoot = "/edrgate/"

// Provision shows the metrics at the admin endpoint that the module belongs to, even if the app of its config fails.
func (adminAPI) Provision(ctx caddy.Context) error {
	err := registerMetrics(ctx.GetMetricsRegistry())
	if err != nil {
		return fmt.Errorf("registering metrics: %w", err)
	}
	return nil
}

// Routes implements caddy.AdminRouter.
func (a adminAPI) Routes() []caddy.AdminRoute {
	return []caddy.AdminRoute{{Pattern: adminRoot, Handler: caddy.AdminHandlerFunc(a.serve)}}
}

// serve answers for the app of the config that runs. That need not be the one that this endpoint was made with: when a
// reload fails, Caddy goes on with the old config but with the admin endpoint of the new one, and an operator must be
// able to revoke a flow just then.
func (adminAPI) serve(w http.ResponseWriter, r *http.Request) error {
	running, err := configuredApp(caddy.ActiveContext())
	if err != nil {
		return adminError(http.StatusNotFound, errors.New("the edrgate app is not configured"))
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return adminError(http.StatusBadRequest, errors.New("the query is not well encoded"))
	}
	p, err := running.participantAsked(query.Get(participantParameter))
	if err != nil {
		return err
	}
	return (&operator{participant: p}).serve(w, r)
}

// participantParameter is the query parameter that names a participant.
const participantParameter = "participant"

// participantAsked returns the participant that an operator means.
func (a *App) participantAsked(name string) (*participant, error) {
	p, err := a.findParticipant(name)
	switch {
	case errors.Is(err, errWhichParticipant):
		return nil, adminError(http.StatusBadRequest, fmt.Errorf("there are several participants: say which with %s, one of %s", participantParameter, a.participantNames()))
	case err != nil:
		return nil, adminError(http.StatusNotFound, fmt.Errorf("there is no participant %q, only %s", name, a.participantNames()))
	}
	return p, nil
}

// operator is what can be seen and done with one participant.
type operator struct {
	*participant
}

func (o *operator) serve(w http.ResponseWriter, r *http.Request) error {
	parts, err := adminPath(r.URL)
	if err != nil {
		return adminError(http.StatusBadRequest, err)
	}
	switch {
	case len(parts) == 1 && parts[0] == "status":
		return o.get(w, r, o.status)
	case len(parts) == 1 && parts[0] == "keys":
		return o.get(w, r, o.keys)
	case len(parts) == 1 && parts[0] == "accept-restore":
		return o.post(w, r, o.acceptRestore)
	case len(parts) == 1 && parts[0] == "edrs":
		return o.get(w, r, o.edrsPage)
	case len(parts) == 3 && parts[0] == "edrs" && parts[2] == "complete":
		return o.post(w, r, func(r *http.Request, _ *tokens.Service) (any, error) { return o.complete(r, parts[1]) })
	case len(parts) == 1 && parts[0] == "flows":
		return o.get(w, r, o.flows)
	case len(parts) == 2 && parts[0] == "flows":
		return o.get(w, r, func(r *http.Request, s *tokens.Service) (any, error) { return o.flow(r, s, parts[1]) })
	case len(parts) == 3 && parts[0] == "flows" && parts[2] == "revoke":
		return o.post(w, r, func(r *http.Request, s *tokens.Service) (any, error) { return o.revoke(r, s, parts[1]) })
	}
	return adminError(http.StatusNotFound, errors.New("no such resource"))
}

// adminPath returns the segments below the root, each decoded on its own: the id of a flow may hold any character but
// a slash.
func adminPath(u *url.URL) ([]string, error) {
	parts, err := splitPath(strings.TrimSuffix(strings.TrimPrefix(u.EscapedPath(), adminRoot), "/"))
	if err != nil {
		return nil, errors.New("the path is not well encoded")
	}
	return parts, nil
}

// adminRetryAfter is when to ask again where it cannot be told now (RFC 9110 §10.2.3), in seconds.
const adminRetryAfter = "5"

type adminOperation func(r *http.Request, s *tokens.Service) (any, error)

func (o *operator) get(w http.ResponseWriter, r *http.Request, do adminOperation) error {
	return o.do(w, r, http.MethodGet, do)
}

func (o *operator) post(w http.ResponseWriter, r *http.Request, do adminOperation) error {
	return o.do(w, r, http.MethodPost, do)
}

func (o *operator) do(w http.ResponseWriter, r *http.Request, method string, do adminOperation) error {
	if r.Method != method {
		w.Header().Set("Allow", method) // RFC 9110 §15.5.6
		return adminError(http.StatusMethodNotAllowed, fmt.Errorf("method must be %s", method))
	}
	service, err := o.Service()
	if err != nil {
		w.Header().Set("Retry-After", adminRetryAfter)
		return adminError(http.StatusServiceUnavailable, err)
	}
	body, err := do(r, service)
	if err != nil {
		status := adminStatus(err)
		if status == http.StatusServiceUnavailable {
			w.Header().Set("Retry-After", adminRetryAfter)
		}
		return adminError(status, err)
	}
	writeJSON(w, http.StatusOK, body)
	return nil
}

func adminError(status int, err error) error {
	return caddy.APIError{HTTPStatus: status, Err: err}
}

// errAdminRequest is wrapped by what is wrong with a request itself.
var errAdminRequest = errors.New("bad request")

func adminStatus(err error) int {
	switch {
	case errors.Is(err, errAdminRequest):
		return http.StatusBadRequest
	case errors.Is(err, errNoConsumer):
		return http.StatusNotFound
	}
	var ofEDR *consumer.Error
	if errors.As(err, &ofEDR) {
		return refusalOfEDR("", ofEDR).Status
	}
	switch tokens.CodeOf(err) {
	case tokens.CodeFlowUnknown:
		return http.StatusNotFound
	case tokens.CodeInvalid:
		return http.StatusBadRequest
	}
	return http.StatusServiceUnavailable
}

// statusView is the answer of /edrgate/status.
type statusView struct {
	Version         string            `json:"version"`
	DID             string            `json:"did"`
	Participant     string            `json:"participant"`
	Participants    []string          `json:"participants"` // all
	PublicURL       string            `json:"public_url"`
	RefreshEndpoint string            `json:"refresh_endpoint"`
	ControlPlanes   []string          `json:"control_planes"`
	Store           string            `json:"store"`
	StoreState      string            `json:"store_state"` // ok, short_of_space, unusable, or restored: it waits for accept-restore
	SigningKeys     []tokens.KeyInfo  `json:"signing_keys"`
	Routes          map[string]string `json:"routes,omitempty"` // name to public URL
}

func (o *operator) status(r *http.Request, _ *tokens.Service) (any, error) {
	view := statusView{
		Version:         version(),
		DID:             o.DID,
		Participant:     o.name,
		Participants:    o.app.participantList(),
		PublicURL:       o.address.public,
		RefreshEndpoint: o.address.refreshEndpoint(),
		ControlPlanes:   o.controlPlaneNames(),
		Store:           storeName(o.app.opener),
		StoreState:      "ok",
		SigningKeys:     o.config.Keys.SigningKeys(),
		Routes:          o.routes.endpoints,
	}
	err := o.app.storeHealth(r.Context())
	switch {
	case errors.Is(err, store.ErrFull):
		view.StoreState = "short_of_space"
	case err != nil:
		view.StoreState = "unusable"
	case o.app.storeRestored():
		view.StoreState = "restored"
	}
	return view, nil
}

// acceptView is the answer to accept-restore.
type acceptView struct {
	Accepted bool `json:"accepted"` // false: the store is not known to have lost anything
}

func (o *operator) acceptRestore(r *http.Request, _ *tokens.Service) (any, error) {
	shared := o.app.shared()
	if shared == nil {
		return acceptView{}, nil
	}
	accepted, err := replica.Accept(r.Context(), shared.store)
	if err != nil {
		return nil, err
	}
	o.logger.Info("restored store accepted by the operator", "accepted", accepted)
	return acceptView{Accepted: accepted}, nil
}

// keysView is the answer of /edrgate/keys.
type keysView struct {
	SigningKeys []tokens.KeyInfo `json:"signing_keys"`

	// FlowsBySecretKey counts the flows whose refresh tokens or sealed source addresses need a secret key.
	FlowsBySecretKey map[tokens.KeyID]int `json:"flows_by_secret_key"`

	// EDRsBySecretKey counts the EDRs of other companies that are sealed with a secret key.
	EDRsBySecretKey map[tokens.KeyID]int `json:"edrs_by_secret_key,omitempty"`
}

func (o *operator) keys(r *http.Request, s *tokens.Service) (any, error) {
	use, err := s.KeyUse(r.Context())
	if err != nil {
		return nil, err
	}
	view := keysView{SigningKeys: o.config.Keys.SigningKeys(), FlowsBySecretKey: use}
	if o.Consumer == nil {
		return view, nil
	}
	kept, err := o.EDRs()
	if err != nil {
		return nil, err
	}
	view.EDRsBySecretKey, err = kept.cache.KeyUse(r.Context())
	return view, err
}

// Sizes of a page of flows.
const (
	defaultPage = 100
	maxPage     = 1000
)

// pageView is the answer of /edrgate/flows.
type pageView struct {
	Flows []flowView `json:"flows"`
	Next  string     `json:"next,omitempty"` // what to ask for with after; empty: this was the last page
}

// pageAsked returns the id behind which a page begins, and how long it may be.
func pageAsked(r *http.Request) (string, int, error) {
	query := r.URL.Query()
	limit := defaultPage
	if query.Has("limit") {
		asked, err := strconv.Atoi(query.Get("limit"))
		if err != nil || asked < 1 || asked > maxPage {
			return "", 0, fmt.Errorf("%w: limit must be a number from 1 to %d", errAdminRequest, maxPage)
		}
		limit = asked
	}
	after := query.Get("after")
	if len(after) > tokens.MaxFlowIDBytes || strings.ContainsRune(after, 0) { // no id is so: the store would be blamed
		return "", 0, fmt.Errorf("%w: after must be an id of at most %d bytes", errAdminRequest, tokens.MaxFlowIDBytes)
	}
	return after, limit, nil
}

func (o *operator) flows(r *http.Request, s *tokens.Service) (any, error) {
	after, limit, err := pageAsked(r)
	if err != nil {
		return nil, err
	}
	flows, err := s.Flows(r.Context(), after, limit)
	if err != nil {
		return nil, err
	}
	page := pageView{Flows: make([]flowView, 0, len(flows))}
	for _, f := range flows {
		page.Flows = append(page.Flows, viewOf(f))
	}
	if len(flows) == limit {
		page.Next = flows[len(flows)-1].ID
	}
	return page, nil
}

func (o *operator) flow(r *http.Request, s *tokens.Service, id string) (any, error) {
	f, err := s.Flow(r.Context(), id)
	if err != nil {
		return nil, err
	}
	return viewOf(f), nil
}

// revokeRequest is the body of a revocation.
type revokeRequest struct {
	Reason string `json:"reason,omitempty"`

	// Quiet leaves the control plane untold: it goes on to take the transfer for started.
	Quiet bool `json:"quiet,omitempty"`
}

// read reads a body. No body: what is there stays. One that can be read in two ways is none: it ends a flow for ever.
func (q *revokeRequest) read(body io.Reader) error {
	data, err := io.ReadAll(io.LimitReader(body, maxRevokeBytes+1))
	if err != nil || len(data) == 0 {
		return err
	}
	if len(data) > maxRevokeBytes {
		return errors.New("too large")
	}
	members, err := strictjson.Parse(data, 0)
	if err != nil {
		return err
	}
	for name, raw := range members {
		switch name {
		case "reason":
			q.Reason, err = members.String(name)
		case "quiet":
			err = json.Unmarshal(raw, &q.Quiet)
		default:
			err = errors.New("unknown member")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// revokeView is the answer to a revocation.
type revokeView struct {
	Outcome tokens.Outcome `json:"outcome"`

	// ControlPlane says whether the control plane is told: promised; suspended, it does not take the news meanwhile;
	// no_callback, it has no address to call; quiet, as asked. Empty if nothing was ended now.
	ControlPlane string    `json:"control_plane,omitempty"`
	Flow         *flowView `json:"flow,omitempty"`
}

// What a revokeView says beside the promises of the token core.
const (
	untoldAddress = "no_callback"
	untoldQuiet   = "quiet"
)

const maxRevokeBytes = 4 << 10 // 4 KiB

func (o *operator) revoke(r *http.Request, s *tokens.Service, id string) (any, error) {
	request := revokeRequest{Reason: "revoked by the operator"}
	err := request.read(r.Body)
	if err != nil {
		return nil, fmt.Errorf("%w: the body must be empty or an object with a reason, of at most %d bytes", errAdminRequest, maxRevokeBytes)
	}
	revoke := s.Revoke
	if request.Quiet {
		revoke = s.RevokeQuietly
	}
	ending, err := revoke(r.Context(), id, request.Reason)
	if err != nil {
		return nil, err
	}
	view := revokeView{Outcome: ending.Outcome, ControlPlane: o.told(ending, request.Quiet)}
	o.logger.Info("flow revoked by the operator", "flow", id, "outcome", string(ending.Outcome), "control_plane", view.ControlPlane)
	if ending.Flow != nil {
		shown := viewOf(ending.Flow)
		view.Flow = &shown
	}
	return view, nil
}

// told says whether the control plane of a revoked flow will learn of it.
func (o *operator) told(ending tokens.Ending, quiet bool) string {
	switch {
	case ending.Outcome != tokens.Applied:
		return ""
	case quiet:
		return untoldQuiet
	case ending.Report == tokens.ReportPromised && o.calls[o.presentName(ending.Flow.ControlPlane)] == nil:
		return untoldAddress
	}
	return string(ending.Report)
}

// flowView is a flow as operators see it: ids, states and times. Claims, metadata and the source address are left out
// because they are other parties' and may hold credentials.
type flowView struct {
	ID           string         `json:"id"`
	Dialect      tokens.Dialect `json:"dialect,omitempty"`
	State        tokens.State   `json:"state"`
	Reason       string         `json:"reason,omitempty"`
	ControlPlane string         `json:"control_plane"`
	Counterparty string         `json:"counterparty,omitempty"`
	BoundDID     string         `json:"bound_did,omitempty"`
	Agreement    string         `json:"agreement,omitempty"`
	Dataset      string         `json:"dataset,omitempty"`
	Profile      string         `json:"profile,omitempty"`
	Renewable    bool           `json:"renewable"`
	Route        string         `json:"route,omitempty"`
	Endpoint     string         `json:"endpoint,omitempty"`
	OwnBackend   bool           `json:"own_backend"` // it came with a source address
	Generation   uint64         `json:"generation,omitempty"`
	Created      time.Time      `json:"created,omitzero"`
	Changed      time.Time      `json:"changed,omitzero"`
	Renewed      time.Time      `json:"renewed,omitzero"`
	Used         time.Time      `json:"used,omitzero"`
	Unchecked    time.Time      `json:"unchecked,omitzero"` // since when the policy's answer is missing
}

func viewOf(f *tokens.Flow) flowView {
	return flowView{
		ID: f.ID, Dialect: f.Dialect, State: f.State, Reason: f.Reason,
		ControlPlane: f.ControlPlane, Counterparty: f.Counterparty, BoundDID: f.BoundDID, Agreement: f.Agreement,
		Dataset: f.Dataset, Profile: f.Profile, Renewable: f.Renewable, Route: f.Route,
		Endpoint: withoutQuery(f.Endpoint), OwnBackend: f.Source != nil, Generation: f.Generation,
		Created: f.Created, Changed: f.Changed, Renewed: f.Renewed, Used: f.Used, Unchecked: f.Unchecked,
	}
}

// withoutQuery cuts query, fragment and userinfo from a URL.
func withoutQuery(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return ""
	}
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path, RawPath: u.RawPath}).String()
}

// Interface guards
var (
	_ caddy.AdminRouter = adminAPI{}
	_ caddy.Provisioner = adminAPI{}
)
