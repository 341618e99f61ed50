package edc

import (
	"context"
	"fmt"
	"net/http"
)

// DataPlane is what a control plane has to know of a data plane that serves pulls.
type DataPlane struct {
	ID          string
	URL         string   // base of its signaling, ending in /v1/dataflows
	SourceTypes []string // HttpData, ..
}

// Register makes a data plane known to a control plane, unless it is already, and waits until the control plane has
// found it available. It reports whether it had to register.
//
// It looks first because each registration takes an available data plane out of service until the next check: transfers
// that start or resume meanwhile end with "no dataplane found" (observed on EDC 0.15.1).
func (p *ControlPlane) Register(ctx context.Context, d DataPlane) (bool, error) {
	present, err := p.dataPlane(ctx, d.ID)
	if err != nil {
		return false, err
	}
	post := present == nil || present.text("url") != d.URL
	if post {
		transferTypes := make([]string, len(d.SourceTypes))
		for i, source := range d.SourceTypes {
			transferTypes[i] = pullOf(source)
		}
		err = call(ctx, p.client, http.MethodPost, p.control+"/v1/dataplanes", newNode("DataPlaneInstance", node{
			"@id": d.ID, "url": d.URL, "allowedSourceTypes": d.SourceTypes, "allowedTransferTypes": transferTypes,
		}), nil)
		if err != nil {
			return false, err
		}
	}
	err = await(ctx, func() error {
		now, err := p.dataPlane(ctx, d.ID)
		if err != nil {
			return err
		}
		if now.text("state") != "AVAILABLE" {
			return fmt.Errorf("%w: data plane %s is %q, want AVAILABLE", errNotYet, d.ID, now.text("state"))
		}
		return nil
	})
	return post, err
}

// Unregister takes a data plane out of service: it is not chosen for starts and resumes any more, and still told of the
// suspension and end of its flows.
func (p *ControlPlane) Unregister(ctx context.Context, id string) error {
	return call(ctx, p.client, http.MethodPut, p.control+"/v1/dataplanes/"+id+"/unregister", nil, nil)
}

// Delete makes a control plane forget a data plane. The flows that it has then cannot be suspended or ended.
func (p *ControlPlane) Delete(ctx context.Context, id string) error {
	return call(ctx, p.client, http.MethodDelete, p.control+"/v1/dataplanes/"+id, nil, nil)
}

// dataPlane returns what the control plane has under an id, nil if nothing.
func (p *ControlPlane) dataPlane(ctx context.Context, id string) (node, error) {
	var all []node
	err := p.get(ctx, "/v3/dataplanes", &all)
	if err != nil {
		return nil, err
	}
	for _, one := range all {
		if one.text("@id") == id {
			return one, nil
		}
	}
	return nil, nil
}

// pullOf is the transfer type of a pull from a source type.
func pullOf(source string) string { return source + "-PULL" }
