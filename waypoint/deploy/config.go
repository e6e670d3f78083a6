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
	// Requests and Limits are by resource name. Nil means the defaults.
	Requests, Limits map[string]string
	// Replicas is what to start with; 0 leaves the number to whoever scales it.
	Replicas int
	// DrainSeconds is how long connections are given to end, GraceSeconds when the pod is ended anyway, and PreStopSeconds
	// how long a pod goes on as if nothing were, so that everybody hears that it is leaving.
	DrainSeconds, GraceSeconds, PreStopSeconds int
	// Autoscaling renders an autoscaler.
	Autoscaling *Autoscaling
	// MinAvailable renders a disruption budget: a number or a percentage.
	MinAvailable string
	// SpreadOver are node labels over which pods are spread evenly, as far as there is room.
	SpreadOver []string
}

// Autoscaling of a Gateway's pods.
type Autoscaling struct {
	Min, Max int
	// CPUPercent of the request that is aimed at; 0 means 80.
	CPUPercent int
	// StabilizeSeconds is how long load must have been low before pods are taken away; 0 means 300. Long-lived tunnels end
	// with their pod, so going down is slow on purpose.
	StabilizeSeconds int
}

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
	c.Revision = cmp.Or(c.Revision, "default")
	c.Image = cmp.Or(c.Image, "ambit-waypoint")
	c.DrainSeconds = cmp.Or(c.DrainSeconds, 30)
	c.GraceSeconds = cmp.Or(c.GraceSeconds, c.DrainSeconds+c.PreStopSeconds+15)
	if c.Requests == nil {
		c.Requests = map[string]string{"cpu": "100m", "memory": "128Mi"}
	}
	if c.Limits == nil {
		c.Limits = map[string]string{"cpu": "2", "memory": "1Gi"}
	}
	return c
}
