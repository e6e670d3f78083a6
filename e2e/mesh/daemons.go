// Package mesh puts Ambit's real daemons on the hosts of a lab: control plane and certificate authority on the control
// host, a CNI agent and a ztunnel on every node.
//
// It knows the daemons' flags, names and ports, and makes the keys and tokens a cluster would give them. How processes are
// kept running is the lab's business. It starts no goroutines. Start reading at Daemons.
package mesh

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ambit-mesh/ambit/api/labfile"
	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/ca/token"
	"github.com/ambit-mesh/ambit/e2e/lab"
)

const (
	// EnvBin is the folder of the mesh's programs; without it they are looked for beside the running one.
	EnvBin = "AMBIT_BIN"
	// EnvRedirection is how pods' traffic is captured where Options do not say it.
	EnvRedirection = "AMBIT_REDIRECTION"

	controlName = "ambitd.ambit-system.svc"
	caName      = "ambit-ca.ambit-system.svc"
	controlPort = "15012"
	caPort      = "15013"
	// tokenTTL is longer than any lab lives: nothing in a lab renews tokens.
	tokenTTL = 30 * 24 * time.Hour
	timeout  = 10 * time.Second
)

// Options change what runs. The zero value is Ambit alone.
type Options struct {
	// Ztunnel is another node proxy's command line; empty means Ambit's own.
	Ztunnel []string
	// ZtunnelEnv is added to each proxy's environment, ControlArgs and CNIArgs to the other daemons' arguments.
	ZtunnelEnv           []string
	ControlArgs, CNIArgs []string
	// Redirection is how pods' traffic is captured: nftables, iptables, ebpf or auto. Empty means what the environment
	// says in AMBIT_REDIRECTION, and then what the agents choose.
	Redirection string
	// Envoy is the binary that waypoints run; empty means the one that the waypoint program itself would find or fetch.
	Envoy string
}

// Daemons prepares a lab for the mesh and returns what to run on its hosts, the CA first.
func Daemons(l *lab.Lab) ([]lab.Daemon, error) { return DaemonsWith(l, Options{}) }

// DaemonsWith is Daemons with options. It writes keys and tokens into the lab's folder and the node proxies' pods into
// its configuration, where the control plane and the CA find them.
func DaemonsWith(l *lab.Lab, o Options) ([]lab.Daemon, error) {
	p := plan{l: l, o: o, dir: filepath.Join(l.Dir, "mesh")}
	bin, err := programs()
	if err != nil {
		return nil, err
	}
	p.bin = bin
	if p.o.Redirection == "" {
		p.o.Redirection = os.Getenv(EnvRedirection)
	}
	if err := p.pins(); err != nil {
		return nil, err
	}
	if err := p.keys(); err != nil {
		return nil, fmt.Errorf("prepare the lab for the mesh: %w", err)
	}
	daemons := []lab.Daemon{p.ca(), p.control()}
	for _, n := range l.Nodes {
		zt, err := p.ztunnel(n)
		if err != nil {
			return nil, fmt.Errorf("prepare ztunnel of %s: %w", n.Name, err)
		}
		daemons = append(daemons, p.cni(n), zt)
	}
	return daemons, nil
}

// programs finds the folder of the mesh's binaries.
func programs() (string, error) {
	dir := os.Getenv(EnvBin)
	if dir == "" {
		self, err := os.Executable()
		if err != nil {
			return "", fmt.Errorf("find own binary: %w", err)
		}
		dir = filepath.Dir(self)
	}
	for _, name := range []string{"ambit-ca", "ambitd", "ambit-cni-agent", "ztunnel"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			return "", fmt.Errorf("%s is not in %s: run \"make build\", or set %s to the folder it is in", name, dir, EnvBin)
		}
	}
	return dir, nil
}

type plan struct {
	l        *lab.Lab
	o        Options
	dir, bin string
}

func (p plan) file(elem ...string) string {
	return filepath.Join(append([]string{p.dir}, elem...)...)
}

// bpf is where the agents keep programs: a file system of the lab's own, which goes with the lab, and the programs with it.
func (p plan) bpf() string { return filepath.Join(p.l.Dir, "bpf") }

// pins mounts it, before the daemons start, which would not see it otherwise.
func (p plan) pins() error {
	dir := p.bpf()
	err := os.MkdirAll(dir, 0o700)
	if err == nil {
		var st unix.Statfs_t
		if serr := unix.Statfs(dir, &st); serr == nil && st.Type == unix.BPF_FS_MAGIC {
			return nil
		}
		err = unix.Mount("bpf", dir, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700")
	}
	if err != nil && p.o.Redirection == "ebpf" {
		return fmt.Errorf("mount a BPF file system for the lab (CONFIG_BPF_SYSCALL): %w", err)
	}
	return nil
}

// program is the path of one of the mesh's binaries.
func (p plan) program(name string) string { return filepath.Join(p.bin, name) }

// keys makes the key that signs tokens, which a cluster's API server would have.
func (p plan) keys() error {
	for _, d := range []string{p.dir, p.file("control"), p.file("issuer")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return err
		}
	}
	data, err := os.ReadFile(p.file("token.key"))
	if errors.Is(err, fs.ErrNotExist) {
		if _, data, err = token.NewKey(); err == nil {
			err = os.WriteFile(p.file("token.key"), data, 0o600)
		}
	}
	if err != nil {
		return err
	}
	key, err := token.ParseSigner(data)
	if err != nil {
		return err
	}
	jwks, err := token.PublicKeys(key.Public()).JWKS()
	if err != nil {
		return err
	}
	if err := os.WriteFile(p.file("token.jwks"), jwks, 0o644); err != nil {
		return err
	}
	return p.mint("ambit-ca.token", token.Claims{ServiceAccount: "ambit-ca"})
}

// mint writes a token of a service account in the system namespace.
func (p plan) mint(name string, c token.Claims) error {
	data, err := os.ReadFile(p.file("token.key"))
	if err != nil {
		return err
	}
	key, err := token.ParseSigner(data)
	if err != nil {
		return err
	}
	c.Namespace, c.Issuer, c.Audiences = mesh.SystemNamespace, token.DefaultIssuer, []string{mesh.TokenAudience}
	c.IssuedAt = time.Now()
	c.Expiry = c.IssuedAt.Add(tokenTTL)
	raw, err := token.Mint(key, c)
	if err != nil {
		return err
	}
	return os.WriteFile(p.file(name), []byte(raw), 0o600)
}

func (p plan) controlAddr(port string) string {
	return net.JoinHostPort(p.l.Control.Addresses[0], port)
}

func (p plan) ca() lab.Daemon {
	return lab.Daemon{
		Name: "ambit-ca", Kind: "ca", Host: lab.ControlHost, Ready: "unix:" + p.l.Control.CAAdminSocket + ":/readyz",
		Args: []string{p.program("ambit-ca"),
			"--listen", ":" + caPort, "--admin", "unix:" + p.l.Control.CAAdminSocket,
			"--issuer", p.file("issuer"), "--roots-file", p.file("roots.pem"),
			"--serving-dns", strings.Join([]string{caName, caName + ".cluster.local", "control", p.l.Control.Addresses[0]}, ","),
			"--serving-cert", p.file("control") + "=" + strings.Join([]string{controlName, controlName + ".cluster.local", "control", p.l.Control.Addresses[0]}, ","),
			"--token-keys", p.file("token.jwks"),
			"--trusted-node-accounts", mesh.SystemNamespace + "/ztunnel",
			"--xds-address", "https://" + p.controlAddr(controlPort), "--xds-server-name", controlName, "--xds-token", p.file("ambit-ca.token"),
		},
	}
}

func (p plan) control() lab.Daemon {
	return lab.Daemon{
		Name: "ambitd", Kind: "control", Host: lab.ControlHost, Ready: "unix:" + p.l.Control.AdminSocket + ":/readyz",
		Args: append([]string{p.program("ambitd"),
			"--config-dir", p.l.ConfigDir, "--state-dir", p.file("control-state"), "--listen", ":" + controlPort, "--tls-dir", p.file("control"),
			"--token-keys", p.file("token.jwks"), "--admin-socket", p.l.Control.AdminSocket, "--dry-run-policies",
			"--gateways-folder", "applied",
		}, p.o.ControlArgs...),
	}
}

func (p plan) cni(n labfile.Node) lab.Daemon {
	args := []string{p.program("ambit-cni-agent"),
		"--node", n.Name, "--pods-dir", p.l.ConfigDir, "--run-dir", n.RunDir, "--ztunnel-socket", n.ZtunnelSocket,
		"--host-netns", n.Netns, "--admin-socket", n.CNIAdmin, "--bpf-dir", filepath.Join(p.bpf(), n.Name),
	}
	if p.o.Redirection != "" {
		args = append(args, "--redirection", p.o.Redirection)
	}
	return lab.Daemon{
		Name: "ambit-cni-agent@" + n.Name, Kind: "cni", Host: n.Name, Ready: "unix:" + n.CNIAdmin + ":/readyz",
		Args: append(args, p.o.CNIArgs...),
	}
}

// ztunnel gives the node proxy what a DaemonSet's pod has: an object with a uid, a service account, and a token bound to
// them, by which the CA believes it about the pods of its node.
func (p plan) ztunnel(n labfile.Node) (lab.Daemon, error) {
	name := "ztunnel-" + n.Name
	uid, err := p.ztunnelPod(name, n.Name)
	if err != nil {
		return lab.Daemon{}, err
	}
	if err := p.mint(name+".token", token.Claims{ServiceAccount: "ztunnel", PodName: name, PodUID: uid, Node: n.Name}); err != nil {
		return lab.Daemon{}, err
	}
	args := p.o.Ztunnel
	if len(args) == 0 {
		args = []string{p.program("ztunnel")}
	}
	env := []string{
		"NODE_NAME=" + n.Name, "CLUSTER_ID=" + mesh.DefaultClusterID,
		"POD_NAME=" + name, "POD_NAMESPACE=" + mesh.SystemNamespace, "SERVICE_ACCOUNT=ztunnel", "INSTANCE_IP=" + n.Addresses[0],
		"XDS_ADDRESS=https://" + p.controlAddr(controlPort), "ALT_XDS_HOSTNAME=" + controlName, "XDS_ROOT_CA=" + p.file("roots.pem"),
		"CA_ADDRESS=https://" + p.controlAddr(caPort), "ALT_CA_HOSTNAME=" + caName, "CA_ROOT_CA=" + p.file("roots.pem"),
		"AUTH_TOKEN=" + p.file(name+".token"), "INPOD_UDS=" + n.ZtunnelSocket, "AMBIT_ADMIN_SOCKET=" + n.ZtunnelAdmin,
	}
	return lab.Daemon{
		Name: "ztunnel@" + n.Name, Kind: "ztunnel", Host: n.Name, Args: args, Env: append(env, p.o.ZtunnelEnv...),
		Ready: readyURL(mesh.PortReadiness), Grace: 10 * time.Second,
	}, nil
}

func (p plan) ztunnelPod(name, node string) (uid string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	doc := fmt.Sprintf(`
apiVersion: v1
kind: ServiceAccount
metadata: {name: ztunnel, namespace: %[3]s}
---
apiVersion: v1
kind: Pod
metadata:
  name: %[1]s
  namespace: %[3]s
  labels: {app: ztunnel}
  annotations: {lab.ambit.io/external: "true"}
spec:
  nodeName: %[2]s
  hostNetwork: true
  serviceAccountName: ztunnel
  containers: [{name: istio-proxy, command: [ztunnel]}]
`, name, node, mesh.SystemNamespace)
	if _, err := p.l.Apply(ctx, []byte(doc), mesh.SystemNamespace); err != nil {
		return "", err
	}
	pods, err := p.l.Get(ctx, "Pod", mesh.SystemNamespace, name)
	if err != nil {
		return "", err
	}
	if len(pods) != 1 {
		return "", fmt.Errorf("pod %s was applied and is not there", name)
	}
	return pods[0].UID(), nil
}
