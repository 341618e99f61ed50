package hostile

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// reply is what came back over a socket.
type reply struct {
	status int // 0: the connection was closed without an answer
	header http.Header
	body   string
	raw    string // every byte that came
	more   int    // further answers on the connection: requests that were not ours alone saw in our bytes
}

// exchange sends bytes as they are and reads what comes back: to the end of the connection where the answer says that it
// ends, and of the first final answer otherwise.
func exchange(address, raw string) (reply, error) {
	conn, err := net.DialTimeout("tcp", address, patience)
	if err != nil {
		return reply{}, err
	}
	defer conn.Close()
	err = conn.SetDeadline(time.Now().Add(patience))
	if err != nil {
		return reply{}, err
	}
	return converse(conn, raw)
}

// converse is exchange on a connection that is there.
func converse(conn net.Conn, raw string) (reply, error) {
	sent := make(chan struct{})
	go func() { // an answer may come while the bytes are still being sent, and end the sending
		defer close(sent)
		_, _ = io.WriteString(conn, raw)
	}()
	r, err := readReplies(conn, strings.HasPrefix(raw, "HEAD "))
	conn.Close()
	<-sent
	return r, err
}

func readReplies(conn io.Reader, head bool) (reply, error) {
	var all bytes.Buffer
	reader := bufio.NewReader(io.TeeReader(conn, &all))
	method := http.MethodGet
	if head {
		method = http.MethodHead
	}
	r := reply{}
	for {
		response, err := http.ReadResponse(reader, &http.Request{Method: method})
		if isClosed(err) {
			r.raw = all.String()
			if all.Len() > 0 && r.status == 0 {
				return r, fmt.Errorf("something that is no answer: %.100q", r.raw)
			}
			return r, nil
		}
		if err != nil {
			return r, err
		}
		body, err := io.ReadAll(response.Body)
		if err != nil && !isClosed(err) {
			return r, err
		}
		if 100 <= response.StatusCode && response.StatusCode < 200 && response.StatusCode != http.StatusSwitchingProtocols {
			continue
		}
		if r.status != 0 {
			r.more++
		} else {
			r.status, r.header, r.body = response.StatusCode, response.Header, string(body)
		}
		if !response.Close {
			r.raw = all.String()
			return r, nil
		}
	}
}

// isClosed reports whether nothing more will come.
func isClosed(err error) bool {
	var network *net.OpError
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.As(err, &network) && !network.Timeout()
}

// lines joins the lines of a request's head and adds the empty one.
func lines(head ...string) string { return strings.Join(head, "\r\n") + "\r\n\r\n" }

// get is a GET with further header lines, which ends the connection.
func get(host, target string, headers ...string) string {
	return lines(append([]string{"GET " + target + " HTTP/1.1", "Host: " + host, "Connection: close"}, headers...)...)
}

// bearer is the header line with a token.
func bearer(token string) string { return "Authorization: Bearer " + token }

// post is a POST with a body, which ends the connection.
func post(host, target, contentType, body string, headers ...string) string {
	head := []string{"POST " + target + " HTTP/1.1", "Host: " + host, "Connection: close", fmt.Sprintf("Content-Length: %d", len(body))}
	if contentType != "" {
		head = append(head, "Content-Type: "+contentType)
	}
	return lines(append(head, headers...)...) + body
}

const formType = "application/x-www-form-urlencoded"

// refreshForm is the body of a renewal (RFC 6749 §6).
func refreshForm(refreshToken string) string {
	return url.Values{"grant_type": {"refresh_token"}, "refresh_token": {refreshToken}}.Encode()
}
