package hostile

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// field is a header field of HTTP/2 as it is sent, pseudo fields too.
type field struct{ name, value string }

// frames writes what a client sends behind its preface.
type frames func(f *http2.Framer) error

// block encodes fields as they are.
func block(fields ...field) []byte {
	var b bytes.Buffer
	encoder := hpack.NewEncoder(&b)
	for _, f := range fields {
		_ = encoder.WriteField(hpack.HeaderField{Name: f.name, Value: f.value}) // a buffer takes everything
	}
	return b.Bytes()
}

// request is one request on the first stream, with a body if it has one.
func request(body string, fields ...field) frames {
	return func(f *http2.Framer) error {
		err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block(fields...), EndHeaders: true, EndStream: body == ""})
		if err != nil || body == "" {
			return err
		}
		return f.WriteData(1, true, []byte(body))
	}
}

// exchange2 sends frames and returns the answer on the first stream as one of HTTP/1.1 would look. Where the stream or the
// connection is ended for an error, the reply has no status and says with which.
func exchange2(address string, overTLS bool, send frames) (reply, error) {
	conn, err := net.DialTimeout("tcp", address, patience)
	if err != nil {
		return reply{}, err
	}
	defer conn.Close()
	err = conn.SetDeadline(time.Now().Add(patience))
	if err != nil {
		return reply{}, err
	}
	if overTLS {
		conn = tls.Client(conn, &tls.Config{NextProtos: []string{"h2"}, InsecureSkipVerify: true}) // whose it is does not matter here
	}
	sent := make(chan struct{})
	framer := http2.NewFramer(conn, conn)
	framer.AllowIllegalWrites = true
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	_, err = conn.Write([]byte(http2.ClientPreface))
	if err == nil {
		err = framer.WriteSettings()
	}
	if err != nil {
		return reply{}, err
	}
	go func() { // the connection may be ended while frames are still being sent
		defer close(sent)
		_ = send(framer)
	}()
	r, err := readFrames(framer)
	conn.Close()
	<-sent
	return r, err
}

func readFrames(framer *http2.Framer) (reply, error) {
	r := reply{header: http.Header{}}
	var body, raw strings.Builder
	finish := func() (reply, error) {
		r.body = body.String()
		r.raw = raw.String() + "\r\n" + r.body
		return r, nil
	}
	for {
		read, err := framer.ReadFrame()
		if isClosed(err) || errors.Is(err, net.ErrClosed) {
			return finish()
		}
		if err != nil {
			return r, err
		}
		switch frame := read.(type) {
		case *http2.MetaHeadersFrame:
			status := frame.PseudoValue("status")
			if strings.HasPrefix(status, "1") {
				continue
			}
			if r.status == 0 {
				_, err = fmt.Sscan(status, &r.status)
				if err != nil {
					return r, fmt.Errorf("an answer without a status: %w", err)
				}
			}
			for _, f := range frame.RegularFields() {
				r.header.Add(f.Name, f.Value)
				fmt.Fprintf(&raw, "%s: %s\r\n", http.CanonicalHeaderKey(f.Name), f.Value)
			}
			if frame.StreamEnded() {
				return finish()
			}
		case *http2.DataFrame:
			body.Write(frame.Data())
			if frame.StreamEnded() {
				return finish()
			}
		case *http2.RSTStreamFrame:
			if r.status != 0 { // the answer came without waiting for the request's end
				return finish()
			}
			fmt.Fprintf(&raw, "stream ended: %s\r\n", frame.ErrCode)
			return finish()
		case *http2.GoAwayFrame:
			if frame.ErrCode != http2.ErrCodeNo {
				fmt.Fprintf(&raw, "connection ended: %s\r\n", frame.ErrCode)
				return finish()
			}
		}
	}
}

// What a malformed request of HTTP/2 is ended with (RFC 9113 §8.1.1).
const (
	streamEnded     = "stream ended: PROTOCOL_ERROR"
	connectionEnded = "connection ended: PROTOCOL_ERROR"
)

// http2Shapes are requests of HTTP/2, with prior knowledge and over TLS, that would be another request in HTTP/1.1, and frames
// that cost more to read than to send.
func http2Shapes(*world) []shape {
	var shapes []shape
	for _, overTLS := range []bool{false, true} {
		via := map[bool]string{false: "h2c", true: "TLS"}[overTLS]
		add := func(name string, status int, code string, send func(w *world) frames) {
			shapes = append(shapes, shape{name: via + ": " + name, status: status, code: code, backend: status == http.StatusOK, ask: func(w *world) (reply, error) {
				return exchange2(map[bool]string{false: w.h2c, true: w.secure}[overTLS], overTLS, send(w))
			}, also: func(w *world, _ reply) string {
				if status != http.StatusOK {
					return ""
				}
				sent := w.lastSeen(data)
				for header, values := range sent.header {
					if strings.Contains(strings.Join(values, ","), marker) {
						return "the backend got the client's value in " + header
					}
				}
				f := map[bool]*flow{false: w.overH2C, true: w.overTLS}[overTLS]
				if sent.header.Get("Edc-Contract-Agreement-Id") != f.agreement || len(sent.header.Values("Authorization")) > 0 {
					return "the backend did not get our identity headers, or the token"
				}
				if strings.Contains(sent.target, "smuggled") {
					return "the backend was asked for " + sent.target
				}
				return ""
			}})
		}
		fields := func(w *world, changes ...field) []field { return goodFields(w, overTLS, changes...) }
		for name, c := range http2Fields() {
			add(name, c.status, c.code, func(w *world) frames { return request(c.body, c.change(fields(w))...) })
		}
		for name, c := range http2Frames() {
			add("frames: "+name, c.status, c.code, func(w *world) frames { return c.send(fields(w)) })
		}
	}
	return shapes
}

// goodFields are those of a request that is good, some replaced or, where there are none of the name, added.
func goodFields(w *world, overTLS bool, changes ...field) []field {
	scheme, host, f := "http", w.h2c, w.overH2C
	if overTLS {
		scheme, host, f = "https", w.secure, w.overTLS
	}
	all := []field{{":method", "GET"}, {":scheme", scheme}, {":authority", host}, {":path", "/x"}, {"authorization", "Bearer " + f.access}}
	return append(all, changes...)
}

// fieldCase changes the fields of a good request.
type fieldCase struct {
	status int
	code   string
	body   string
	change func([]field) []field
}

func http2Fields() map[string]fieldCase {
	set := func(name, value string) func([]field) []field {
		return func(all []field) []field {
			changed := append([]field(nil), all...)
			for i := range changed {
				if changed[i].name == name {
					changed[i].value = value
				}
			}
			return changed
		}
	}
	without := func(name string) func([]field) []field {
		return func(all []field) []field {
			var kept []field
			for _, f := range all {
				if f.name != name {
					kept = append(kept, f)
				}
			}
			return kept
		}
	}
	plus := func(more ...field) func([]field) []field {
		return func(all []field) []field { return append(append([]field(nil), all...), more...) }
	}
	first := func(more ...field) func([]field) []field {
		return func(all []field) []field { return append(more, all...) }
	}
	table := map[string]fieldCase{
		"control: a good request": {status: 200, change: plus()}, "no token": {status: 401, code: "Bearer realm", change: without("authorization")},
		"two tokens": {status: 400, code: "invalid_request", change: plus(field{"authorization", "Bearer x"})}, "a token in a trailer's place": {status: 401, code: "Bearer realm", change: set("authorization", "")},
		"a field before the pseudo fields": {status: closed, code: streamEnded, change: first(field{"x-first", "y"})}, "a pseudo field behind": {status: closed, code: streamEnded, change: plus(field{":path", "/other"})},
		"two methods": {status: closed, code: streamEnded, change: first(field{":method", "POST"})}, "two paths": {status: closed, code: streamEnded, change: first(field{":path", "/smuggled"})}, "two authorities": {status: closed, code: streamEnded, change: first(field{":authority", "attacker.example"})},
		"an unknown pseudo field": {status: closed, code: streamEnded, change: first(field{":token", "x"})}, "the pseudo field of an answer": {status: closed, code: streamEnded, change: first(field{":status", "200"})}, "a pseudo field in capitals": {status: closed, code: streamEnded, change: first(field{":Path", "/x"})},
		"an empty path": {status: closed, code: streamEnded, change: set(":path", "")}, "a path without a slash": {status: closed, code: streamEnded, change: set(":path", "x")}, "a URL for a path": {status: closed, code: streamEnded, change: set(":path", "http://attacker.example/x")},
		"a path of two requests": {status: closed, code: streamEnded, change: set(":path", "/x HTTP/1.1\r\nHost: a\r\n\r\nGET /smuggled")}, "a path with NUL": {status: closed, code: streamEnded, change: set(":path", "/x\x00")},
		"a path that climbs": {status: 400, code: aboveRoot, change: set(":path", "/../x")}, "an encoded dot": {status: 400, code: encodedDot, change: set(":path", "/%2e%2e/x")}, "a backslash": {status: 400, code: backslash, change: set(":path", `/\x`)}, "two slashes": {status: 400, code: emptySegment, change: set(":path", "//attacker.example/x")},
		"an asterisk":        {status: 400, code: notAbsolute, change: set(":path", "*")},
		"a scheme of no web": {status: closed, code: streamEnded, change: set(":scheme", "javascript")}, "an empty method": {status: closed, code: streamEnded, change: set(":method", "")}, "an empty scheme": {status: closed, code: streamEnded, change: set(":scheme", "")},
		"a method with a line break": {status: closed, code: streamEnded, change: set(":method", "GET / HTTP/1.1\r\nX: y")}, "a method with a space": {status: 405, change: set(":method", "GET /smuggled")}, "a method with brackets": {status: 405, change: set(":method", "GET[]")}, "a method not ASCII": {status: 405, change: set(":method", "G\u00c4T")},
		"the authority of somebody else": {status: 200, change: nil}, // no site: Caddy answers with nothing
		"TRACE":                          {status: 405, change: set(":method", "TRACE")}, "CONNECT with a path": {status: closed, code: streamEnded, change: set(":method", "CONNECT")},
		"CONNECT": {status: 405, change: func(all []field) []field { return without(":path")(without(":scheme")(set(":method", "CONNECT")(all))) }},
		"a WebSocket": {status: closed, code: streamEnded, change: func(all []field) []field {
			return append([]field{{":protocol", "websocket"}}, set(":method", "CONNECT")(all)...)
		}},
		"te trailers": {status: 200, change: plus(field{"te", "trailers"})}, "te gzip": {status: 400, change: plus(field{"te", "gzip"})}, "te trailers and more": {status: 400, change: plus(field{"te", "trailers, deflate"})},
		"a value with a line break": {status: closed, code: streamEnded, change: plus(field{"x-text", "a\r\nedc-bpn: " + marker})}, "a value with a line feed": {status: closed, code: streamEnded, change: plus(field{"x-text", "a\nb"})}, "a value with NUL": {status: closed, code: streamEnded, change: plus(field{"x-text", "a\x00b"})},
		"a Host beside the authority": {status: closed, code: streamEnded, change: plus(field{"host", marker + ".example"})}, "a cookie in crumbs": {status: 200, change: plus(field{"cookie", "a=" + marker}, field{"cookie", "b=" + marker})},
		"an expectation": {status: 417, change: plus(field{"expect", "200-ok"})}, "300 KiB in one field": {status: closed, change: plus(field{"x-text", strings.Repeat("a", 300<<10)})}, "20,000 fields": {status: 431, change: plus(repeated(field{"x-text", "a"}, 20_000)...)}, "200,000 fields": {status: closed, code: connectionEnded, change: plus(repeated(field{"x", "y"}, 200_000)...)},
		"200 fields of 8 KB": {status: closed, code: connectionEnded, change: plus(repeated(field{"x-text", strings.Repeat("a", 8000)}, 200)...)},
		"a form that is shorter than said": {status: 400, code: "could not be read", body: "a", change: func(all []field) []field {
			return append(set(":path", "/token")(set(":method", "POST")(all)), field{"content-length", "10"}, field{"content-type", formType})
		}},
	}
	delete(table, "the authority of somebody else")
	for _, name := range []string{"connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"} { // RFC 9113 §8.2.2
		table["the connection's own "+name] = fieldCase{status: 400, change: plus(field{name, "edc-contract-agreement-id"})}
	}
	for _, name := range []string{"Authorization", "EDC-BPN", "x text", "x:text", "x\r\ny", "x\x00", "", "x\u00e4", "edc-bpn ", "x\x7f"} { // §8.2.1
		table["a field of the name "+printable(name)] = fieldCase{status: closed, code: streamEnded, change: plus(field{name, marker})}
	}
	for _, name := range []string{
		"edc-bpn", "edc_bpn", "edc.bpn", "edc~bpn", "edc!bpn", "edc'bpn", "edc|bpn", "edc-contract-agreement-id", "edc_contract_agreement_id", "edc-contract_agreement-id", "edc.contract.agreement.id", "cookie", "proxy-authorization", "x-forwarded-for", "x-forwarded-host",
		"forwarded", "x-original-url", "x-rewrite-url", "x-http-method-override", "x-api-key", "x_api_key", "trailer",
	} {
		table["spoofed "+name] = fieldCase{status: 200, change: plus(field{name, marker})}
	}
	return table
}

func repeated(f field, n int) []field {
	all := make([]field, n)
	for i := range all {
		all[i] = f
	}
	return all
}

// frameCase sends other frames than a request has.
type frameCase struct {
	status int
	code   string
	send   func(good []field) frames
}

func http2Frames() map[string]frameCase {
	open := func(f *http2.Framer, stream uint32, fields []field, end bool) error {
		return f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block(fields...), EndHeaders: true, EndStream: end})
	}
	only := func(write func(f *http2.Framer) error) func([]field) frames {
		return func([]field) frames { return write }
	}
	return map[string]frameCase{
		"a block that is no HPACK": {closed, "connection ended: COMPRESSION_ERROR", only(func(f *http2.Framer) error {
			return f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"), EndHeaders: true, EndStream: true})
		})},
		"a block that is cut": {closed, "connection ended: COMPRESSION_ERROR", func(good []field) frames {
			return func(f *http2.Framer) error {
				b := block(good...)
				return f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: b[:len(b)-5], EndHeaders: true, EndStream: true})
			}
		}},
		"a large field again and again": {closed, connectionEnded, func(good []field) frames { // a bomb: 4 KB once, then one byte each
			return func(f *http2.Framer) error {
				var b bytes.Buffer
				encoder := hpack.NewEncoder(&b)
				for _, g := range good {
					_ = encoder.WriteField(hpack.HeaderField{Name: g.name, Value: g.value, Sensitive: true})
				}
				for range 10_000 {
					_ = encoder.WriteField(hpack.HeaderField{Name: "x-text", Value: strings.Repeat("a", 3900)})
				}
				return writeInPieces(f, b.Bytes(), 16<<10)
			}
		}},
		"a good block in pieces of one byte": {closed, "", func(good []field) frames { // as a flood has them (CVE-2023-45288): too many, or served
			return func(f *http2.Framer) error {
				return writeInPieces(f, block(append(good, repeated(field{"x-text", strings.Repeat("a", 100)}, 300)...)...), 1)
			}
		}},
		"CONTINUATION without end": {closed, "", func(good []field) frames {
			return func(f *http2.Framer) error {
				err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block(good...)})
				for i := 0; i < 100_000 && err == nil; i++ {
					err = f.WriteContinuation(1, false, block(field{"x-text", strings.Repeat("a", 100)}))
				}
				return err
			}
		}},
		"CONTINUATION of another stream": {closed, connectionEnded, func(good []field) frames {
			return func(f *http2.Framer) error {
				err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block(good...)})
				if err != nil {
					return err
				}
				return f.WriteContinuation(3, true, nil)
			}
		}},
		"CONTINUATION alone":   {closed, connectionEnded, only(func(f *http2.Framer) error { return f.WriteContinuation(1, true, nil) })},
		"DATA before a stream": {closed, connectionEnded, only(func(f *http2.Framer) error { return f.WriteData(1, true, []byte("x")) })},
		"a stream of the server": {closed, connectionEnded, func(good []field) frames {
			return func(f *http2.Framer) error { return open(f, 2, good, true) }
		}},
		"stream 0": {closed, connectionEnded, func(good []field) frames { return func(f *http2.Framer) error { return open(f, 0, good, true) } }},
		"a promise": {closed, connectionEnded, func(good []field) frames {
			return func(f *http2.Framer) error {
				return f.WritePushPromise(http2.PushPromiseParam{StreamID: 1, PromiseID: 2, BlockFragment: block(good...), EndHeaders: true})
			}
		}},
		"a window of nothing":        {closed, connectionEnded, only(func(f *http2.Framer) error { return f.WriteWindowUpdate(0, 0) })},
		"a window beyond all":        {closed, "connection ended: FLOW_CONTROL_ERROR", only(func(f *http2.Framer) error { return f.WriteWindowUpdate(0, 1<<31-1) })},
		"settings of a wrong length": {closed, "connection ended: FRAME_SIZE_ERROR", only(func(f *http2.Framer) error { return f.WriteRawFrame(http2.FrameSettings, 0, 0, []byte("x")) })},
		"settings of a stream":       {closed, connectionEnded, only(func(f *http2.Framer) error { return f.WriteRawFrame(http2.FrameSettings, 0, 1, nil) })},
		"a ping of a wrong length":   {closed, "connection ended: FRAME_SIZE_ERROR", only(func(f *http2.Framer) error { return f.WriteRawFrame(http2.FramePing, 0, 0, []byte("x")) })},
		"a frame beyond all sizes":   {closed, "connection ended: FRAME_SIZE_ERROR", only(func(f *http2.Framer) error { return f.WriteRawFrame(http2.FrameData, 0, 1, make([]byte, 2<<20)) })},
		"a frame of an unknown type": {401, "Bearer realm", func(good []field) frames {
			return func(f *http2.Framer) error {
				return errors.Join(f.WriteRawFrame(0xfa, 0xff, 0, []byte("x")), open(f, 1, good[:4], true))
			}
		}},
		"a window that is too small": {closed, "connection ended: FLOW_CONTROL_ERROR", only(func(f *http2.Framer) error {
			return f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 31})
		})},
		"a frame size that is no one": {closed, connectionEnded, only(func(f *http2.Framer) error {
			return f.WriteSettings(http2.Setting{ID: http2.SettingMaxFrameSize, Val: 1})
		})},
		"an identity header in a trailer": {200, "", func(good []field) frames {
			return func(f *http2.Framer) error {
				post := append([]field{{":method", "POST"}}, good[1:]...)
				return errors.Join(open(f, 1, append(post, field{"trailer", "edc-bpn"}), false), f.WriteData(1, false, []byte("x")), open(f, 1, []field{{"edc-bpn", marker}}, true))
			}
		}},
		"a pseudo field in a trailer": {closed, streamEnded, func(good []field) frames {
			return func(f *http2.Framer) error {
				post := append([]field{{":method", "POST"}, {":scheme", good[1].value}, good[2], {":path", "/token"}}, good[4], field{"content-type", formType})
				return errors.Join(open(f, 1, post, false), f.WriteData(1, false, []byte("x")), open(f, 1, []field{{":path", "/smuggled"}}, true))
			}
		}},
	}
}

// writeInPieces sends a block as one HEADERS frame and as many CONTINUATIONs as it takes.
func writeInPieces(f *http2.Framer, b []byte, size int) error {
	size = min(size, len(b)-1)
	err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: b[:size], EndStream: true})
	for b = b[size:]; len(b) > 0 && err == nil; {
		piece := b[:min(size, len(b))]
		b = b[len(piece):]
		err = f.WriteContinuation(1, len(b) == 0, piece)
	}
	return err
}
