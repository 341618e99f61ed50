package consumer

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/edrgate/edrgate/store"
	"github.com/edrgate/edrgate/tokens"
)

// State is the state of an EDR.
type State string

// The states of an EDR.
const (
	Preparing State = "preparing" // the control plane is going to be told that it is prepared
	Prepared  State = "prepared"  // announced by signaling; the EDR is to come
	Started   State = "started"
	Suspended State = "suspended" // kept, not served and not renewed until resumed
	Refused   State = "refused"   // served until the token expires; renewed only when asked for explicitly
	Ended     State = "ended"     // remembered for a while, without tokens
)

// Origin says how an EDR came here.
type Origin string

// The origins of an EDR.
const (
	BySignaling Origin = "signaling" // a control plane that named the counterparty
	ByEvent     Origin = "event"     // EDC's callback, which names none
	ByHand      Origin = "hand"      // the API
)

const edrKind = "edr"

// waits reports whether the transfer has not started yet.
func (s State) waits() bool { return s == Preparing || s == Prepared }

// preparedTTL is how long a prepared transfer waits for its EDR. A control plane that lost it says nothing.
const preparedTTL = 30 * 24 * time.Hour

// record is everything about one EDR: one record of the store, so that every operation is one compare-and-swap.
type record struct {
	Participant string `json:"participant"`
	ID          string `json:"id"`
	State       State  `json:"state"`
	Origin      Origin `json:"origin,omitempty"`

	Counterparty    string `json:"counterparty,omitempty"`
	CounterpartyDID string `json:"counterparty_did,omitempty"`
	Asset           string `json:"asset,omitempty"`
	Agreement       string `json:"agreement,omitempty"`

	// Of a transfer that signaling prepared; ControlPlane is empty in all others.
	ControlPlane    string            `json:"control_plane,omitempty"`
	Profile         string            `json:"profile,omitempty"`
	RenewalRequired bool              `json:"renewal_required,omitempty"` // the profile demands an EDR that can be renewed
	PrepareMessage  string            `json:"prepare_message,omitempty"`  // message id of the prepare, kept for life
	Messages        []transferMessage `json:"messages,omitempty"`         // the last eight others
	Completed       bool              `json:"completed,omitempty"`        // how it ended
	Callback        string            `json:"callback,omitempty"`         // where the control plane takes notifications, as the prepare had it
	Report          *tokens.Promise   `json:"report,omitempty"`           // what the control plane has still to be told

	// EDR is all of it, since an endpoint may hold a secret too. nil: there is none yet, or no more.
	EDR *tokens.Sealed `json:"edr,omitempty"`

	Generation uint64   `json:"generation,omitempty"` // grows with every other access token
	Given      string   `json:"given,omitempty"`      // digest of the access token that the provider's start delivered
	Held       []string `json:"held,omitempty"`       // digests of the access tokens that are claimed, the latest last
	Renewable  bool     `json:"renewable,omitempty"`  // there is a refresh token, and somebody to prove to

	Created  time.Time `json:"created,omitzero"`
	Changed  time.Time `json:"changed,omitzero"`  // last change of state
	Told     time.Time `json:"told,omitzero"`     // of the newest event that was applied
	Received time.Time `json:"received,omitzero"` // when the access token was sent to us
	Expires  time.Time `json:"expires,omitzero"`  // of the access token; zero: not said
	Due      time.Time `json:"due,omitzero"`      // when it is renewed ahead; zero: not ahead
	Renewed  time.Time `json:"renewed,omitzero"`  // end of the last renewal, also of a failed one

	// Who renews, and until when nobody else does.
	RenewingUntil time.Time `json:"renewing_until,omitzero"`
	RenewingOwner string    `json:"renewing_owner,omitempty"`

	Failures int       `json:"failures,omitempty"` // renewals in a row that could not tell
	RetryAt  time.Time `json:"retry_at,omitzero"`  // not before, unless asked for explicitly
	Status   int       `json:"status,omitempty"`   // what the provider refused with

	dropped []string // digests that it has just given up
}

// Entry is an EDR and what is known about it. Whoever gets one owns it.
type Entry struct {
	ID     string // of the transfer process
	State  State
	Origin Origin

	Counterparty    string // as signaled; empty: unknown
	CounterpartyDID string // whom a proof is for; empty: unknown
	Asset           string
	Agreement       string // the id of the agreement at our own control plane

	// EDR is nil in lists, and of an ended entry.
	EDR *EDR

	// Generation grows with every other access token.
	Generation uint64
	// Renewable says that there is a refresh token and somebody to prove to.
	Renewable bool

	Created  time.Time
	Received time.Time // when the access token was sent to us
	Expires  time.Time // of the access token; zero: the provider did not say
	Due      time.Time // when it is renewed ahead of its end; zero: not ahead
	Renewed  time.Time // end of the last renewal, also of a failed one; zero: none

	// Status is what the provider refused to renew with, where State is Refused.
	Status int

	decided time.Time // as in record.decided
}

func (c *Cache) key(id string) string { return c.c.Participant + "/" + id }

// owner names the record in what is sealed for it. Ids of flows hold no "/", so it is no flow's.
func (c *Cache) owner(id string) string { return edrKind + "/" + c.key(id) }

// sealedEDR is the stored form of an EDR, inside of the seal.
type sealedEDR struct {
	Dialect         tokens.Dialect    `json:"dialect"`
	Endpoint        string            `json:"endpoint"`
	EndpointType    string            `json:"endpoint_type,omitempty"`
	AccessToken     string            `json:"access_token,omitempty"`
	AuthType        string            `json:"auth_type,omitempty"`
	Scheme          string            `json:"scheme,omitempty"`
	RefreshToken    string            `json:"refresh_token,omitempty"`
	RefreshEndpoint string            `json:"refresh_endpoint,omitempty"`
	RefreshAudience string            `json:"refresh_audience,omitempty"`
	ExpiresIn       time.Duration     `json:"expires_in,omitempty"`
	Properties      map[string]string `json:"properties,omitempty"`
}

// maxSealedBytes leaves room for the rest of a record, and for base64, below what a store takes.
const maxSealedBytes = store.MaxDataBytes / 2

func (c *Cache) seal(id string, e *EDR) (*tokens.Sealed, error) {
	sealed, err := c.c.Sealer.Seal(c.c.Rand, c.owner(id), sealedEDR{
		e.Dialect, e.Endpoint, e.EndpointType, e.AccessToken.Reveal(), e.AuthType, e.Scheme, e.RefreshToken.Reveal(),
		e.RefreshEndpoint, e.RefreshAudience, e.ExpiresIn, e.Properties,
	})
	if err != nil {
		return nil, unavailable(err, "EDR %s", id)
	}
	if len(sealed.Data) > maxSealedBytes {
		return nil, refuse(CodeInvalid, "dataAddress is too large to be kept")
	}
	return sealed, nil
}

func (c *Cache) unseal(id string, sealed *tokens.Sealed) (*EDR, error) {
	if sealed == nil {
		return nil, nil
	}
	var s sealedEDR
	err := c.c.Sealer.Unseal(sealed, c.owner(id), &s)
	if err != nil {
		return nil, unavailable(err, "EDR %s", id)
	}
	return &EDR{
		Dialect: s.Dialect, Endpoint: s.Endpoint, EndpointType: s.EndpointType, AccessToken: tokens.Secret(s.AccessToken),
		AuthType: s.AuthType, Scheme: s.Scheme, RefreshToken: tokens.Secret(s.RefreshToken), RefreshEndpoint: s.RefreshEndpoint,
		RefreshAudience: s.RefreshAudience, ExpiresIn: s.ExpiresIn, Properties: s.Properties,
	}, nil
}

func decode(r store.Record) (*record, error) {
	rec := new(record)
	err := json.Unmarshal(r.Data, rec)
	if err != nil {
		return nil, unavailable(err, "EDR record %s", r.ID)
	}
	switch rec.State {
	case Preparing, Prepared, Started, Suspended, Refused, Ended:
		return rec, nil
	}
	// One that is damaged, such as null: it does not say that there is no EDR.
	return nil, unavailable(nil, "EDR record %s has no state", r.ID)
}

func (c *Cache) encode(rec *record) (store.Edit, error) {
	data, err := json.Marshal(rec)
	if err != nil {
		return store.Edit{}, unavailable(err, "EDR record %s", rec.ID)
	}
	// What takes an EDR away is let through where space is short.
	edit := store.Edit{Data: data, Ending: rec.State == Ended || rec.State == Suspended}
	switch {
	case rec.State.waits():
		edit.Expires = rec.Changed.Add(preparedTTL)
	case rec.State == Ended:
		edit.Expires = rec.Changed.Add(c.c.EndedTTL)
	}
	if rec.Report != nil && rec.State == Ended { // it outlives a short tombstone_ttl
		edit.Expires = later(edit.Expires, rec.Report.Since.Add(tokens.ReportWithin+time.Hour))
	}
	return edit, nil
}

// entry is what callers get of a record, without the EDR.
func (rec *record) entry() *Entry {
	return &Entry{
		ID: rec.ID, State: rec.State, Origin: rec.Origin, Counterparty: rec.Counterparty, CounterpartyDID: rec.CounterpartyDID,
		Asset: rec.Asset, Agreement: rec.Agreement, Generation: rec.Generation, Renewable: rec.Renewable, Created: rec.Created,
		Received: rec.Received, Expires: rec.Expires, Due: rec.Due, Renewed: rec.Renewed, Status: rec.Status, decided: rec.decided(),
	}
}

// decided returns the end of the last renewal if it has decided about the present access token; zero: it could not tell, or
// the EDR was put or brought to life after it.
func (rec *record) decided() time.Time {
	if rec.Failures > 0 || rec.Renewed.Before(rec.Received) || rec.Renewed.Before(rec.Changed) {
		return time.Time{}
	}
	return rec.Renewed
}

// clone is for callers that share a result. nil stays nil.
func (e *Entry) clone() *Entry {
	if e == nil || e.EDR == nil {
		return e
	}
	copied, edr := *e, *e.EDR
	edr.Properties = maps.Clone(edr.Properties)
	copied.EDR = &edr
	return &copied
}

// open is entry with the EDR.
func (c *Cache) open(rec *record) (*Entry, error) {
	edr, err := c.unseal(rec.ID, rec.EDR)
	if err != nil {
		return nil, err
	}
	e := rec.entry()
	e.EDR = edr
	return e, nil
}

// end takes everything from a record that an ended transfer has no use for.
func (rec *record) end(now time.Time) {
	*rec = record{
		Participant: rec.Participant, ID: rec.ID, State: Ended, Origin: rec.Origin,
		Counterparty: rec.Counterparty, CounterpartyDID: rec.CounterpartyDID, Asset: rec.Asset, Agreement: rec.Agreement,
		ControlPlane: rec.ControlPlane, Profile: rec.Profile, RenewalRequired: rec.RenewalRequired, PrepareMessage: rec.PrepareMessage,
		Callback: rec.Callback, Created: rec.Created, Changed: now, Told: rec.Told,
	}
}

// empty takes the EDR from the record of a transfer that goes on. A renewal on its way writes nothing any more.
func (rec *record) empty() {
	rec.EDR, rec.Given, rec.Held, rec.Renewable = nil, "", nil, false
	rec.Generation++
	rec.Received, rec.Expires, rec.Due = time.Time{}, time.Time{}, time.Time{}
	rec.RenewingOwner, rec.RenewingUntil = "", time.Time{}
	rec.RetryAt, rec.Failures, rec.Status = time.Time{}, 0, 0
	if rec.State == Refused {
		rec.State = Started
	}
}

// holds returns the error for a record of a transfer whose EDR is not here.
func (rec *record) holds() error {
	if rec.EDR == nil && rec.State != Ended {
		return refuse(CodeUnknown, "transfer %s has no EDR here", rec.ID)
	}
	return nil
}

// install puts an access token's times and digest into a record, and gives it a generation of its own.
func (c *Cache) install(rec *record, e *EDR, received time.Time) {
	rec.Generation++
	rec.Received = received.UTC()
	rec.Expires = time.Time{}
	if e.ExpiresIn > 0 {
		rec.Expires = rec.Received.Add(e.ExpiresIn)
	}
	c.schedule(rec)
	digest := digestOf(e.AccessToken)
	if digest != "" && !slices.Contains(rec.Held, digest) {
		rec.Held = append(rec.Held, digest)
	}
	excess := max(0, len(rec.Held)-maxHeld)
	rec.dropped, rec.Held = rec.Held[:excess], rec.Held[excess:]
}

// maxHeld is how many access tokens of an EDR stay claimed: providers accept superseded ones in a proof as well.
const maxHeld = 8

// When a token is renewed ahead: at 80 % of its life, give or take 5 %.
const (
	aheadShare  = 0.80
	aheadJitter = 0.05
)

// schedule says when the access token is renewed ahead of its end, for each EDR in another moment.
func (c *Cache) schedule(rec *record) {
	rec.Due = time.Time{}
	if rec.Renewable && !rec.Expires.IsZero() {
		share := aheadShare - aheadJitter + 2*aheadJitter*c.c.Jitter()
		rec.Due = rec.Received.Add(time.Duration(float64(rec.Expires.Sub(rec.Received)) * share))
	}
}

// digestOf names an access token in records, for whose it is. Access tokens are too long to be guessed from it.
//
// Of a JWS it is what is signed (RFC 7515 §5.1) without the signature: ECDSA has a second one for each (r, n−s), and base64
// more than one spelling of the last character, so that whoever has a token can write it in another way that verifies too.
func digestOf(token tokens.Secret) string { return textDigest(signedPart(token.Reveal())) }

func textDigest(text string) string {
	if text == "" {
		return ""
	}
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// signedPart returns a compact JWS without its signature, and any other token as it is.
func signedPart(token string) string {
	header, _, _ := strings.Cut(token, ".")
	decoded, err := base64.RawURLEncoding.DecodeString(header)
	var members map[string]json.RawMessage
	if err != nil || strings.Count(token, ".") != 2 || json.Unmarshal(decoded, &members) != nil {
		return token
	}
	return token[:strings.LastIndexByte(token, '.')]
}
