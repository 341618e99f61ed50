package integration

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"
)

// newClient returns a client that follows no redirects and keeps enough connections for a crowd.
func newClient() *http.Client {
	return &http.Client{
		Timeout:       patience,
		Transport:     &http.Transport{MaxIdleConnsPerHost: 128},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// reply is an answer that was read to its end.
type reply struct {
	status int
	header http.Header
	body   string
}

// want ends the test unless the status is the expected one.
func (r reply) want(t testing.TB, status int) reply {
	t.Helper()
	if r.status != status {
		t.Fatalf("status %d, want %d: %s", r.status, status, r.body)
	}
	return r
}

// send sends a request and reads the answer. Without one it ends the test.
//
// A server that is replaced by a reload closes connections on which a request may be on its way. The clients of EDC send
// it again then, and so does this one; what net/http repeats by itself are GETs.
func send(t testing.TB, client *http.Client, r *http.Request) reply {
	t.Helper()
	answer, err := trySend(client, r)
	for tries := 1; isUnanswered(err) && tries < 5; tries++ {
		again := r.Clone(r.Context())
		if r.GetBody != nil {
			var bodyErr error
			again.Body, bodyErr = r.GetBody()
			if bodyErr != nil {
				t.Fatal(bodyErr)
			}
		}
		answer, err = trySend(client, again)
	}
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

// isUnanswered reports whether a connection was closed before an answer began. net/http has no error value for its own
// finding that an idle connection had been closed.
func isUnanswered(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) ||
		err != nil && strings.HasSuffix(err.Error(), "server closed idle connection")
}

func trySend(client *http.Client, r *http.Request) (reply, error) {
	response, err := client.Do(r)
	if err != nil {
		return reply{}, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return reply{status: response.StatusCode, header: response.Header, body: string(body)}, err
}
