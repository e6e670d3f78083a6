package deploy

import (
	"cmp"

	"github.com/ambit-mesh/ambit/api/mesh"
)

// Config is what the mesh knows and a Gateway does not say. The zero value is usable.
type Config struct {
	// XDSAddress and CAAddress are URLs; empty means the control plane's Service in the system namespace.
	XDSAddress, CAAddress string
	SystemNamespace       string
	TrustDomain           string
	ClusterDomain         string
	ClusterID             string
	MeshID                string
	Network               string
	// Revision is written on pods; empty means "default".
	Revision string
	// Image is the program's image; where programs come without images it means nothing.
	Image string
	// PullPolicy is imagePullPolicy; empty means IfNotPresent. PullSecrets are names of Secrets of the Gateway's namespace.
	PullPolicy  string
	PullSecrets []string
	// LogLevel is the agent's, empty for its own default. Envoy's is not told: it says much more of each level.
	LogLevel string
	LogJSON  bool
	// Requests and Limits are by resource name. Nil means the defaults.
	Requests, Limits map[string]string
	// Autoscaling renders an autoscaler for a waypoint, unless an overlay says how many pods it has; nil renders none.
	Autoscaling *Autoscaling
	// Budget renders a disruption budget for a waypoint that is to have several pods.
	Budget bool
}

// Autoscaling of a waypoint's pods.
type Autoscaling struct {
	// Min 0 means 1, and Max 0 means 5.
	Min, Max int
	// CPUPercent of the request that is aimed at; 0 means 80.
	CPUPercent int
}

// How a pod ends is the agent's business, which begins with SIGTERM: it withdraws its readiness, goes on for 5 s in which
// everybody hears of it, and gives connections drainSeconds to end. graceSeconds are a little more than all of that.
const (
	drainSeconds = 30
	graceSeconds = drainSeconds + 15
)

// uid is what the program runs as. Istio pilot/pkg/bootstrap: proxy user
const uid = 1337

func (c Config) withDefaults() Config {
	c.SystemNamespace = cmp.Or(c.SystemNamespace, mesh.SystemNamespace)
	c.XDSAddress = cmp.Or(c.XDSAddress, "https://ambitd."+c.SystemNamespace+".svc:15012")
	c.CAAddress = cmp.Or(c.CAAddress, c.XDSAddress)
	c.TrustDomain = cmp.Or(c.TrustDomain, mesh.DefaultTrustDomain)
	c.ClusterDomain = cmp.Or(c.ClusterDomain, mesh.DefaultClusterDomain)
	c.ClusterID = cmp.Or(c.ClusterID, mesh.DefaultClusterID)
	c.MeshID = cmp.Or(c.MeshID, c.TrustDomain)
	c.Revision = cmp.Or(c.Revision, mesh.DefaultRevision)
	c.Image = cmp.Or(c.Image, "ambit-waypoint")
	// Kubernetes pulls images tagged latest anew for each pod, also where they were loaded and no registry has them.
	c.PullPolicy = cmp.Or(c.PullPolicy, "IfNotPresent")
	if c.Requests == nil {
		c.Requests = map[string]string{"cpu": "100m", "memory": "128Mi"}
	}
	if c.Limits == nil {
		c.Limits = map[string]string{"cpu": "2", "memory": "1Gi"}
	}
	return c
}
