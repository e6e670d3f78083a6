package mesh

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/e2e/lab"
)

// RollZtunnel replaces the node proxy of one node as a DaemonSet with maxSurge 1 does: a second one is started beside it,
// and once that is ready the first is asked to drain and end. It returns when it has ended.
func RollZtunnel(ctx context.Context, l *lab.Lab, node string) error {
	old, _, err := StartNextZtunnel(ctx, l, node)
	if err != nil {
		return err
	}
	if err := l.Stop(ctx, old); err != nil {
		return fmt.Errorf("stop the old ztunnel of %s: %w", node, err)
	}
	return nil
}

// StartNextZtunnel starts a second node proxy beside that of a node, and returns the names of both when it is ready.
func StartNextZtunnel(ctx context.Context, l *lab.Lab, node string) (have, started string, err error) {
	st, err := l.Status(ctx)
	if err != nil {
		return "", "", err
	}
	for _, d := range st.Daemons {
		if d.Kind != "ztunnel" || d.Host != node || d.Once {
			continue
		}
		next := d.Daemon
		next.Name = otherName(d.Name)
		next.Grace = max(next.Grace, time.Minute)
		if d.Daemon.Ready == readyURL(mesh.PortReadiness) {
			// In a cluster each has an address of its own; here they share the node's, so one of them moves.
			next.Env = append(slices.Clone(d.Env), fmt.Sprintf("READINESS_ADDR=:%d", otherReadiness))
			next.Ready = readyURL(otherReadiness)
		} else {
			next.Env = slices.DeleteFunc(slices.Clone(d.Env), func(e string) bool { return strings.HasPrefix(e, "READINESS_ADDR=") })
			next.Ready = readyURL(mesh.PortReadiness)
		}
		if err := l.Run(ctx, next); err != nil {
			return "", "", fmt.Errorf("start the next ztunnel of %s: %w", node, err)
		}
		if err := l.DaemonsReady(ctx, nil, next.Name); err != nil {
			return "", "", fmt.Errorf("the next ztunnel of %s: %w", node, err)
		}
		return d.Name, next.Name, nil
	}
	return "", "", fmt.Errorf("no ztunnel runs on %s", node)
}

// otherReadiness is where every second node proxy of a node says that it is ready.
const otherReadiness = mesh.PortReadiness + 1

func readyURL(port int) string { return fmt.Sprintf("http://127.0.0.1:%d/healthz/ready", port) }

// otherName alternates between two names, so that logs and faults find the proxy of a node again.
func otherName(name string) string {
	if base, ok := strings.CutSuffix(name, "+"); ok {
		return base
	}
	return name + "+"
}
