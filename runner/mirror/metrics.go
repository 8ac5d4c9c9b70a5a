package mirror

import (
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics count answers. Labels are from closed sets and every series exists at zero from the start, so that a rate over them never
// misses the first event.
type metrics struct {
	requests *prometheus.CounterVec
	sent     *prometheus.CounterVec
	seconds  prometheus.Histogram
}

// The values of the labels: what was asked for, and how the answer ended. Refused is the client's doing (a name that is not in the
// lock, a write), failed the mirror's (a blob that does not match its digest or cannot be read).
const (
	served  = "served"
	refused = "refused"
	failed  = "failed"
)

// kinds are the label values of what a request asks for.
var kinds = map[kind]string{kindUnknown: "other", kindBase: "base", kindManifest: "manifest", kindBlob: "blob"}

// newMetrics registers the collectors; with a nil registry they count for nobody.
func newMetrics(to prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "gapproof_mirror_requests_total", Help: "Requests by what they asked for and how they ended: served, refused (not in the lock, or a write) or failed.",
		}, []string{"kind", "result"}),
		sent: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "gapproof_mirror_sent_bytes_total", Help: "Body bytes handed to connections, by what was asked for.",
		}, []string{"kind"}),
		// From a manifest in memory (below a millisecond) to the first request for a layer of some hundred megabytes, which is hashed first.
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "gapproof_mirror_request_duration_seconds", Help: "Time from a request's arrival to the end of its answer.",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 8),
		}),
	}
	for _, k := range kinds {
		m.sent.WithLabelValues(k)
		for _, result := range []string{served, refused, failed} {
			m.requests.WithLabelValues(k, result)
		}
	}
	if to == nil {
		return m, nil
	}
	if err := errors.Join(to.Register(m.requests), to.Register(m.sent), to.Register(m.seconds)); err != nil {
		return nil, fmt.Errorf("registering the mirror's metrics: %w", err)
	}
	return m, nil
}

// count adds one answer.
func (m *metrics) count(k kind, status int, bytes int64, took time.Duration) {
	result := served
	switch {
	case status >= 500:
		result = failed
	case status >= 400:
		result = refused
	}
	m.requests.WithLabelValues(kinds[k], result).Inc()
	m.sent.WithLabelValues(kinds[k]).Add(float64(bytes))
	m.seconds.Observe(took.Seconds())
}
