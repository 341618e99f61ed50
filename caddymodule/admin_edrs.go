package caddymodule

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/edrgate/edrgate/consumer"
	"github.com/edrgate/edrgate/tokens"
)

// edrView is an EDR of another company as operators see it: ids, state and times. Endpoint, tokens and properties are
// sealed, and left out.
type edrView struct {
	ID              string          `json:"id"` // of the transfer process
	State           consumer.State  `json:"state"`
	Origin          consumer.Origin `json:"origin"`
	Counterparty    string          `json:"counterparty,omitempty"`
	CounterpartyDID string          `json:"counterparty_did,omitempty"`
	Asset           string          `json:"asset,omitempty"`
	Agreement       string          `json:"agreement,omitempty"`
	Generation      uint64          `json:"generation"`
	Renewable       bool            `json:"renewable"`
	RefusedWith     int             `json:"refused_with,omitempty"` // the provider's status
	Created         time.Time       `json:"created,omitzero"`
	Received        time.Time       `json:"received,omitzero"`
	Expires         time.Time       `json:"expires,omitzero"`
	Due             time.Time       `json:"due,omitzero"`
	Renewed         time.Time       `json:"renewed,omitzero"`
}

func edrViewOf(e *consumer.Entry) edrView {
	return edrView{
		ID: e.ID, State: e.State, Origin: e.Origin, Counterparty: e.Counterparty, CounterpartyDID: e.CounterpartyDID,
		Asset: e.Asset, Agreement: e.Agreement, Generation: e.Generation, Renewable: e.Renewable, RefusedWith: e.Status,
		Created: e.Created, Received: e.Received, Expires: e.Expires, Due: e.Due, Renewed: e.Renewed,
	}
}

// edrPageView is the answer of /edrgate/edrs.
type edrPageView struct {
	EDRs []edrView `json:"edrs"`
	Next string    `json:"next,omitempty"` // what to ask for with after; empty: this was the last page
}

func (o *operator) edrsPage(r *http.Request, _ *tokens.Service) (any, error) {
	after, limit, err := pageAsked(r)
	if err != nil {
		return nil, err
	}
	kept, err := o.EDRs()
	if err != nil {
		return nil, err
	}
	entries, err := kept.cache.List(r.Context(), consumer.Query{After: after, Limit: limit})
	if err != nil {
		return nil, err
	}
	page := edrPageView{EDRs: make([]edrView, 0, len(entries))}
	for _, e := range entries {
		page.EDRs = append(page.EDRs, edrViewOf(e))
	}
	if len(entries) == limit {
		page.Next = entries[len(entries)-1].ID
	}
	return page, nil
}

func edrsCommand() *cobra.Command {
	return pageCommand[edrPageView]("edrs", "edrs",
		"Lists the EDRs that other companies gave to the running gateway, without their tokens", "EDRs of a page")
}

// completedView is the answer to a completion.
type completedView struct {
	Outcome tokens.Outcome `json:"outcome"` // applied, or already: the transfer had ended before
}

func (o *operator) complete(r *http.Request, id string) (any, error) {
	kept, err := o.EDRs()
	if err != nil {
		return nil, err
	}
	outcome, err := kept.transfers.Finish(r.Context(), id)
	if err != nil {
		return nil, err
	}
	o.logger.Info("transfer completed by the operator", "edr", id, "outcome", string(outcome))
	return completedView{outcome}, nil
}

func completeCommand() *cobra.Command {
	var f adminFlags
	cmd := &cobra.Command{
		Use:   "complete <transfer process id>",
		Short: "Ends a transfer whose data the running gateway uses, since it is not needed any more",
		Long: `
Ends a transfer in which the participant is the consumer, and forgets its EDR.
The control plane that prepared it is told, over restarts and until it takes it,
and ends the provider's side. Only a started transfer can be completed.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var done completedView
			err := f.call(http.MethodPost, adminRoot+"edrs/"+url.PathEscape(args[0])+"/complete", nil, &done)
			if err != nil {
				return err
			}
			if f.json {
				return printJSON(cmd.OutOrStdout(), done)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", args[0], done.Outcome)
			if err == nil && done.Outcome == tokens.Applied {
				_, err = fmt.Fprintln(cmd.OutOrStdout(), "The control plane will be told.")
			}
			return err
		},
	}
	f.register(cmd)
	return cmd
}

func (p edrPageView) print(w io.Writer) error {
	table := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(table, "ID\tSTATE\tRENEWABLE\tCOUNTERPARTY\tASSET\tEXPIRES\tRENEWED")
	for _, e := range p.EDRs {
		fmt.Fprintf(table, "%s\t%s\t%t\t%s\t%s\t%s\t%s\n", e.ID, e.State, e.Renewable,
			orDefault(e.Counterparty, "-"), orDefault(e.Asset, "-"), shortTime(e.Expires), shortTime(e.Renewed))
	}
	return endPage(w, table, p.Next)
}
