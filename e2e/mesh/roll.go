package mesh

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/ambit-mesh/ambit/e2e/lab"
)

// RollZtunnel replaces the node proxy of one node as a DaemonSet with maxSurge 1 does: a second one is started beside it,
// and once that is ready the first is asked to drain and end. It returns when it has ended.
func RollZtunnel(ctx context.Context, l *lab.Lab, node string) error {
	st, err := l.Status(ctx)
	if err != nil {
		return err
	}
	for _, d := range st.Daemons {
		if d.Kind != "ztunnel" || d.Host != node || d.Once {
			continue
		}
		next := d.Daemon
		next.Name = otherName(d.Name)
		next.Grace = max(next.Grace, time.Minute)
		if err := l.Run(ctx, next); err != nil {
			return fmt.Errorf("start the next ztunnel of %s: %w", node, err)
		}
		if err := l.DaemonsReady(ctx, nil, next.Name); err != nil {
			return fmt.Errorf("the next ztunnel of %s: %w", node, err)
		}
		if err := l.Stop(ctx, d.Name); err != nil {
			return fmt.Errorf("stop the old ztunnel of %s: %w", node, err)
		}
		return nil
	}
	return fmt.Errorf("no ztunnel runs on %s", node)
}

// otherName alternates between two names, so that logs and faults find the proxy of a node again.
func otherName(name string) string {
	if base, ok := strings.CutSuffix(name, "+"); ok {
		return base
	}
	return name + "+"
}
