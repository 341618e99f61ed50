package did

import (
	"errors"
	"net/url"
	"strconv"
	"testing"

	"github.com/edrgate/edrgate/internal/dial/dialtest"
)

// Whatever trouble the host of a DID is in, nobody can tell about its keys: never a refusal.
func TestDIDHostsInTrouble(t *testing.T) {
	dialtest.EachTrouble(t, func(t *testing.T, h *dialtest.Host) {
		at, err := url.Parse(h.URL)
		if err != nil {
			t.Fatal(err)
		}
		port, err := strconv.ParseUint(at.Port(), 10, 16)
		if err != nil {
			t.Fatal(err)
		}
		r, err := New(Config{
			AllowPorts: []uint16{uint16(port)}, AllowAddresses: h.Allow, RootCAs: h.Roots, NameServer: h.Resolver, FetchTimeout: h.Timeout,
			Denied: h.ObserveReason,
		})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		_, err = r.ResolveKey(t.Context(), "did:web:"+dialtest.HostName+"%3A"+at.Port(), "#k")
		var failure *Error
		if !errors.As(err, &failure) || failure.Refused() || failure.RetryAfter() <= 0 {
			t.Errorf("got %v", err)
		}
		if h.Denied != "" && (failure == nil || failure.Code != CodeDenied) {
			t.Errorf("not connected: %v", err)
		}
	})
}
