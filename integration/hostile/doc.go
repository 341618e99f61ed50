// Package hostile sends bad inputs to the built binary, by hand-written bytes over raw sockets, and checks after each of
// them what must hold whatever was sent: the answer is the expected one and no 500, the backend was not asked, no secret
// is in an answer, a log, a metric or a file, the process is the same one and has grown by nothing. `make hostile` runs it.
//
// Each category is one file with a table. A new one is a slice of shapes, listed in categories (hostile_test.go); the
// checks are made by the harness (world_test.go, watch_test.go, judge_test.go) without the table's doing.
package hostile
