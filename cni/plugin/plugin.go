package plugin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/ambit-mesh/ambit/cni/enroll"
)

// Versions of the CNI specification the plugin speaks.
var versions = []string{"0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"}

// Conf is the plugin's entry in the node's CNI configuration, as the runtime sends it. The names are Istio's
// (istio/istio cni/pkg/plugin/plugin.go Config).
type Conf struct {
	CNIVersion string          `json:"cniVersion"`
	Name       string          `json:"name"`
	PrevResult json.RawMessage `json:"prevResult"`

	AmbientEnabled      *bool             `json:"ambient_enabled"`
	EnablementSelectors []enroll.Selector `json:"enablement_selectors"`
	ExcludeNamespaces   []string          `json:"exclude_namespaces"`
	PodNamespace        string            `json:"pod_namespace"`
	AgentRunDir         string            `json:"cni_agent_run_dir"`
	DetectionRetry      bool              `json:"enable_ambient_detection_retry"`
	LogLevel            string            `json:"plugin_log_level"`
	Kubernetes          struct {
		Kubeconfig string `json:"kubeconfig"`
	} `json:"kubernetes"`
}

// Call is one invocation by the container runtime.
type Call struct {
	// Env reads the runtime's variables.
	Env func(string) string
	In  io.Reader
	Out io.Writer
	// Log gets what the operator may want to know; Out is the runtime's alone.
	Log *Log
	// Conf is filled by Run.
	Conf Conf
}

// Error codes of the CNI specification: its section on errors, codes below 100 being reserved.
const (
	codeVersion = 1
	codeEnv     = 4
	codeDecode  = 6
	codeAgent   = 999
)

// Error is what the runtime is told.
type Error struct {
	Code int
	Err  error
}

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// Run carries out one call. An error has been written to Out in the runtime's format when it returns; the process has
// to end with a code other than 0.
func (c *Call) Run(ctx context.Context) error {
	err := c.run(ctx)
	if err == nil {
		return nil
	}
	code := codeAgent
	if e := (*Error)(nil); errors.As(err, &e) {
		code = e.Code
	}
	c.Log.Logger().Error("pod is held back", "err", err)
	version := c.Conf.CNIVersion
	if version == "" {
		version = "0.3.1"
	}
	werr := json.NewEncoder(c.Out).Encode(map[string]any{"cniVersion": version, "code": code, "msg": err.Error()})
	return errors.Join(err, werr)
}

func (c *Call) run(ctx context.Context) error {
	command := c.Env("CNI_COMMAND")
	if command == "VERSION" {
		return json.NewEncoder(c.Out).Encode(map[string]any{"cniVersion": "1.1.0", "supportedVersions": versions})
	}
	in, err := io.ReadAll(io.LimitReader(c.In, 4<<20))
	if err != nil {
		return &Error{codeDecode, fmt.Errorf("read network configuration: %w", err)}
	}
	if err := json.Unmarshal(in, &c.Conf); err != nil {
		return &Error{codeDecode, fmt.Errorf("network configuration: %w", err)}
	}
	if !slices.Contains(versions, c.Conf.CNIVersion) {
		return &Error{codeVersion, fmt.Errorf("CNI version %q is not supported, only %s", c.Conf.CNIVersion, strings.Join(versions, ", "))}
	}
	c.Log.SetLevel(c.Conf.LogLevel)
	switch command {
	case "ADD":
		if err := c.add(ctx); err != nil {
			return err
		}
		return c.passOn()
	case "CHECK":
		return c.check(ctx)
	case "DEL", "GC":
		// What was done to a pod is in its network namespace and ends with it; the agent learns of that from the API server.
		return nil
	case "STATUS":
		// Without the agent pods of the mesh wait, and all others start: the network is ready. Saying otherwise would keep
		// the agent's own pod from starting, too.
		return nil
	default:
		return &Error{codeEnv, fmt.Errorf("CNI_COMMAND %q is not known", command)}
	}
}

// passOn prints what the plugin before us made: we add nothing to it.
func (c *Call) passOn() error {
	if len(c.Conf.PrevResult) == 0 || string(c.Conf.PrevResult) == "null" {
		return json.NewEncoder(c.Out).Encode(map[string]any{"cniVersion": c.Conf.CNIVersion})
	}
	_, err := c.Out.Write(c.Conf.PrevResult)
	return err
}

// subject is the pod that the call is about, unless the configuration alone says that it is none of ours.
func (c *Call) subject() (namespace, name, uid string, ok bool) {
	if c.Conf.AmbientEnabled != nil && !*c.Conf.AmbientEnabled {
		return "", "", "", false
	}
	args := parseArgs(c.Env("CNI_ARGS"))
	name, namespace = args["K8S_POD_NAME"], args["K8S_POD_NAMESPACE"]
	switch {
	case name == "" || namespace == "":
		c.Log.Logger().Debug("not a pod of Kubernetes", "args", c.Env("CNI_ARGS"))
		return "", "", "", false
	case slices.Contains(c.Conf.ExcludeNamespaces, namespace):
		return "", "", "", false
	case namespace == c.Conf.PodNamespace && ownPod(name):
		// The agent cannot be asked to let the agent start.
		return "", "", "", false
	}
	// Older runtimes do not tell the UID.
	return namespace, name, args["K8S_POD_UID"], true
}

// check finds out whether a pod that should be captured is. What is in the kernel stays there while the agent is away.
func (c *Call) check(ctx context.Context) error {
	namespace, name, uid, ok := c.subject()
	if !ok {
		return nil
	}
	e, err := Agent{RunDir: c.Conf.AgentRunDir}.Check(ctx, namespace, name, uid)
	if err != nil {
		c.Log.Logger().Warn("pod is not checked", "pod", namespace+"/"+name, "err", err)
		return nil
	}
	if e.Eligible && !e.Captured {
		return fmt.Errorf("pod %s/%s belongs to the mesh (%s), and its traffic is not captured", namespace, name, e.Reason)
	}
	return nil
}

// add announces the pod if it belongs to the mesh.
func (c *Call) add(ctx context.Context) error {
	namespace, name, uid, ok := c.subject()
	if !ok {
		return nil
	}
	log := c.Log.Logger().With("pod", namespace+"/"+name)
	ips, err := addresses(c.Conf.PrevResult)
	if err != nil {
		return &Error{codeDecode, err}
	}
	agent := Agent{RunDir: c.Conf.AgentRunDir}
	e, err := c.eligible(ctx, agent, namespace, name, uid)
	if err != nil {
		return fmt.Errorf("pod %s/%s waits, because nobody can say whether it belongs to the mesh: %w", namespace, name, err)
	}
	log.Debug("decided", "ambient", e.Eligible, "reason", e.Reason)
	if !e.Eligible {
		return nil
	}
	if err := agent.await(ctx, Request{Netns: c.Env("CNI_NETNS"), PodName: name, PodNamespace: namespace, IPs: ips, PodUID: uid}); err != nil {
		return fmt.Errorf("pod %s/%s waits to be captured, because it belongs to the mesh (%s): %w", namespace, name, e.Reason, err)
	}
	log.Info("pod is captured")
	return nil
}

// ownPod recognises the pods of the agent's DaemonSet, under Istio's name or ours.
func ownPod(name string) bool {
	return strings.HasPrefix(name, "istio-cni-node-") || strings.HasPrefix(name, "ambit-cni-node-")
}

// parseArgs splits K=V;K=V.
func parseArgs(text string) map[string]string {
	out := map[string]string{}
	for pair := range strings.SplitSeq(text, ";") {
		if k, v, ok := strings.Cut(pair, "="); ok {
			out[k] = v
		}
	}
	return out
}

// eligible asks the agent, which answers from memory. While it is away the API server is asked, so that pods outside of the
// mesh start; a file of the agent's about namespaces would not do, because pods have labels of their own. If neither
// answers the pod waits: started without the mesh, it would be open to what its policies forbid. Pods of the mesh's own namespace do not.
func (c *Call) eligible(ctx context.Context, agent Agent, namespace, name, uid string) (Eligibility, error) {
	e, err := agent.Check(ctx, namespace, name, uid)
	if err == nil || c.Conf.Kubernetes.Kubeconfig == "" {
		return e, err
	}
	c.Log.Logger().Warn("the API server is asked instead of the agent", "pod", namespace+"/"+name, "err", err)
	e, apiErr := c.ask(ctx, namespace, name)
	if apiErr != nil && namespace == c.Conf.PodNamespace {
		// The mesh's own parts have to start for anybody to answer again; an agent that comes takes in what belongs to the mesh.
		c.Log.Logger().Warn("nobody can be asked, and the pod is of the mesh's own namespace: it starts", "pod", namespace+"/"+name, "err", apiErr)
		return Eligibility{Reason: "it is of the mesh's own namespace, and nobody can be asked"}, nil
	}
	if apiErr != nil {
		return e, errors.Join(err, apiErr)
	}
	return e, nil
}

// ask decides by the API server's view of the pod.
func (c *Call) ask(ctx context.Context, namespace, name string) (Eligibility, error) {
	api, err := openKubeconfig(c.Conf.Kubernetes.Kubeconfig)
	if err != nil {
		return Eligibility{}, err
	}
	defer api.client.CloseIdleConnections()
	policy := enroll.Policy{Selectors: c.Conf.EnablementSelectors, SystemNamespace: c.Conf.PodNamespace, ExcludeNamespaces: c.Conf.ExcludeNamespaces}
	tries := 1
	if c.Conf.DetectionRetry {
		tries = 10
	}
	var d enroll.Decision
	for i := range tries {
		if i > 0 {
			if !sleep(ctx, 10*time.Millisecond) {
				break
			}
		}
		pod, labels, err := api.pod(ctx, namespace, name)
		if err != nil {
			return Eligibility{}, err
		}
		if d = policy.Decide(pod, labels); d.Enrolled {
			break
		}
	}
	return Eligibility{Eligible: d.Enrolled, Reason: d.Reason}, nil
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// addresses reads the pod's addresses from the result of the plugin before us; versions 0.3 to 1.1 agree on them.
func addresses(result json.RawMessage) ([]IPConfig, error) {
	if len(result) == 0 {
		return nil, nil
	}
	var r struct {
		IPs []struct {
			Interface *int       `json:"interface"`
			Address   string     `json:"address"`
			Gateway   netip.Addr `json:"gateway"`
		} `json:"ips"`
	}
	if err := json.Unmarshal(result, &r); err != nil {
		return nil, fmt.Errorf("result of the plugin before: %w", err)
	}
	var out []IPConfig
	for _, ip := range r.IPs {
		p, err := netip.ParsePrefix(ip.Address)
		if err != nil {
			return nil, fmt.Errorf("result of the plugin before: address: %w", err)
		}
		c := IPConfig{Interface: ip.Interface, Address: net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}}
		if ip.Gateway.IsValid() {
			c.Gateway = ip.Gateway.AsSlice()
		}
		out = append(out, c)
	}
	return out, nil
}
