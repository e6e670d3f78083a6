package chain

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/ambit-mesh/ambit/cni/enroll"
)

// Entry is what the plugin is told by the configuration: what plugin.Conf reads, in Istio's names.
type Entry struct {
	Selectors         []enroll.Selector
	ExcludeNamespaces []string
	PodNamespace      string
	RunDir            string
	DetectionRetry    bool
	LogLevel          string
	Kubeconfig        string
}

// JSON is the entry as it stands in a configuration.
func (e Entry) JSON() (json.RawMessage, error) {
	data, err := json.Marshal(struct {
		Type                string            `json:"type"`
		LogLevel            string            `json:"plugin_log_level"`
		AmbientEnabled      bool              `json:"ambient_enabled"`
		EnablementSelectors []enroll.Selector `json:"enablement_selectors"`
		ExcludeNamespaces   []string          `json:"exclude_namespaces"`
		PodNamespace        string            `json:"pod_namespace"`
		AgentRunDir         string            `json:"cni_agent_run_dir"`
		DetectionRetry      bool              `json:"enable_ambient_detection_retry"`
		Kubernetes          map[string]string `json:"kubernetes"`
	}{
		Type, strings.ToLower(e.LogLevel), true, e.Selectors, e.ExcludeNamespaces, e.PodNamespace, e.RunDir, e.DetectionRetry,
		map[string]string{"kubeconfig": e.Kubeconfig},
	})
	if err != nil {
		return nil, fmt.Errorf("the plugin's configuration: %w", err)
	}
	return data, nil
}

// Kubeconfig is the file by which the plugin asks the API server.
func Kubeconfig(server string, ca []byte, token string, insecure bool) ([]byte, error) {
	cluster := map[string]any{"server": server}
	if insecure {
		cluster["insecure-skip-tls-verify"] = true
	} else if len(ca) > 0 {
		cluster["certificate-authority-data"] = ca
	}
	named := func(key string, v any) []any { return []any{map[string]any{"name": Type, key: v}} }
	// JSON is YAML.
	data, err := json.MarshalIndent(map[string]any{
		"apiVersion": "v1", "kind": "Config", "current-context": Type,
		"clusters": named("cluster", cluster),
		"users":    named("user", map[string]any{"token": strings.TrimSpace(token)}),
		"contexts": named("context", map[string]any{"cluster": Type, "user": Type}),
	}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("the plugin's kubeconfig: %w", err)
	}
	return append(data, '\n'), nil
}

// KubeconfigToken is the token in what Kubeconfig has made, "" if there is none.
func KubeconfigToken(data []byte) string {
	var have struct {
		Users []struct {
			User struct {
				Token string `json:"token"`
			} `json:"user"`
		} `json:"users"`
	}
	if err := json.Unmarshal(data, &have); err != nil || len(have.Users) != 1 {
		return ""
	}
	return have.Users[0].User.Token
}
