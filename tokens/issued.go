package tokens

import "sync"

// issued remembers which access tokens this Service has signed, by the SHA-256 of their text, so that the first use of one
// here, and the renewal after it, need not check a signature that was made here. It holds for the signature alone: all else
// that a token says is looked at as always. A token that another gateway signed, or this one before its start, is verified.
//
// It is bounded: the older half is given up when the younger one is full. Nobody without our key can fill it.
type issued struct {
	half int // most tokens in each half

	mu             sync.Mutex
	younger, older map[tokenHash]struct{}
}

func newIssued(entries int) *issued {
	return &issued{half: max(1, entries/2), younger: map[tokenHash]struct{}{}}
}

func (i *issued) add(key tokenHash) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if len(i.younger) >= i.half {
		i.older, i.younger = i.younger, map[tokenHash]struct{}{}
	}
	i.younger[key] = struct{}{}
}

func (i *issued) has(key *tokenHash) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	_, found := i.younger[*key]
	if !found {
		_, found = i.older[*key]
	}
	return found
}
