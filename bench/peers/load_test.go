package main

import (
	"bufio"
	"errors"
	"strings"
	"testing"
)

func TestReadAnswer(t *testing.T) {
	t.Parallel()
	const next = "HTTP/1.1 204 next\r\n"
	tests := map[string]struct {
		answer string
		keep   bool
	}{
		"length":  {"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", true},
		"empty":   {"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", true},
		"chunked": {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1A\r\n" + strings.Repeat("x", 26) + "\r\n0\r\n\r\n", true},
		"closed":  {"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc", false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := bufio.NewReader(strings.NewReader(tt.answer + next))
			keep, err := readAnswer(in)
			if err != nil || keep != tt.keep {
				t.Fatalf("%v, %v", keep, err)
			}
			rest, err := in.ReadString('\n')
			if err != nil || rest != next {
				t.Errorf("left %q, %v", rest, err)
			}
		})
	}
}

// TestReadAnswerRefusesOtherStatuses: a benchmark of refusals would be a fast one.
func TestReadAnswerRefusesOtherStatuses(t *testing.T) {
	t.Parallel()
	_, err := readAnswer(bufio.NewReader(strings.NewReader("HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno")))
	if !errors.Is(err, errUnexpectedStatus) || !strings.Contains(err.Error(), "401 Unauthorized: no") {
		t.Errorf("got %v", err)
	}
}

func TestOnceEndsWithItsRequests(t *testing.T) {
	t.Parallel()
	r := &once{all: [][]byte{{1}, {2}}}
	for range 2 {
		_, err := r.next()
		if err != nil {
			t.Fatal(err)
		}
	}
	_, err := r.next()
	if !errors.Is(err, errExhausted) {
		t.Errorf("got %v", err)
	}
}

func TestReadBenchmark(t *testing.T) {
	t.Parallel()
	samples, err := readBenchmark([]byte("goos: linux\n" +
		"BenchmarkRotation/writers=64-2 \t 100\t 5 ns/op\t 12.5 ratio\nBenchmarkRotation/writers=64-2 \t 100\t 5 ns/op\t 13 ratio\nPASS\n"))
	if err != nil {
		t.Fatal(err)
	}
	got := samples["writers=64"][opsRatio]
	if len(got) != 2 || got[0] != 12.5 || got[1] != 13 {
		t.Errorf("got %v", samples)
	}
}
