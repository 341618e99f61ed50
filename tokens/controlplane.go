package tokens

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/edrgate/edrgate/store"
)

// ControlPlane is what a control plane says of itself (DPS ControlPlaneRegistrationMessage).
type ControlPlane struct {
	ID       string `json:"id"`       // its controlplaneId
	Endpoint string `json:"endpoint"` // where it takes notifications; checked by whoever puts it
}

const controlPlaneKind = "control-plane"

// controlPlaneKey is that of the record of a control plane by its configured name: it has one registration at a time, which
// survives a change of its id.
func (s *Service) controlPlaneKey(name string) string { return s.c.Participant + "/" + name }

// PutControlPlane keeps what a control plane says of itself, in place of what it said before.
func (s *Service) PutControlPlane(ctx context.Context, caller Caller, p ControlPlane) error {
	data, err := json.Marshal(p)
	if err != nil {
		return unavailable(err, "control plane %s", caller)
	}
	key := s.controlPlaneKey(s.presentName(string(caller)))
	for {
		_, err = s.c.Store.Update(ctx, controlPlaneKind, key, func(old store.Record) (store.Edit, error) {
			if string(old.Data) == string(data) {
				return store.Edit{}, store.ErrKeep
			}
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
		var p ControlPlane
		err := json.Unmarshal(old.Data, &p)
		if err != nil {
			return store.Edit{}, err
		}
		if p.ID != id {
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

// registeredEndpoint returns where a control plane said that it takes notifications; empty if it said nothing.
func (s *Service) registeredEndpoint(ctx context.Context, name string) (string, error) {
	record, err := s.c.Store.Get(ctx, controlPlaneKind, s.controlPlaneKey(name))
	if errors.Is(err, store.ErrNotFound) {
		return "", nil
	}
	if err != nil {
		return "", unavailable(err, "reading control plane %s", name)
	}
	var p ControlPlane
	err = json.Unmarshal(record.Data, &p)
	if err != nil {
		return "", unavailable(err, "control plane %s", name)
	}
	return p.Endpoint, nil
}
