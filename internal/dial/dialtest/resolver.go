// Package dialtest has what tests of outgoing connections need: a name resolver that answers from memory, differently each
// time if it is told to, and hosts in every kind of trouble.
package dialtest

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/edrgate/edrgate/internal/dial"
)

// Transport connects to the special-purpose networks, and to public addresses.
func Transport(t testing.TB, networks ...string) *http.Transport {
	t.Helper()
	var config dial.Config
	for _, network := range networks {
		config.AllowAddresses = append(config.AllowAddresses, netip.MustParsePrefix(network))
	}
	guard, err := dial.NewGuard(config)
	if err != nil {
		t.Fatal(err)
	}
	transport, err := dial.NewTransport(dial.TransportConfig{Guard: guard})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(transport.CloseIdleConnections)
	return transport
}

// Names is a DNS server in memory. Each lookup of a name takes the next of its answers; the last one stays. The zero
// value knows no name and says so.
type Names struct {
	mu      sync.Mutex
	answers map[string][][]netip.Addr
	lookups map[string]int
}

// Set makes lookups of name return the given answers, one after another.
func (n *Names) Set(name string, answers ...[]netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.answers == nil {
		n.answers = make(map[string][][]netip.Addr)
		n.lookups = make(map[string]int)
	}
	n.answers[name] = answers
	n.lookups[name] = 0
}

// SetAddress makes every lookup of name return the one address.
func (n *Names) SetAddress(name, address string) {
	n.Set(name, []netip.Addr{netip.MustParseAddr(address)})
}

// Lookups counts the lookups of name so far.
func (n *Names) Lookups(name string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.lookups[name]
}

// Resolver returns a resolver that asks n and nothing else.
func (n *Names) Resolver() *net.Resolver {
	return &net.Resolver{
		PreferGo: true,
		Dial: func(context.Context, string, string) (net.Conn, error) {
			client, server := net.Pipe()
			go n.serve(server)
			return client, nil
		},
	}
}

// serve answers queries in the stream form of RFC 1035 §4.2.2 until the client closes.
func (n *Names) serve(conn net.Conn) {
	defer conn.Close()
	for {
		var size uint16
		err := binary.Read(conn, binary.BigEndian, &size)
		if err != nil {
			return
		}
		query := make([]byte, size)
		_, err = io.ReadFull(conn, query)
		if err != nil {
			return
		}
		answer, err := n.answer(query)
		if err != nil {
			return
		}
		_, err = conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...))
		if err != nil {
			return
		}
	}
}

func (n *Names) answer(query []byte) ([]byte, error) {
	var m dnsmessage.Message
	err := m.Unpack(query)
	if err != nil {
		return nil, err
	}
	m.Response, m.RecursionAvailable, m.Additionals = true, true, nil
	q := m.Questions[0]
	addresses, known := n.take(strings.TrimSuffix(q.Name.String(), "."), q.Type)
	if !known {
		m.RCode = dnsmessage.RCodeNameError
	}
	for _, a := range addresses {
		header := dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 0}
		switch {
		case a.Is4() && q.Type == dnsmessage.TypeA:
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: header, Body: &dnsmessage.AResource{A: a.As4()}})
		case a.Is6() && q.Type == dnsmessage.TypeAAAA:
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: header, Body: &dnsmessage.AAAAResource{AAAA: a.As16()}})
		}
	}
	return m.Pack()
}

// take returns the next answer. A lookup asks for A and AAAA; only the question for A moves on, so both see one answer
// unless they race, and a name whose answers differ should keep to one family.
func (n *Names) take(name string, asked dnsmessage.Type) ([]netip.Addr, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	answers, known := n.answers[name]
	if !known || len(answers) == 0 {
		return nil, known
	}
	addresses := answers[min(n.lookups[name], len(answers)-1)]
	if asked == dnsmessage.TypeA {
		n.lookups[name]++
	}
	return addresses, true
}
