package tokens

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/edrgate/edrgate/store"
)

// ControlPlane is what a control plane says of itself (DPS ControlPlaneRegistrationMessage).
type ControlPlane struct {
	ID            string              // its controlplaneId
	Endpoint      string              // where it takes notifications; checked by whoever puts it
	Authorization *PlaneAuthorization // what notifications are to be authorized by, checked likewise; nil: it said nothing
}

// PlaneAuthorization is the authorization object of a registration (DPS authorization profiles), with the members that
// whoever calls the control plane needs.
type PlaneAuthorization struct {
	Type                      string // oauth2_client_credentials or oauth2_token_exchange
	TokenEndpoint             string // tokenEndpoint or tokenExchangeEndpoint
	ClientID                  string
	ClientSecret              Secret
	Resource, Audience, Scope string
}

const controlPlaneKind = "control-plane"

// controlPlaneRecord is a ControlPlane at rest.
type controlPlaneRecord struct {
	ID            string  `json:"id"`
	Endpoint      string  `json:"endpoint"`
	Authorization *Sealed `json:"authorization,omitempty"`
}

// planeSecrets is a PlaneAuthorization on its way into the seal, the only place where the secret is written out.
type planeSecrets struct {
	PlaneAuthorization
	ClientSecret string
}

func (s *Service) encodeControlPlane(key string, p ControlPlane) ([]byte, error) {
	r := controlPlaneRecord{ID: p.ID, Endpoint: p.Endpoint}
	if p.Authorization != nil {
		var err error
		r.Authorization, err = s.c.Keys.sealer.Seal(s.c.Rand, controlPlaneKind+"/"+key, planeSecrets{*p.Authorization, p.Authorization.ClientSecret.Reveal()})
		if err != nil {
			return nil, err
		}
	}
	return json.Marshal(r)
}

func (s *Service) decodeControlPlane(key string, data []byte) (ControlPlane, error) {
	var r controlPlaneRecord
	err := json.Unmarshal(data, &r)
	if err != nil {
		return ControlPlane{}, err
	}
	p := ControlPlane{ID: r.ID, Endpoint: r.Endpoint}
	if r.Authorization == nil {
		return p, nil
	}
	var opened planeSecrets
	err = s.c.Keys.sealer.Unseal(r.Authorization, controlPlaneKind+"/"+key, &opened)
	if err != nil {
		return ControlPlane{}, err
	}
	p.Authorization = &opened.PlaneAuthorization
	p.Authorization.ClientSecret = Secret(opened.ClientSecret)
	return p, nil
}

// says reports whether both say the same.
func (p ControlPlane) says(o ControlPlane) bool {
	if p.ID != o.ID || p.Endpoint != o.Endpoint || (p.Authorization == nil) != (o.Authorization == nil) {
		return false
	}
	return p.Authorization == nil || *p.Authorization == *o.Authorization
}

// controlPlaneKey is that of the record of a control plane by its configured name: it has one registration at a time, which
// survives a change of its id.
func (s *Service) controlPlaneKey(name string) string { return s.c.Participant + "/" + name }

// PutControlPlane keeps what a control plane says of itself, in place of what it said before.
func (s *Service) PutControlPlane(ctx context.Context, caller Caller, p ControlPlane) error {
	key := s.controlPlaneKey(s.presentName(string(caller)))
	data, err := s.encodeControlPlane(key, p)
	if err != nil {
		return unavailable(err, "control plane %s", caller)
	}
	for {
		_, err = s.c.Store.Update(ctx, controlPlaneKind, key, func(old store.Record) (store.Edit, error) {
			known, err := s.decodeControlPlane(key, old.Data)
			if err == nil && known.says(p) && s.sealedNow(old.Data) {
				return store.Edit{}, store.ErrKeep
			}
			// One that does not open any more is replaced: its key is gone. So is one of an earlier key, which may go then.
			return store.Edit{Data: data}, nil
		})
		if errors.Is(err, store.ErrNotFound) {
			_, err = s.c.Store.Create(ctx, store.Record{Kind: controlPlaneKind, ID: key, Data: data})
		}
		if errors.Is(err, store.ErrExists) {
			continue // put at the same time by somebody else
		}
		if err != nil {
			return unavailable(err, "keeping control plane %s", caller)
		}
		return nil
	}
}

// errOtherID ends the deletion of a registration under an id that the control plane does not have.
var errOtherID = errors.New("registered under another id")

// DeleteControlPlane forgets what a control plane said of itself, and reports whether it was registered under that id. Its
// flows stay.
func (s *Service) DeleteControlPlane(ctx context.Context, caller Caller, id string) (bool, error) {
	key := s.controlPlaneKey(s.presentName(string(caller)))
	_, err := s.c.Store.Update(ctx, controlPlaneKind, key, func(old store.Record) (store.Edit, error) {
		var r controlPlaneRecord
		err := json.Unmarshal(old.Data, &r)
		if err != nil {
			return store.Edit{}, err
		}
		if r.ID != id {
			return store.Edit{}, errOtherID
		}
		return store.Edit{Data: old.Data, Expires: s.c.Now()}, nil // from now on it does not exist
	})
	if errors.Is(err, store.ErrNotFound) || errors.Is(err, errOtherID) {
		return false, nil
	}
	if err != nil {
		return false, unavailable(err, "forgetting control plane %s", caller)
	}
	return true, nil
}

// ControlPlane returns what a control plane said of itself; zero if it said nothing.
func (s *Service) ControlPlane(ctx context.Context, name string) (ControlPlane, error) {
	key := s.controlPlaneKey(name)
	record, err := s.c.Store.Get(ctx, controlPlaneKind, key)
	if errors.Is(err, store.ErrNotFound) {
		return ControlPlane{}, nil
	}
	if err != nil {
		return ControlPlane{}, unavailable(err, "reading control plane %s", name)
	}
	p, err := s.decodeControlPlane(key, record.Data)
	if err != nil {
		return ControlPlane{}, unavailable(err, "control plane %s: it has to register anew", name)
	}
	return p, nil
}

// controlPlaneSeal returns the key that seals what a control plane registered; empty: nothing is sealed.
func (s *Service) controlPlaneSeal(ctx context.Context, name string) (KeyID, error) {
	record, err := s.c.Store.Get(ctx, controlPlaneKind, s.controlPlaneKey(name))
	if errors.Is(err, store.ErrNotFound) {
		return "", nil
	}
	if err != nil {
		return "", unavailable(err, "reading control plane %s", name)
	}
	key, err := sealOf(record.Data)
	if err != nil {
		return "", unavailable(err, "control plane %s", name)
	}
	return key, nil
}

// sealedNow reports whether the record of a control plane holds nothing that is sealed with another key than the one in use.
func (s *Service) sealedNow(data []byte) bool {
	key, err := sealOf(data)
	return err == nil && (key == "" || key == s.c.Keys.sealer.active)
}

// sealOf returns the key that seals what is in the record of a control plane; empty: nothing is sealed.
func sealOf(data []byte) (KeyID, error) {
	var r controlPlaneRecord
	err := json.Unmarshal(data, &r)
	if err != nil || r.Authorization == nil {
		return "", err
	}
	return r.Authorization.Key, nil
}
