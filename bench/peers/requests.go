package main

import (
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/edrgate/edrgate/bench/rig"
)

// get returns the bytes of a GET with a header Authorization, unless that is empty.
func get(host, path, authorization string) []byte {
	if authorization != "" {
		authorization = "Authorization: " + authorization + "\r\n"
	}
	return fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: bench\r\nAccept: */*\r\n%s\r\n", path, host, authorization)
}

// rotation sends some requests in turn, again and again.
type rotation struct {
	all [][]byte
	at  atomic.Uint64
}

func (r *rotation) next() ([]byte, error) {
	return r.all[(r.at.Add(1)-1)%uint64(len(r.all))], nil
}

// once sends each request one time.
type once struct {
	all [][]byte
	at  atomic.Uint64
}

var errExhausted = errors.New("more requests were sent than tokens were made: raise the number")

func (o *once) next() ([]byte, error) {
	i := o.at.Add(1) - 1
	if i >= uint64(len(o.all)) {
		return nil, errExhausted
	}
	return o.all[i], nil
}

// supply makes the requests of a side's next round, n of them if each is to be sent once. Tokens are signed here, never
// while requests are sent.
type supply func(n int) (requests, error)

// always supplies the same requests.
func always(all ...[]byte) supply {
	r := &rotation{all: all}
	return func(int) (requests, error) { return r, nil }
}

// fresh supplies requests that all come with another token, of the given kinds in turn.
func fresh(host, path string, signer *rig.Signer, kinds []*rig.Token) supply {
	return func(n int) (requests, error) {
		all, err := bearing(host, path, signer, kinds, n)
		return &once{all: all}, err
	}
}

// bearing returns n requests with a token each.
func bearing(host, path string, signer *rig.Signer, kinds []*rig.Token, n int) ([][]byte, error) {
	all := make([][]byte, n)
	for i := range all {
		token, err := signer.Sign(kinds[i%len(kinds)])
		if err != nil {
			return nil, err
		}
		all[i] = get(host, path, "Bearer "+token)
	}
	return all, nil
}
