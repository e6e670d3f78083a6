package plugin

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/ambit-mesh/ambit/cni/enroll"
)

// kubeAPI reads two kinds of objects from the API server. The plugin runs for every pod of the node and lives for
// milliseconds: a client library would cost more than everything else it does.
type kubeAPI struct {
	server string
	token  string
	client *http.Client
}

// kubeconfig is what the agent writes for the plugin: one cluster, one user with a token.
type kubeconfig struct {
	Clusters []struct {
		Cluster struct {
			Server   string `json:"server"`
			CAData   []byte `json:"certificate-authority-data"`
			CAFile   string `json:"certificate-authority"`
			Insecure bool   `json:"insecure-skip-tls-verify"`
		} `json:"cluster"`
	} `json:"clusters"`
	Users []struct {
		User struct {
			Token     string `json:"token"`
			TokenFile string `json:"tokenFile"`
		} `json:"user"`
	} `json:"users"`
}

func openKubeconfig(path string) (*kubeAPI, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("kubeconfig of the plugin (the agent writes it): %w", err)
	}
	var k kubeconfig
	if err := yaml.Unmarshal(data, &k); err != nil {
		return nil, fmt.Errorf("kubeconfig %s: %w", path, err)
	}
	if len(k.Clusters) == 0 || len(k.Users) == 0 {
		return nil, fmt.Errorf("kubeconfig %s: want one cluster and one user", path)
	}
	cluster, user := k.Clusters[0].Cluster, k.Users[0].User
	token := user.Token
	if token == "" && user.TokenFile != "" {
		b, err := os.ReadFile(user.TokenFile)
		if err != nil {
			return nil, fmt.Errorf("kubeconfig %s: token: %w", path, err)
		}
		token = strings.TrimSpace(string(b))
	}
	cfg := &tls.Config{InsecureSkipVerify: cluster.Insecure}
	ca := cluster.CAData
	if len(ca) == 0 && cluster.CAFile != "" {
		if ca, err = os.ReadFile(cluster.CAFile); err != nil {
			return nil, fmt.Errorf("kubeconfig %s: authority: %w", path, err)
		}
	}
	if len(ca) > 0 {
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(ca) {
			return nil, fmt.Errorf("kubeconfig %s: no certificate in the cluster's authority", path)
		}
	}
	return &kubeAPI{
		server: strings.TrimSuffix(cluster.Server, "/"), token: token,
		client: &http.Client{Timeout: timeout, Transport: &http.Transport{TLSClientConfig: cfg}},
	}, nil
}

func (k *kubeAPI) get(ctx context.Context, path string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, k.server+path, nil)
	if err != nil {
		return fmt.Errorf("API server: %w", err)
	}
	req.Header.Set("Accept", "application/json")
	if k.token != "" {
		req.Header.Set("Authorization", "Bearer "+k.token)
	}
	resp, err := k.client.Do(req)
	if err != nil {
		return fmt.Errorf("API server: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 4<<20))
	if err != nil {
		return fmt.Errorf("API server: GET %s: %w", path, err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("API server: GET %s: %s", path, resp.Status)
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("API server: GET %s: %w", path, err)
	}
	return nil
}

// pod returns what enroll needs to know, and the labels of the pod's namespace.
func (k *kubeAPI) pod(ctx context.Context, namespace, name string) (enroll.Pod, map[string]string, error) {
	type object struct {
		Metadata struct {
			UID         string            `json:"uid"`
			Labels      map[string]string `json:"labels"`
			Annotations map[string]string `json:"annotations"`
		} `json:"metadata"`
		Spec struct {
			HostNetwork bool `json:"hostNetwork"`
		} `json:"spec"`
		Status struct {
			Phase string `json:"phase"`
		} `json:"status"`
	}
	var pod, ns object
	path := "/api/v1/namespaces/" + url.PathEscape(namespace)
	err := k.get(ctx, path, &ns)
	if err == nil {
		err = k.get(ctx, path+"/pods/"+url.PathEscape(name), &pod)
	}
	return enroll.Pod{
		UID: pod.Metadata.UID, Namespace: namespace, Name: name, Labels: pod.Metadata.Labels, Annotations: pod.Metadata.Annotations,
		HostNetwork: pod.Spec.HostNetwork, Phase: pod.Status.Phase,
	}, ns.Metadata.Labels, err
}
