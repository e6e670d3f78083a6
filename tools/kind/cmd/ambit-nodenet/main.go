// Command ambit-nodenet is the pod network of a cluster built by tools/kind, one process on each node. See package nodenet.
package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/ambit-mesh/ambit/tools/kind/nodenet"
)

func main() {
	log := slog.New(slog.NewTextHandler(os.Stdout, nil))
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	agent := &nodenet.Agent{Node: os.Getenv("NODE_NAME"), Dir: os.Getenv("CNI_DIR"), Log: log}
	if agent.Node == "" || agent.Dir == "" {
		log.Error("NODE_NAME and CNI_DIR have to be set")
		os.Exit(2)
	}
	if err := agent.Run(ctx); err != nil {
		log.Error("cannot serve the node", "error", err)
		os.Exit(1)
	}
}
