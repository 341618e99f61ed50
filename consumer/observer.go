package consumer

import "time"

// The events of an Observer.
const (
	EventUnknownCounterparty = "unknown_counterparty" // an EDR is kept and served but not renewed: nobody knows whom the proof would be for
	EventAudience            = "audience_mismatch"    // an EDR names another audience than its counterparty, or none of ours
	EventForeignToken        = "foreign_token"        // an EDR came with an access token that another EDR holds
	EventConflict            = "conflict"             // an EDR came for a known transfer with other terms
	EventRetried             = "retried"              // a renewal was tried again after "cannot tell"
	EventWaited              = "waited"               // a renewal found another process renewing, and waited
	EventRejected            = "rejected"             // the provider answered a data request with 401 or 403
	EventReplayed            = "replayed"             // such a request was sent again with a newer token
	EventNotReplayed         = "not_replayed"         // such a request was not sent again, since its body was streamed
)

// The results of a renewal that an Observer is told of, beside the codes of an Error.
const ResultRenewed = "renewed"

// Observer is told of what happens, for metrics. Its methods are called on the request path: they must not block.
type Observer interface {
	// Event reports one of the Event constants.
	Event(name string)
	// Renewal reports the end of a renewal: ResultRenewed or the Code of its error, and how long it took.
	Renewal(result string, took time.Duration)
}

// unobserved is an Observer that looks away.
type unobserved struct{}

func (unobserved) Event(string)                  {}
func (unobserved) Renewal(string, time.Duration) {}
