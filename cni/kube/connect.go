package kube

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"

	"github.com/go-logr/logr"
	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
)

// Access says how the API server is reached.
type Access struct {
	// InCluster uses the service account of the pod the agent runs in.
	InCluster bool
	// Kubeconfig and Context choose otherwise; empty means kubectl's rules.
	Kubeconfig, Context string
}

// Cluster is a connection to an API server. Safe for concurrent use.
type Cluster struct {
	config     *rest.Config
	core, apps rest.Interface
	log        *slog.Logger
}

// Connect reads how the API server is reached. It sends nothing yet.
func Connect(a Access, log *slog.Logger) (*Cluster, error) {
	config, err := a.config()
	if err != nil {
		return nil, err
	}
	return connect(config, log)
}

func connect(config *rest.Config, log *slog.Logger) (*Cluster, error) {
	config.UserAgent = "ambit-cni-agent"
	// A whole node's pods may change at once; each costs a patch.
	config.QPS, config.Burst = 50, 100
	// While a node starts, nothing answers at the API server's address for a while; the default is to wait half a minute.
	config.Dial = (&net.Dialer{Timeout: 2 * time.Second, KeepAlive: 30 * time.Second}).DialContext
	config.WarningHandlerWithContext = rest.NoWarnings{}
	// Pods are large, and what is kept of them is not: protobuf is several times cheaper to read than JSON.
	config.AcceptContentTypes = cmp.Or(config.AcceptContentTypes, runtime.ContentTypeProtobuf+","+runtime.ContentTypeJSON)
	scheme := runtime.NewScheme()
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
	if err := errors.Join(corev1.AddToScheme(scheme), appsv1.AddToScheme(scheme), authenticationv1.AddToScheme(scheme)); err != nil {
		return nil, fmt.Errorf("kinds of Kubernetes: %w", err)
	}
	codecs := serializer.NewCodecFactory(scheme)
	client := func(gv schema.GroupVersion, path string) (rest.Interface, error) {
		c := rest.CopyConfig(config)
		c.GroupVersion, c.APIPath, c.NegotiatedSerializer = &gv, path, codecs.WithoutConversion()
		r, err := rest.RESTClientFor(c)
		if err != nil {
			return nil, fmt.Errorf("connect to the API server: %w", err)
		}
		return r, nil
	}
	c := &Cluster{config: config, log: log.With("area", "kube")}
	var err error
	if c.core, err = client(corev1.SchemeGroupVersion, "/api"); err != nil {
		return nil, err
	}
	if c.apps, err = client(appsv1.SchemeGroupVersion, "/apis"); err != nil {
		return nil, err
	}
	return c, nil
}

func (a Access) config() (*rest.Config, error) {
	if a.InCluster {
		config, err := rest.InClusterConfig()
		if err != nil {
			return nil, fmt.Errorf("the cluster's API server: %w: run in a pod with a service account, or set --kubeconfig", err)
		}
		return config, nil
	}
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = a.Kubeconfig
	over := &clientcmd.ConfigOverrides{CurrentContext: a.Context}
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, over).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("--kubeconfig: %w", err)
	}
	return config, nil
}

// Credentials are what another program of the node needs to read pods as the agent does.
type Credentials struct {
	Server   string
	CA       []byte
	Token    string
	Insecure bool
}

// Credentials reads them anew: tokens are replaced while the agent runs.
func (c *Cluster) Credentials() (Credentials, error) {
	out := Credentials{Server: c.config.Host, CA: c.config.CAData, Token: c.config.BearerToken, Insecure: c.config.Insecure}
	if file := c.config.CAFile; len(out.CA) == 0 && file != "" {
		ca, err := os.ReadFile(file)
		if err != nil {
			return out, fmt.Errorf("the API server's authority: %w", err)
		}
		out.CA = ca
	}
	if file := c.config.BearerTokenFile; file != "" {
		token, err := os.ReadFile(file)
		if err != nil {
			return out, fmt.Errorf("the service account's token: %w", err)
		}
		out.Token = string(token)
	}
	return out, nil
}

// klogger passes client-go's own messages on; they are for those who look for trouble in it.
func (c *Cluster) klogger() klog.Logger { return logr.FromSlogHandler(quiet{c.log.Handler()}) }
