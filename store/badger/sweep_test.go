package badger

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/edrgate/edrgate/store"
)

// Records with many labels are more than one transaction can remove.
func TestSweepOfLargeLabels(t *testing.T) {
	s := open(t, Options{})
	labels := make(map[string]string)
	for i := range store.MaxLabels {
		labels[fmt.Sprint(i)] = strings.Repeat("v", store.MaxLabelBytes)
	}
	now := time.Now()
	const records = 400
	var group sync.WaitGroup
	for i := range records {
		group.Go(func() {
			_, err := s.Create(t.Context(), store.Record{Kind: "flow", ID: fmt.Sprint(i), Labels: labels, Expires: now.Add(time.Hour)})
			if err != nil {
				t.Errorf("create: %v", err)
			}
		})
	}
	group.Wait()
	removed := 0
	for {
		n, err := s.Sweep(t.Context(), now.Add(2*time.Hour), 0)
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			break
		}
		removed += n
	}
	if removed != records {
		t.Errorf("sweeps removed %d of %d", removed, records)
	}
}
