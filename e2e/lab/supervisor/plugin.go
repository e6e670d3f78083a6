package supervisor

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/e2e/lab/netspace"
	"github.com/ambit-mesh/ambit/e2e/lab/resource"
)

// ambient says whether the mesh wants this pod, as the CNI plugin of a real node decides it before it calls its agent.
// Owned by Run's goroutine.
func (s *Supervisor) ambient(p *pod) bool {
	if !s.hasDaemon("cni", p.node.host.Name) || p.spec.HostNetwork {
		return false
	}
	if _, sidecar := p.doc.Annotations()[mesh.AnnotationSidecarStatus]; sidecar || p.key.Namespace == "kube-system" {
		return false
	}
	switch p.doc.Labels()[mesh.LabelDataplaneMode] {
	case mesh.DataplaneModeAmbient:
		return true
	case mesh.DataplaneModeNone:
		return false
	}
	ns := s.objects[resource.Key{Kind: "Namespace", Name: p.key.Namespace}]
	return ns != nil && ns.object.Labels()[mesh.LabelDataplaneMode] == mesh.DataplaneModeAmbient
}

// cmdAdd is what the CNI plugin sends: the result of the plugin before it, in the CNI library's spelling.
type cmdAdd struct {
	Netns        string
	PodName      string
	PodNamespace string
	IPs          []ipConfig
}

type ipConfig struct {
	Interface int
	Address   net.IPNet
	Gateway   string
}

// plugin does what the node's CNI plugin does: it has the agent enrol the pod before any container starts.
func (k *kubelet) plugin(ctx context.Context) error {
	if k.netns == "" {
		return nil
	}
	eligible, err := k.eligible()
	if err != nil || !eligible {
		return err
	}
	node, _ := k.s.lab.Node(k.host.Name)
	body := cmdAdd{Netns: netspace.Path(k.netns), PodName: k.key.Name, PodNamespace: k.key.Namespace}
	for i, a := range k.addrs {
		body.IPs = append(body.IPs, ipConfig{
			Address: net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())},
			Gateway: k.host.PodGateways[i].String(),
		})
	}
	data, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("encode cni request: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://cni/cmdadd", bytes.NewReader(data))
	if err != nil {
		return fmt.Errorf("cni request: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := unixTransport(node.PluginSocket).RoundTrip(req)
	if err != nil {
		return fmt.Errorf("the cni agent of %s does not answer on %s: %w", k.host.Name, node.PluginSocket, err)
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the cni agent of %s answered %d: %s", k.host.Name, resp.StatusCode, bytes.TrimSpace(text))
	}
	return nil
}

func unixTransport(socket string) *http.Transport {
	return &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}}
}
