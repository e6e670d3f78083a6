package envoy

import (
	"fmt"
	"time"

	commonfaultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/fault/v3"
	faultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/ambit-mesh/ambit/api/waypoint"
)

// Names of the HTTP filters whose settings are the routes'. Each stands once in every chain and does nothing by itself.
const (
	filterFault   = "envoy.filters.http.fault"
	filterCORS    = "envoy.filters.http.cors"
	filterSession = "envoy.filters.http.stateful_session"
)

// faultConfig makes requests late, or fail; nil: neither.
func faultConfig(f *waypoint.Fault) (*faultv3.HTTPFault, error) {
	out := &faultv3.HTTPFault{}
	if delay := positive(f.GetDelay()); delay > 0 && f.GetDelayPerMillion() > 0 {
		out.Delay = &commonfaultv3.FaultDelay{
			FaultDelaySecifier: &commonfaultv3.FaultDelay_FixedDelay{FixedDelay: durationpb.New(delay)},
			Percentage:         perMillion(f.GetDelayPerMillion()),
		}
	}
	if f.GetAbortPerMillion() > 0 {
		out.Abort = &faultv3.FaultAbort{Percentage: perMillion(f.GetAbortPerMillion())}
		switch grpc := f.GetAbortGrpcStatus(); {
		case grpc != nil:
			if grpc.GetValue() > 16 {
				return nil, fmt.Errorf("fault: gRPC status %d is none: use 0 to 16", grpc.GetValue())
			}
			out.Abort.ErrorType = &faultv3.FaultAbort_GrpcStatus{GrpcStatus: grpc.GetValue()}
		case f.GetAbortStatus() < 200 || f.GetAbortStatus() > 599:
			return nil, fmt.Errorf("fault: HTTP status %d is none to abort with: use 200 to 599", f.GetAbortStatus())
		default:
			out.Abort.ErrorType = &faultv3.FaultAbort_HttpStatus{HttpStatus: f.GetAbortStatus()}
		}
	}
	if out.Delay == nil && out.Abort == nil {
		return nil, nil
	}
	return out, nil
}

// longest is more than anybody waits, and within what Envoy takes for a duration.
const longest = 10 * 365 * 24 * time.Hour

// positive is a duration that is not negative and not beyond what Envoy takes; absent or invalid is 0.
func positive(d *durationpb.Duration) time.Duration {
	if d == nil || d.CheckValid() != nil {
		return 0
	}
	return min(max(d.AsDuration(), 0), longest)
}
