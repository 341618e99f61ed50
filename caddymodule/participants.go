package caddymodule

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/edrgate/edrgate/signaling"
)

// listParticipants puts the participants together: first the app's own, if anything is said of it or there is no other,
// then the named ones in the order of their names. It comes before defaults are set.
func (a *App) listParticipants() error {
	if a.Participant != "" || !a.ParticipantSettings.isZero() || len(a.Participants) == 0 {
		a.Participant = orDefault(a.Participant, defaultParticipant)
		a.participants = []*participant{{ParticipantSettings: &a.ParticipantSettings, app: a, name: a.Participant}}
	}
	names := make([]string, 0, len(a.Participants))
	for name := range a.Participants {
		names = append(names, name)
	}
	slices.Sort(names) // so that a config with two faults always names the same one
	for _, name := range names {
		if a.Participants[name] == nil {
			a.Participants[name] = new(ParticipantSettings) // null in JSON; then told what is missing
		}
		a.participants = append(a.participants, &participant{
			ParticipantSettings: a.Participants[name], app: a, name: name, prefix: "/" + name,
		})
	}
	for _, p := range a.participants {
		if !nameSyntax.MatchString(p.name) {
			return fmt.Errorf("participant %q: a name has 1 to 63 letters, digits, dots, dashes or underscores", p.name)
		}
		err := signaling.CheckParticipant(p.name)
		if err != nil {
			return err
		}
		p.setDefaults()
	}
	_, twice := a.Participants[a.Participant]
	if a.Participant != "" && twice {
		return fmt.Errorf("participant %s is defined twice: by a block, and as the name of what is outside of the blocks", a.Participant)
	}
	return nil
}

// checkParticipants checks each participant, and that no two could be taken for each other.
func (a *App) checkParticipants() error {
	owners := map[string]string{} // by DID
	for _, p := range a.participants {
		err := p.check()
		if err != nil {
			return p.fault(err)
		}
		other, taken := owners[p.DID]
		if taken {
			// iss and aud of tokens, and aud of proofs, could not tell them apart (RFC 9068 §4).
			return fmt.Errorf("participants %s and %s have the same did %s: a token of one would be one of the other", other, p.name, p.DID)
		}
		owners[p.DID] = p.name
	}
	return nil
}

// provisionParticipants builds the participants, and what only all of them together show.
func (a *App) provisionParticipants(ctx caddy.Context) error {
	replacer := caddy.NewReplacer()
	a.book = newAddressBook(a.RefreshPath)
	if len(a.participants) > 1 {
		a.observer.undecidedRenewals() // a series is there from the start, for rates to be computed
	}
	for _, p := range a.participants {
		p.logger = a.logger
		if len(a.participants) > 1 {
			p.logger = a.logger.With("participant", p.name)
		}
		p.observer = a.observer.acquire(p.name)
		err := p.provision(ctx, replacer)
		if err != nil {
			return p.fault(err)
		}
		err = a.book.add(p)
		if err != nil {
			return err
		}
	}
	return a.checkRegistrationIDs()
}

// checkRegistrationIDs refuses two participants that register under one id at one place: each would replace the other.
func (a *App) checkRegistrationIDs() error {
	owners := map[string]*participant{}
	for _, p := range a.participants {
		for _, r := range p.registry {
			at := r.URL.String() + " " + r.ID
			other := owners[at]
			if other != nil && other != p {
				return fmt.Errorf("participants %s and %s register under the id %s at the same control plane: give each an id of its own", other.name, p.name, r.ID)
			}
			owners[at] = p
		}
	}
	return nil
}

// findParticipant returns the participant of a name. Without a name it is the only one, or the app's own.
func (a *App) findParticipant(name string) (*participant, error) {
	if name == "" {
		if len(a.participants) == 1 || a.participants[0].prefix == "" {
			return a.participants[0], nil
		}
		return nil, fmt.Errorf("%w: write `participant <name>` with one of %s", errWhichParticipant, a.participantNames())
	}
	at := slices.IndexFunc(a.participants, func(p *participant) bool { return p.name == name })
	if at < 0 {
		return nil, fmt.Errorf("there is no participant %s in the global option %s, only %s", name, appName, a.participantNames())
	}
	return a.participants[at], nil
}

// errWhichParticipant is wrapped by the error of findParticipant without a name where there are several named ones.
var errWhichParticipant = errors.New("it is not said which participant is meant")

func (a *App) participantList() []string {
	names := make([]string, 0, len(a.participants))
	for _, p := range a.participants {
		names = append(names, p.name)
	}
	return names
}

func (a *App) participantNames() string { return strings.Join(a.participantList(), ", ") }

// parseParticipant reads
//
//	participant <name>
//
// which names the app's own participant, or
//
//	participant <name> {
//		...
//	}
//
// which adds another one.
func (a *App) parseParticipant(d *caddyfile.Dispenser) error {
	var name string
	if !d.AllArgs(&name) {
		return d.ArgErr()
	}
	settings := new(ParticipantSettings)
	options := settings.options()
	nesting := d.Nesting()
	block := d.NextBlock(nesting)
	if !block && d.Val() != "}" { // of an empty block
		if a.Participant != "" && a.Participant != name {
			return d.Err("participant is already set to another value")
		}
		a.Participant = name
		return nil
	}
	_, exists := a.Participants[name]
	if exists {
		return d.Errf("participant %s is already defined", name)
	}
	for ; block; block = d.NextBlock(nesting) {
		parse, known := options[d.Val()]
		if !known {
			return d.Errf("unrecognized option %q of participant", d.Val())
		}
		err := parse(d)
		if err != nil {
			return err
		}
	}
	if a.Participants == nil {
		a.Participants = map[string]*ParticipantSettings{}
	}
	a.Participants[name] = settings
	return nil
}
