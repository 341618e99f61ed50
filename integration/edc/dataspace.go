package edc

import (
	"context"
	"fmt"
	"maps"
	"slices"
)

// Protocol is a release of the Dataspace Protocol, as two control planes speak it to each other.
type Protocol struct {
	Name string // for the management API
	Path string // below a control plane's DSP address
}

// Protocols that EDC speaks. Releases before 0.14 have the old one only.
var (
	DSP08   = Protocol{Name: "dataspace-protocol-http"}
	DSP2025 = Protocol{Name: "dataspace-protocol-http:2025-1", Path: "/2025-1"}
)

// Dataspace is a provider and a consumer.
type Dataspace struct {
	Provider, Consumer *ControlPlane
	ProviderDSP        string // the provider's DSP address, without the path of a protocol
	Protocol           Protocol
}

// Source is what a provider offers: an asset and where its data is.
type Source struct {
	Asset      string
	Type       string            // HttpData or ProxyHttpData
	Properties map[string]string // of the source address: baseUrl, ..
}

// Transfer is one transfer, which each side knows by an id of its own. The data plane sees the provider's.
type Transfer struct {
	Provider, Consumer string
}

// Offer makes a source known to everybody, under a policy that asks for nothing.
func (d *Dataspace) Offer(ctx context.Context, s Source) error {
	address := node{"@type": "DataAddress", "type": s.Type}
	for name, value := range s.Properties {
		address[name] = value
	}
	_, err := d.Provider.create(ctx, "/v3/assets", newNode("Asset", node{
		"@id": s.Asset, "properties": node{"name": s.Asset}, "dataAddress": address,
	}))
	if err != nil {
		return err
	}
	_, err = d.Provider.create(ctx, "/v3/policydefinitions", newNode("PolicyDefinition", node{
		"@id": s.Asset + "-policy", "policy": openPolicy("Set", nil),
	}))
	if err != nil {
		return err
	}
	_, err = d.Provider.create(ctx, "/v3/contractdefinitions", newNode("ContractDefinition", node{
		"@id": s.Asset + "-definition", "accessPolicyId": s.Asset + "-policy", "contractPolicyId": s.Asset + "-policy",
		"assetsSelector": []node{{
			"@type": "Criterion", "operandLeft": edcNS + "id", "operator": "=", "operandRight": s.Asset,
		}},
	}))
	return err
}

func openPolicy(kind string, members node) node {
	policy := node{"@context": odrlNS, "@type": kind, "permission": []node{}, "prohibition": []node{}, "obligation": []node{}}
	maps.Copy(policy, members)
	return policy
}

// Offered is what a catalog says of an asset.
type Offered struct {
	Provider string   // participant id
	Offer    string   // id of the offer
	Formats  []string // transfer types
}

// Find asks the provider for its catalog, as the consumer, and returns what that says of an asset.
func (d *Dataspace) Find(ctx context.Context, asset string) (Offered, error) {
	var catalog node
	err := d.Consumer.post(ctx, "/v3/catalog/request", newNode("CatalogRequest", d.counterparty()), &catalog)
	if err != nil {
		return Offered{}, err
	}
	for _, dataset := range catalog.nodes("dataset") {
		offers := dataset.nodes("hasPolicy")
		if dataset.text("@id") != asset || len(offers) == 0 {
			continue
		}
		found := Offered{Provider: catalog.text("participantId"), Offer: offers[0].text("@id")}
		for _, distribution := range dataset.nodes("distribution") {
			found.Formats = append(found.Formats, distribution.id("format"))
		}
		slices.Sort(found.Formats)
		return found, nil
	}
	return Offered{}, fmt.Errorf("the catalog of %s does not offer %s", catalog.text("participantId"), asset)
}

func (d *Dataspace) counterparty() node {
	return node{"counterPartyAddress": d.ProviderDSP + d.Protocol.Path, "protocol": d.Protocol.Name}
}

// Negotiate takes an offer and returns the consumer's id of the agreement.
func (d *Dataspace) Negotiate(ctx context.Context, asset string, o Offered) (string, error) {
	request := newNode("ContractRequest", d.counterparty())
	request["policy"] = openPolicy("Offer", node{"@id": o.Offer, "assigner": o.Provider, "target": asset})
	negotiation, err := d.Consumer.create(ctx, "/v3/contractnegotiations", request)
	if err != nil {
		return "", err
	}
	var agreement string
	err = await(ctx, func() error {
		var now node
		err := d.Consumer.get(ctx, "/v3/contractnegotiations/"+negotiation, &now)
		if err != nil {
			return err
		}
		switch now.text("state") {
		case "FINALIZED":
			agreement = now.text("contractAgreementId")
			return nil
		case "TERMINATED":
			return fmt.Errorf("contract negotiation %s is terminated: %s", negotiation, now.text("errorDetail"))
		}
		return fmt.Errorf("%w: contract negotiation %s is %s, want FINALIZED", errIdle, negotiation, now.text("state"))
	})
	return agreement, err
}

// Request asks for a pull under an agreement and returns the consumer's id of it. The events of the transfer are posted to
// the callbacks, which need no credential.
func (d *Dataspace) Request(ctx context.Context, agreement, sourceType string, callbacks ...string) (string, error) {
	request := newNode("TransferRequest", d.counterparty())
	request["contractId"], request["transferType"] = agreement, pullOf(sourceType)
	var addresses []node
	for _, uri := range callbacks {
		addresses = append(addresses, node{
			"@type": "CallbackAddress", "uri": uri, "transactional": false, "events": []string{"transfer.process"},
		})
	}
	if len(addresses) > 0 {
		request["callbackAddresses"] = addresses
	}
	return d.Consumer.create(ctx, "/v3/transferprocesses", request)
}

// AwaitStarted waits until a transfer that the consumer has asked for is STARTED on both sides.
func (d *Dataspace) AwaitStarted(ctx context.Context, consumer string) (Transfer, error) {
	err := d.Consumer.Await(ctx, consumer, "STARTED")
	if err != nil {
		return Transfer{}, err
	}
	provider, err := d.Provider.Counterpart(ctx, consumer)
	if err != nil {
		return Transfer{}, err
	}
	return Transfer{Provider: provider, Consumer: consumer}, d.Provider.Await(ctx, provider, "STARTED")
}
