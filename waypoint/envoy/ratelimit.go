package envoy

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	localv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/local_ratelimit/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/ambit-mesh/ambit/api/waypoint"
)

// Local rate limits: a bucket of tokens for each rule, or for each distinct value of the rule's keys, in this process.
// One local_ratelimit filter holds all rules that answer with the same status. Envoy keeps the buckets with the routes:
// they are full again after a change of the routes or policies of the same host.
const (
	// maxBuckets bounds the distinct values of one rule's keys that are counted at a time; the least recently used give
	// way. Envoy's default of 20 would let 21 clients in turn be without a limit.
	maxBuckets = 1000
	// fillStep is Envoy's shortest interval, and others must be its multiples.
	fillStep = 50 * time.Millisecond
	// maxFill is a year.
	maxFill = 365 * 24 * time.Hour
)

// formatsInDescriptors is the runtime flag of Envoy that lets a key be made of filter state; the bootstrap must set it.
const formatsInDescriptors = "envoy.reloadable_features.enable_formatter_for_ratelimit_action_descriptor_value"

// rateLimitFilters are the filters of a target's rate limits.
func (e *Env) rateLimitFilters(t target, all []*waypoint.RateLimit) ([]*corev3.TypedExtensionConfig, []Problem) {
	s := &limits{
		target:   t,
		maker:    ruleMaker{trustDomains: e.trustDomains(), port: t.port, edge: t.edge, tokens: true},
		byStatus: map[uint32]*localv3.LocalRateLimit{},
	}
	var problems []Problem
	seen := map[string]bool{}
	for _, p := range all {
		name := p.GetNamespace() + "/" + p.GetName()
		if seen[name] {
			continue
		}
		seen[name] = true
		for i, rule := range p.GetRules() {
			if err := s.add(name+"/"+strconv.Itoa(i), rule); err != nil {
				problems = append(problems, Problem{
					Object: "LocalRateLimitPolicy " + name,
					Text:   fmt.Sprintf("rule %d limits nothing: %v", i, err),
				})
			}
		}
	}
	out := s.finders
	for _, status := range slices.Sorted(maps.Keys(s.byStatus)) {
		out = append(out, typedExtension("envoy.filters.http.local_ratelimit", s.byStatus[status]))
	}
	return out, problems
}

// limits are those of one target while they are gathered.
type limits struct {
	target target
	maker  ruleMaker
	// finders are filters that note which rules a request matches.
	finders  []*corev3.TypedExtensionConfig
	byStatus map[uint32]*localv3.LocalRateLimit
}

// limiter is a filter without rules yet. Requests no rule matches fall to its own bucket, which is never empty.
func limiter(status uint32) *localv3.LocalRateLimit {
	always := &corev3.RuntimeFractionalPercent{DefaultValue: &typev3.FractionalPercent{Numerator: 100}}
	return &localv3.LocalRateLimit{
		StatPrefix:     "ratelimit",
		Status:         &typev3.HttpStatus{Code: typev3.StatusCode(status)},
		FilterEnabled:  always,
		FilterEnforced: always,
		TokenBucket: &typev3.TokenBucket{
			MaxTokens: unlimited, TokensPerFill: wrapperspb.UInt32(unlimited), FillInterval: durationpb.New(fillStep),
		},
		AlwaysConsumeDefaultTokenBucket: wrapperspb.Bool(false),
		// RESOURCE_EXHAUSTED, not UNAVAILABLE: clients retry the latter at once. gRPC status codes, doc/statuscodes.md.
		RateLimitedAsResourceExhausted: true,
		EnableXRatelimitHeaders:        ratelimitv3.XRateLimitHeadersRFCVersion_DRAFT_VERSION_03,
		EnableRetryAfterHeader:         true, // RFC 6585 §4
		MaxDynamicDescriptors:          wrapperspb.UInt32(maxBuckets),
	}
}

func (s *limits) add(id string, rule *waypoint.RateLimitRule) error {
	bucket, err := tokenBucket(rule)
	if err != nil {
		return err
	}
	status := rule.GetStatus()
	if status == 0 {
		status = 429
	}
	if status < 400 || status > 599 {
		return fmt.Errorf("status %d: write 400 to 599", status)
	}
	keys, entries, err := limitKeys(s.target, rule.GetKeys())
	if err != nil {
		return err
	}
	marker := literalKey("rule", id)
	ways, err := s.matches(rule.GetMatches())
	if err != nil {
		return err
	}
	if len(rule.GetMatches()) == 0 {
		ways = [][]*routev3.RateLimit_Action{nil}
	}
	var entriesOf []*routev3.RateLimit
	for _, conditions := range ways {
		entriesOf = append(entriesOf, &routev3.RateLimit{Actions: slices.Concat([]*routev3.RateLimit_Action{marker}, conditions, keys)})
	}
	filter := s.byStatus[status]
	if filter == nil {
		filter = limiter(status)
		s.byStatus[status] = filter
	}
	filter.RateLimits = append(filter.RateLimits, entriesOf...)
	descriptor := &ratelimitv3.LocalRateLimitDescriptor{TokenBucket: bucket}
	descriptor.Entries = append(descriptor.Entries, &ratelimitv3.RateLimitDescriptor_Entry{Key: "rule", Value: id})
	descriptor.Entries = slices.Concat(descriptor.Entries, foundEntries(rule.GetMatches()), entries)
	filter.Descriptors = append(filter.Descriptors, descriptor)
	return nil
}

func tokenBucket(rule *waypoint.RateLimitRule) (*typev3.TokenBucket, error) {
	per := rule.GetPer().AsDuration()
	switch {
	case rule.GetRequests() == 0:
		return nil, fmt.Errorf("requests is 0: write how many are let through, or refuse them by an AuthorizationPolicy")
	case per < fillStep || per > maxFill:
		return nil, fmt.Errorf("per is %v: write %v to %v", per, fillStep, maxFill)
	}
	burst := rule.GetBurst()
	if burst == 0 {
		burst = rule.GetRequests()
	}
	return &typev3.TokenBucket{
		MaxTokens:     burst,
		TokensPerFill: wrapperspb.UInt32(rule.GetRequests()),
		FillInterval:  durationpb.New(per.Round(fillStep)),
	}, nil
}

// limitKeys are the parts of a descriptor that differ from request to request; entries without a value take any. A
// request without one of the keys is not limited by the rule.
func limitKeys(t target, keys []*waypoint.RateLimitKey) ([]*routev3.RateLimit_Action, []*ratelimitv3.RateLimitDescriptor_Entry, error) {
	var actions []*routev3.RateLimit_Action
	var entries []*ratelimitv3.RateLimitDescriptor_Entry
	for i, k := range keys {
		name := "key" + strconv.Itoa(i)
		format := ""
		switch k := k.GetKind().(type) {
		case *waypoint.RateLimitKey_Header:
			if !isHeaderName(k.Header) {
				return nil, nil, fmt.Errorf("%q is no header name", k.Header)
			}
			actions = append(actions, &routev3.RateLimit_Action{ActionSpecifier: &routev3.RateLimit_Action_RequestHeaders_{
				RequestHeaders: &routev3.RateLimit_Action_RequestHeaders{HeaderName: strings.ToLower(k.Header), DescriptorKey: name},
			}})
		case *waypoint.RateLimitKey_Query:
			if k.Query == "" {
				return nil, nil, fmt.Errorf("a query parameter without a name")
			}
			actions = append(actions, &routev3.RateLimit_Action{ActionSpecifier: &routev3.RateLimit_Action_QueryParameters_{
				QueryParameters: &routev3.RateLimit_Action_QueryParameters{QueryParameterName: k.Query, DescriptorKey: name},
			}})
		case *waypoint.RateLimitKey_Principal:
			if format = state(statePeer); t.edge {
				format = "%DOWNSTREAM_PEER_URI_SAN%"
			}
		case *waypoint.RateLimitKey_SourceIp:
			if format = state(stateClientAddress); t.edge {
				format = "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"
			}
		default:
			return nil, nil, fmt.Errorf("a key of a kind this version does not know: upgrade the waypoint")
		}
		if format != "" {
			actions = append(actions, &routev3.RateLimit_Action{ActionSpecifier: &routev3.RateLimit_Action_GenericKey_{
				GenericKey: &routev3.RateLimit_Action_GenericKey{DescriptorKey: name, DescriptorValue: format, DefaultValue: "-"},
			}})
		}
		entries = append(entries, &ratelimitv3.RateLimitDescriptor_Entry{Key: name})
	}
	return actions, entries, nil
}
