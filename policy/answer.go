package policy

import (
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/edrgate/edrgate/internal/strictjson"
)

// readAnswer returns the decision of an answer. Both forms have the same answers. An error without a reason is the
// network's.
//
// A decision always comes with 200: an error status concerns the request to the policy server and is "unrelated to the
// outcome of an authorization decision" (AuthZEN Authorization API 1.0, HTTPS binding). So 401 and 403 are no denial: a
// credential that has expired, or a firewall in between, would end every transfer.
func readAnswer(r *http.Response) (bool, Reason, error) {
	status := r.StatusCode
	switch {
	case status >= 300 && status <= 399:
		return false, ReasonRedirect, fmt.Errorf("it redirects with status %d", status)
	case status >= 500 || status == http.StatusTooManyRequests:
		return false, ReasonServer, fmt.Errorf("status %d", status)
	case status != http.StatusOK:
		return false, ReasonStatus, fmt.Errorf("status %d", status)
	}
	coding := r.Header.Get("Content-Encoding")
	if coding != "" && coding != "identity" {
		return false, ReasonAnswer, errors.New("the answer is compressed")
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, maxAnswerBytes+1))
	if err != nil {
		return false, "", err
	}
	if len(body) > maxAnswerBytes {
		return false, ReasonTooLarge, fmt.Errorf("the answer has more than %d bytes", maxAnswerBytes)
	}
	permit, err := parseAnswer(body)
	if err != nil {
		return false, ReasonAnswer, err
	}
	return permit, "", nil
}

// parseAnswer reads {"decision": true|false} (AuthZEN Authorization API 1.0 §6.2). Other members, such as context, are
// not looked at. A member that is there twice, or is "true" in quotes, says nothing.
func parseAnswer(body []byte) (bool, error) {
	m, err := strictjson.Parse(body, maxAnswerDepth)
	if err != nil {
		return false, err
	}
	return m.Bool("decision")
}
