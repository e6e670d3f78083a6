package supervisor

import (
	"errors"
	"fmt"
	"maps"

	"github.com/ambit-mesh/ambit/api/folder"
	"github.com/ambit-mesh/ambit/e2e/lab/resource"
)

// podStatus is what a kubelet reports.
type podStatus struct {
	phase, reason, message string
	ready, hasAddress      bool
	containers             []containerStatus
}

// containerStatus is what a kubelet reports of one container.
type containerStatus struct {
	name            string
	running, ready  bool
	restarts        int
	exitCode        int
	exited          bool
	reason, message string
	started         string
	// last says that there was a run before this, which ended with exitCode and said.
	last bool
	said string
}

// writePod stores the pod in the folder. Others write there too (the CNI agent its annotation), so only what is the
// lab's is replaced.
func (s *Supervisor) writePod(p *pod) error {
	p.doc["status"] = p.statusDoc()
	file := podFile(p.key)
	err := folder.Edit(s.lab.ConfigDir, file, func(doc map[string]any) (map[string]any, error) {
		if resource.Object(doc).UID() != p.doc.UID() {
			return p.doc, nil
		}
		merged := p.doc.Clone()
		annotations := resource.Object(doc).Annotations()
		maps.Copy(annotations, p.doc.Annotations())
		if len(annotations) > 0 {
			for k, v := range annotations {
				merged.Set(v, "metadata", "annotations", k)
			}
		}
		return merged, nil
	})
	if errors.Is(err, folder.ErrNotFound) {
		var data []byte
		if data, err = p.doc.Marshal(); err == nil {
			err = folder.Write(s.lab.ConfigDir, file, data)
		}
	}
	if err != nil {
		return fmt.Errorf("store %s: %w", p.key, err)
	}
	return nil
}

func (p *pod) statusDoc() map[string]any {
	st := map[string]any{"phase": p.status.phase}
	if p.status.reason != "" {
		st["reason"], st["message"] = p.status.reason, p.status.message
	}
	ready := p.status.ready && !p.ending && (p.node == nil || !p.node.failed)
	conditions := []any{condition("PodScheduled", p.node != nil)}
	if p.node != nil {
		conditions = append(conditions, condition("Initialized", p.status.hasAddress), condition("ContainersReady", ready), condition("Ready", ready))
		st["hostIP"] = p.node.host.Addrs[0].String()
		var hosts []any
		for _, a := range p.node.host.Addrs {
			hosts = append(hosts, map[string]any{"ip": a.String()})
		}
		st["hostIPs"] = hosts
		st["startTime"] = p.doc.Text("metadata", "creationTimestamp")
	}
	st["conditions"] = conditions
	if p.status.hasAddress {
		st["podIP"] = p.addrs[0].String()
		var ips []any
		for _, a := range p.addrs {
			ips = append(ips, map[string]any{"ip": a.String()})
		}
		st["podIPs"] = ips
	}
	var containers []any
	for _, c := range p.status.containers {
		containers = append(containers, c.doc())
	}
	if containers != nil {
		st["containerStatuses"] = containers
	}
	return st
}

func condition(kind string, is bool) map[string]any {
	status := "False"
	if is {
		status = "True"
	}
	return map[string]any{"type": kind, "status": status}
}

func (c containerStatus) doc() map[string]any {
	state := map[string]any{}
	switch {
	case c.running:
		state["running"] = map[string]any{"startedAt": c.started}
	case c.exited && c.reason == "":
		reason := "Completed"
		if c.exitCode != 0 {
			reason = "Error"
		}
		state["terminated"] = map[string]any{"exitCode": float64(c.exitCode), "reason": reason}
	default:
		reason := c.reason
		if reason == "" {
			reason = "ContainerCreating"
		}
		state["waiting"] = map[string]any{"reason": reason, "message": c.message}
	}
	doc := map[string]any{
		"name": c.name, "ready": c.ready, "started": c.running, "restartCount": float64(c.restarts),
		"image": "", "imageID": "", "state": state,
	}
	if c.last {
		doc["lastState"] = map[string]any{"terminated": map[string]any{"exitCode": float64(c.exitCode), "message": c.said}}
	}
	return doc
}
