package caddymodule

import (
	"fmt"
	"regexp"
	"slices"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/edrgate/edrgate/tokens"
)

// Defaults and choices of the app's settings.
const (
	defaultParticipant = "default"

	duplicateReplay   = "replay"
	duplicateConflict = "conflict"
	reuseRefuse       = "refuse"
	reuseRevoke       = "revoke"
	formatEDC         = "edc"
	formatRFC6749     = "rfc6749"
)

// minUnacknowledgedTTL keeps a mistyped unit from ending flows before anybody could use them.
const minUnacknowledgedTTL = time.Hour

// A skew this large would let a proof live on for longer than it may live at all.
const maxClockSkew = 10 * time.Minute

var (
	// nameSyntax is that of participant contexts, control planes and routes. A participant is part of record ids, in
	// which "/" separates the parts.
	nameSyntax = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

	// didSyntax is DID Core §3.1, without path, query and fragment.
	didSyntax = regexp.MustCompile(`^did:[a-z0-9]+:([A-Za-z0-9._:-]|%[0-9A-Fa-f]{2})*([A-Za-z0-9._-]|%[0-9A-Fa-f]{2})$`)
)

func (a *App) setDefaults() {
	a.RefreshPath = orDefault(a.RefreshPath, tokens.DefaultRefreshPath)
	a.DuplicateStart = orDefault(a.DuplicateStart, duplicateReplay)
	a.ReusePolicy = orDefault(a.ReusePolicy, reuseRefuse)
	a.TokenTTL = orDefault(a.TokenTTL, caddy.Duration(tokens.DefaultTokenTTL))
	a.TokenTTLWithoutRenewal = orDefault(a.TokenTTLWithoutRenewal, caddy.Duration(tokens.DefaultTokenTTLWithoutRenewal))
	a.TombstoneTTL = orDefault(a.TombstoneTTL, caddy.Duration(tokens.DefaultTombstoneTTL))
	if a.UnacknowledgedTTL == nil {
		standard := caddy.Duration(tokens.DefaultUnacknowledgedTTL)
		a.UnacknowledgedTTL = &standard
	}
	a.ClockSkew = orDefault(a.ClockSkew, caddy.Duration(tokens.DefaultClockSkew))
	if a.Resolver == nil {
		a.Resolver = new(Resolver)
	}
	if a.Limits == nil {
		a.Limits = new(Limits)
	}
	a.Limits.setDefaults()
}

func orDefault[T comparable](value, standard T) T {
	var zero T
	if value == zero {
		return standard
	}
	return value
}

// checkSettings checks what needs no file. It comes first, so that a config that says nothing is told what is missing and
// not which file could not be read.
func (a *App) checkSettings() error {
	for _, check := range []func() error{a.checkParticipants, a.checkLifetimes, a.checkChoices, a.checkLimits} {
		err := check()
		if err != nil {
			return err
		}
	}
	return nil
}

func (a *App) checkLifetimes() error {
	for _, ttl := range []struct {
		name  string
		value caddy.Duration
		least time.Duration
	}{
		// The wire has whole seconds, and consumers refuse an EDR that expires in 0 of them.
		{"token_ttl", a.TokenTTL, time.Second},
		{"token_ttl_without_renewal", a.TokenTTLWithoutRenewal, time.Second},
		{"tombstone_ttl", a.TombstoneTTL, time.Second},
		{"refresh_ttl", a.RefreshTTL, 0},
		{"unacknowledged_ttl", *a.UnacknowledgedTTL, 0},
		{"clock_skew", a.ClockSkew, 0},
	} {
		if time.Duration(ttl.value) < ttl.least {
			return fmt.Errorf("%s must be at least %s, not %s", ttl.name, ttl.least, time.Duration(ttl.value))
		}
	}
	if time.Duration(a.ClockSkew) > maxClockSkew {
		return fmt.Errorf("clock_skew must be at most %s, not %s", maxClockSkew, time.Duration(a.ClockSkew))
	}
	if a.RefreshTTL != 0 && a.RefreshTTL < a.TokenTTL {
		return fmt.Errorf("refresh_ttl %s is shorter than token_ttl %s: no consumer could renew in time",
			time.Duration(a.RefreshTTL), time.Duration(a.TokenTTL))
	}
	if unused := time.Duration(*a.UnacknowledgedTTL); unused != 0 && unused < minUnacknowledgedTTL {
		return fmt.Errorf("unacknowledged_ttl must be 0 or at least %s, not %s: consumers use an EDR when they need the data", minUnacknowledgedTTL, unused)
	}
	return nil
}

func (a *App) checkLimits() error {
	err := a.Limits.check()
	if err != nil {
		return fmt.Errorf("limits: %w", err)
	}
	return nil
}

func (a *App) checkChoices() error {
	for _, choice := range []struct {
		name, value string
		among       []string
	}{
		{"duplicate_start", a.DuplicateStart, []string{duplicateReplay, duplicateConflict}},
		{"reuse_policy", a.ReusePolicy, []string{reuseRefuse, reuseRevoke}},
		{"error_format", a.ErrorFormat, []string{"", formatEDC, formatRFC6749}},
	} {
		if !slices.Contains(choice.among, choice.value) {
			return fmt.Errorf("%s %q is none of %q", choice.name, choice.value, choice.among)
		}
	}
	return nil
}
