// Package kube makes a Kubernetes API server a source of configuration, and the place where the control plane writes:
// status, what runs for Gateways, the authority's Secret and the roots everybody reads. It is the control plane's one
// door to Kubernetes; nothing else in it knows client-go.
//
//	API server ══ list+watch, one for each kind ══► feed ──► Source.Run ──► object.Sink
//	                                                             └──► Places (which account has pods on which node)
//	Leader (Lease) ──► Applier, Statuses, Publisher, Events ══ server-side apply ══► API server
//
// What an object means is decided by control/intake, as for files; what is in force stays in force while its object is
// refused, while the API server is away, and while a kind is not served. Nothing of an object is kept here but its name
// and version, and of policies what the leader notes for the next process should a later version be refused. Every Run lends the goroutines it needs from its caller's context and waits
// for them. Start reading at Source.Run.
package kube

import (
	"fmt"
	"log/slog"

	"github.com/go-logr/logr"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
)

// Access says how the API server is reached.
type Access struct {
	// InCluster uses the service account of the pod the process runs in.
	InCluster bool
	// Kubeconfig and Context choose otherwise; empty means kubectl's rules.
	Kubeconfig, Context string
}

// Cluster is a connection to an API server. Safe for concurrent use.
type Cluster struct {
	config  *rest.Config
	dynamic dynamic.Interface
	reviews dynamic.Interface // of tokens, which must not queue behind anything
	raw     rest.Interface
	log     *slog.Logger
}

// Connect reads how the API server is reached. It sends nothing yet.
func Connect(a Access, log *slog.Logger) (*Cluster, error) {
	var config *rest.Config
	var err error
	if a.InCluster {
		if config, err = rest.InClusterConfig(); err != nil {
			return nil, fmt.Errorf("--in-cluster: %w: run in a pod with a service account, or give --kubeconfig", err)
		}
	} else {
		rules := clientcmd.NewDefaultClientConfigLoadingRules()
		rules.ExplicitPath = a.Kubeconfig
		over := &clientcmd.ConfigOverrides{CurrentContext: a.Context}
		if config, err = clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, over).ClientConfig(); err != nil {
			return nil, fmt.Errorf("--kubeconfig: %w", err)
		}
	}
	return NewCluster(config, log)
}

// NewCluster connects with a configuration somebody else has made.
func NewCluster(config *rest.Config, log *slog.Logger) (*Cluster, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	config = rest.CopyConfig(config)
	config.UserAgent = "ambitd"
	// One list for each kind at the start, then little; what is written is bounded by its writers.
	config.QPS, config.Burst = 100, 200
	config.WarningHandlerWithContext = rest.NoWarnings{}
	c := &Cluster{config: config, log: log}
	var err error
	if c.dynamic, err = dynamic.NewForConfig(config); err != nil {
		return nil, fmt.Errorf("connect to the API server: %w", err)
	}
	busy := rest.CopyConfig(config)
	busy.QPS, busy.Burst = 500, 1000 // every proxy of a large cluster may come back at once
	if c.reviews, err = dynamic.NewForConfig(busy); err != nil {
		return nil, fmt.Errorf("connect to the API server: %w", err)
	}
	general := rest.CopyConfig(config)
	general.NegotiatedSerializer = codecs.WithoutConversion()
	if c.raw, err = rest.UnversionedRESTClientFor(general); err != nil {
		return nil, fmt.Errorf("connect to the API server: %w", err)
	}
	return c, nil
}

// klogger passes client-go's own messages on; they are for those who look for trouble in it.
func (c *Cluster) klogger() klog.Logger {
	return logr.FromSlogHandler(quiet{c.log.Handler()})
}

// manager is the name of the control plane as a writer of fields, where a part of it has none of its own.
const manager = "ambitd"
