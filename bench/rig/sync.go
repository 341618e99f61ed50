package rig

import (
	"os"
	"time"
)

// SyncRate returns how many times a second a small write can be made durable in a directory, from half a second of trying.
// Rates of durable writes mean nothing without it: on a shared disk it drifts by several times within minutes.
func SyncRate(dir string) (float64, error) {
	file, err := os.CreateTemp(dir, "sync-rate")
	if err != nil {
		return 0, err
	}
	defer os.Remove(file.Name())
	defer file.Close()
	page := make([]byte, 2<<10)
	start := time.Now()
	n := 0
	for ; time.Since(start) < 500*time.Millisecond; n++ {
		_, err = file.Write(page)
		if err == nil {
			err = file.Sync()
		}
		if err != nil {
			return 0, err
		}
	}
	return float64(n) / time.Since(start).Seconds(), nil
}
