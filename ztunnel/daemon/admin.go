package daemon

import (
	"context"

	"github.com/ambit-mesh/ambit/ztunnel/telemetry"
)

func (z *ztunnel) serveAdmin(ctx context.Context, levels *telemetry.Levels) error {
	<-ctx.Done()
	return nil
}
