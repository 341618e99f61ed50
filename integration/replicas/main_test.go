//go:build postgres

package replicas

import (
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/edrgate/edrgate/integration/cluster"
	"github.com/edrgate/edrgate/store/postgres/pgtest"
)

// server is what all tests share. Each has a database of its own, and leaves the server running.
var server *pgtest.Server

func TestMain(m *testing.M) { os.Exit(runWithServer(m)) }

func runWithServer(m *testing.M) int {
	_, err := cluster.Binary()
	if err == nil {
		server, err = cluster.StartServer(context.Background())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "replicas:", err)
		return 1
	}
	defer func() {
		err := server.Stop()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}()
	return m.Run()
}
