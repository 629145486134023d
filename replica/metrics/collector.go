package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"redferry/replica"
	"redferry/replica/admin"
)

// metric is one number of a View. known is false where it cannot be told: then there is no sample.
type metric struct {
	name, help string
	kind       prometheus.ValueType
	value      func(v *replica.View) (n float64, known bool)
}

// table has all metrics but those with labels of their own. docs/operations.md lists them, too.
func table() []metric {
	const gauge, counter = prometheus.GaugeValue, prometheus.CounterValue
	number := func(f func(v *replica.View) int64) func(*replica.View) (float64, bool) {
		return func(v *replica.View) (float64, bool) { n := f(v); return float64(n), n >= 0 }
	}
	span := func(f func(v *replica.View) replica.Span) func(*replica.View) (float64, bool) {
		return func(v *replica.View) (float64, bool) { s := f(v); return time.Duration(s).Seconds(), s >= 0 }
	}
	rate := func(f func(v *replica.View) float64) func(*replica.View) (float64, bool) {
		return func(v *replica.View) (float64, bool) { return f(v), true }
	}
	offset := func(f func(o *replica.OffsetView) int64) func(*replica.View) (float64, bool) { // 0 before it is known
		return func(v *replica.View) (float64, bool) { n := f(&v.Offset); return float64(n), n > 0 }
	}
	return []metric{
		{"state_since_timestamp_seconds", "Since when the state has been what it is.", gauge, func(v *replica.View) (float64, bool) {
			return float64(v.Since.UnixMilli()) / 1000, !v.Since.IsZero()
		}},
		{"paused", "1 while the operator has paused applying.", gauge, func(v *replica.View) (float64, bool) {
			if v.Paused {
				return 1, true
			}
			return 0, true
		}},

		{"source_offset_bytes", "The source's master_repl_offset, as last seen.", gauge, offset(func(o *replica.OffsetView) int64 { return o.Source })},
		{"received_offset_bytes", "Offset up to which the spool has the stream.", gauge, offset(func(o *replica.OffsetView) int64 { return o.Received })},
		{"applied_offset_bytes", "Offset up to which the applier was given the stream.", gauge, offset(func(o *replica.OffsetView) int64 { return o.Taken })},
		{"checkpointed_offset_bytes", "Offset up to which the target has everything.", gauge, offset(func(o *replica.OffsetView) int64 { return o.Checkpointed })},
		{"acked_offset_bytes", "Offset that was last acknowledged to the source.", gauge, offset(func(o *replica.OffsetView) int64 { return o.Acked })},

		{"lag_bytes", "How far the target is behind the source.", gauge, number(func(v *replica.View) int64 { return v.Lag.Bytes })},
		{"lag_seconds", "Age of the oldest byte that the target does not have.", gauge, span(func(v *replica.View) replica.Span { return v.Lag.Time })},
		{"lag_to_receive_bytes", "The part of the lag that has not arrived from the source.", gauge, number(func(v *replica.View) int64 { return v.Lag.ToReceive })},
		{"lag_to_receive_seconds", "Age of the oldest byte that has not arrived.", gauge, span(func(v *replica.View) replica.Span { return v.Lag.Receive })},
		{"lag_to_apply_bytes", "The part of the lag that is in the spool.", gauge, number(func(v *replica.View) int64 { return v.Lag.ToApply })},
		{"lag_to_apply_seconds", "Age of the oldest byte in the spool that the target does not have.", gauge, span(func(v *replica.View) replica.Span { return v.Lag.Apply })},

		{"snapshot_size_bytes", "Size of the RDB, where the source knows it.", gauge, func(v *replica.View) (float64, bool) { return float64(v.Snapshot.Size), v.Snapshot.Size > 0 }},
		{"snapshot_received_bytes", "Bytes of the RDB that have arrived in this run.", gauge, number(func(v *replica.View) int64 { return v.Snapshot.Received })},
		{"snapshot_loaded_bytes", "Bytes of the RDB of which all is in the target.", gauge, number(func(v *replica.View) int64 { return v.Snapshot.Read })},
		{"snapshot_loaded_keys", "Keys of the RDB in the target.", gauge, number(func(v *replica.View) int64 { return v.Snapshot.Keys })},
		{"snapshot_announced_keys", "Keys that the RDB has announced so far.", gauge, number(func(v *replica.View) int64 { return v.Snapshot.Total })},
		{"snapshot_loaded_ratio", "Part of the snapshot that is in the target, 0 to 1.", gauge, rate(func(v *replica.View) float64 { return v.Snapshot.Percent / 100 })},
		{"left_seconds", "How long the snapshot, catching up or settling will take at the present rate.", gauge, func(v *replica.View) (float64, bool) {
			return time.Duration(v.Left).Seconds(), v.Left > 0
		}},

		{"commands_total", "Commands of the stream in the target, in this run.", counter, number(func(v *replica.View) int64 { return v.Applied.Commands })},
		{"transactions_total", "Transactions that carried them.", counter, number(func(v *replica.View) int64 { return v.Applied.Transactions })},
		{"applied_bytes_per_second", "Bytes of the snapshot, and then of the stream, that get into the target; mean of the last seconds.", gauge, rate(func(v *replica.View) float64 { return v.Rate.Bytes })},
		{"source_bytes_per_second", "Bytes of the stream that the source writes; mean of the last seconds.", gauge, rate(func(v *replica.View) float64 { return v.Rate.Source })},

		{"backlog_size_bytes", "Size of the source's backlog.", gauge, func(v *replica.View) (float64, bool) { return float64(v.Backlog.Size), v.Backlog.Size > 0 }},
		{"backlog_spare_bytes", "Bytes that the source may still write before it could not go on from what is received.", gauge, number(func(v *replica.View) int64 { return v.Backlog.Spare })},
		{"may_be_down_seconds", "How long redferry may be down at the source's present rate; no sample while it writes nothing.", gauge, span(func(v *replica.View) replica.Span { return v.Backlog.Down })},

		{"settle_keys_left", "Keys that the present pass of settling has still to look at.", gauge, number(func(v *replica.View) int64 { return v.Settle.Left })},
		{"settled_expiries_total", "Expiries of keys and hash fields that were brought back, in this run.", counter, number(func(v *replica.View) int64 { return v.Settle.Settled })},

		{"divergent_commands", "Commands that found nothing to change in the target, where the source had, since the snapshot.", gauge, number(func(v *replica.View) int64 { return v.Loss.Divergence })},
		{"rejected_writes_total", "Writes that the target refused, in this run.", counter, number(func(v *replica.View) int64 { return v.Loss.Rejected })},
		{"evicted_keys_total", "Keys that the target evicted, in this run.", counter, number(func(v *replica.View) int64 { return v.Loss.Evicted })},
		{"reconnects_total", "Attempts after the first, of either side, in this run.", counter, number(func(v *replica.View) int64 { return v.Retry.Reconnects })},
		{"full_resyncs_total", "Full resyncs that the source has begun, in this run.", counter, number(func(v *replica.View) int64 { return v.Retry.FullResyncs })},

		{"spool_used_bytes", "Bytes in the spool.", gauge, number(func(v *replica.View) int64 { return v.Spool.Used })},
		{"spool_max_bytes", "Bytes that the spool may have.", gauge, func(v *replica.View) (float64, bool) { return float64(v.Spool.Max), v.Spool.Max > 0 }},
	}
}

// collector makes the metrics of a run from its report.
type collector struct {
	report      func() admin.Report
	table       []metric
	descs       []*prometheus.Desc // of the table
	info, state *prometheus.Desc
}

func newCollector(report func() admin.Report) *collector {
	id := report().Server
	name := prometheus.Labels{"name": id.Name}
	c := &collector{
		report: report, table: table(),
		info:  prometheus.NewDesc("redferry_info", "1; what runs here.", []string{"source", "target", "version"}, name),
		state: prometheus.NewDesc("redferry_state", "1 for the state that the run is in, 0 for the others.", []string{"state"}, name),
	}
	for _, m := range c.table {
		c.descs = append(c.descs, prometheus.NewDesc("redferry_"+m.name, m.help, nil, name))
	}
	return c
}

// Describe implements [prometheus.Collector].
func (c *collector) Describe(out chan<- *prometheus.Desc) {
	out <- c.info
	out <- c.state
	for _, d := range c.descs {
		out <- d
	}
}

// Collect implements [prometheus.Collector].
func (c *collector) Collect(out chan<- prometheus.Metric) {
	r := c.report()
	out <- prometheus.MustNewConstMetric(c.info, prometheus.GaugeValue, 1, r.Server.Source, r.Server.Target, r.Server.Version)
	for _, s := range replica.States() {
		n := 0.
		if s == r.State {
			n = 1
		}
		out <- prometheus.MustNewConstMetric(c.state, prometheus.GaugeValue, n, string(s))
	}
	for i, m := range c.table {
		if n, known := m.value(&r.View); known {
			out <- prometheus.MustNewConstMetric(c.descs[i], m.kind, n)
		}
	}
}
