package envoy

import (
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/matcher/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/ambit-mesh/ambit/api/waypoint"
)

// setOutliers lets Envoy stop using endpoints that fail.
//
// Where nobody asked for it there is a default for what no readiness probe sees in time: a pod that is dead behind its
// tunnel. It counts connections that fail or break and never an application's own answers (see ownAnswers), puts out at
// most half of the endpoints, and for seconds only. Envoy's own distinction of errors is of no use for it: the near end of
// a tunnel always connects, and that would count as a success.
func setOutliers(c *clusterv3.Cluster, o *waypoint.OutlierDetection) {
	off := func() *wrapperspb.UInt32Value { return uint32Value(0) }
	d := &clusterv3.OutlierDetection{
		// By success rate nothing is put out unless somebody asks, and nobody can.
		EnforcingSuccessRate:            off(),
		EnforcingLocalOriginSuccessRate: off(),
	}
	c.OutlierDetection = d
	if o == nil {
		d.EnforcingConsecutive_5Xx = off()
		d.ConsecutiveGatewayFailure, d.EnforcingConsecutiveGatewayFailure = uint32Value(5), uint32Value(100)
		d.Interval, d.BaseEjectionTime, d.MaxEjectionTime = seconds(1), seconds(5), seconds(60)
		d.MaxEjectionPercent = uint32Value(50)
		return
	}
	d.Consecutive_5Xx, d.EnforcingConsecutive_5Xx = threshold(o.GetConsecutive_5Xx())
	d.ConsecutiveGatewayFailure, d.EnforcingConsecutiveGatewayFailure = threshold(o.GetConsecutiveGatewayErrors())
	if o.GetSplitLocalErrors() {
		d.SplitExternalLocalOriginErrors = true
		d.ConsecutiveLocalOriginFailure, d.EnforcingConsecutiveLocalOriginFailure = threshold(o.GetConsecutiveLocalErrors())
	}
	if t := positive(o.GetInterval()); t > 0 {
		d.Interval = durationpb.New(t)
	}
	if t := positive(o.GetBaseEjection()); t > 0 {
		d.BaseEjectionTime = durationpb.New(t)
		// Envoy refuses a longest time below the base; its own is 5 min.
		d.MaxEjectionTime = durationpb.New(max(t, seconds(300).AsDuration()))
	}
	if p := o.GetMaxEjectionPercent(); p != nil {
		d.MaxEjectionPercent = uint32Value(min(p.GetValue(), 100))
	}
	if p := o.GetMinHealthPercent(); p != nil {
		c.CommonLbConfig.HealthyPanicThreshold = &typev3.Percent{Value: float64(min(p.GetValue(), 100))}
	}
}

// threshold: a number of failures in a row, which 0 switches off. Istio pilot/pkg/networking/core/cluster_traffic_policy.go
// applyOutlierDetection.
func threshold(n *wrapperspb.UInt32Value) (count, enforcing *wrapperspb.UInt32Value) {
	switch {
	case n == nil:
		return nil, nil
	case n.GetValue() == 0:
		return nil, uint32Value(0)
	}
	return uint32Value(n.GetValue()), uint32Value(100)
}

// ownAnswers makes every answer of an application a success, whatever its status: the matcher of errors asks for a header
// that nobody sends.
func ownAnswers(o *waypoint.OutlierDetection) *httpv3.HttpProtocolOptions_OutlierDetection {
	if o != nil {
		return nil
	}
	return &httpv3.HttpProtocolOptions_OutlierDetection{ErrorMatcher: &matcherv3.MatchPredicate{
		Rule: &matcherv3.MatchPredicate_HttpResponseHeadersMatch{HttpResponseHeadersMatch: &matcherv3.HttpHeadersMatch{
			Headers: []*routev3.HeaderMatcher{{
				Name:                 "x-ambit-no-answer",
				HeaderMatchSpecifier: &routev3.HeaderMatcher_PresentMatch{PresentMatch: true},
			}},
		}},
	}}
}
