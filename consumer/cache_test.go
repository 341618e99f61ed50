package consumer

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/edrgate/edrgate/store"
	"github.com/edrgate/edrgate/tokens"
)

func TestPutIsChecked(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		change func(*Put)
		want   Code
		field  string
	}{
		{"no id", func(p *Put) { p.ID = "" }, CodeInvalid, "transfer process id"},
		{"slash in the id", func(p *Put) { p.ID = "a/b" }, CodeInvalid, "transfer process id"},
		{"no EDR", func(p *Put) { p.EDR = nil }, CodeInvalid, "dataAddress"},
		{"no endpoint", func(p *Put) { p.EDR.Endpoint = "" }, CodeInvalid, "endpoint"},
		{"relative endpoint", func(p *Put) { p.EDR.Endpoint = "/data" }, CodeInvalid, "endpoint"},
		{"endpoint of http", func(p *Put) { p.EDR.Endpoint = "http://provider.example/data" }, CodeInsecure, "endpoint"},
		{"endpoint of ftp", func(p *Put) { p.EDR.Endpoint = "ftp://provider.example/data" }, CodeInvalid, "endpoint"},
		{"endpoint with a user", func(p *Put) { p.EDR.Endpoint = "https://a:b@provider.example/" }, CodeInvalid, "endpoint"},
		{"endpoint with a fragment", func(p *Put) { p.EDR.Endpoint = "https://provider.example/#a" }, CodeInvalid, "endpoint"},
		{"refresh endpoint of http", func(p *Put) { p.EDR.RefreshEndpoint = "http://provider.example/token" }, CodeInsecure, "refreshEndpoint"},
		{"token with a line break", func(p *Put) { p.EDR.AccessToken = "a\nb" }, CodeInvalid, "authorization"},
		{"refresh token with a space", func(p *Put) { p.EDR.RefreshToken = "a b" }, CodeInvalid, "refreshToken"},
		{"long token", func(p *Put) { p.EDR.AccessToken = tokens.Secret(strings.Repeat("a", maxTokenBytes+1)) }, CodeInvalid, "authorization"},
		{"too large", func(p *Put) { p.EDR.Properties = map[string]string{"a": strings.Repeat("<", maxSealedBytes/6)} }, CodeInvalid, "dataAddress"},
		{"no dialect", func(p *Put) { p.EDR.Dialect = "" }, CodeInvalid, "dialect"},
		{"long asset", func(p *Put) { p.Terms.Asset = strings.Repeat("a", maxTermBytes+1) }, CodeInvalid, "asset"},
		{"DID that is none", func(p *Put) { p.Terms.CounterpartyDID = "BPNL1" }, CodeInvalid, "counterparty DID"},
		{"audience of another provider", func(p *Put) { p.EDR.RefreshAudience = otherDID }, CodeAudience, "refreshAudience"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			x := newFixture(t, func(c *Config, _ *RenewerConfig) { c.AllowHTTP = nil })
			e := x.dps()
			e.Endpoint, e.RefreshEndpoint = "https://provider.example/data", "https://provider.example/token"
			p := Put{ID: "tp-1", EDR: e, Terms: Terms{Counterparty: providerDID}}
			c.change(&p)
			_, err := x.Put(t.Context(), p)
			wantCode(t, err, c.want)
			if !strings.Contains(err.Error(), c.field) {
				t.Errorf("error %q does not name %s", err, c.field)
			}
			list, err := x.List(t.Context(), Query{})
			if err != nil || len(list) != 0 {
				t.Errorf("kept nevertheless: %v, %v", list, err)
			}
		})
	}
}

// Control planes repeat a start, and an EDC 0.18 consumer serves its first EDR again: tokens that were renewed stay.
func TestRepeatedStartLeavesRenewedTokens(t *testing.T) {
	t.Parallel()
	x := newFixture(t)
	x.started("tp-1")
	x.must(x.renewer.Refresh(t.Context(), "tp-1"))
	e := x.started("tp-1")
	wantToken(t, e, "access-1")
	if e.Generation != 2 {
		t.Errorf("generation %d", e.Generation)
	}
	edr := x.dps()
	edr.AccessToken, edr.RefreshToken = "started-anew", "refresh-anew"
	wantToken(t, x.put("tp-1", edr, Terms{}), "started-anew")
}

// A repeat may lack the renewal properties, as what applications are shown does: what is kept has them.
func TestRepeatedStartWithoutRenewal(t *testing.T) {
	t.Parallel()
	x := newFixture(t)
	x.started("tp-1")
	shown := x.dps()
	shown.RefreshToken, shown.RefreshEndpoint = "", ""
	e := x.put("tp-1", shown, Terms{})
	if !e.Renewable || e.Due.IsZero() {
		t.Errorf("it is not renewed ahead any more: %+v", e)
	}
}

func TestTermsNeverChange(t *testing.T) {
	t.Parallel()
	x := newFixture(t)
	x.started("tp-1")
	for name, terms := range map[string]Terms{
		"counterparty": {Counterparty: otherDID}, "counterparty DID": {CounterpartyDID: otherDID}, "asset": {Asset: "asset-2"},
	} {
		e := x.dps()
		e.AccessToken = "another"
		_, err := x.Put(t.Context(), Put{ID: "tp-1", EDR: e, Terms: terms})
		wantCode(t, err, CodeConflict)
		wantToken(t, x.get("tp-1"), "access-0")
		if !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if x.observer.event(EventConflict) != 3 {
		t.Error("nobody was told")
	}
	// Signaling and events name one agreement by different ids.
	e := x.must(x.Learn(t.Context(), "tp-1", Terms{Agreement: "agreement-2"}))
	if e.Agreement != "agreement-1" {
		t.Errorf("agreement %s", e.Agreement)
	}
}

// Suspend keeps the tokens and serves none; resume brings the same ones back; an ending is for ever.
func TestStates(t *testing.T) {
	t.Parallel()
	x := newFixture(t)
	ctx := t.Context()
	x.started("tp-1")
	for range 2 {
		e := x.must(x.Suspend(ctx, "tp-1"))
		if e.State != Suspended {
			t.Fatalf("state %s", e.State)
		}
	}
	_, err := x.renewer.Current(ctx, "tp-1")
	wantCode(t, err, CodeSuspended)
	_, err = x.renewer.Refresh(ctx, "tp-1")
	wantCode(t, err, CodeSuspended)
	for range 2 {
		x.must(x.Resume(ctx, "tp-1"))
	}
	wantToken(t, x.must(x.renewer.Current(ctx, "tp-1")), "access-0")

	for range 2 {
		err = x.End(ctx, "tp-1")
		if err != nil {
			t.Fatal(err)
		}
	}
	if e := x.get("tp-1"); e.State != Ended || e.EDR != nil || e.Asset != "asset-1" {
		t.Errorf("%+v", e)
	}
	for name, do := range map[string]func() (*Entry, error){
		"current": func() (*Entry, error) { return x.renewer.Current(ctx, "tp-1") },
		"suspend": func() (*Entry, error) { return x.Suspend(ctx, "tp-1") },
		"resume":  func() (*Entry, error) { return x.Resume(ctx, "tp-1") },
		"learn":   func() (*Entry, error) { return x.Learn(ctx, "tp-1", Terms{}) },
		"put":     func() (*Entry, error) { return x.Put(ctx, Put{ID: "tp-1", EDR: x.dps()}) },
	} {
		_, err = do()
		if err == nil || CodeOf(err) != CodeEnded {
			t.Errorf("%s of an ended EDR: %v", name, err)
		}
	}
	x.clock.Advance(DefaultEndedTTL)
	_, err = x.Get(ctx, "tp-1")
	wantCode(t, err, CodeUnknown)
}

func TestUnknownIDs(t *testing.T) {
	t.Parallel()
	x := newFixture(t)
	ctx := t.Context()
	for name, do := range map[string]func(string) error{
		"get":     func(id string) error { _, err := x.Get(ctx, id); return err },
		"current": func(id string) error { _, err := x.renewer.Current(ctx, id); return err },
		"refresh": func(id string) error { _, err := x.renewer.Refresh(ctx, id); return err },
		"suspend": func(id string) error { _, err := x.Suspend(ctx, id); return err },
		"resume":  func(id string) error { _, err := x.Resume(ctx, id); return err },
		"remove":  func(id string) error { return x.Remove(ctx, id) },
	} {
		err := do("nobody")
		if err == nil || CodeOf(err) != CodeUnknown {
			t.Errorf("%s: %v", name, err)
		}
		err = do("a/b")
		if err == nil || CodeOf(err) != CodeInvalid {
			t.Errorf("%s of an impossible id: %v", name, err)
		}
	}
	// An ending of what was never started is remembered.
	err := x.End(ctx, "late")
	if err != nil {
		t.Fatal(err)
	}
	_, err = x.Put(ctx, Put{ID: "late", EDR: x.dps()})
	wantCode(t, err, CodeEnded)
}

// What is removed may be put again, with other terms.
func TestRemove(t *testing.T) {
	t.Parallel()
	x := newFixture(t)
	x.started("tp-1")
	err := x.Remove(t.Context(), "tp-1")
	if err != nil {
		t.Fatal(err)
	}
	_, err = x.Get(t.Context(), "tp-1")
	wantCode(t, err, CodeUnknown)
	e := x.put("tp-1", x.dps(), Terms{Counterparty: otherDID, Asset: "asset-2"})
	if e.Asset != "asset-2" || !e.Renewable {
		t.Errorf("%+v", e)
	}
}

func TestList(t *testing.T) {
	t.Parallel()
	x := newFixture(t)
	put := func(id string, terms Terms) {
		e := x.dps()
		e.AccessToken = tokens.Secret("access-of-" + id)
		x.put(id, e, terms)
	}
	put("a", Terms{Counterparty: providerDID, Asset: "asset-1", Agreement: "agreement-1"})
	put("b", Terms{Counterparty: providerDID, Asset: "asset-2", Agreement: "agreement-2"})
	put("c", Terms{Counterparty: otherDID, Asset: "asset-1", Agreement: "agreement-3"})
	put("d", Terms{Asset: "asset-1"}) // by an event, its counterparty learned later
	x.must(x.Learn(t.Context(), "d", Terms{Counterparty: providerDID, Agreement: "agreement-1"}))
	x.must(x.Suspend(t.Context(), "b"))
	put("e", Terms{Counterparty: providerDID, Asset: "asset-1"})
	err := x.End(t.Context(), "e")
	if err != nil {
		t.Fatal(err)
	}
	other := x.config
	other.Participant = "other"
	foreign, err := New(other)
	if err != nil {
		t.Fatal(err)
	}
	_, err = foreign.Put(t.Context(), Put{ID: "z", EDR: x.dps(), Terms: Terms{Counterparty: providerDID, Asset: "asset-1"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		query Query
		want  string
	}{
		{"all", Query{}, "a b c d"},
		{"by counterparty", Query{Counterparty: providerDID}, "a b d"},
		{"by asset", Query{Asset: "asset-1"}, "a c d"},
		{"by agreement", Query{Agreement: "agreement-1"}, "a d"},
		{"by asset and counterparty", Query{Asset: "asset-1", Counterparty: otherDID}, "c"},
		{"of nobody", Query{Counterparty: "nobody"}, ""},
		{"suspended", Query{State: Suspended}, "b"},
		{"ended", Query{State: Ended}, "e"},
		{"two", Query{Limit: 2}, "a b"},
		{"the next two", Query{Limit: 2, After: "b"}, "c d"},
		{"the next by counterparty", Query{Counterparty: providerDID, Limit: 1, After: "a"}, "b"},
	} {
		list, err := x.List(t.Context(), c.query)
		if err != nil {
			t.Fatal(err)
		}
		var ids []string
		for _, e := range list {
			ids = append(ids, e.ID)
			if e.EDR != nil {
				t.Errorf("%s: a list has tokens", c.name)
			}
		}
		if strings.Join(ids, " ") != c.want {
			t.Errorf("%s: %v, want %s", c.name, ids, c.want)
		}
	}
}

// Lists of many pages stay complete and in order, also where two labels are merged.
func TestListOfManyPages(t *testing.T) {
	t.Parallel()
	x := newFixture(t)
	const each = listPage + 20
	for i := range each {
		e := x.dps()
		e.AccessToken = tokens.Secret("known-" + seconds(time.Duration(i)*time.Second))
		x.put("k"+pad(i), e, Terms{Counterparty: providerDID, Asset: "asset-1"})
		e.AccessToken = tokens.Secret("learned-" + seconds(time.Duration(i)*time.Second))
		x.put("k"+pad(i)+"-learned", e, Terms{Asset: "asset-1"})
		x.must(x.Learn(t.Context(), "k"+pad(i)+"-learned", Terms{Counterparty: providerDID}))
	}
	var all []string
	after := ""
	for {
		list, err := x.List(t.Context(), Query{Counterparty: providerDID, After: after, Limit: 70})
		if err != nil {
			t.Fatal(err)
		}
		if len(list) == 0 {
			break
		}
		for _, e := range list {
			if e.ID <= after {
				t.Fatalf("%s after %s", e.ID, after)
			}
			after = e.ID
			all = append(all, e.ID)
		}
	}
	if len(all) != 2*each {
		t.Errorf("%d entries, want %d", len(all), 2*each)
	}
}

func pad(i int) string {
	text := seconds(time.Duration(i) * time.Second)
	return strings.Repeat("0", 4-len(text)) + text
}

// Puts of one EDR at once leave one record, with one of them.
func TestPutsAtOnce(t *testing.T) {
	t.Parallel()
	x := newFixture(t)
	other, _ := x.open()
	var callers sync.WaitGroup
	for i := range 20 {
		callers.Go(func() {
			e := x.dps()
			e.AccessToken = tokens.Secret("access-of-" + pad(i))
			cache := x.Cache
			if i%2 == 0 {
				cache = other
			}
			_, err := cache.Put(context.Background(), Put{ID: "tp-1", EDR: e, Terms: Terms{Counterparty: providerDID}})
			if err != nil {
				t.Error(err)
			}
		})
	}
	callers.Wait()
	if e := x.get("tp-1"); e.Generation != 20 || !strings.HasPrefix(e.EDR.AccessToken.Reveal(), "access-of-") {
		t.Errorf("%+v", e)
	}
}

// A record moved to another EDR does not open, and nothing is taken for a refusal then.
func TestSealIsBoundToTheEDR(t *testing.T) {
	t.Parallel()
	x := newFixture(t)
	x.started("tp-1")
	e := x.dps()
	e.AccessToken = "access-of-2"
	x.put("tp-2", e, Terms{})
	stolen, err := x.store.Get(t.Context(), edrKind, "default/tp-1")
	if err != nil {
		t.Fatal(err)
	}
	moved := strings.Replace(string(stolen.Data), `"id":"tp-1"`, `"id":"tp-2"`, 1)
	_, err = x.store.Update(t.Context(), edrKind, "default/tp-2", func(store.Record) (store.Edit, error) {
		return store.Edit{Data: []byte(moved)}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	_, err = x.Get(t.Context(), "tp-2")
	wantCode(t, err, CodeUnavailable)
}

func TestKeyUse(t *testing.T) {
	t.Parallel()
	x := newFixture(t)
	x.started("tp-1")
	use, err := x.KeyUse(t.Context())
	if err != nil || len(use) != 1 {
		t.Fatalf("%v, %v", use, err)
	}
	for id, n := range use {
		if id == "" || n != 1 {
			t.Errorf("key %q is used %d times", id, n)
		}
	}
}

// A store that fails is no "no".
func TestStoreTroubleIsNotARefusal(t *testing.T) {
	t.Parallel()
	x := newFixture(t)
	x.started("tp-1")
	err := x.store.Close()
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	for name, do := range map[string]func() error{
		"put":     func() error { _, err := x.Put(ctx, Put{ID: "tp-1", EDR: x.dps()}); return err },
		"get":     func() error { _, err := x.Get(ctx, "tp-1"); return err },
		"current": func() error { _, err := x.renewer.Current(ctx, "tp-1"); return err },
		"suspend": func() error { _, err := x.Suspend(ctx, "tp-1"); return err },
		"end":     func() error { return x.End(ctx, "tp-1") },
		"remove":  func() error { return x.Remove(ctx, "tp-1") },
		"list":    func() error { _, err := x.List(ctx, Query{}); return err },
		"use":     func() error { _, err := x.KeyUse(ctx); return err },
	} {
		err := do()
		if err == nil || CodeOf(err) != CodeUnavailable || !errors.Is(err, store.ErrClosed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCacheConfiguration(t *testing.T) {
	t.Parallel()
	x := newFixture(t)
	for name, change := range map[string]func(*Config){
		"no participant":    func(c *Config) { c.Participant = "" },
		"slash":             func(c *Config) { c.Participant = "a/b" },
		"no DID":            func(c *Config) { c.DID = "BPNL1" },
		"no store":          func(c *Config) { c.Store = nil },
		"no sealer":         func(c *Config) { c.Sealer = nil },
		"negative lifetime": func(c *Config) { c.EndedTTL = -1 },
	} {
		c := x.config
		change(&c)
		_, err := New(c)
		if err == nil || CodeOf(err) != CodeInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// leaks returns the files below dir that hold one of the secrets, plain or encoded.
func leaks(t *testing.T, dir string, secrets ...string) []string {
	t.Helper()
	var forms []string
	for _, secret := range secrets {
		forms = append(forms, secret, hex.EncodeToString([]byte(secret)))
		for shift := range 3 {
			encoded := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("x", shift) + secret))
			forms = append(forms, encoded[4:len(encoded)-4])
		}
	}
	var found []string
	files := 0
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		files++
		for _, form := range forms {
			if strings.Contains(string(data), form) {
				found = append(found, path+": "+form)
			}
		}
		return nil
	})
	if err != nil || files == 0 {
		t.Fatalf("%d files searched, %v", files, err)
	}
	return found
}
