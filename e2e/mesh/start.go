package mesh

import (
	"context"
	"fmt"

	"github.com/ambit-mesh/ambit/e2e/lab"
)

// Start puts the mesh on a lab and waits until all of it is ready. The CA comes first: what the others prove themselves
// with, and check each other by, is made by it. Progress may be nil.
func Start(ctx context.Context, l *lab.Lab, o Options, progress func(string)) ([]lab.Daemon, error) {
	daemons, err := DaemonsWith(l, o)
	if err != nil {
		return nil, err
	}
	if err := waypoints(ctx, l, o, progress); err != nil {
		return nil, fmt.Errorf("prepare the lab for waypoints: %w", err)
	}
	for _, batch := range [][]lab.Daemon{daemons[:1], daemons[1:]} {
		if err := l.Run(ctx, batch...); err != nil {
			return nil, err
		}
		if err := l.DaemonsReady(ctx, progress); err != nil {
			return nil, err
		}
	}
	return daemons, nil
}
