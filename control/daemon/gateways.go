package daemon

import (
	"context"
	"sync"

	"github.com/ambit-mesh/ambit/control/gateways"
	"github.com/ambit-mesh/ambit/waypoint/deploy"
)

// gatewayRunner keeps what runs for Gateways in step with them, over the folder of configuration.
type gatewayRunner struct {
	folder     *gateways.Folder
	reconciler *gateways.Reconciler
}

// newGateways is nil when nobody asked for Gateways to be run.
func newGateways(d *Daemon) *gatewayRunner {
	if d.cfg.GatewaysFolder == "" {
		return nil
	}
	log := d.logger.With("part", "gateways")
	g := &gatewayRunner{folder: gateways.NewFolder(d.cfg.ConfigDir, d.cfg.GatewaysFolder, log)}
	g.reconciler = gateways.New(gateways.Config{
		Applier: g.folder, Status: d.status, Logger: log,
		Deploy: deploy.Config{
			TrustDomain: d.cfg.TrustDomain, ClusterID: d.cfg.ClusterID, ClusterDomain: d.cfg.ClusterDomain,
			SystemNamespace: d.cfg.RootNamespace, Network: d.cfg.Network,
		},
	})
	return g
}

// run follows the folder and reconciles until ctx ends or one of the two cannot go on.
func (g *gatewayRunner) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = g.reconciler.Run(ctx) // ends only with ctx
	})
	err := g.folder.Run(ctx, g.reconciler)
	cancel()
	wg.Wait()
	return err
}
