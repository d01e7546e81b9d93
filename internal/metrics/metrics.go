// Package metrics shows a running server to Prometheus: the counters of the data plane, read when they are scraped, beside
// those of the Go runtime and the process.
//
// There is one registry for each [Metrics] and none that is global. The labels are words of this program (dispositions, rules,
// reasons, codes); nothing that a client or peer sends becomes a label.
//
// # Limitations
//
// The counters of a shard are a consistent copy, those of several shards are read one after the other.
package metrics

import (
	"context"
	"net/http"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/stilenet/stile/turn"
	"github.com/stilenet/stile/turn/dataplane"
)

// Source is a server to read. *dataplane.Server is one.
type Source interface {
	Stats(context.Context) (dataplane.Stats, error)
	Ledger() *turn.Ledger
	Engine() (kind dataplane.Kind, shards int, why string)
	Offload() dataplane.OffloadState
}

// Config says what is shown.
type Config struct {
	Server            Source
	Version, Revision string        // of the build
	LogDropped        func() uint64 // events that the log dropped; nil: the metric is absent
	Draining          func() bool   // nil: the metric is absent
	Rendezvous        *Rendezvous   // nil: its metrics are absent
}

// Ours to tune.
const (
	statsTimeout  = 3 * time.Second // a shard answers between two packets; one that does not is stuck, and the scrape says so
	scrapeTimeout = 8 * time.Second // less than Prometheus' default of 10 s
	maxScrapes    = 4               // at once; more are answered with 503
)

// New makes a registry with all collectors.
func New(cfg Config) *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		&collector{cfg},
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "stile_build_info", Help: "The build that runs; always 1.",
			ConstLabels: prometheus.Labels{"version": cfg.Version, "revision": cfg.Revision, "go_version": runtime.Version()},
		}, func() float64 { return 1 }),
	)
	return r
}

// Handler answers scrapes of a registry.
func Handler(r *prometheus.Registry) http.Handler {
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{
		ErrorHandling: promhttp.ContinueOnError, MaxRequestsInFlight: maxScrapes, Timeout: scrapeTimeout,
	})
}
