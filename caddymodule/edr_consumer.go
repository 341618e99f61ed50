package caddymodule

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/edrgate/edrgate/consumer"
	"github.com/edrgate/edrgate/internal/strictjson"
	"github.com/edrgate/edrgate/oauth"
)

func init() {
	caddy.RegisterModule(new(ConsumerAPI))
	httpcaddyfile.RegisterHandlerDirective("edr_consumer", func(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		handler := new(ConsumerAPI)
		return handler, handler.UnmarshalCaddyfile(h.Dispenser)
	})
	httpcaddyfile.RegisterDirectiveOrder("edr_consumer", httpcaddyfile.After, "forward_auth")
}

// ConsumerAPI serves the EDRs that other companies gave to a participant, with the paths and bodies of Tractus-X EDC's EDR
// API, below each of its prefixes:
//
//	POST   /edrs/request                           lists them, as an EDC QuerySpec asks
//	GET    /edrs/{id}/dataaddress?auto_refresh=…   the data address with the access token, renewed if it has to be
//	POST   /edrs/{id}/refresh                      the data address with a new access token
//	PUT    /edrs/{id}                              keeps an EDR, or says what is not known of one
//	DELETE /edrs/{id}                              forgets one
//	POST   /edrs/{id}/complete                     ends the transfer, on both sides: its data is used no more
//	POST   /edrs/events                            takes the events of an EDC's callback
//	POST   /v1/token/refresh                       the same as /edrs/{id}/refresh, with {"transferProcessId": …}
//
// {id} is that of the transfer process. Other paths go on to the next handler.
type ConsumerAPI struct {
	EDRDoor

	// Prefixes are the paths below which all this lies; / is none. /v1/token/refresh lies beside a /v3 at their end. Default:
	// /, /v3 and /management/v3.
	Prefixes []string `json:"prefixes,omitempty"`

	// EventsPath is the path of the events below a prefix. Default: /edrs/events.
	EventsPath string `json:"events_path,omitempty"`

	// RefreshToken has data addresses show the refresh token and its companions too, as EDC does. Whoever renews with it
	// beside the gateway takes the EDR away from it. Default: they do not.
	RefreshToken bool `json:"refresh_token,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (*ConsumerAPI) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.edr_consumer", New: func() caddy.Module { return new(ConsumerAPI) }}
}

const defaultEventsPath = "/edrs/events"

// Provision takes the participant and reads the API keys.
func (h *ConsumerAPI) Provision(ctx caddy.Context) error {
	if len(h.Prefixes) == 0 {
		h.Prefixes = []string{"/", "/v3", "/management/v3"}
	}
	h.EventsPath = orDefault(h.EventsPath, defaultEventsPath)
	err := errors.Join(checkPrefixes("prefix", h.Prefixes), checkPrefixes("events", []string{h.EventsPath}))
	if err != nil {
		return err
	}
	return h.provision(ctx, "edr_consumer")
}

// edrCall is a request to the API.
type edrCall struct {
	*edrs
	api *ConsumerAPI
	w   http.ResponseWriter
	r   *http.Request
	id  string // of the transfer process, if the path names it
}

// edrOperations are the operations of one path by their methods.
type edrOperations map[string]func(c edrCall)

// operations returns what a path means, and the transfer process that it names; nil: it is not ours.
func (h *ConsumerAPI) operations(escaped string) (edrOperations, string) {
	for _, prefix := range h.Prefixes {
		rest, inside := below(orDefault(strings.TrimSuffix(prefix, "/v3"), "/"), escaped)
		if inside && rest == "/v1/token/refresh" {
			return edrOperations{http.MethodPost: edrCall.refreshNamed}, ""
		}
		rest, inside = below(prefix, escaped)
		if !inside {
			continue
		}
		if rest == h.EventsPath {
			return edrOperations{http.MethodPost: edrCall.event}, ""
		}
		parts, err := splitPath(rest)
		if err != nil || parts[0] != "edrs" {
			continue
		}
		switch {
		case len(parts) == 2 && parts[1] == "request":
			return edrOperations{http.MethodPost: edrCall.query}, ""
		case len(parts) == 2 && parts[1] != "":
			return edrOperations{http.MethodPut: edrCall.put, http.MethodDelete: edrCall.remove}, parts[1]
		case len(parts) == 3 && parts[2] == "dataaddress":
			return edrOperations{http.MethodGet: edrCall.dataAddress}, parts[1]
		case len(parts) == 3 && parts[2] == "refresh":
			return edrOperations{http.MethodPost: edrCall.refresh}, parts[1]
		case len(parts) == 3 && parts[2] == "complete":
			return edrOperations{http.MethodPost: edrCall.complete}, parts[1]
		}
	}
	return nil, ""
}

// ServeHTTP answers requests to the API.
func (h *ConsumerAPI) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	operations, id := h.operations(r.URL.EscapedPath())
	if operations == nil {
		return next.ServeHTTP(w, r)
	}
	if !h.admit(w, r) {
		return nil
	}
	do, known := operations[r.Method]
	if !known {
		w.Header().Set("Allow", strings.Join(slices.Sorted(maps.Keys(operations)), ", ")) // RFC 9110 §15.5.6
		h.refuse(w, oauth.Refusal{Status: http.StatusMethodNotAllowed})
		return nil
	}
	kept := h.opened(w)
	if kept != nil {
		do(edrCall{kept, h, w, r, id})
	}
	return nil
}

// bad answers a request that is wrong in itself.
func (c edrCall) bad(message string) {
	c.api.refuse(c.w, oauth.Refusal{Status: http.StatusBadRequest, Message: message})
}

// body reads a body of at most so many bytes; false: the request has been answered.
func (c edrCall) body(most int64) ([]byte, bool) {
	timed := timeBody(c.w, c.r, time.Duration(c.api.participant.app.Limits.MessageTimeout))
	data, refusal := readDoorBody(c.w, c.r, most)
	if refusal != nil {
		c.api.refuse(c.w, *refusal)
		timed.readLeft()
	}
	return data, refusal == nil
}

func (c edrCall) dataAddress() {
	renew, err := autoRefresh(c.r.URL.RawQuery)
	if err != nil {
		c.bad(err.Error())
		return
	}
	get := c.stored
	if renew {
		get = c.renewer.Current
	}
	c.show(get(c.r.Context(), c.id))
}

// autoRefresh reads the query of a data address. One that can be read in two ways is none.
func autoRefresh(rawQuery string) (bool, error) {
	query, err := url.ParseQuery(rawQuery)
	if err != nil || len(query["auto_refresh"]) > 1 {
		return false, errors.New("auto_refresh must be true or false, once, in a query that is well encoded")
	}
	switch query.Get("auto_refresh") {
	case "", "true":
		return true, nil
	case "false":
		return false, nil
	}
	return false, errors.New("auto_refresh must be true or false")
}

// stored returns an EDR as it is, if it is served at all.
func (c edrCall) stored(ctx context.Context, id string) (*consumer.Entry, error) {
	entry, err := c.cache.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	switch entry.State {
	case consumer.Suspended:
		return nil, &consumer.Error{Code: consumer.CodeSuspended}
	case consumer.Ended:
		return nil, &consumer.Error{Code: consumer.CodeEnded}
	}
	return entry, nil
}

// show answers with the data address of an EDR, which holds the access token.
func (c edrCall) show(entry *consumer.Entry, err error) {
	if err != nil {
		c.api.fail(c.w, c.id, err)
		return
	}
	address, err := entry.EDR.DataAddress(c.api.RefreshToken)
	if err != nil {
		c.api.fail(c.w, c.id, err)
		return
	}
	writeJSON(c.w, http.StatusOK, json.RawMessage(address))
}

func (c edrCall) refresh() { c.show(c.renewer.Refresh(c.r.Context(), c.id)) }

const maxNamedRefreshBytes = 4 << 10

func (c edrCall) refreshNamed() {
	data, ok := c.body(maxNamedRefreshBytes)
	if !ok {
		return
	}
	m, err := strictjson.Parse(data, 0)
	if err != nil {
		c.bad("the body: " + err.Error())
		return
	}
	c.id, err = m.String("transferProcessId")
	if err != nil {
		c.bad(err.Error())
		return
	}
	c.refresh()
}

func (c edrCall) remove() {
	err := c.cache.Remove(c.r.Context(), c.id)
	if err != nil {
		c.api.fail(c.w, c.id, err)
		return
	}
	c.api.logger.Info("EDR removed", "edr", c.id, "remote", c.r.RemoteAddr)
	c.w.WriteHeader(http.StatusNoContent)
}

func (c edrCall) complete() {
	outcome, err := c.transfers.Finish(c.r.Context(), c.id)
	if err != nil {
		c.api.fail(c.w, c.id, err)
		return
	}
	c.api.logger.Info("transfer completed", "edr", c.id, "outcome", string(outcome), "remote", c.r.RemoteAddr)
	c.w.WriteHeader(http.StatusNoContent)
}

func (c edrCall) event() {
	data, ok := c.body(consumer.MaxEventBytes)
	if !ok {
		return
	}
	event, err := consumer.ParseEvent(data)
	if err != nil {
		c.api.fail(c.w, "", err)
		return
	}
	entry, err := c.cache.Apply(c.r.Context(), event)
	if entry != nil && entry.Counterparty == "" {
		c.cameByEvent()
	}
	if err != nil && consumer.CodeOf(err) != consumer.CodeEnded { // a late start of what is over changes nothing
		c.api.fail(c.w, event.ID, err)
		return
	}
	c.w.WriteHeader(http.StatusNoContent)
}

// put keeps an EDR that somebody has, or says what is not known of one that came without it.
func (c edrCall) put() {
	data, ok := c.body(consumer.MaxEDRBytes + maxNamedRefreshBytes)
	if !ok {
		return
	}
	terms, edr, err := c.api.parsePut(data)
	if err != nil {
		c.api.fail(c.w, c.id, err)
		return
	}
	var entry *consumer.Entry
	if edr == nil {
		entry, err = c.cache.Learn(c.r.Context(), c.id, terms)
	} else {
		entry, err = c.cache.Put(c.r.Context(), consumer.Put{ID: c.id, Terms: terms, EDR: edr, Origin: consumer.ByHand})
	}
	if err != nil {
		c.api.fail(c.w, c.id, err)
		return
	}
	c.api.logger.Info("EDR put", "edr", c.id, "remote", c.r.RemoteAddr)
	writeJSON(c.w, http.StatusOK, entryView(entry))
}

// parsePut reads the body of PUT /edrs/{id}.
func (h *ConsumerAPI) parsePut(data []byte) (consumer.Terms, *consumer.EDR, error) {
	var terms consumer.Terms
	invalid := func(format string, args ...any) error {
		return &consumer.Error{Code: consumer.CodeInvalid, Detail: fmt.Sprintf(format, args...)}
	}
	m, err := strictjson.Parse(data, 0)
	if err != nil {
		return terms, nil, invalid("the body: %v", err)
	}
	var edr *consumer.EDR
	for _, name := range slices.Sorted(maps.Keys(m)) {
		var field *string
		switch name {
		case "providerId":
			field = &terms.Counterparty
		case "providerDid":
			field = &terms.CounterpartyDID
		case "assetId":
			field = &terms.Asset
		case "agreementId":
			field = &terms.Agreement
		case "dataAddress":
			edr, err = consumer.ParseEDR(m[name])
			if err != nil {
				return terms, nil, err
			}
			continue
		case "@context", "@type", "@id":
			continue
		default:
			return terms, nil, invalid("member %.40q is not known", name)
		}
		*field, err = m.String(name)
		if err != nil {
			return terms, nil, invalid("%v", err)
		}
	}
	if terms.CounterpartyDID == "" {
		terms.CounterpartyDID = h.participant.DIDMap[terms.Counterparty]
	}
	if edr == nil && terms == (consumer.Terms{}) {
		return terms, nil, invalid("dataAddress is missing, and so is what could be said of an EDR that is there")
	}
	return terms, edr, nil
}

// UnmarshalCaddyfile sets up the handler. Syntax:
//
//	edr_consumer {
//		participant  <name>
//		api_key      <key>
//		allow_remote
//		host         <name...>
//		prefix       <path...>
//		events       <path>
//		refresh_token
//	}
//
// api_key, host and prefix may be repeated.
func (h *ConsumerAPI) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	options := h.options()
	options["prefix"] = texts(&h.Prefixes)
	options["events"] = text(&h.EventsPath)
	options["refresh_token"] = func(d *caddyfile.Dispenser) error { return setFlag(d, &h.RefreshToken) }
	return unmarshalOptions(d, options)
}

// Interface guards
var (
	_ caddy.Provisioner           = (*ConsumerAPI)(nil)
	_ caddyhttp.MiddlewareHandler = (*ConsumerAPI)(nil)
	_ caddyfile.Unmarshaler       = (*ConsumerAPI)(nil)
)
