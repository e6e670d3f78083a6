// Package labfile is the descriptor a running lab leaves on disk, so that other programs find its nodes, sockets and
// configuration folder without asking the lab's supervisor.
//
// It knows one JSON file per lab and where labs live. It does not know how a lab is built, whether its processes are
// alive, or anything about the mesh inside. It starts no goroutines. Start reading at Lab.
package labfile

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const (
	// DefaultRoot is the folder that holds one folder per lab.
	DefaultRoot = "/run/ambit/lab"
	// EnvRoot overrides DefaultRoot.
	EnvRoot = "AMBIT_LAB_DIR"
	// FileName is the descriptor's name inside a lab's folder.
	FileName = "lab.json"
)

// ErrNotFound says that no lab of the name asked for has a descriptor.
var ErrNotFound = errors.New("no such lab")

// Lab describes one lab: its name, its folder and what stands on its fabric.
type Lab struct {
	Name      string `json:"name"`
	Dir       string `json:"dir"`
	ConfigDir string `json:"configDir"`
	// Supervisor is the unix socket of the process that plays API server and kubelets.
	Supervisor string `json:"supervisor"`
	// DualStack says whether nodes, pods and services have IPv6 addresses too.
	DualStack bool    `json:"dualStack"`
	Nodes     []Node  `json:"nodes"`
	Control   Control `json:"control"`
}

// Node is one node: a network namespace with a bridge for its pods.
type Node struct {
	Name  string `json:"name"`
	Netns string `json:"netns"`
	// RunDir holds the node's sockets, as /var/run does on a machine.
	RunDir string `json:"runDir"`
	// Addresses are the node's own on the fabric, IPv4 first.
	Addresses []string `json:"addresses"`
	// PodCIDRs are the ranges its pods get their addresses from, IPv4 first.
	PodCIDRs []string `json:"podCIDRs"`
	// ZtunnelAdmin is the unix socket of the node proxy's admin interface.
	ZtunnelAdmin string `json:"ztunnelAdmin"`
	// ZtunnelSocket is where the CNI agent hands network namespaces to node proxies.
	ZtunnelSocket string `json:"ztunnelSocket"`
	// PluginSocket is where the CNI agent accepts POST /cmdadd.
	PluginSocket string `json:"pluginSocket"`
	// CNIAdmin is the unix socket of the CNI agent's metrics and readiness.
	CNIAdmin string `json:"cniAdmin"`
}

// Control is the namespace of what serves the whole lab: control plane, CA and DNS.
type Control struct {
	Netns     string   `json:"netns"`
	RunDir    string   `json:"runDir"`
	Addresses []string `json:"addresses"`
	// AdminSocket is the control plane's admin interface.
	AdminSocket string `json:"adminSocket"`
	// CAAdminSocket is the stand-alone CA's admin interface.
	CAAdminSocket string `json:"caAdminSocket"`
}

// GatewayAdmin is the unix socket of the admin interface of a waypoint's or gateway's pod.
func (l *Lab) GatewayAdmin(podUID string) string {
	return filepath.Join(l.Dir, "pods", podUID, "volumes", "istio-envoy", "admin.sock")
}

// Root is the folder labs live in.
func Root() string {
	if root := os.Getenv(EnvRoot); root != "" {
		return root
	}
	return DefaultRoot
}

// Dir is the folder of the lab called name, whether it exists or not.
func Dir(name string) string { return filepath.Join(Root(), name) }

// Node returns the node called name.
func (l *Lab) Node(name string) (Node, bool) {
	i := slices.IndexFunc(l.Nodes, func(n Node) bool { return n.Name == name })
	if i < 0 {
		return Node{}, false
	}
	return l.Nodes[i], true
}

// Load reads the descriptor of the lab called name. An empty name means the only lab there is.
func Load(name string) (*Lab, error) {
	if name == "" {
		return only()
	}
	if strings.ContainsAny(name, "/") || strings.HasPrefix(name, ".") {
		return nil, fmt.Errorf("lab name %q: letters, digits and dashes only", name)
	}
	file := filepath.Join(Dir(name), FileName)
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("lab %q: %w; start it with \"ambit-lab up %s\"", name, ErrNotFound, name)
	}
	if err != nil {
		return nil, fmt.Errorf("read lab descriptor: %w", err)
	}
	var l Lab
	if err := json.Unmarshal(data, &l); err != nil {
		return nil, fmt.Errorf("lab descriptor %s: %w", file, err)
	}
	return &l, nil
}

func only() (*Lab, error) {
	labs, err := List()
	if err != nil {
		return nil, err
	}
	switch len(labs) {
	case 0:
		return nil, fmt.Errorf("%w: none is running; start one with \"ambit-lab up\"", ErrNotFound)
	case 1:
		return labs[0], nil
	}
	names := make([]string, len(labs))
	for i, l := range labs {
		names[i] = l.Name
	}
	return nil, fmt.Errorf("several labs are running (%s): name one with --lab or $AMBIT_LAB", strings.Join(names, ", "))
}

// List reads the descriptors of all labs, ordered by name. A folder without a readable descriptor is left out.
func List() ([]*Lab, error) {
	entries, err := os.ReadDir(Root())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list labs: %w", err)
	}
	var labs []*Lab
	for _, e := range entries {
		if !e.IsDir() || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		// A lab that is just coming up or going down has no descriptor; that is not the reader's trouble.
		if l, err := Load(e.Name()); err == nil {
			labs = append(labs, l)
		}
	}
	return labs, nil
}

// Write stores the descriptor in the lab's folder, replacing it in one step.
func Write(l *Lab) error {
	data, err := json.MarshalIndent(l, "", "  ")
	if err != nil {
		return fmt.Errorf("encode lab descriptor: %w", err)
	}
	file := filepath.Join(l.Dir, FileName)
	tmp := filepath.Join(l.Dir, "."+FileName)
	if err := os.WriteFile(tmp, append(data, '\n'), 0o644); err != nil {
		return fmt.Errorf("write lab descriptor: %w", err)
	}
	if err := os.Rename(tmp, file); err != nil {
		return fmt.Errorf("write lab descriptor: %w", err)
	}
	return nil
}
