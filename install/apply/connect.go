// Package apply is the one door of install to Kubernetes: it finds the API server the way kubectl does, and puts objects
// there in an order that works, waits for what they become, and takes away what an earlier version left behind.
//
// It knows kinds of objects only as far as order and readiness ask for. It does not know what the objects are for: which
// ones there are is package render's business. It starts no goroutine that outlives a call. Start reading at Connect, then
// Installer.
package apply

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"
)

// Flags say which API server is meant and as whom to speak to it. They are kubectl's, with kubectl's defaults.
type Flags struct {
	// Kubeconfig is a file; empty means $KUBECONFIG, then ~/.kube/config, then the service account of the pod we run in.
	Kubeconfig string
	overrides  clientcmd.ConfigOverrides
}

// Add registers the flags: --kubeconfig, --context, --namespace (-n), --as, --as-group, --as-uid, --request-timeout,
// --server, --token and their like.
func (f *Flags) Add(set *pflag.FlagSet) {
	set.StringVar(&f.Kubeconfig, "kubeconfig", f.Kubeconfig, "kubeconfig file (default $KUBECONFIG, then ~/.kube/config)")
	names := clientcmd.RecommendedConfigOverrideFlags("")
	// -s and -h and their like belong to the commands.
	names.ClusterOverrideFlags.APIServer.ShortName = ""
	clientcmd.BindOverrideFlags(&f.overrides, set, names)
	for _, rare := range []string{
		"cluster", "user", "server", "token", "username", "password", "certificate-authority", "client-certificate", "client-key",
		"insecure-skip-tls-verify", "tls-server-name", "proxy-url", "disable-compression", "as-uid", "as-user-extra",
	} {
		if fl := set.Lookup(rare); fl != nil {
			fl.Hidden = true // as with kubectl, they work; they would drown the others in every help text
		}
	}
}

// ErrNoCluster is wrapped when nothing says where an API server is.
var ErrNoCluster = errors.New("no cluster is configured")

// A Client speaks to one API server. It is safe for concurrent use.
type Client struct {
	// Config is how to reach the server, for whoever needs more than the clients below: port-forward, exec.
	Config *rest.Config
	// Core speaks the built-in kinds, Dynamic all of them.
	Core      kubernetes.Interface
	Dynamic   dynamic.Interface
	Discovery discovery.CachedDiscoveryInterface
	// Mapper translates kinds into resources. It asks again when it does not know one.
	Mapper *restmapper.DeferredDiscoveryRESTMapper
	// Namespace is --namespace, else the context's, else "default"; NamespaceGiven says that it was asked for.
	Namespace      string
	NamespaceGiven bool
	// Context is the kubeconfig context, empty in a pod.
	Context string
}

var _ meta.RESTMapper = (*restmapper.DeferredDiscoveryRESTMapper)(nil)

// loader reads kubeconfigs as kubectl does.
func (f *Flags) loader() clientcmd.ClientConfig {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = f.Kubeconfig
	overrides := f.overrides
	return clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &overrides)
}

// quiet keeps client-go's handlers of errors, which belong to the whole process, from writing between our lines.
var quiet = sync.OnceFunc(func() { runtime.ErrorHandlers = nil })

// Connect builds the client. It asks the server nothing.
func (f *Flags) Connect() (*Client, error) {
	load := f.loader()
	cfg, err := load.ClientConfig()
	if clientcmd.IsEmptyConfig(err) {
		return nil, fmt.Errorf("%w: give --kubeconfig FILE, set KUBECONFIG, or see \"kubectl config view\"", ErrNoCluster)
	}
	if err != nil {
		return nil, fmt.Errorf("read the kubeconfig: %w; see \"kubectl config get-contexts\"", err)
	}
	// What client-go says by itself comes back as an error, too, and is told once, with what to do.
	quiet()
	// Everything an installer asks for at once must not wait for a client-side limit.
	cfg.QPS, cfg.Burst = 100, 200
	cfg.UserAgent = "ambitctl"
	cfg.WarningHandler = rest.NewWarningWriter(os.Stderr, rest.WarningWriterOptions{Deduplicate: true})
	if cfg.Timeout == 0 {
		cfg.Timeout = 30 * time.Second // as kubeclient-timeout; watches and streams set their own
	}
	c, err := New(cfg)
	if err != nil {
		return nil, err
	}
	ns, given, err := load.Namespace()
	if err != nil {
		return nil, fmt.Errorf("read the kubeconfig: %w", err)
	}
	c.Namespace, c.NamespaceGiven = ns, given
	if raw, err := load.RawConfig(); err == nil {
		c.Context = raw.CurrentContext
		if f.overrides.CurrentContext != "" {
			c.Context = f.overrides.CurrentContext
		}
	}
	return c, nil
}

// New is a client for a server that is known already.
func New(cfg *rest.Config) (*Client, error) {
	core, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", cfg.Host, err)
	}
	dyn, err := dynamic.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", cfg.Host, err)
	}
	cached := memory.NewMemCacheClient(core.Discovery())
	return &Client{
		Config: cfg, Core: core, Dynamic: dyn, Discovery: cached,
		Mapper: restmapper.NewDeferredDiscoveryRESTMapper(cached), Namespace: "default",
	}, nil
}
