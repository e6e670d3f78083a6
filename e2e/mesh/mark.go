package mesh

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/e2e/lab"
	"github.com/ambit-mesh/ambit/install/admin"
)

// mark is a change that was made after all others. The control plane reads changes in their order and reports which
// generation of the marked object it has pushed, so it has pushed what came before, of whatever kind, as well.
type mark struct{ generation int }

const (
	kindClass = "GatewayClass"
	// labelMark changes nothing.
	labelMark = "lab.ambit.io/mark"
)

func makeMark(ctx context.Context, l *lab.Lab) (mark, error) {
	class := mesh.GatewayClassIngress
	classes, err := l.Get(ctx, kindClass, "", class)
	if err != nil || len(classes) == 0 {
		return mark{}, err
	}
	value := strconv.FormatInt(time.Now().UnixNano(), 36)
	if err := l.Label(ctx, kindClass, "", class, map[string]string{labelMark: value}); err != nil {
		return mark{}, err
	}
	after, err := l.Get(ctx, kindClass, "", class)
	if err != nil || len(after) == 0 {
		return mark{}, err
	}
	return mark{after[0].Number(0, "metadata", "generation")}, nil
}

// unread says whether the control plane has come to the mark.
func (m mark) unread(ctx context.Context, l *lab.Lab) (string, error) {
	if m.generation == 0 {
		return "", nil
	}
	var read struct {
		Objects []report `json:"objects"`
	}
	if err := ask(ctx, l, "/debug/refusals", &read); err != nil {
		return "", err
	}
	for _, o := range read.Objects {
		if o.Kind == kindClass && o.Name == mesh.GatewayClassIngress && o.ObservedGeneration >= m.generation {
			return "", nil
		}
	}
	return "the control plane has not read what was applied", nil
}

// unprogrammed names a Gateway that the mesh accepts and that does not run yet.
func unprogrammed(ctx context.Context, l *lab.Lab) (string, error) {
	list, err := l.Get(ctx, "Gateway", "", "")
	if err != nil {
		return "", err
	}
	for _, g := range list {
		if c := g.Text("spec", "gatewayClassName"); c != mesh.GatewayClassWaypoint && c != mesh.GatewayClassIngress {
			continue
		}
		generation := g.Number(0, "metadata", "generation")
		accepted, _, current := condition(g.At("status", "conditions"), "Accepted", generation)
		if !current {
			return fmt.Sprintf("the control plane has not looked at %s", g.Key()), nil
		}
		programmed, why, current := condition(g.At("status", "conditions"), "Programmed", generation)
		if accepted && (!programmed || !current) {
			return fmt.Sprintf("%s does not run: %s", g.Key(), why), nil
		}
	}
	return "", nil
}

// condition finds one in a list; current says that it is about this generation.
func condition(list any, kind string, generation int) (is bool, why string, current bool) {
	all, _ := list.([]any)
	for _, v := range all {
		c, _ := v.(map[string]any)
		if c["type"] != kind {
			continue
		}
		observed, _ := c["observedGeneration"].(float64)
		text, _ := c["message"].(string)
		return c["status"] == "True", text, int(observed) >= generation
	}
	return false, "no word of it", false
}

// unbuilt names a Gateway's pod whose Envoy has not taken over what the pod was told.
func unbuilt(ctx context.Context, l *lab.Lab) (string, error) {
	pods, err := l.Get(ctx, "Pod", "", "")
	if err != nil {
		return "", err
	}
	for _, p := range pods {
		if p.Labels()[mesh.LabelGatewayName] == "" || p.Text("status", "phase") != "Running" || p.Text("metadata", "deletionTimestamp") != "" {
			continue
		}
		waiting, err := askWaypoint(ctx, AdminSocket(l, p.UID()))
		if err != nil {
			return "", fmt.Errorf("%s: %w", p.Key(), err)
		}
		if waiting != "" {
			return fmt.Sprintf("%s: %s", p.Key(), waiting), nil
		}
	}
	return "", nil
}

// AdminSocket is where the agent in a Gateway's pod answers tools on this machine.
func AdminSocket(l *lab.Lab, podUID string) string {
	return filepath.Join(l.Dir, "pods", podUID, "volumes", proxyVolume, adminSocket)
}

// askWaypoint says what an agent waits for. A pod whose socket is not there is coming or going, or runs something else.
func askWaypoint(ctx context.Context, socket string) (string, error) {
	client := http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return admin.DialUnix(ctx, socket)
		},
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://waypoint/synced", nil)
	if err != nil {
		return "", fmt.Errorf("ask the agent: %w", err)
	}
	resp, err := client.Do(req)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("ask the agent: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusServiceUnavailable {
		return "", nil
	}
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
	var why struct {
		Waiting string `json:"waiting"`
	}
	if json.Unmarshal(text, &why) == nil && why.Waiting != "" {
		return why.Waiting, nil
	}
	return strings.TrimSpace(string(text)), nil
}
