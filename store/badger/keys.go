package badger

import (
	"encoding/binary"
	"time"
)

// Keys. The first byte is the family. Kinds, ids, labels and values hold no NUL (store.CheckRecord), so a NUL ends each
// of them without ambiguity. The id comes last and has no end mark, so that the keys of one kind, and of one label
// value, sort by id, bytewise.
//
//	r <kind> NUL <id>                       the record (encoding.go)
//	l <kind> NUL <name> NUL <value> NUL <id>  one label of the record, without content
//	x <expiry, 12 bytes> <kind> NUL <id>     the record's expiry, without content
//	e <seq, 8 bytes>                         a log entry
//	m <name>                                 what the store keeps for itself
const (
	familyRecord = 'r'
	familyLabel  = 'l'
	familyExpiry = 'x'
	familyEntry  = 'e'
	familyMeta   = 'm'
)

var (
	formatKey = []byte{familyMeta, 'f'} // the version of this layout
	logKey    = []byte{familyMeta, 'l'} // newest and newest trimmed sequence of the log
)

// timeBytes is the length of a time in a key or value.
const timeBytes = 12

func recordPrefix(kind string) []byte { return recordKey(kind, "") }

func recordKey(kind, id string) []byte {
	b := make([]byte, 0, 2+len(kind)+len(id))
	b = append(b, familyRecord)
	b = append(b, kind...)
	b = append(b, 0)
	return append(b, id...)
}

func labelPrefix(kind, name, value string) []byte {
	b := make([]byte, 0, 4+len(kind)+len(name)+len(value))
	b = append(b, familyLabel)
	b = append(b, kind...)
	b = append(b, 0)
	b = append(b, name...)
	b = append(b, 0)
	b = append(b, value...)
	return append(b, 0)
}

func labelKey(kind, name, value, id string) []byte {
	return append(labelPrefix(kind, name, value), id...)
}

func expiryKey(expires time.Time, kind, id string) []byte {
	b := make([]byte, 0, 2+timeBytes+len(kind)+len(id))
	b = append(b, familyExpiry)
	b = appendTime(b, expires)
	b = append(b, kind...)
	b = append(b, 0)
	return append(b, id...)
}

func entryKey(seq uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{familyEntry}, seq)
}

// appendTime writes t so that bytes sort as times do: seconds with the sign bit flipped, then nanoseconds. The zero time
// is kept as it is.
func appendTime(b []byte, t time.Time) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(t.Unix())^(1<<63))
	return binary.BigEndian.AppendUint32(b, uint32(t.Nanosecond()))
}

// readTime is the inverse of appendTime. b has at least timeBytes bytes.
func readTime(b []byte) time.Time {
	seconds := int64(binary.BigEndian.Uint64(b) ^ (1 << 63))
	return time.Unix(seconds, int64(binary.BigEndian.Uint32(b[8:]))).UTC()
}
