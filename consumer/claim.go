package consumer

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/edrgate/edrgate/store"
)

// claimKind are the records that say which EDR holds an access token. A proof is about an access token; a provider that
// delivers another provider's token as its own would get from us just what renews that one. So a token belongs to the
// EDR that brought it first, and nothing is signed about it for another (docs/decisions: the consumer's side).
const claimKind = "edr-token"

const (
	// claimTTL is how long a claim lasts that nobody released. A renewal claims its token again.
	claimTTL = 400 * 24 * time.Hour

	// claimGrace is how long a claim stands alone: it is written before the EDR's record is.
	claimGrace = time.Minute
)

type claim struct {
	EDR string    `json:"edr"`
	At  time.Time `json:"at"`
}

func (c *Cache) claimKey(digest string) string { return c.c.Participant + "/" + digest }

// claim takes an access token for an EDR, and reports false if another one in the cache holds it.
func (c *Cache) claim(ctx context.Context, id, digest string) (bool, error) {
	if digest == "" {
		return true, nil
	}
	data, err := json.Marshal(claim{EDR: id, At: c.c.Now().UTC()})
	if err != nil {
		return false, unavailable(err, "claim of EDR %s", id)
	}
	_, err = c.c.Store.Create(ctx, store.Record{
		Kind: claimKind, ID: c.claimKey(digest), Expires: c.c.Now().Add(claimTTL), Data: data,
	})
	if err == nil {
		return true, nil
	}
	if !errors.Is(err, store.ErrExists) {
		return false, unavailable(err, "claim of EDR %s", id)
	}
	return c.takeOver(ctx, id, digest, data)
}

// takeOver takes a claimed token if the claim is ours, or if the EDR that it names does not hold the token any more.
func (c *Cache) takeOver(ctx context.Context, id, digest string, data []byte) (bool, error) {
	stored, err := c.c.Store.Get(ctx, claimKind, c.claimKey(digest))
	if err != nil {
		return false, unavailable(err, "claim of EDR %s", id)
	}
	held, err := decodeClaim(stored)
	if err != nil {
		return false, err
	}
	if held.EDR == id {
		return true, nil
	}
	if c.c.Now().Before(held.At.Add(claimGrace)) {
		return false, nil
	}
	holder, err := c.record(ctx, held.EDR)
	if err != nil && CodeOf(err) != CodeUnknown {
		return false, err
	}
	if err == nil && slices.Contains(holder.Held, digest) {
		return false, nil
	}
	own := false
	_, err = c.c.Store.Update(ctx, claimKind, c.claimKey(digest), func(old store.Record) (store.Edit, error) {
		now, err := decodeClaim(old)
		if err != nil {
			return store.Edit{}, err
		}
		own = now.EDR == held.EDR || now.EDR == id
		if !own {
			return store.Edit{}, store.ErrKeep
		}
		return store.Edit{Data: data, Expires: c.c.Now().Add(claimTTL)}, nil
	})
	if err != nil {
		return false, unavailable(err, "claim of EDR %s", id)
	}
	return own, nil
}

// release gives up tokens that an EDR does not hold any more. What fails is given up when somebody else claims it.
func (c *Cache) release(ctx context.Context, id string, digests []string) {
	for _, digest := range digests {
		_, err := c.c.Store.Update(ctx, claimKind, c.claimKey(digest), func(old store.Record) (store.Edit, error) {
			held, err := decodeClaim(old)
			if err != nil {
				return store.Edit{}, err
			}
			if held.EDR != id {
				return store.Edit{}, store.ErrKeep
			}
			return store.Edit{Data: old.Data, Expires: c.c.Now(), Ending: true}, nil
		})
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			c.c.Logger.Debug("a superseded token stays claimed", "edr", id, "error", err)
		}
	}
}

// abandon gives up a token that was claimed for an EDR which was then not kept, unless the record holds it. If it comes to be
// held just now, it is claimed again before anything is signed about it.
func (c *Cache) abandon(ctx context.Context, id, digest string) {
	if digest == "" {
		return
	}
	rec, err := c.record(ctx, id)
	known := err == nil
	if !known && CodeOf(err) != CodeUnknown || known && slices.Contains(rec.Held, digest) {
		return
	}
	c.release(ctx, id, []string{digest})
}

func decodeClaim(r store.Record) (claim, error) {
	var held claim
	err := json.Unmarshal(r.Data, &held)
	if err != nil {
		return claim{}, unavailable(err, "claim record")
	}
	return held, nil
}
