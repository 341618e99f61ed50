//go:build interop

package edc

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// user is the consumer's own installation of the binary. Its control plane posts EDRs to it, as docs/consumer.md says.
type user struct {
	*installation
	api, egress string // host:port
	client      *http.Client
}

// userCaddyfile is what a consumer with a classic control plane writes. Tokens are renewed when somebody asks for it, so
// that the test knows which are the last.
const userCaddyfile = `{
	admin unix/DIR/admin.sock
	default_bind 127.0.0.1
	log {
		output file DIR/gateway.log
	}
	edrgate {
		did CONSUMER
		signing_key DIR/signing.pem
		public_url http://API
		store badger {
			path DIR/store
			min_free 64MiB
			reserve 1MiB
		}
		consumer {
			kid KEY
			renew on_use
			allow_http 127.0.0.1
			allow_addresses 127.0.0.0/8
			management MANAGEMENT
		}
	}
}

http://API {
	edr_consumer
}

http://EGRESS {
	edr_egress
}
`

// newUser makes the installation of a consumer, beside a control plane with this management API, with two ports from port
// on. Its key is published in the consumer's DID document.
func newUser(t testing.TB, port int, c *consumer, management string) *user {
	t.Helper()
	u := &user{api: fmt.Sprintf("127.0.0.1:%d", port), egress: fmt.Sprintf("127.0.0.1:%d", port+1), client: c.client}
	u.installation = newInstallation(t, "consumer's gateway", u.api, u.egress)
	kid, err := c.publish(u.cli("edr", "keygen", u.path("signing.pem"), "--did", c.wallet.DID))
	if err != nil {
		t.Fatal(err)
	}
	u.write("Caddyfile", strings.NewReplacer("DIR", u.dir, "CONSUMER", c.wallet.DID, "API", u.api, "KEY", kid,
		"MANAGEMENT", management, "EGRESS", u.egress).Replace(userCaddyfile))
	return u
}

// callback is where it takes the events of transfers.
func (u *user) callback() string { return "http://" + u.api + "/edrs/events" }

// edr asks for the data address of a transfer.
func (u *user) edr(ctx context.Context, f *flow) (EDR, error) {
	return u.lent(ctx, f, http.MethodGet, "dataaddress")
}

// refresh asks for a data address with a new token.
func (u *user) refresh(ctx context.Context, f *flow) (EDR, error) {
	return u.lent(ctx, f, http.MethodPost, "refresh")
}

func (u *user) lent(ctx context.Context, f *flow, method, operation string) (EDR, error) {
	var address node
	err := call(ctx, u.client, method, "http://"+u.api+"/v3/edrs/"+f.transfer.Consumer+"/"+operation, nil, &address)
	if err != nil {
		return nil, err
	}
	lent := EDR(address.fullNames())
	if lent.Endpoint() != f.edr.Endpoint() || lent.AccessToken() == "" {
		return nil, fmt.Errorf("%s of %s is not that of the control plane, or has no token", lent, f.name)
	}
	if lent.RefreshToken() != "" {
		return nil, fmt.Errorf("%s of %s has the refresh token, with which others could take it away", lent, f.name)
	}
	return lent, nil
}

// awaitEDR waits until it has the EDR that the control plane got last.
func (u *user) awaitEDR(ctx context.Context, f *flow) error {
	return await(ctx, func() error {
		lent, err := u.edr(ctx, f)
		if isNotFound(err) {
			return fmt.Errorf("%w: no EDR of %s has come", errNotYet, f.name)
		}
		if err != nil {
			return err
		}
		if lent.AccessToken() != f.edr.AccessToken() {
			return fmt.Errorf("%w: the EDR of %s is another than the control plane's", errNotYet, f.name)
		}
		return nil
	})
}

// awaitNoEDR waits until it does not serve the EDR of a transfer any more. Then it does not renew it either.
func (u *user) awaitNoEDR(ctx context.Context, f *flow) error {
	err := await(ctx, func() error {
		_, err := u.edr(ctx, f)
		if err == nil {
			return fmt.Errorf("%w: the EDR of %s is still served", errNotYet, f.name)
		}
		if isNotFound(err) {
			return nil
		}
		return err
	})
	if err != nil {
		return err
	}
	_, err = u.refresh(ctx, f)
	switch {
	case isNotFound(err):
		return nil
	case err == nil:
		return fmt.Errorf("the EDR of %s is not served, and was renewed", f.name)
	}
	return err
}

// provider returns whose an EDR is, as far as it knows.
func (u *user) provider(ctx context.Context, f *flow) (string, error) {
	query := newNode("QuerySpec", node{"filterExpression": []node{{
		"operandLeft": "transferProcessId", "operator": "=", "operandRight": f.transfer.Consumer,
	}}})
	var entries []node
	err := call(ctx, u.client, http.MethodPost, "http://"+u.api+"/v3/edrs/request", query, &entries)
	if err != nil {
		return "", err
	}
	if len(entries) != 1 {
		return "", fmt.Errorf("%d entries of %s, want 1", len(entries), f.name)
	}
	return entries[0].text("providerId"), nil
}

// comesByEvent has the consumer's control plane hand over the EDR of a transfer by its event callback, which also tells
// what becomes of the transfer.
func (x *run) comesByEvent(agreed *flow) {
	x.t.Helper()
	f, provider := agreed.again("by event"), x.edc.space.Provider
	x.do(x.user.start, "the consumer's gateway runs")
	x.do(func(ctx context.Context) error {
		id, err := x.edc.space.Request(ctx, f.agreement, f.source.Type, x.user.callback())
		if err != nil {
			return err
		}
		err = x.awaitEDR(ctx, f, id)
		if err != nil {
			return err
		}
		return x.user.awaitEDR(ctx, f)
	}, "%s: transfer asked for with a callback; the consumer's gateway has the EDR", f.name)
	x.do(func(ctx context.Context) error {
		return await(ctx, func() error {
			known, err := x.user.provider(ctx, f)
			if err != nil {
				return err
			}
			if known != providerDID {
				return fmt.Errorf("%w: the provider is %q, want %s", errNotYet, known, providerDID)
			}
			return nil
		})
	}, "%s: the consumer's gateway has looked up by the agreement whose the EDR is", f.name)
	x.usedByEvent(f)
	x.do(func(ctx context.Context) error {
		err := x.user.kill()
		if err != nil {
			return err
		}
		return x.user.start(ctx)
	}, "the consumer's gateway was killed (-9) and runs again")
	x.do(func(ctx context.Context) error {
		lent, err := x.user.edr(ctx, f)
		if err != nil {
			return err
		}
		if lent.AccessToken() != f.access {
			return errors.New("it has another token than the renewal gave")
		}
		return nil
	}, "%s: the consumer's gateway still has the EDR, with the renewed token", f.name)

	x.do(func(ctx context.Context) error {
		err := provider.Suspend(ctx, f.transfer.Provider)
		if err != nil {
			return err
		}
		err = x.consumerLost(ctx, f, "SUSPENDED")
		if err != nil {
			return err
		}
		err = x.user.awaitNoEDR(ctx, f)
		if err != nil {
			return err
		}
		return x.refuses(ctx, f, suspended, f.access)
	}, "%s: the provider suspends; the consumer's gateway does not serve the EDR, and its token is refused", f.name)
	x.do(func(ctx context.Context) error {
		err := provider.Resume(ctx, f.transfer.Provider)
		if err != nil {
			return err
		}
		err = x.awaitEDR(ctx, f, f.transfer.Consumer)
		if err != nil {
			return err
		}
		return x.user.awaitEDR(ctx, f)
	}, "%s: the provider resumes; the consumer's gateway has the fresh EDR", f.name)
	x.usedByEvent(f)

	x.do(func(ctx context.Context) error {
		err := provider.Terminate(ctx, f.transfer.Provider)
		if err != nil {
			return err
		}
		err = x.consumerLost(ctx, f, ended...)
		if err != nil {
			return err
		}
		return x.user.awaitNoEDR(ctx, f)
	}, "%s: the provider terminates; the consumer's gateway has no EDR any more", f.name)
}

// usedByEvent uses an EDR that the consumer's gateway has just got, and renews it.
func (x *run) usedByEvent(f *flow) {
	x.t.Helper()
	x.do(func(ctx context.Context) error {
		lent, err := x.user.edr(ctx, f)
		if err != nil {
			return err
		}
		return x.opens(ctx, f, lent.AccessToken())
	}, "%s: data by the token that the consumer's gateway lends", f.name)
	x.do(func(ctx context.Context) error {
		renewed, err := x.user.refresh(ctx, f)
		if err != nil {
			return err
		}
		if renewed.AccessToken() == f.access {
			return errors.New("the renewal gave the old token")
		}
		f.access = renewed.AccessToken()
		return x.opens(ctx, f, f.access)
	}, "%s: renewed by the consumer's gateway, with a proof by its key in the DID document; the new token works", f.name)
	x.do(func(ctx context.Context) error {
		const below = "/today?n=1"
		answer, err := x.consumer.get(ctx, "http://"+x.user.egress+"/"+f.transfer.Consumer, below, "Bearer of the application")
		if err != nil {
			return err
		}
		if answer.status != http.StatusOK || answer.body != dataAt(f.base+below) {
			return fmt.Errorf("status %d: %s", answer.status, answer.body)
		}
		return nil
	}, "%s: data by the egress, for an application without a token", f.name)
}
