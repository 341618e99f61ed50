package badger

import "github.com/dgraph-io/badger/v4/skl"

// Sizes of memtables. Badger allocates each whole, on Go's heap, where it counts twice: the collector lets as much garbage
// come together as there is live. Builds before the first release had maxMemTableBytes.
const (
	memTableBytes    = 8 << 20
	maxMemTableBytes = 16 << 20
	fullBytes        = 32 << 20 // of full ones, which wait until they are written to tables
)

// nodeBytes is what an entry takes of a memtable at most, besides its bytes in the log.
const nodeBytes = skl.MaxNodeSize + 8 // it is aligned

// memTableFor returns the size of memtables for a directory whose logs need room for what they hold. A log of a process that
// was killed is read back into one memtable, and Badger ends the process if it does not fit.
func memTableFor(room int) int64 {
	// Badger adds 15 % for a transaction that begins when the table is nearly full, and 15 % for its nodes (db.go, arenaSize).
	const holds = memTableBytes + 2*(memTableBytes*15/100-skl.MaxNodeSize)
	if room > holds {
		return maxMemTableBytes
	}
	return memTableBytes
}
