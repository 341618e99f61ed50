package caddymodule

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
)

func init() {
	httpcaddyfile.RegisterGlobalOption(appName, parseGlobalOption)
}

// parseGlobalOption parses the global option. Repeated blocks, from imports for example, add to one another.
func parseGlobalOption(d *caddyfile.Dispenser, existing any) (any, error) {
	app := new(App)
	if existing != nil {
		before, ok := existing.(httpcaddyfile.App)
		if !ok {
			return nil, d.Errf("unexpected earlier value of the %s option: %T", appName, existing)
		}
		err := json.Unmarshal(before.Value, app)
		if err != nil {
			return nil, d.WrapErr(err)
		}
	}
	err := app.UnmarshalCaddyfile(d)
	if err != nil {
		return nil, err
	}
	return httpcaddyfile.App{Name: appName, Value: caddyconfig.JSON(app, nil)}, nil
}

// UnmarshalCaddyfile sets up the app from the global option. Syntax:
//
//	edrgate {
//		did                       <did>
//		signing_key               <file> [next|active|verify]
//		public_url                <url> [insecure]
//		participant               <name>
//		refresh_path              <path>
//		refresh_key               <file>
//		sealing_key               <file>
//		token_ttl                 <duration>
//		token_ttl_without_renewal <duration>
//		refresh_ttl               <duration>
//		unacknowledged_ttl        <duration>
//		tombstone_ttl             <duration>
//		clock_skew                <duration>
//		did_map                   <counterparty> <did>
//		duplicate_start           replay|conflict
//		reuse_policy              refuse|revoke
//		error_format              edc|rfc6749
//		control_plane <name> {
//			formerly <name...>
//			callback <url>
//			authorization oauth2_client_credentials {
//				token_endpoint <url>
//				client_id      <id>
//				client_secret  <secret>
//				scope          <scopes>
//				audience       <audience>
//			}
//			authorization oauth2_token_exchange {
//				token_exchange_endpoint <url>
//				subject_token_file      <file>
//				resource                <uri>
//				audience                <audience>
//				scope                   <scopes>
//			}
//			register classic|dps <url> {
//				signaling_url  <url>
//				id             <id>
//				transfer_types <type...>
//				source_types   <type...>
//				profiles       <profile...>
//				labels         <label...>
//				api_key        <key>
//				authorization oauth2_client_credentials {
//					token_endpoint <url>
//					client_id      <id>
//					client_secret  <secret>
//					jwks_uri       <url>
//				}
//				authorization oauth2_token_exchange {
//					token_exchange_endpoint <url>
//					issuer                  <url>
//					jwks_uri                <url>
//					resource                <uri>
//					audience                <audience>
//					scope                   <scopes>
//				}
//			}
//		}
//		route <name> {
//			dataset    <id...>
//			profile    <profile...>
//			label      <label...>
//			metadata   <member> <value...>
//			backend    <url>
//			header     <name> <value>
//			secret     <header> <name> [<scheme>]
//			public_url <url>
//			async
//			methods    <method...>
//			query      <name...>
//			no_query
//		}
//		consumer {
//			kid <did url>
//			key <file>
//			sts <token_url> {
//				client_id     <id>
//				client_secret <secret>
//			}
//			wallet <url> {
//				token_url     <url>
//				client_id     <id>
//				client_secret <secret>
//				scope         <scopes>
//			}
//			management <url> {
//				api_key <key>
//			}
//			renew           ahead|on_use|never
//			allow_http      [<host...>]
//			allow_addresses <cidr...>
//			replay_body     <size>|off
//		}
//		limits {
//			requests_per_flow     <number>|off
//			requests_per_consumer <number>|off
//			renewals              <number>
//			renewals_per_consumer <number>
//			starts                <number>
//			start_wait            <duration>
//			token                 <size>
//			message               <size>
//			message_timeout       <duration>
//		}
//		resolver {
//			allow_http      [<host...>]
//			allow_ports     <port...>
//			allow_addresses <cidr...>
//			cache_ttl       <duration>
//			timeout         <duration>
//			relationship    any|capability_invocation|none
//		}
//		policy authzen|webhook <url> [insecure] {
//			bearer          <token>
//			header          <name> <value>
//			timeout         <duration>
//			on_deny         refuse|revoke
//			cache           <duration>
//			allow_addresses <cidr...>
//			tls_trust_pool  <module>
//		}
//		store <name> {
//			...
//		}
//		participant <name> {
//			did, signing_key, refresh_key, sealing_key, public_url, did_map, control_plane, route and consumer, as above
//		}
//	}
//
// A participant with a block is another one beside that which is set up outside of the blocks, if there is one; without a
// block it is the name of that one. signing_key, refresh_key, sealing_key, did_map, control_plane and route may be repeated; so
// may the lists of a resolver, and all of a route but backend, public_url and async.
// allow_http without a host, or with *, is for all hosts. Durations must be above 0, but for refresh_ttl. Files and environment
// variables are read when the config is loaded, not here, so that secrets never are part of it.
func (a *App) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the option's name
	if d.NextArg() {
		return d.Errf("%s takes no arguments: participants have blocks of their own in it, `participant <name> { … }`", appName)
	}
	options := a.options()
	for d.NextBlock(0) {
		parse, known := options[d.Val()]
		if !known {
			return d.Errf("unrecognized option %q of %s", d.Val(), appName)
		}
		err := parse(d)
		if err != nil {
			return err
		}
	}
	return nil
}

func (a *App) options() map[string]func(*caddyfile.Dispenser) error {
	options := a.ParticipantSettings.options()
	maps.Copy(options, map[string]func(*caddyfile.Dispenser) error{
		"participant":               a.parseParticipant,
		"refresh_path":              text(&a.RefreshPath),
		"duplicate_start":           word(&a.DuplicateStart, duplicateReplay, duplicateConflict),
		"reuse_policy":              word(&a.ReusePolicy, reuseRefuse, reuseRevoke),
		"error_format":              word(&a.ErrorFormat, formatEDC, formatRFC6749),
		"token_ttl":                 positive(&a.TokenTTL),
		"token_ttl_without_renewal": positive(&a.TokenTTLWithoutRenewal),
		"refresh_ttl":               duration(&a.RefreshTTL),
		"unacknowledged_ttl":        durationOrOff(&a.UnacknowledgedTTL),
		"tombstone_ttl":             positive(&a.TombstoneTTL),
		"clock_skew":                positive(&a.ClockSkew),
		"limits":                    a.parseLimits,
		"resolver":                  a.parseResolver,
		"policy":                    a.parsePolicy,
		"store":                     a.parseStore,
	})
	return options
}

func (s *ParticipantSettings) parseSigningKey(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) < 1 || len(args) > 2 {
		return d.ArgErr()
	}
	key := SigningKey{File: args[0]}
	if len(args) == 2 {
		key.State = args[1]
		if !slices.Contains([]string{"next", "active", "verify"}, key.State) {
			return d.Errf("signing_key: state %q is none of next, active, verify", key.State)
		}
	}
	s.SigningKeys = append(s.SigningKeys, key)
	return endOfLine(d)
}

func (s *ParticipantSettings) parsePublicURL(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) < 1 || len(args) > 2 {
		return d.ArgErr()
	}
	if len(args) == 2 {
		if args[1] != "insecure" {
			return d.Errf("public_url: %q after the URL: only insecure may follow", args[1])
		}
		s.InsecurePublicURL = true
	}
	return setOnce(d, "public_url", &s.PublicURL, args[0])
}

func (s *ParticipantSettings) parseDIDMap(d *caddyfile.Dispenser) error {
	var id, did string
	if !d.AllArgs(&id, &did) {
		return d.ArgErr()
	}
	before, mapped := s.DIDMap[id]
	if mapped && before != did {
		return d.Errf("did_map %s: already mapped to %s", id, before)
	}
	if s.DIDMap == nil {
		s.DIDMap = map[string]string{}
	}
	s.DIDMap[id] = did
	return endOfLine(d)
}

func (a *App) parseResolver(d *caddyfile.Dispenser) error {
	if d.NextArg() {
		return d.ArgErr()
	}
	if a.Resolver == nil {
		a.Resolver = new(Resolver)
	}
	return a.Resolver.unmarshalBlock(d)
}

func (a *App) parseStore(d *caddyfile.Dispenser) error {
	if !d.NextArg() {
		return d.ArgErr()
	}
	if a.StoreRaw != nil {
		return d.Err("store is already set")
	}
	name := d.Val()
	module, err := caddyfile.UnmarshalModule(d, storeNamespace+"."+name)
	if err != nil {
		return err
	}
	a.StoreRaw = caddyconfig.JSONModuleObject(module, "module", name, nil)
	return nil
}

// The rest are the forms an option can have. Each refuses a missing or surplus argument, a block, and a second value
// that contradicts the first.

func text(field *string) func(*caddyfile.Dispenser) error {
	return func(d *caddyfile.Dispenser) error {
		name := d.Val()
		var value string
		if !d.AllArgs(&value) {
			return d.ArgErr()
		}
		return setOnce(d, name, field, value)
	}
}

func word(field *string, among ...string) func(*caddyfile.Dispenser) error {
	return func(d *caddyfile.Dispenser) error {
		name := d.Val()
		var value string
		if !d.AllArgs(&value) {
			return d.ArgErr()
		}
		if !slices.Contains(among, value) {
			return d.Errf("%s: %q is none of %s", name, value, strings.Join(among, ", "))
		}
		return setOnce(d, name, field, value)
	}
}

func duration(field *caddy.Duration) func(*caddyfile.Dispenser) error {
	return func(d *caddyfile.Dispenser) error {
		name := d.Val()
		var value string
		if !d.AllArgs(&value) {
			return d.ArgErr()
		}
		parsed, err := caddy.ParseDuration(value)
		if err != nil {
			return d.Errf("%s: %q is not a duration such as 5m or 30d", name, value)
		}
		return setOnce(d, name, field, caddy.Duration(parsed))
	}
}

// positive is for a duration that cannot be 0: the field would then mean its default, which nobody who writes 0 expects.
func positive(field *caddy.Duration) func(*caddyfile.Dispenser) error {
	return func(d *caddyfile.Dispenser) error {
		name := d.Val()
		var value string
		if !d.AllArgs(&value) {
			return d.ArgErr()
		}
		parsed, err := caddy.ParseDuration(value)
		if err != nil || parsed <= 0 {
			return d.Errf("%s: %q is not a duration above 0, such as 5m or 30d", name, value)
		}
		return setOnce(d, name, field, caddy.Duration(parsed))
	}
}

func appendText(list *[]string) func(*caddyfile.Dispenser) error {
	return func(d *caddyfile.Dispenser) error {
		var value string
		if !d.AllArgs(&value) {
			return d.ArgErr()
		}
		*list = append(*list, value)
		return endOfLine(d)
	}
}

// namedText is the form of an option with a name and a value, which may be repeated with other names.
func namedText(values *map[string]string) func(*caddyfile.Dispenser) error {
	return func(d *caddyfile.Dispenser) error {
		option := d.Val()
		var name, value string
		if !d.AllArgs(&name, &value) {
			return d.ArgErr()
		}
		_, exists := (*values)[name]
		if exists {
			return d.Errf("%s %s is set twice", option, name)
		}
		if *values == nil {
			*values = map[string]string{}
		}
		(*values)[name] = value
		return endOfLine(d)
	}
}

// durationOrOff keeps 0, which switches something off, from being taken for what is not set.
func durationOrOff(field **caddy.Duration) func(*caddyfile.Dispenser) error {
	return func(d *caddyfile.Dispenser) error {
		name := d.Val()
		var value caddy.Duration
		err := duration(&value)(d)
		if err != nil {
			return err
		}
		if *field != nil && **field != value {
			return d.Errf("%s is already set to another value", name)
		}
		*field = &value
		return nil
	}
}

// texts is the form of an option with one argument or more, which may be repeated.
func texts(list *[]string) func(*caddyfile.Dispenser) error {
	return func(d *caddyfile.Dispenser) error {
		values := d.RemainingArgs()
		if len(values) == 0 {
			return d.ArgErr()
		}
		*list = append(*list, values...)
		return endOfLine(d)
	}
}

func networks(list *[]string) func(*caddyfile.Dispenser) error {
	return func(d *caddyfile.Dispenser) error {
		name := d.Val()
		values := d.RemainingArgs()
		if len(values) == 0 {
			return d.ArgErr()
		}
		for _, value := range values {
			_, err := parseNetwork(value)
			if err != nil {
				return d.Errf("%s: %w", name, err)
			}
		}
		*list = append(*list, values...)
		return endOfLine(d)
	}
}

// setOnce sets a field that the config must not set to two different values: which of the two would win depends on the
// order of imports.
func setOnce[T comparable](d *caddyfile.Dispenser, name string, field *T, value T) error {
	var zero T
	if *field != zero && *field != value {
		return d.Errf("%s is already set to another value", name)
	}
	*field = value
	return endOfLine(d)
}

// parseBlock reads the options of a block.
func parseBlock(d *caddyfile.Dispenser, name string, options map[string]func(*caddyfile.Dispenser) error) error {
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		parse, known := options[d.Val()]
		if !known {
			return d.Errf("unrecognized option %q of %s", d.Val(), name)
		}
		err := parse(d)
		if err != nil {
			return err
		}
	}
	return nil
}

// endOfLine refuses a block behind an option that has none. Otherwise its lines would be read as further options.
func endOfLine(d *caddyfile.Dispenser) error {
	nesting := d.Nesting()
	if d.NextBlock(nesting) {
		return d.Err("no block is expected here")
	}
	return nil
}
