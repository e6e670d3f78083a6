// Command ambit-cni is the CNI plugin: the container runtime calls it for each pod, between the pod's network being made
// and its containers being started.
package main

import (
	"context"
	"os"

	"github.com/ambit-mesh/ambit/cni/plugin"
)

func main() {
	ctx := context.Background()
	var log plugin.Log
	call := plugin.Call{Env: os.Getenv, In: os.Stdin, Out: os.Stdout, Log: &log}
	err := call.Run(ctx)
	// A log nobody can take is no reason to hold a pod back.
	_ = log.Deliver(ctx, call.Conf.AgentRunDir)
	if err != nil {
		os.Exit(1)
	}
}
