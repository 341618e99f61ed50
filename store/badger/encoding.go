package badger

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"slices"
	"time"

	"github.com/edrgate/edrgate/store"
)

// errCorrupt is wrapped by the errors for stored bytes that are not what was written. Badger verifies what it reads
// only when it is asked to read everything at each start; and what it cannot read, it reports as absent. So each value
// carries its own checksum, which covers its key as well: a damaged record is "cannot tell", never another record.
var errCorrupt = errors.New("stored value is damaged")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

const sumBytes = 4

// seal appends the checksum of key and body to body.
func seal(key, body []byte) []byte {
	return binary.BigEndian.AppendUint32(body, crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, body))
}

// unseal returns the body of a sealed value.
func unseal(key, sealed []byte) ([]byte, error) {
	if len(sealed) < sumBytes {
		return nil, fmt.Errorf("%w: %d bytes", errCorrupt, len(sealed))
	}
	body, sum := sealed[:len(sealed)-sumBytes], sealed[len(sealed)-sumBytes:]
	if crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, body) != binary.BigEndian.Uint32(sum) {
		return nil, fmt.Errorf("%w: checksum differs", errCorrupt)
	}
	return body, nil
}

// encodeRecord is the stored form of r: version, expiry, number of labels, each label's name and value behind their
// lengths, data, checksum. Kind and id are in the key.
func encodeRecord(r store.Record) []byte {
	size := 8 + timeBytes + 1 + len(r.Data) + sumBytes
	for name, value := range r.Labels {
		size += 4 + len(name) + len(value)
	}
	b := make([]byte, 0, size)
	b = binary.BigEndian.AppendUint64(b, r.Version)
	b = appendTime(b, r.Expires)
	b = append(b, byte(len(r.Labels)))
	if len(r.Labels) > 0 {
		for _, name := range slices.Sorted(maps.Keys(r.Labels)) {
			b = appendString(b, name)
			b = appendString(b, r.Labels[name])
		}
	}
	b = append(b, r.Data...)
	return seal(recordKey(r.Kind, r.ID), b)
}

// decodeRecord reads what encodeRecord wrote under the key of kind and id. The record owns sealed.
func decodeRecord(kind, id string, sealed []byte) (store.Record, error) {
	b, err := unseal(recordKey(kind, id), sealed)
	if err != nil {
		return store.Record{}, err
	}
	if len(b) < 8+timeBytes+1 {
		return store.Record{}, fmt.Errorf("%w: record of %d bytes", errCorrupt, len(b))
	}
	r := store.Record{Kind: kind, ID: id, Version: binary.BigEndian.Uint64(b), Expires: readTime(b[8:])}
	labels := int(b[8+timeBytes])
	b = b[8+timeBytes+1:]
	if labels > 0 {
		r.Labels = make(map[string]string, labels)
	}
	for range labels {
		name, rest, ok := readString(b)
		if !ok {
			return store.Record{}, fmt.Errorf("%w: label cut short", errCorrupt)
		}
		value, rest, ok := readString(rest)
		if !ok {
			return store.Record{}, fmt.Errorf("%w: label cut short", errCorrupt)
		}
		r.Labels[name] = value
		b = rest
	}
	r.Data = b[:len(b):len(b)]
	return r, nil
}

// encodeEntry is the stored form of e: record version, time, kind and id behind their lengths, event, checksum. The
// sequence is in the key.
func encodeEntry(e store.Entry) []byte {
	b := make([]byte, 0, 8+timeBytes+4+len(e.Kind)+len(e.ID)+len(e.Event)+sumBytes)
	b = binary.BigEndian.AppendUint64(b, e.Version)
	b = appendTime(b, e.At)
	b = appendString(b, e.Kind)
	b = appendString(b, e.ID)
	b = append(b, e.Event...)
	return seal(entryKey(e.Seq), b)
}

// decodeEntry reads what encodeEntry wrote for seq.
func decodeEntry(seq uint64, sealed []byte) (store.Entry, error) {
	b, err := unseal(entryKey(seq), sealed)
	if err != nil {
		return store.Entry{}, err
	}
	if len(b) < 8+timeBytes {
		return store.Entry{}, fmt.Errorf("%w: log entry of %d bytes", errCorrupt, len(b))
	}
	kind, rest, ok := readString(b[8+timeBytes:])
	if !ok {
		return store.Entry{}, fmt.Errorf("%w: log entry cut short", errCorrupt)
	}
	id, rest, ok := readString(rest)
	if !ok {
		return store.Entry{}, fmt.Errorf("%w: log entry cut short", errCorrupt)
	}
	return store.Entry{
		Seq: seq, Kind: kind, ID: id, Version: binary.BigEndian.Uint64(b), Event: string(rest), At: readTime(b[8:]),
	}, nil
}

// position is where the log stands: the sequence of its newest entry, and of the newest one that Sweep removed.
type position struct{ last, trimmed uint64 }

func encodePosition(p position) []byte {
	b := binary.BigEndian.AppendUint64(nil, p.last)
	return seal(logKey, binary.BigEndian.AppendUint64(b, p.trimmed))
}

func decodePosition(sealed []byte) (position, error) {
	b, err := unseal(logKey, sealed)
	if err != nil {
		return position{}, err
	}
	if len(b) != 16 {
		return position{}, fmt.Errorf("%w: log position of %d bytes", errCorrupt, len(b))
	}
	return position{last: binary.BigEndian.Uint64(b), trimmed: binary.BigEndian.Uint64(b[8:])}, nil
}

func appendString(b []byte, s string) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(s)))
	return append(b, s...)
}

// readString returns the string that appendString wrote, and what follows it. False: b is too short.
func readString(b []byte) (string, []byte, bool) {
	if len(b) < 2 {
		return "", nil, false
	}
	n := int(binary.BigEndian.Uint16(b))
	b = b[2:]
	if len(b) < n {
		return "", nil, false
	}
	return string(b[:n]), b[n:], true
}

// normal is t in the form in which it comes back from the disk.
func normal(t time.Time) time.Time {
	return t.Round(0).UTC()
}

// alive reports whether r exists at the time now.
func alive(r store.Record, now time.Time) bool {
	return r.Expires.IsZero() || now.Before(r.Expires)
}
