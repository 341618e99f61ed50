package history_test

import (
	"testing"
	"time"

	"github.com/edrgate/edrgate/integration/history"
)

// op is an operation of client and node 0 on flow 0 from a moment to another, in seconds.
func op(from, to int, kind history.Kind, outcome history.Outcome, presented, got string) history.Operation {
	return history.Operation{
		Kind: kind, Presented: presented, Call: time.Duration(from) * time.Second, Return: time.Duration(to) * time.Second,
		Answer: history.Answer{Outcome: outcome, Tokens: history.Tokens{Access: got, Refresh: got}},
	}
}

func at(node int, o history.Operation) history.Operation { o.Node = node; return o }
func late(o history.Operation) history.Operation         { o.Late = true; return o }
func because(reason string, o history.Operation) history.Operation {
	o.Answer.Reason = reason
	return o
}

func classic(all ...history.Operation) []history.Operation {
	for i := range all {
		all[i].Classic = true
	}
	return all
}

var first = op(0, 1, history.Start, history.Done, "", "r1")

func TestCheck(t *testing.T) {
	t.Parallel()
	second := op(2, 3, history.Renew, history.Done, "r1", "r2")
	third := op(4, 5, history.Renew, history.Done, "r2", "r3")
	for name, c := range map[string]struct {
		history []history.Operation
		good    bool
	}{
		"generations":                       {[]history.Operation{first, second, third}, true},
		"the superseded token again":        {[]history.Operation{first, second, op(4, 5, history.Renew, history.Done, "r1", "r2")}, true},
		"two successors":                    {[]history.Operation{first, second, op(2, 3, history.Renew, history.Done, "r1", "r9")}, false},
		"the current token refused":         {[]history.Operation{first, op(2, 3, history.Renew, history.Refused, "r1", "")}, false},
		"the superseded token refused":      {[]history.Operation{first, second, op(4, 5, history.Renew, history.Refused, "r1", "")}, false},
		"the first token, for life":         {[]history.Operation{first, second, third, op(6, 7, history.Renew, history.Done, "r1", "r3")}, true},
		"the first token of a classic flow": {classic(first, second, third, op(6, 7, history.Renew, history.Done, "r1", "r3")), false},
		"an old token refused":              {classic(first, second, third, op(6, 7, history.Renew, history.Refused, "r1", "")), true},
		"an unanswered renewal took effect": {[]history.Operation{
			first, op(2, 3, history.Renew, history.Unknown, "r1", ""), op(4, 5, history.Resume, history.Done, "", "r2"), op(6, 7, history.Renew, history.Done, "r2", "r3"),
		}, true},
		"an unanswered renewal took none": {[]history.Operation{
			first, op(2, 3, history.Renew, history.Unknown, "r1", ""), op(4, 5, history.Resume, history.Done, "", "r1"),
		}, true},
		"a token from nowhere":                     {[]history.Operation{first, op(2, 3, history.Resume, history.Done, "", "r2")}, false},
		"renewed while suspended":                  {[]history.Operation{first, op(2, 3, history.Suspend, history.Done, "", ""), op(4, 5, history.Renew, history.Done, "r1", "r2")}, false},
		"refused without a suspend":                {[]history.Operation{first, op(2, 3, history.Resume, history.Refused, "", "")}, false},
		"renewed after its end":                    {[]history.Operation{first, op(2, 3, history.Terminate, history.Done, "", ""), op(4, 5, history.Renew, history.Done, "r1", "r2")}, false},
		"renewed elsewhere after a late end":       {[]history.Operation{first, late(op(2, 3, history.Terminate, history.Done, "", "")), at(1, op(4, 5, history.Renew, history.Done, "r1", "r2"))}, true},
		"resumed after its end":                    {[]history.Operation{first, op(2, 3, history.Terminate, history.Done, "", ""), op(4, 5, history.Resume, history.Done, "", "r1")}, false},
		"refused where a late end waits":           {[]history.Operation{first, late(op(2, 3, history.Terminate, history.Done, "", "")), op(4, 5, history.Renew, history.Refused, "r1", ""), at(1, op(6, 7, history.Renew, history.Done, "r1", "r2"))}, true},
		"suspend refused where a late end waits":   {[]history.Operation{first, late(op(2, 3, history.Terminate, history.Done, "", "")), op(4, 5, history.Suspend, history.Refused, "", ""), at(1, op(6, 7, history.Renew, history.Done, "r1", "r2"))}, true},
		"suspend refused elsewhere":                {[]history.Operation{first, late(op(2, 3, history.Terminate, history.Done, "", "")), at(1, op(4, 5, history.Suspend, history.Refused, "", "")), at(1, op(6, 7, history.Renew, history.Done, "r1", "r2"))}, false},
		"suspend refused, and nobody had ended it": {[]history.Operation{first, op(2, 3, history.Suspend, history.Refused, "", ""), op(4, 5, history.Renew, history.Done, "r1", "r2")}, false},
		"refused elsewhere and then answered":      {[]history.Operation{first, late(op(2, 3, history.Terminate, history.Done, "", "")), at(1, op(4, 5, history.Renew, history.Refused, "r1", "")), at(1, op(6, 7, history.Renew, history.Done, "r1", "r2"))}, false},
	} {
		err := history.Check(c.history, time.Minute)
		if (err == nil) != c.good {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestServed(t *testing.T) {
	t.Parallel()
	const stale = 10 * time.Second
	suspend := op(2, 3, history.Suspend, history.Done, "", "")
	resume := op(4, 5, history.Resume, history.Done, "", "r1")
	terminate := op(2, 3, history.Terminate, history.Done, "", "")
	served := func(from int) history.Operation { return op(from, from+1, history.Data, history.Done, "", "") }
	refused := func(from int, reason string) history.Operation {
		return because(reason, op(from, from+1, history.Data, history.Refused, "", ""))
	}
	for name, c := range map[string]struct {
		history []history.Operation
		good    bool
	}{
		"served":                                  {[]history.Operation{first, served(2)}, true},
		"served where it has ended":               {[]history.Operation{first, terminate, served(4)}, false},
		"served elsewhere a little later":         {[]history.Operation{first, terminate, at(1, served(12))}, true},
		"served elsewhere too late":               {[]history.Operation{first, terminate, at(1, served(14))}, false},
		"served where a late end waits":           {[]history.Operation{first, late(terminate), served(4)}, false},
		"served elsewhere after a late end":       {[]history.Operation{first, late(terminate), at(1, served(14))}, true},
		"served where it is suspended":            {[]history.Operation{first, suspend, served(4)}, false},
		"served elsewhere while suspended":        {[]history.Operation{first, suspend, at(1, served(14))}, false},
		"served after a resume":                   {[]history.Operation{first, suspend, resume, served(6)}, true},
		"refused, and nobody had ended it":        {[]history.Operation{first, refused(4, history.HasEnded)}, false},
		"refused while it ends":                   {[]history.Operation{first, terminate, refused(2, history.HasEnded)}, true},
		"refused, and nobody had suspended it":    {[]history.Operation{first, refused(4, history.IsSuspended)}, false},
		"refused where it was resumed":            {[]history.Operation{first, suspend, resume, refused(6, history.IsSuspended)}, false},
		"refused elsewhere a little after resume": {[]history.Operation{first, suspend, resume, at(1, refused(12, history.IsSuspended))}, true},
		"refused elsewhere for ever":              {[]history.Operation{first, suspend, resume, at(1, refused(16, history.IsSuspended))}, false},
		"refused for another reason":              {[]history.Operation{first, refused(2, "token_signature")}, false},
	} {
		err := history.Served(c.history, stale)
		if (err == nil) != c.good {
			t.Errorf("%s: %v", name, err)
		}
	}
}
