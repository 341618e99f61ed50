package caddymodule

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/edrgate/edrgate/store/postgres"
)

// databaseFlags name a database on the command line.
type databaseFlags struct {
	dsn, password, schema string
}

func (f *databaseFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.dsn, "dsn", "", "Connection string: postgres://user@host:port/database?sslmode=verify-full, or a placeholder such as {env.EDR_DSN}")
	cmd.Flags().StringVar(&f.password, "password", "", "Placeholder of the password: {file./run/secrets/postgres}; default: the environment's PGPASSWORD")
	cmd.Flags().StringVar(&f.schema, "schema", postgres.DefaultSchema, "Schema with the tables")
}

// database reads the flags.
func (f *databaseFlags) database() (*postgres.DSN, error) {
	dsn, err := databaseOf(f.dsn)
	if err != nil || f.password == "" {
		return dsn, err
	}
	password, err := databasePassword(f.password)
	if err != nil {
		return nil, err
	}
	return dsn.WithPassword(password), nil
}

func migrateCommand() *cobra.Command {
	var database databaseFlags
	var roles []string
	cmd := &cobra.Command{
		Use:   "migrate-schema --dsn <connection string> [--grant <role>]",
		Short: "Makes or renews the schema of a PostgreSQL store",
		Long: `
Brings the schema of a PostgreSQL store to what this version needs, as the role
that owns it, and gives the rights that a gateway needs to the roles that --grant
names. Gateways may run meanwhile. Run again it changes nothing; several at once
wait for each other. A schema that a newer version has made is refused.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dsn, err := database.database()
			if err != nil {
				return err
			}
			done, err := postgres.Migrate(cmd.Context(), dsn, database.schema, roles...)
			if err != nil {
				return err
			}
			news := fmt.Sprintf("%s: schema %s is up to date: version %d", dsn, database.schema, done.To)
			if done.From != done.To {
				news = fmt.Sprintf("%s: schema %s: version %d, before: %d", dsn, database.schema, done.To, done.From)
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), news)
			return err
		},
	}
	database.register(cmd)
	cmd.Flags().StringArrayVar(&roles, "grant", nil, "Role of gateways that gets the rights it needs; repeatable")
	return cmd
}
