package daemon

import (
	"context"
	"time"

	"github.com/ambit-mesh/ambit/cni/enroll"
)

// Reasons of Events of the agent's own pod.
const (
	// ReasonNotInstalled says that the runtime does not call the plugin, or not this version of it, and why.
	ReasonNotInstalled = "MeshPluginNotInstalled"
	// ReasonInstalled takes that back.
	ReasonInstalled = "MeshPluginInstalled"
)

// watchInstaller shows beside the agent's own pod what stands in the way of the plugin. What is over by the second look,
// as it is when a network plugin starts, is not told.
func (a *Agent) watchInstaller(ctx context.Context) {
	ticker := time.NewTicker(a.cfg.Chain.Every)
	defer ticker.Stop()
	told, before := "", ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		now := ""
		if err := a.parts.Installer.Err(); err != nil {
			now = err.Error()
		}
		settled := now == before
		before = now
		pod, _, known := a.lookup(enroll.Key{Namespace: a.cfg.PodNamespace, Name: a.cfg.PodName})
		if !settled || now == told || !known {
			continue
		}
		told = now
		if now == "" {
			a.tell(ctx, pod, false, ReasonInstalled, "the runtime calls the plugin for new pods")
		} else {
			a.tell(ctx, pod, true, ReasonNotInstalled, "new pods of node "+a.cfg.Node+" may start outside the mesh: "+now)
		}
	}
}
