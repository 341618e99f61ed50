package caddymodule

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/edrgate/edrgate/tokens"
)

func init() {
	edr := edrCommand()
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  edr.Name(),
		Usage: "<command>",
		Short: edr.Short,
		Long:  edr.Long,
		CobraFunc: func(cmd *cobra.Command) {
			cmd.AddCommand(edr.Commands()...)
		},
	})
}

func edrCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "edr",
		Short: "Makes keys, reads tokens and manages the flows and EDRs of a running gateway",
		Long: `
keygen and inspect work offline, migrate-schema with the database of a
PostgreSQL store, copy with the stores of stopped gateways. The others ask the
admin API of the running gateway, which holds the store: --address names its
listener, for example localhost:2019 or unix//run/caddy/admin.sock; --config
reads it from the config file.`,
	}
	cmd.AddCommand(keygenCommand(), inspectCommand(), listCommand(), showCommand(), revokeCommand(), edrsCommand(), completeCommand(), keysCommand(),
		acceptRestoreCommand(), migrateCommand(), copyCommand())
	return cmd
}

// adminFlags say where the admin API is, and about whom it is asked.
type adminFlags struct {
	address, config, adapter string
	participant              string
	json                     bool
}

func (f *adminFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.address, "address", "", "Address of the admin API, to override the config's")
	cmd.Flags().StringVarP(&f.config, "config", "c", "", "Configuration file that names the address")
	cmd.Flags().StringVarP(&f.adapter, "adapter", "a", "", "Name of the config adapter")
	cmd.Flags().StringVar(&f.participant, "participant", "", "Name of the participant, where there are several; default: the one outside of the participant blocks")
	cmd.Flags().BoolVar(&f.json, "json", false, "Print the answer as JSON")
}

// call asks the admin API and decodes its answer into answer.
func (f *adminFlags) call(method, uri string, body []byte, answer any) error {
	address, err := caddycmd.DetermineAdminAPIAddress(f.address, nil, f.config, f.adapter)
	if err != nil {
		return fmt.Errorf("finding the admin API: %w", err)
	}
	if f.participant != "" {
		separator := "?"
		if strings.Contains(uri, "?") {
			separator = "&"
		}
		uri += separator + url.Values{participantParameter: {f.participant}}.Encode()
	}
	header := http.Header{}
	if body != nil {
		header.Set("Content-Type", "application/json")
	}
	response, err := caddycmd.AdminAPIRequest(address, method, uri, header, bytes.NewReader(body))
	if err != nil {
		return adminFailure(address, err)
	}
	defer response.Body.Close()
	data, err := io.ReadAll(io.LimitReader(response.Body, maxAdminAnswerBytes))
	if err != nil {
		return fmt.Errorf("reading the answer of %s: %w", address, err)
	}
	err = json.Unmarshal(data, answer)
	if err != nil {
		return fmt.Errorf("the answer of %s is not the gateway's: %w", address, err)
	}
	return nil
}

// adminFailure is the error of a request to the admin API. Where the gateway has said what is wrong, it is that: Caddy's
// function gives the whole answer as part of a text, with the JSON object {"error": "..."} at its end.
func adminFailure(address string, err error) error {
	_, answer, found := strings.Cut(err.Error(), ": HTTP ")
	if found {
		_, answer, _ = strings.Cut(answer, ": ")
	}
	var said struct {
		Error string `json:"error"`
	}
	if found && json.Unmarshal([]byte(answer), &said) == nil && said.Error != "" {
		return errors.New(said.Error)
	}
	return fmt.Errorf("asking the gateway at %s: %w", address, err)
}

// maxAdminAnswerBytes is above any page of flows.
const maxAdminAnswerBytes = 16 << 20 // 16 MiB

func flowURI(id string, more ...string) string {
	uri := adminRoot + "flows/" + url.PathEscape(id)
	for _, part := range more {
		uri += "/" + part
	}
	return uri
}

func listCommand() *cobra.Command {
	return pageCommand[pageView]("list", "flows", "Lists the flows of the running gateway, in the order of their ids", "Flows of a page")
}

// pageCommand is a command that shows a page of a collection of the admin API, in the order of ids.
func pageCommand[P interface{ print(io.Writer) error }](name, collection, short, limitUsage string) *cobra.Command {
	var f adminFlags
	var after string
	var limit int
	cmd := &cobra.Command{
		Use:   name + " [--after <id>] [--limit <number>]",
		Short: short,
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			query := url.Values{"limit": {strconv.Itoa(limit)}}
			if after != "" {
				query.Set("after", after)
			}
			var page P
			err := f.call(http.MethodGet, adminRoot+collection+"?"+query.Encode(), nil, &page)
			if err != nil {
				return err
			}
			if f.json {
				return printJSON(cmd.OutOrStdout(), page)
			}
			return page.print(cmd.OutOrStdout())
		},
	}
	f.register(cmd)
	cmd.Flags().StringVar(&after, "after", "", "Start behind this id, as the page before ends with")
	cmd.Flags().IntVar(&limit, "limit", defaultPage, limitUsage)
	return cmd
}

func (p pageView) print(w io.Writer) error {
	table := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(table, "ID\tSTATE\tDIALECT\tCOUNTERPARTY\tDATASET\tCREATED\tUSED")
	for _, f := range p.Flows {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", f.ID, f.State, orDefault(string(f.Dialect), "-"),
			orDefault(f.Counterparty, "-"), orDefault(f.Dataset, "-"), shortTime(f.Created), shortTime(f.Used))
	}
	return endPage(w, table, p.Next)
}

// endPage prints a table, and how to ask for what comes behind it.
func endPage(w io.Writer, table *tabwriter.Writer, next string) error {
	err := table.Flush()
	if err != nil {
		return err
	}
	if next != "" {
		fmt.Fprintf(w, "\nThere may be more: --after %s\n", next)
	}
	return nil
}

func shortTime(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format(time.RFC3339)
}

func showCommand() *cobra.Command {
	var f adminFlags
	cmd := &cobra.Command{
		Use:   "show <flow id>",
		Short: "Shows one flow of the running gateway",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var flow flowView
			err := f.call(http.MethodGet, flowURI(args[0]), nil, &flow)
			if err != nil {
				return err
			}
			return printJSON(cmd.OutOrStdout(), flow)
		},
	}
	f.register(cmd)
	return cmd
}

func revokeCommand() *cobra.Command {
	var f adminFlags
	var request revokeRequest
	cmd := &cobra.Command{
		Use:   "revoke <flow id> [--reason <text>] [--quiet]",
		Short: "Ends a flow for ever: none of its tokens opens anything any more",
		Long: `
Ends a flow for ever. It takes effect on its next request. The control plane is
told, if it has a callback and the flow is not suspended; the command says
whether. With --quiet it is not, and goes on to take the transfer for started.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			body, err := json.Marshal(request)
			if err != nil {
				return err
			}
			var done revokeView
			err = f.call(http.MethodPost, flowURI(args[0], "revoke"), body, &done)
			if err != nil {
				return err
			}
			if f.json {
				return printJSON(cmd.OutOrStdout(), done)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", args[0], done.Outcome)
			if err == nil && done.ControlPlane != "" {
				_, err = fmt.Fprintln(cmd.OutOrStdout(), revocationNews[done.ControlPlane])
			}
			return err
		},
	}
	f.register(cmd)
	cmd.Flags().StringVar(&request.Reason, "reason", "", "Kept with the flow; never told to the counterparty")
	cmd.Flags().BoolVar(&request.Quiet, "quiet", false, "Do not tell the control plane")
	return cmd
}

// revocationNews says what comes of the ControlPlane of a revokeView.
var revocationNews = map[string]string{
	string(tokens.ReportPromised):   "The control plane will be told.",
	string(tokens.ReportImpossible): "The control plane cannot be told while the transfer is suspended there. Terminate it there too.",
	untoldAddress:                   "The control plane has no callback in the configuration. Terminate the transfer there too.",
	untoldQuiet:                     "The control plane is not told. Terminate the transfer there too.",
}

func keysCommand() *cobra.Command {
	var f adminFlags
	cmd := &cobra.Command{
		Use:   "keys",
		Short: "Shows the signing keys and how many flows and EDRs need each secret key",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var keys keysView
			err := f.call(http.MethodGet, adminRoot+"keys", nil, &keys)
			if err != nil {
				return err
			}
			return printJSON(cmd.OutOrStdout(), keys)
		},
	}
	f.register(cmd)
	return cmd
}

func acceptRestoreCommand() *cobra.Command {
	var f adminFlags
	cmd := &cobra.Command{
		Use:   "accept-restore",
		Short: "Goes on with a store that was restored from a backup, where several gateways share one",
		Long: `
A gateway that finds its store older than it was ends again what it knows to have
ended, and lets nobody renew. Say with this command that the writes since the
backup are lost: renewals go on, and consumers of flows that are gone are told so.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var done acceptView
			err := f.call(http.MethodPost, adminRoot+"accept-restore", nil, &done)
			if err != nil {
				return err
			}
			if f.json {
				return printJSON(cmd.OutOrStdout(), done)
			}
			text := "Nothing to accept: the store is not known to have lost anything."
			if done.Accepted {
				text = "Accepted. Renewals go on."
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), text)
			return err
		},
	}
	f.register(cmd)
	return cmd
}

func printJSON(w io.Writer, value any) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	return encoder.Encode(value)
}
