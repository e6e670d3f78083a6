// Package check judges whether a cluster is fit for a mesh, and whether the mesh in it is well: facts in, findings out, each
// of what is wrong with the command that mends it.
//
// It is pure: it asks nobody. Package apply gathers what the API server knows, and package ctl what the mesh's own parts say.
// It starts no goroutine. Start reading at Judge, then Facts.
package check

import (
	"fmt"
	"time"
)

// State of a finding.
type State string

// States. Only what has failed keeps a mesh from working.
const (
	OK      State = "ok"
	Warning State = "warning"
	Failed  State = "failed"
)

// A Finding is what one check found.
type Finding struct {
	Check string `json:"check"`
	State State  `json:"state"`
	Text  string `json:"text"`
	// Fix is a command, or what else to do.
	Fix string `json:"fix,omitempty"`
}

// Facts are what is known of a cluster.
type Facts struct {
	// Now is the clock here, and Server that of the API server at the same moment; zero if it is not known.
	Now, Server time.Time
	Version     Version
	// Denied are the rights that installing takes and that we do not have, as "create clusterroles".
	Denied  []string
	Nodes   []Node
	Gateway GatewayAPI
	// Plugin is the cluster's own network plugin.
	Plugin Plugin
	// Rivals are other meshes' parts that would take the same pods.
	Rivals []string
	// Foreign are definitions of Istio's kinds that somebody else keeps.
	Foreign []string
	// Policies are NetworkPolicies that keep tunnels out of pods of the mesh, and Widened those that let in by tunnels what they
	// mean to keep out. Enforced says that node proxies enforce them on the real port, so that nothing is widened.
	Policies, Widened []Policy
	Enforced          bool
	// Namespace of the mesh.
	Namespace Namespace
	// Redirection that is or will be used; "auto" by default.
	Redirection string
	// Mesh is nil before an installation.
	Mesh *Mesh
}

// Version of an API server.
type Version struct {
	Major, Minor int
	Text         string
}

// Node is one node, as its kubelet describes it.
type Node struct {
	Name, OS, Arch, Kernel, Image, Runtime string
	Ready                                  bool
	// Trouble is why it is not.
	Trouble string
	// Ahead is how far its clock is before the API server's, 0 if that cannot be said.
	Ahead time.Duration
}

// GatewayAPI is what is installed of the Gateway API.
type GatewayAPI struct {
	Installed        bool
	Version, Channel string
	// Missing are kinds that the mesh knows and the cluster does not.
	Missing []string
}

// Policy is a NetworkPolicy that selects pods of the mesh and has rules for ports of the application.
type Policy struct {
	Namespace, Name string
	Pods            int
	// Rules are the places of these rules in spec.ingress.
	Rules []int
	// By is the policy that lets their peers in by tunnels, if one does, and Others says that it lets in others besides.
	By     string
	Others bool
}

// Namespace is the one of the mesh.
type Namespace struct {
	Name string
	// Exists and Enforce, its Pod Security level.
	Exists  bool
	Enforce string
	// Ending says that it is being deleted.
	Ending bool
}

// Mesh is one that is installed.
type Mesh struct {
	Version, Profile string
	Complete         bool
	Parts            []Part
	// Nodes are what the agents say; Silent are nodes whose agent does not answer, with why.
	Nodes  []Agent
	Silent map[string]string
	// Root is when the mesh's root certificate ends; zero if it is not known.
	Root time.Time
	// Certificates are the authority's own, but for roots, and Warned is what it warns about.
	Certificates []Certificate
	Warned       []string
	// Lost are definitions that belong to the installation and are not there.
	Lost []string
	// Refused counts documents that are refused. Unknown means that nobody could be asked.
	Refused int
	Unknown string
	// Proxies by version, as they introduce themselves to the control plane.
	Proxies map[string]int
}

// Part is a Deployment or DaemonSet of the mesh.
type Part struct {
	Name, Kind string
	// Namespace is not the mesh's own for what runs for Gateways; empty otherwise.
	Namespace  string
	Want, Have int
	Settled    bool
	Missing    bool
	Trouble    []string
	Images     []string
}

// Agent is what one CNI agent says.
type Agent struct {
	Node, Version, Redirection string
	Ready                      bool
	Desired, Captured, Taken   int
	Proxies                    int
	// Plugin is why new pods are not brought in, PluginWarning what is wrong of the plugin and keeps nobody out.
	Plugin, PluginWarning string
	Waiting               map[string]string
}

// Certificate of the authority: its issuer's, one of those between that and the root, or what it serves with.
type Certificate struct {
	Kind, Subject string
	NotAfter      time.Time
}

// Oldest versions that are supported.
const (
	oldestKube = 29
	// admissionKube is the first with ValidatingAdmissionPolicies.
	admissionKube = 30
	kernelMajor   = 5
	kernelMinor   = 10
	skewWarning   = 5 * time.Second
	skewFailure   = time.Minute
	rootWarning   = 60 * 24 * time.Hour
	// issuerWarning is that of the alert AmbitIssuerExpires.
	issuerWarning = 30 * 24 * time.Hour
	wantGateway   = "v1.6.1"
	leastGateway  = "v1.2.0"
	// API servers before gatewayKube refuse parts of later releases of the Gateway API than oldGateway: the definition of TLSRoutes
	// has a rule that calls isIP, and a ValidatingAdmissionPolicy is among the objects.
	gatewayKube = 31
	oldGateway  = "v1.4.1"
)

// GatewayManifest are the definitions of the newest release of the Gateway API that an API server takes whole, of those that the
// mesh knows.
func GatewayManifest(server Version) string {
	release := wantGateway
	if server.beforeGateway() {
		release = oldGateway
	}
	return "https://github.com/kubernetes-sigs/gateway-api/releases/download/" + release + "/standard-install.yaml"
}

// gatewayCommand installs them.
func gatewayCommand(server Version) string {
	return "kubectl apply --server-side -f " + GatewayManifest(server)
}

func (v Version) beforeGateway() bool { return v.Major == 1 && v.Minor < gatewayKube }

// Judge says of everything that is known what it means. Findings come in the order in which they matter.
func Judge(f Facts) []Finding {
	j := &judge{}
	j.server(f)
	j.rights(f)
	j.nodes(f)
	j.plugin(f.Plugin)
	j.gateway(f.Gateway, f.Version)
	j.others(f)
	j.policies(f)
	if f.Mesh != nil {
		j.mesh(f)
	}
	return j.out
}

// Failures counts.
func Failures(list []Finding) int {
	n := 0
	for _, f := range list {
		if f.State == Failed {
			n++
		}
	}
	return n
}

type judge struct{ out []Finding }

func (j *judge) ok(check, format string, args ...any) {
	j.out = append(j.out, Finding{check, OK, fmt.Sprintf(format, args...), ""})
}

func (j *judge) warn(check, fix, format string, args ...any) {
	j.out = append(j.out, Finding{check, Warning, fmt.Sprintf(format, args...), fix})
}

func (j *judge) fail(check, fix, format string, args ...any) {
	j.out = append(j.out, Finding{check, Failed, fmt.Sprintf(format, args...), fix})
}
