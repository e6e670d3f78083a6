package agent

import (
	"fmt"
	"strings"
	"testing"
)

func TestReadEjected(t *testing.T) {
	got, err := readEjected(strings.NewReader(`{"cluster_statuses": [
 {"name": "a", "host_statuses": [
  {"address": {"envoy_internal_address": {"server_listener_name": "connect_originate", "endpoint_id": "10.0.0.1:80"}}, "health_status": {"failed_outlier_check": true, "eds_health_status": "HEALTHY"}},
  {"address": {"envoy_internal_address": {"server_listener_name": "connect_originate", "endpoint_id": "10.0.0.2:80"}}, "health_status": {"eds_health_status": "HEALTHY"}},
  {"address": {"socket_address": {"address": "2001:db8::1", "port_value": 80}}, "health_status": {"failed_outlier_check": true}},
  {"address": {"pipe": {"path": "/x"}}, "health_status": {"failed_outlier_check": true}}]},
 {"name": "b"}]}`))
	if err != nil || fmt.Sprint(got) != "map[a:[10.0.0.1 2001:db8::1]]" {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := readEjected(strings.NewReader("no")); err == nil {
		t.Error("what is no JSON is read")
	}
}
