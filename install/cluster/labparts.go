package cluster

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/ambit-mesh/ambit/install/admin"
)

// String names the lab.
func (l *lab) String() string { return "lab " + l.Name }

// DefaultNamespace is where documents without a namespace go.
func (l *lab) DefaultNamespace() string { return "default" }

// Words are those of "ambitctl lab".
func (l *lab) Words() Words {
	return Words{
		Logs:   func(namespace, pod string) string { return fmt.Sprintf("ambitctl lab logs -n %s %s", namespace, pod) },
		Pods:   "ambitctl lab get pods -A",
		Health: "ambitctl lab status --lab " + l.Name,
		Start:  "ambitctl lab up",
	}
}

// Names of the lab's daemons; those of nodes are NAME@NODE.
const (
	daemonControl   = "ambitd"
	daemonAuthority = "ambit-ca"
	daemonProxy     = "ztunnel@"
	daemonAgent     = "ambit-cni-agent@"
)

// Parts lists the lab's daemons. They are where the descriptor says; how they are, the supervisor adds if it answers.
func (l *lab) Parts(ctx context.Context, kind Kind) ([]Part, error) {
	part := func(what, name, node, socket string) Part {
		return Part{Kind: kind, Node: node, Pod: "daemon/" + name, Ready: true, Endpoint: admin.Endpoint{
			What: what, Address: "unix:" + socket, Hint: "see \"" + l.Words().Health + "\""}}
	}
	var out []Part
	switch kind {
	case Control:
		out = append(out, part("control plane", daemonControl, "", l.Control.AdminSocket))
	case Authority:
		out = append(out, part("certificate authority", daemonAuthority, "", l.Control.CAAdminSocket))
	case NodeProxy:
		for _, n := range l.Nodes {
			out = append(out, part("ztunnel of "+n.Name, daemonProxy+n.Name, n.Name, n.ZtunnelAdmin))
		}
	case Agent:
		for _, n := range l.Nodes {
			out = append(out, part("agent of "+n.Name, daemonAgent+n.Name, n.Name, n.CNIAdmin))
		}
	default:
		return nil, fmt.Errorf("%s: not one of the mesh's own parts", kind)
	}
	daemons, err := l.daemons(ctx)
	if err != nil {
		return out, nil
	}
	for i := range out {
		if d, ok := daemons[strings.TrimPrefix(out[i].Pod, "daemon/")]; ok {
			out[i].Ready, out[i].Restarts = d.Ready, int64(d.Restarts)
			if !d.Ready {
				out[i].Trouble = cmp.Or(d.NotReady, d.LastExit, d.State)
			}
		}
	}
	return out, nil
}

// daemon is what the supervisor tells of one.
type daemon struct {
	Name     string `json:"name"`
	State    string `json:"state"`
	Ready    bool   `json:"readyNow"`
	NotReady string `json:"notReady"`
	Restarts int    `json:"restarts"`
	LastExit string `json:"lastExit"`
	Log      string `json:"log"`
}

// daemons lists the lab's by name. One that was rolled has a successor, whose name has a + more.
func (l *lab) daemons(ctx context.Context) (map[string]daemon, error) {
	var st struct {
		Daemons []daemon `json:"daemons"`
	}
	if err := l.call(ctx, http.MethodGet, "/v1/status", nil, nil, &st); err != nil {
		return nil, err
	}
	out := map[string]daemon{}
	for _, d := range st.Daemons {
		out[strings.TrimRight(d.Name, "+")] = d
	}
	return out, nil
}

// Proxy is the waypoint or gateway in a pod.
func (l *lab) Proxy(pod Object) Part {
	ready := false
	for _, c := range pod.Items("status", "conditions") {
		ready = ready || c.Text("type") == "Ready" && c.Text("status") == "True"
	}
	return Part{
		Kind: Gateway, Node: pod.Text("spec", "nodeName"), Namespace: pod.Namespace(), Pod: pod.Name(), Ready: ready,
		Endpoint: admin.Endpoint{
			What: "waypoint pod " + pod.Namespace() + "/" + pod.Name(), Address: "unix:" + l.GatewayAdmin(pod.Text("metadata", "uid")),
			Hint: "see \"" + l.Words().Logs(pod.Namespace(), pod.Name()) + "\"",
		},
	}
}

// Logs opens a log on disk. The lab keeps no times of lines, and no runs apart.
func (l *lab) Logs(ctx context.Context, of Part, want LogRange) (io.ReadCloser, error) {
	if want.Previous {
		return nil, fmt.Errorf("earlier runs of %s: %w", of.Pod, ErrNotFound)
	}
	path, err := l.logFile(ctx, of)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("log of %s: %w", of.Pod, err)
	}
	defer f.Close()
	limit := cmp.Or(want.Bytes, maxLog)
	if st, err := f.Stat(); err == nil && st.Size() > limit {
		if _, err := f.Seek(-limit, io.SeekEnd); err != nil {
			return nil, fmt.Errorf("log of %s: %w", of.Pod, err)
		}
	}
	data, err := io.ReadAll(io.LimitReader(f, limit))
	if err != nil {
		return nil, fmt.Errorf("log of %s: %w", of.Pod, err)
	}
	return io.NopCloser(bytes.NewReader(lastLines(data, want.Tail))), nil
}

// maxLog bounds a log of which everything is wanted.
const maxLog = 64 << 20

func lastLines(data []byte, n int64) []byte {
	if n <= 0 {
		return data
	}
	for i := len(data) - 2; i >= 0; i-- { // not the end of the last line
		if data[i] == '\n' {
			if n--; n == 0 {
				return data[i+1:]
			}
		}
	}
	return data
}

func (l *lab) logFile(ctx context.Context, of Part) (string, error) {
	if name, ok := strings.CutPrefix(of.Pod, "daemon/"); ok {
		daemons, err := l.daemons(ctx)
		if err != nil {
			return "", err
		}
		if d, ok := daemons[name]; ok {
			return d.Log, nil
		}
		return "", fmt.Errorf("daemon %s: %w", name, ErrNotFound)
	}
	var p struct {
		Containers []struct {
			Name string `json:"name"`
			Log  string `json:"log"`
		} `json:"containers"`
	}
	if err := l.call(ctx, http.MethodGet, "/v1/pod", url.Values{"namespace": {of.Namespace}, "name": {of.Pod}}, nil, &p); err != nil {
		return "", err
	}
	for _, c := range p.Containers {
		if of.Container == "" || of.Container == c.Name {
			return c.Log, nil
		}
	}
	return "", errors.New("pod " + of.Namespace + "/" + of.Pod + " has no container " + of.Container)
}
