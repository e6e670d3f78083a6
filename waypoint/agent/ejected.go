package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/netip"
)

// ejected asks Envoy which endpoints it has taken out because they failed, by cluster.
func (e *envoyAdmin) ejected(ctx context.Context) (map[string][]netip.Addr, error) {
	resp, err := e.do(ctx, http.MethodGet, "/clusters?format=json")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("GET /clusters: Envoy answers %s", resp.Status)
	}
	return readEjected(resp.Body)
}

func readEjected(r io.Reader) (map[string][]netip.Addr, error) {
	var in struct {
		Clusters []struct {
			Name  string
			Hosts []struct {
				Address struct {
					Socket struct{ Address string } `json:"socket_address"`
					// Internal is a tunnel to a pod: the ID is the pod's address and port.
					Internal struct {
						ID string `json:"endpoint_id"`
					} `json:"envoy_internal_address"`
				}
				Health struct {
					Failed bool `json:"failed_outlier_check"`
				} `json:"health_status"`
			} `json:"host_statuses"`
		} `json:"cluster_statuses"`
	}
	if err := json.NewDecoder(r).Decode(&in); err != nil {
		return nil, fmt.Errorf("decode clusters: %w", err)
	}
	out := map[string][]netip.Addr{}
	for _, c := range in.Clusters {
		for _, h := range c.Hosts {
			if !h.Health.Failed {
				continue
			}
			ip, err := netip.ParseAddr(h.Address.Socket.Address)
			if err != nil {
				var at netip.AddrPort
				at, err = netip.ParseAddrPort(h.Address.Internal.ID)
				ip = at.Addr()
			}
			if err == nil {
				out[c.Name] = append(out[c.Name], ip.Unmap())
			}
		}
	}
	return out, nil
}
