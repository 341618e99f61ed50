// Package rig starts and watches the processes that a benchmark compares: pinned to a core where `taskset` exists, on
// loopback only, with their CPU time and memory as Linux counts them. It is for benchmarks on Linux.
package rig
