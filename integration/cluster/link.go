package cluster

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"
)

// Link is a gateway's line to the database.
type Link struct {
	t     testing.TB
	proxy *toxiproxy.Proxy
}

func newLink(t testing.TB, upstream string) *Link {
	t.Helper()
	api := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	l := &Link{t: t, proxy: toxiproxy.NewProxy(api, "database", freeAddress(t), upstream)}
	err := l.proxy.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.proxy.Stop)
	return l
}

// Address is where the gateway finds the database.
func (l *Link) Address() string { return l.proxy.Listen }

// Cut ends all connections and refuses new ones, until Mend.
func (l *Link) Cut() { l.proxy.Stop() }

// Mend ends a Cut.
func (l *Link) Mend() {
	l.t.Helper()
	err := l.TryMend()
	if err != nil {
		l.t.Fatal(err)
	}
}

// TryMend is Mend for goroutines that must not end the test.
func (l *Link) TryMend() error { return l.proxy.Start() }

// Break ends all connections once. New ones are taken.
func (l *Link) Break() error {
	l.proxy.Stop()
	return l.proxy.Start()
}

// Lead makes the line lead to another server from now on, as a service address does when a standby takes over.
func (l *Link) Lead(upstream string) error {
	l.proxy.Stop()
	l.proxy.Upstream = upstream
	return l.proxy.Start()
}

// Swallow takes what both sides send and passes nothing on, as a firewall that drops packets, until Release. What was
// swallowed is lost, and the connection it was on is ended by Release.
func (l *Link) Swallow() error {
	for _, stream := range []string{"upstream", "downstream"} {
		_, err := l.proxy.Toxics.AddToxicJson(strings.NewReader(
			fmt.Sprintf(`{"name":%q,"type":"timeout","stream":%q,"attributes":{"timeout":0}}`, "swallow "+stream, stream)))
		if err != nil {
			return err
		}
	}
	return nil
}

// Delay makes what the database answers late by d, until Release.
func (l *Link) Delay(d time.Duration) error {
	_, err := l.proxy.Toxics.AddToxicJson(strings.NewReader(
		fmt.Sprintf(`{"name":"delay","type":"latency","stream":"downstream","attributes":{"latency":%d}}`, d.Milliseconds())))
	return err
}

// Release ends Swallow and Delay.
func (l *Link) Release(ctx context.Context) { l.proxy.Toxics.ResetToxics(ctx) }
