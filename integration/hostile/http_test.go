package hostile

import (
	"strconv"
	"strings"
)

// httpShapes are requests that two HTTP servers in a row would cut in different places, or that are none (RFC 9112). The
// token in them is good; a second request must never come out of them.
func httpShapes(*world) []shape {
	const second = "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
	var shapes []shape
	add := func(name string, status int, backend bool, request string) {
		shapes = append(shapes, shape{name: name, status: status, backend: backend, send: func(w *world) string {
			return strings.NewReplacer("{host}", w.data, "{token}", w.dps.access).Replace(request)
		}, also: func(w *world, _ reply) string {
			if backend && strings.Contains(w.lastSeen(data).target, "smuggled") {
				return "the backend got the request inside the body"
			}
			return ""
		}})
	}
	// post is a POST whose framing the case writes by itself.
	post := func(framing, body string) string {
		return "POST /x HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n" + framing + "\r\n" + body
	}
	for name, framing := range map[string]string{
		"two lengths": "Content-Length: 0\r\nContent-Length: 5\r\n", "a list of lengths": "Content-Length: 0, 5\r\n", "a length with a sign": "Content-Length: +5\r\n",
		"a negative length": "Content-Length: -1\r\n", "a length in hexadecimal": "Content-Length: 0x5\r\n", "a length of no number": "Content-Length: five\r\n", "an empty length": "Content-Length: \r\n",
		"a length of 2^64": "Content-Length: 18446744073709551616\r\n", "a length with a space": "Content-Length: 5 5\r\n", "a length and a NUL": "Content-Length: 5\x00\r\n",
		"a folded length":     "Content-Length:\r\n 5\r\nContent-Length: 0\r\n",
		"a space in the name": "Content-Length : 5\r\n", "a name with a control byte": "Content\x01-Length: 5\r\n", "a line without a colon": "Content-Length 5\r\n", "a line with no name": ": 5\r\n",
	} {
		add("framing: "+name, 400, false, post(framing, second))
	}
	for name, c := range map[string]struct {
		framing string
		status  int
	}{
		"chunked twice": {"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", 501}, "chunked and identity": {"Transfer-Encoding: chunked, identity\r\n", 501}, "identity": {"Transfer-Encoding: identity\r\n", 501},
		"gzip": {"Transfer-Encoding: gzip, chunked\r\n", 501}, "xchunked": {"Transfer-Encoding: xchunked\r\n", 501}, "chunked with a vertical tab": {"Transfer-Encoding: \x0bchunked\r\n", 400},
		"chunked in quotes": {"Transfer-Encoding: \"chunked\"\r\n", 501}, "chunked and a parameter": {"Transfer-Encoding: chunked;q=1\r\n", 501}, "an empty coding": {"Transfer-Encoding:\r\n", 501},
	} {
		add("coding: "+name, c.status, false, post(c.framing, "0\r\n\r\n"+second))
	}
	for name, body := range map[string]string{
		"a size of no number": "x\r\na\r\n0\r\n\r\n", "a negative size": "-1\r\na\r\n0\r\n\r\n", "a size with 0x": "0x1\r\na\r\n0\r\n\r\n", "a size too large": "ffffffffffffffff1\r\na",
		"a chunk without its end": "1\r\nab\r\n0\r\n\r\n", "an endless extension": "1;" + strings.Repeat("a", 1<<20) + "\r\na\r\n0\r\n\r\n",
	} {
		// What is wrong shows while the body is on its way: the backend may have seen the head, never a whole body.
		shapes = append(shapes, shape{name: "chunks: " + name, status: 400, send: func(w *world) string {
			return strings.NewReplacer("{host}", w.data, "{token}", w.proof(w.dps)).Replace(
				strings.Replace(post("Transfer-Encoding: chunked\r\nContent-Type: "+formType+"\r\n", body), "POST /x", "POST /token", 1))
		}})
	}
	get := func(line, headers string) string {
		return line + "\r\n" + headers + "Connection: close\r\nAuthorization: Bearer {token}\r\n\r\n"
	}
	for name, c := range map[string]struct {
		request string
		status  int
	}{
		"no Host": {get("GET /x HTTP/1.1", ""), 400}, "two Hosts": {get("GET /x HTTP/1.1", "Host: {host}\r\nHost: x\r\n"), 400}, "a Host with a slash": {get("GET /x HTTP/1.1", "Host: {host}/x\r\n"), 400},
		"a Host with a space": {get("GET /x HTTP/1.1", "Host: a b\r\n"), 400}, "a Host with NUL": {get("GET /x HTTP/1.1", "Host: {host}\x00\r\n"), 400},
		"HTTP/3.0": {get("GET /x HTTP/3.0", "Host: {host}\r\n"), 505}, "HTTP/1.10": {get("GET /x HTTP/1.10", "Host: {host}\r\n"), 400}, "http/1.1": {get("GET /x http/1.1", "Host: {host}\r\n"), 400},
		"no version": {"GET /" + strings.Repeat("x", 24) + "\r\n\r\n", 400}, "HTTP/0.9": {get("GET /x HTTP/0.9", "Host: {host}\r\n"), 505}, "two spaces": {get("GET  /x HTTP/1.1", "Host: {host}\r\n"), 400}, "a tab": {get("GET\t/x HTTP/1.1", "Host: {host}\r\n"), 400},
		"no method": {get(" /x HTTP/1.1", "Host: {host}\r\n"), 400}, "a method with a NUL": {get("G\x00ET /x HTTP/1.1", "Host: {host}\r\n"), 400}, "a method with brackets": {get("GET[] /x HTTP/1.1", "Host: {host}\r\n"), 400},
		"TLS": {"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400}, "SSH": {"SSH-2.0-OpenSSH_9.6\r\n\r\n", 400}, "binary": {strings.Repeat("\x00\x01\x02\x03", 8) + "\r\n\r\n", 400},
		"a line that starts with a space": {get("GET /x HTTP/1.1", " X: y\r\nHost: {host}\r\n"), 400}, "a header with a control byte": {get("GET /x HTTP/1.1", "Host: {host}\r\nX: a\x01b\r\n"), 400},
		"a name of UTF-8": {get("GET /x HTTP/1.1", "Host: {host}\r\nX\xc3\xa4: y\r\n"), 400}, "2 MB in one header": {get("GET /x HTTP/1.1", "Host: {host}\r\nX: "+strings.Repeat("a", 2<<20)+"\r\n"), 431},
		"400,000 headers": {get("GET /x HTTP/1.1", "Host: {host}\r\n"+strings.Repeat("X: y\r\n", 400_000)), 431}, "a target of 2 MB": {get("GET /"+strings.Repeat("a", 2<<20)+" HTTP/1.1", "Host: {host}\r\n"), 431},
	} {
		add("request: "+name, c.status, false, c.request)
	}
	for name, c := range map[string]struct {
		host   string
		status int
	}{
		"of somebody else": {"attacker.example", 200}, "of the loopback interface": {"localhost", 200}, // no site: Caddy answers with nothing
		"with userinfo": {"user@{host}", 400}, "empty": {"", 400},
		"with another port": {"127.0.0.1:1", 403}, "without its port": {"127.0.0.1", 403}, // not the endpoint of the EDR
	} {
		add("Host "+name, c.status, false, get("GET /x HTTP/1.1", "Host: "+c.host+"\r\n"))
	}
	add("length and chunked", 200, true, post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"+second)) // RFC 9112 §6.1: the coding counts
	add("chunked and length", 200, true, post("Transfer-Encoding: chunked\r\nContent-Length: 500\r\n", "0\r\n\r\n"+second))
	add("a request in the body of a GET", 200, true, "GET /x HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nAuthorization: Bearer {token}\r\nContent-Length: "+strconv.Itoa(len(second))+"\r\n\r\n"+second)
	return shapes
}
