package consumer

import (
	"context"
	"errors"
	"strings"

	"github.com/edrgate/edrgate/store"
	"github.com/edrgate/edrgate/tokens"
)

// labels are what EDRs can be listed by. They never change, so a term that was not known when the record was created has
// the empty value for ever, and a query looks there as well.
func (c *Cache) labels(rec *record) map[string]string {
	return map[string]string{
		"participant":  c.c.Participant,
		"counterparty": c.label(rec.Counterparty),
		"asset":        c.label(rec.Asset),
		"agreement":    c.label(rec.Agreement),
	}
}

// label keeps the values of participants apart, so that no query reads another participant's records.
func (c *Cache) label(value string) string { return c.c.Participant + "/" + value }

// Get returns an EDR as it is, renewed or not, in whatever state. CodeUnknown: there is none, or not yet.
func (c *Cache) Get(ctx context.Context, id string) (*Entry, error) {
	err := checkID(id)
	if err != nil {
		return nil, err
	}
	rec, err := c.record(ctx, id)
	if err == nil {
		err = rec.holds()
	}
	if err != nil {
		return nil, err
	}
	return c.open(rec)
}

func (c *Cache) record(ctx context.Context, id string) (*record, error) {
	r, err := c.c.Store.Get(ctx, edrKind, c.key(id))
	if errors.Is(err, store.ErrNotFound) {
		return nil, refuse(CodeUnknown, "no EDR %s", id)
	}
	if err != nil {
		return nil, unavailable(err, "EDR %s", id)
	}
	return decode(r)
}

// Query selects EDRs. Empty fields match everything.
type Query struct {
	Counterparty string // the provider's participant id, as signaled
	Asset        string
	Agreement    string
	State        State // empty: all that hold an EDR

	After string // the last id of the page before
	Limit int    // at most this many entries; 0: 100
}

const defaultLimit = 100

// List returns EDRs in the order of their ids, without the EDRs themselves. No EDR has terms that none can have: that is no
// trouble of the store, which takes them for no labels.
func (c *Cache) List(ctx context.Context, q Query) ([]*Entry, error) {
	terms := Terms{Counterparty: q.Counterparty, Asset: q.Asset, Agreement: q.Agreement}
	if terms.check() != nil {
		return nil, nil
	}
	if q.Limit <= 0 {
		q.Limit = defaultLimit
	}
	var found []*Entry
	after := q.After
	for len(found) < q.Limit {
		page, last, err := c.page(ctx, q, after)
		if err != nil {
			return nil, err
		}
		for _, rec := range page {
			if q.matches(rec) && len(found) < q.Limit {
				found = append(found, rec.entry())
			}
		}
		if last == "" {
			break
		}
		after = last
	}
	return found, nil
}

func (q *Query) matches(rec *record) bool {
	return (q.Counterparty == "" || q.Counterparty == rec.Counterparty) &&
		(q.Asset == "" || q.Asset == rec.Asset) &&
		(q.Agreement == "" || q.Agreement == rec.Agreement) &&
		(q.State == rec.State || q.State == "" && rec.EDR != nil)
}

// page returns the records behind after that may match, in order, and the id to go on behind; "" at the end.
func (c *Cache) page(ctx context.Context, q Query, after string) ([]*record, string, error) {
	label, value := "participant", c.c.Participant
	switch {
	case q.Agreement != "":
		label, value = "agreement", c.label(q.Agreement)
	case q.Asset != "":
		label, value = "asset", c.label(q.Asset)
	case q.Counterparty != "":
		label, value = "counterparty", c.label(q.Counterparty)
	}
	known, more, err := c.labelled(ctx, label, value, after, needed)
	if err != nil || label == "participant" {
		return known, more, err
	}
	unknown, rest, err := c.labelled(ctx, label, c.label(""), after, needed)
	if err != nil {
		return nil, "", err
	}
	page, last := merge(known, more, unknown, rest)
	return page, last, nil
}

// merge puts two pages in order, up to where both are complete.
func merge(a []*record, moreA string, b []*record, moreB string) ([]*record, string) {
	last := moreA
	if last == "" || moreB != "" && moreB < last {
		last = moreB
	}
	var page []*record
	for len(a) > 0 || len(b) > 0 {
		if len(b) == 0 || len(a) > 0 && a[0].ID < b[0].ID {
			page, a = append(page, a[0]), a[1:]
			continue
		}
		page, b = append(page, b[0]), b[1:]
	}
	for last != "" && len(page) > 0 && page[len(page)-1].ID > last {
		page = page[:len(page)-1]
	}
	return page, last
}

// listPage is how many records one look at the store reads.
const listPage = 200

// labelled returns a page of records, and the id to go on behind; "" at the end. unreadable decides about a record that cannot
// be read: an error of it ends the page.
func (c *Cache) labelled(
	ctx context.Context, label, value, after string, unreadable func(record string, err error) error,
) ([]*record, string, error) {
	query := store.Query{Kind: edrKind, Label: label, Value: value, Limit: listPage}
	if after != "" {
		query.After = c.key(after)
	}
	records, err := c.c.Store.List(ctx, query)
	if err != nil {
		return nil, "", unavailable(err, "listing EDRs")
	}
	page := make([]*record, 0, len(records))
	for _, r := range records {
		rec, err := decode(r)
		if err == nil {
			page = append(page, rec)
			continue
		}
		err = unreadable(r.ID, err)
		if err != nil {
			return nil, "", err
		}
	}
	if len(records) < listPage {
		return page, "", nil
	}
	return page, strings.TrimPrefix(records[len(records)-1].ID, c.key("")), nil
}

// needed is for lists that must be complete.
func needed(_ string, err error) error { return err }

// each calls visit for every EDR of the participant that is not ended.
func (c *Cache) each(ctx context.Context, visit func(*record)) error {
	return c.all(ctx, needed, func(rec *record) {
		if rec.State != Ended {
			visit(rec)
		}
	})
}

// all calls visit for every record of the participant that can be read; unreadable decides about the others.
func (c *Cache) all(ctx context.Context, unreadable func(record string, err error) error, visit func(*record)) error {
	after := ""
	for {
		page, last, err := c.labelled(ctx, "participant", c.c.Participant, after, unreadable)
		if err != nil {
			return err
		}
		for _, rec := range page {
			visit(rec)
		}
		if last == "" {
			return nil
		}
		after = last
	}
}

// KeyUse counts the EDRs that each sealing key is needed for. A key can be dropped when no EDR needs it; a renewal seals
// with the active one.
func (c *Cache) KeyUse(ctx context.Context) (map[tokens.KeyID]int, error) {
	use := map[tokens.KeyID]int{}
	err := c.each(ctx, func(rec *record) {
		if rec.EDR != nil {
			use[rec.EDR.Key]++
		}
	})
	return use, err
}
