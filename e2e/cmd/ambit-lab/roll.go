package main

import (
	"context"
	"fmt"
	"time"

	"github.com/ambit-mesh/ambit/e2e/lab"
	"github.com/ambit-mesh/ambit/e2e/mesh"
)

// rollZtunnel replaces a node's proxy the way its DaemonSet does: the next one first.
func rollZtunnel(ctx context.Context, l *lab.Lab, node string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	began := time.Now()
	if err := mesh.RollZtunnel(ctx, l, node); err != nil {
		return err
	}
	fmt.Printf("ztunnel on %s was replaced and has drained (%s)\n", node, time.Since(began).Round(time.Millisecond))
	return nil
}
