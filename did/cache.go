package did

import (
	"container/list"
	"time"

	"golang.org/x/time/rate"
)

// Looking past the cache, per DID (docs/decisions: proof of possession). The burst lets several keys roll at once; the
// interval keeps anybody who makes up key ids from using the gateway to hammer a host.
const (
	refetchBurst    = 5
	refetchInterval = 5 * time.Second
)

// record is what is known of one DID.
type record struct {
	did string

	doc     *document // the last one that its host gave, or nil
	fetched time.Time // when it was asked for
	fresh   time.Time // until when it is used without asking
	stale   time.Time // until when it is used while its host fails

	failure *Error    // of the last fetch, nil if that gave a document
	retry   time.Time // until when failure stands without asking

	refetches *rate.Limiter // nil until the first forced fetch
	bytes     int64         // as counted by the cache
}

// isFresh also says no before the fetch: after the clock was set back, nobody knows how old the document is.
func (r *record) isFresh(now time.Time) bool {
	return r.doc != nil && !now.Before(r.fetched) && now.Before(r.fresh)
}

// isUsable tells whether the document may stand in while its host fails (RFC 5861 §4).
func (r *record) isUsable(now time.Time) bool {
	return r.doc != nil && !now.Before(r.fetched) && now.Before(r.stale)
}

// isRecent tells whether the document is as new as the limit of refetches lets anybody have it.
func (r *record) isRecent(now time.Time) bool {
	return r.doc != nil && r.failure == nil && !now.Before(r.fetched) && now.Before(r.fetched.Add(refetchInterval))
}

// limited takes one forced fetch from the DID's budget. If there is none left, it returns how long until there is.
func (r *record) limited(now time.Time) time.Duration {
	if r.refetches == nil {
		r.refetches = rate.NewLimiter(rate.Every(refetchInterval), refetchBurst)
	}
	reservation := r.refetches.ReserveN(now, 1)
	wait := reservation.DelayFrom(now)
	if wait > 0 {
		reservation.CancelAt(now)
	}
	return wait
}

// recordBytes is what a record costs without its document.
const recordBytes = 512

// cache keeps the records that were asked for last, within a number and a size. It has no lock of its own.
type cache struct {
	maxRecords int
	maxBytes   int64

	bytes   int64
	order   *list.List // of *record, last used first
	records map[string]*list.Element
}

func newCache(maxRecords int, maxBytes int64) *cache {
	return &cache{
		maxRecords: maxRecords,
		maxBytes:   maxBytes,
		order:      list.New(),
		records:    make(map[string]*list.Element),
	}
}

// get returns the record of did, a new one if there is none.
func (c *cache) get(did string) *record {
	e := c.records[did]
	if e != nil {
		c.order.MoveToFront(e)
		return e.Value.(*record)
	}
	r := &record{did: did}
	c.records[did] = c.order.PushFront(r)
	c.account(r)
	return r
}

// peek returns the document of did if one is kept, and makes no record.
func (c *cache) peek(did string) *document {
	e := c.records[did]
	if e == nil {
		return nil
	}
	c.order.MoveToFront(e)
	return e.Value.(*record).doc
}

// account counts the size of r anew and drops what was used longest ago until the rest fits. r itself stays.
func (c *cache) account(r *record) {
	size := int64(recordBytes + len(r.did))
	if r.doc != nil {
		size += r.doc.bytes()
	}
	c.bytes += size - r.bytes
	r.bytes = size
	for c.order.Len() > 1 && (c.order.Len() > c.maxRecords || c.bytes > c.maxBytes) {
		c.forget(c.order.Back().Value.(*record).did)
	}
}

// forget drops the record of did and reports whether there was one.
func (c *cache) forget(did string) bool {
	e := c.records[did]
	if e == nil {
		return false
	}
	c.bytes -= c.order.Remove(e).(*record).bytes
	delete(c.records, did)
	return true
}
