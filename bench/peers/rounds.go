package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"syscall"
	"time"

	"github.com/edrgate/edrgate/bench/rig"
)

// side is one row of a table: what is asked of one process.
type side struct {
	name        string
	process     *rig.Process // whose CPU and memory count
	address     string       // host:port
	connections int
	supply      supply
	warm        time.Duration // load before the first round

	tokens int  // that it sends in turn
	apart  bool // shows something about the measuring, and is not compared

	// beside starts something that goes on during its rounds, and returns what ends it. nil: nothing.
	beside func(context.Context) (func() error, error)

	last, most int // requests of its last and its best round
	samples    map[string][]float64
}

// The measures of a round of requests.
const (
	perSecond   = "req/s"
	median      = "p50 ms"
	slowest     = "p99 ms"
	cpu         = "CPU µs/req"
	resident    = "RSS MiB"
	besideProxy = "load %" // CPU of the generator and the backend, of one core: what is left of it is why they are no bottleneck
)

var requestMeasures = []string{perSecond, median, slowest, cpu, resident, besideProxy}

const mebibyte = 1 << 20

// alternate loads each side for one short round after the other, in another order each time, so that what disturbs the
// machine disturbs all of them.
func (b *benchmark) alternate(ctx context.Context, title string, rounds int, sides ...*side) error {
	for _, s := range sides {
		s.samples = map[string][]float64{}
		if s.warm == 0 {
			s.warm = b.duration
		}
		err := b.warmUp(ctx, s)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	for i := range rounds {
		b.progress("%s: round %d of %d", title, i+1, rounds)
		for _, at := range rand.Perm(len(sides)) {
			s := sides[at]
			err := b.round(ctx, s, b.duration)
			if err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
		}
	}
	return nil
}

// warmUp loads a side before the first round: for its time, and until each token that comes again has been there twice.
func (b *benchmark) warmUp(ctx context.Context, s *side) error {
	defer clear(s.samples)
	for sent := 0; ; {
		err := b.round(ctx, s, s.warm)
		if err != nil {
			return err
		}
		sent += s.last
		if sent >= 2*s.tokens {
			return nil
		}
	}
}

// round is one round of one side. If its requests ran out it begins again with more.
func (b *benchmark) round(ctx context.Context, s *side, duration time.Duration) error {
	n := max(s.most*3/2, int(4000*duration.Seconds()))
	for range 4 {
		r, err := s.supply(n)
		if err != nil {
			return err
		}
		err = b.accompanied(ctx, s, &load{address: s.address, connections: s.connections, requests: r, duration: duration})
		if !errors.Is(err, errExhausted) {
			return err
		}
		n *= 2
	}
	return errExhausted
}

// accompanied measures a load together with what goes on beside it.
func (b *benchmark) accompanied(ctx context.Context, s *side, l *load) error {
	if s.beside == nil {
		return b.measure(ctx, s, l)
	}
	end, err := s.beside(ctx)
	if err != nil {
		return err
	}
	err = b.measure(ctx, s, l)
	return errors.Join(err, end())
}

// measure runs a load and notes what it was like.
func (b *benchmark) measure(ctx context.Context, s *side, l *load) error {
	beside, err := b.besideCPU()
	if err != nil {
		return err
	}
	before, err := s.process.CPU()
	if err != nil {
		return err
	}
	seen, err := l.run(ctx)
	if err != nil {
		return err
	}
	after, err := s.process.CPU()
	if err != nil {
		return err
	}
	besideAfter, err := b.besideCPU()
	if err != nil {
		return err
	}
	memory, err := s.process.Memory()
	if err != nil {
		return err
	}
	s.last, s.most = seen.count, max(s.most, seen.count)
	for measure, value := range map[string]float64{
		perSecond:   seen.rate(),
		median:      seen.percentile(0.50),
		slowest:     seen.percentile(0.99),
		cpu:         float64((after - before).Microseconds()) / float64(seen.count),
		resident:    float64(memory.Resident) / mebibyte,
		besideProxy: 100 * (besideAfter - beside).Seconds() / seen.elapsed.Seconds(),
	} {
		s.samples[measure] = append(s.samples[measure], value)
	}
	return nil
}

// besideCPU is the CPU time of the generator and the backend.
func (b *benchmark) besideCPU() (time.Duration, error) {
	var own syscall.Rusage
	err := syscall.Getrusage(syscall.RUSAGE_SELF, &own)
	if err != nil {
		return 0, err
	}
	of, err := b.backend.process.CPU()
	return of + time.Duration(own.Utime.Nano()+own.Stime.Nano()), err
}
