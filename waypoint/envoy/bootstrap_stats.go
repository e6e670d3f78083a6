package envoy

import (
	"fmt"
	"regexp"

	metricsv3 "github.com/envoyproxy/go-control-plane/envoy/config/metrics/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// keptStats are what operators look at: is it alive, does it take its configuration, how many connections and errors.
// All of Envoy's own statistics of each listener and cluster would cost more memory than the configuration itself, and a
// megabyte per scrape. None of these is a histogram.
var keptStats = []string{
	`server\.(live|state|uptime|concurrency|total_connections|memory_allocated|memory_heap_size|hot_restart_epoch)`,
	`(listener_manager|cluster_manager)\.(lds|cds)\.(update_success|update_rejected|update_failure)`,
	`listener_manager\.(listener_create_failure|total_listeners_active|total_listeners_warming|total_filter_chains_draining)`,
	`cluster_manager\.(active_clusters|warming_clusters)`,
	`control_plane\.connected_state`,
	`listener\..*\.(downstream_cx_total|downstream_cx_active|downstream_cx_overflow|downstream_cx_overload_reject|no_filter_chain_match)`,
	`listener\..*\.ssl\.(handshake|connection_error|fail_verify_no_cert|fail_verify_error|fail_verify_san)`,
	`cluster\.(main_internal|connect_originate|encap|agent-xds|agent-sds)\.upstream_(cx_total|cx_active|cx_connect_fail|cx_connect_timeout|rq_total|rq_active|rq_timeout)`,
	`cluster\.connect_originate\.ssl\.(handshake|connection_error|fail_verify_error|fail_verify_san)`,
	`http\.(connect_terminate|inbound|edge)\.(downstream_cx_total|downstream_cx_active|downstream_rq_total|downstream_rq_active|downstream_rq_rx_reset|downstream_rq_[1-5]xx)`,
	`http\.(connect_terminate|inbound|edge)\..*(allowed|denied|rate_limited|failure_mode_allowed)`,
	`tcp\.inbound\.(downstream_cx_total|downstream_cx_no_route|max_downstream_connection_duration)`,
	`overload\..*\.(active|pressure)`,
	`access_logs\..*(failed|dropped).*`,
}

// stats keeps what is worth its memory. What Options say of it that no one can read is an error of the bootstrap.
func (o Options) stats() (*metricsv3.StatsConfig, error) {
	patterns := []*matcherv3.StringMatcher{{MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: "istio_"}}}
	regex := func(re string) {
		patterns = append(patterns, &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_SafeRegex{
			SafeRegex: &matcherv3.RegexMatcher{Regex: re},
		}})
	}
	for _, re := range keptStats {
		regex(re)
	}
	for _, re := range o.StatsRegexps {
		if _, err := regexp.Compile(re); err != nil {
			return nil, fmt.Errorf("bootstrap of Envoy: statistics to keep: %w", err)
		}
		regex(re)
	}
	for _, prefix := range o.StatsPrefixes {
		if prefix != "" {
			patterns = append(patterns, &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: prefix}})
		}
	}
	for _, suffix := range o.StatsSuffixes {
		if suffix != "" {
			patterns = append(patterns, &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Suffix{Suffix: suffix}})
		}
	}
	return &metricsv3.StatsConfig{
		UseAllDefaultTags: wrapperspb.Bool(false),
		StatsMatcher: &metricsv3.StatsMatcher{StatsMatcher: &metricsv3.StatsMatcher_InclusionList{
			InclusionList: &matcherv3.ListStringMatcher{Patterns: patterns},
		}},
		HistogramBucketSettings: []*metricsv3.HistogramBucketSettings{{
			Match: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: "istio_request_duration"}},
			// Istio's buckets of durations, in milliseconds.
			Buckets: []float64{0.5, 1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000, 60000, 300000, 600000, 1800000, 3600000},
		}},
	}, nil
}
