package caddymodule

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/edrgate/edrgate/consumer"
	"github.com/edrgate/edrgate/internal/strictjson"
)

// edrQuery is a QuerySpec of EDC, as far as it makes sense for EDRs.
type edrQuery struct {
	consumer.Query
	id     string // of the transfer process; empty: any
	offset int
	limit  int
}

// Limits of a query. EDC's page has 50 entries by default.
const (
	maxQueryBytes  = 64 << 10
	defaultEntries = 50
	maxEntries     = 1000
	maxOffset      = 100_000
)

// edcNames are the spellings of EDC's namespace in operands.
var edcNames = []string{"https://w3id.org/edc/v0.0.1/ns/", "edc:"}

// parseQuerySpec reads a QuerySpec (observed on Tractus-X 0.12.1). An empty body asks for everything. What is not
// understood is an error: an answer to another question would have a client use other data than it means.
func parseQuerySpec(data []byte) (edrQuery, error) {
	q := edrQuery{limit: defaultEntries}
	if len(strings.TrimSpace(string(data))) == 0 {
		return q, nil
	}
	m, err := strictjson.Parse(data, 0)
	if err != nil {
		return q, fmt.Errorf("the body: %w", err)
	}
	for name := range m {
		switch name {
		case "@context", "@type", "filterExpression":
		case "offset":
			q.offset, err = numberUpTo(m, name, 0, maxOffset)
		case "limit":
			q.limit, err = numberUpTo(m, name, 1, maxEntries)
		case "sortOrder":
			order, wrong := m.String(name)
			if wrong != nil || order != "ASC" {
				err = errors.New("sortOrder: entries come in the order of their ids, ASC")
			}
		case "sortField":
			field, wrong := m.String(name)
			if wrong != nil || plainOperand(field) != "transferProcessId" {
				err = errors.New("sortField: entries come in the order of transferProcessId")
			}
		default:
			err = fmt.Errorf("member %.40q is not known", name)
		}
		if err != nil {
			return q, err
		}
	}
	return q, q.filter(m)
}

func numberUpTo(m strictjson.Members, name string, least, most int64) (int, error) {
	value, err := m.Int(name)
	if err != nil {
		return 0, err
	}
	if value < least || value > most {
		return 0, fmt.Errorf("%s must be from %d to %d", name, least, most)
	}
	return int(value), nil
}

func (q *edrQuery) filter(m strictjson.Members) error {
	raw, found := m["filterExpression"]
	if !found {
		return nil
	}
	var criteria []json.RawMessage
	err := json.Unmarshal(raw, &criteria)
	if err != nil {
		criteria = []json.RawMessage{raw} // a single one may stand there without the array, as JSON-LD compacts it
	}
	for _, raw := range criteria {
		criterion, err := strictjson.Parse(raw, 0)
		if err != nil {
			return fmt.Errorf("filterExpression: %w", err)
		}
		err = q.criterion(criterion)
		if err != nil {
			return fmt.Errorf("filterExpression: %w", err)
		}
	}
	return nil
}

func plainOperand(operand string) string {
	for _, namespace := range edcNames {
		operand = strings.TrimPrefix(operand, namespace)
	}
	return operand
}

func (q *edrQuery) criterion(m strictjson.Members) error {
	var values [3]string
	for i, name := range []string{"operandLeft", "operator", "operandRight"} {
		var err error
		values[i], err = m.String(name)
		if err != nil {
			return err
		}
	}
	if values[1] != "=" {
		return errors.New("operator must be =")
	}
	var field *string
	switch plainOperand(values[0]) {
	case "transferProcessId", "id":
		field = &q.id
	case "assetId":
		field = &q.Asset
	case "agreementId":
		field = &q.Agreement
	case "providerId":
		field = &q.Counterparty
	default:
		return errors.New("operandLeft must be one of transferProcessId, assetId, agreementId, providerId")
	}
	if values[2] == "" {
		return errors.New("operandRight is empty")
	}
	if *field != "" && *field != values[2] {
		return errors.New("one operandLeft is there twice with different values")
	}
	*field = values[2]
	return nil
}

// edrEntryView is an entry as EDC shows it, without the negotiation, of which nothing is known.
type edrEntryView struct {
	ID                string            `json:"@id"`
	Type              string            `json:"@type"`
	ProviderID        string            `json:"providerId,omitempty"`
	AssetID           string            `json:"assetId,omitempty"`
	AgreementID       string            `json:"agreementId,omitempty"`
	TransferProcessID string            `json:"transferProcessId"`
	CreatedAt         int64             `json:"createdAt"` // milliseconds since 1970
	Context           map[string]string `json:"@context"`
}

func entryView(e *consumer.Entry) edrEntryView {
	return edrEntryView{
		ID: e.ID, Type: "EndpointDataReferenceEntry", ProviderID: e.Counterparty, AssetID: e.Asset, AgreementID: e.Agreement,
		TransferProcessID: e.ID, CreatedAt: e.Created.UnixMilli(), Context: map[string]string{"@vocab": edcNames[0], "edc": edcNames[0]},
	}
}

// query lists the EDRs that are served.
func (c edrCall) query() {
	data, ok := c.body(maxQueryBytes)
	if !ok {
		return
	}
	q, err := parseQuerySpec(data)
	if err != nil {
		c.bad(err.Error())
		return
	}
	entries, err := c.find(c.r.Context(), q)
	if err != nil {
		c.api.fail(c.w, q.id, err)
		return
	}
	views := make([]edrEntryView, 0, len(entries))
	for _, e := range entries {
		views = append(views, entryView(e))
	}
	writeJSON(c.w, http.StatusOK, views)
}

// find returns the EDRs that a query selects. Those of suspended transfers are left out, as at an EDC, which has none then.
func (e *edrs) find(ctx context.Context, q edrQuery) ([]*consumer.Entry, error) {
	if q.id != "" {
		return e.findOne(ctx, q)
	}
	var found []*consumer.Entry
	q.Limit = maxEntries
	for {
		page, err := e.cache.List(ctx, q.Query)
		if err != nil {
			return nil, err
		}
		for _, entry := range page {
			switch {
			case entry.State == consumer.Suspended:
			case q.offset > 0:
				q.offset--
			default:
				found = append(found, entry)
			}
			if len(found) == q.limit {
				return found, nil
			}
		}
		if len(page) < q.Limit {
			return found, nil
		}
		q.After = page[len(page)-1].ID
	}
}

func (e *edrs) findOne(ctx context.Context, q edrQuery) ([]*consumer.Entry, error) {
	entry, err := e.cache.Get(ctx, q.id)
	if err != nil && consumer.CodeOf(err) == consumer.CodeUnknown {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if q.offset > 0 || entry.State == consumer.Suspended || entry.State == consumer.Ended ||
		q.Asset != "" && q.Asset != entry.Asset || q.Agreement != "" && q.Agreement != entry.Agreement ||
		q.Counterparty != "" && q.Counterparty != entry.Counterparty {
		return nil, nil
	}
	return []*consumer.Entry{entry}, nil
}
