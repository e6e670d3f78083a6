package nodenet

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// accountDir is where the kubelet puts a pod's credentials.
const accountDir = "/var/run/secrets/kubernetes.io/serviceaccount"

// api reads Nodes with the pod's own account.
type api struct {
	base string
	http *http.Client
	dir  string
}

func inCluster() (*api, error) {
	host, port := os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT")
	if host == "" || port == "" {
		return nil, errors.New("KUBERNETES_SERVICE_HOST and _PORT are not set: this program runs in a pod")
	}
	pem, err := os.ReadFile(filepath.Join(accountDir, "ca.crt"))
	if err != nil {
		return nil, fmt.Errorf("read the cluster's CA: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s/ca.crt holds no certificate", accountDir)
	}
	return &api{
		base: "https://" + net.JoinHostPort(host, port),
		http: &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true}},
		dir:  accountDir,
	}, nil
}

func (a *api) get(ctx context.Context, query string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, a.base+"/api/v1/nodes"+query, nil)
	if err != nil {
		return nil, err
	}
	token, err := os.ReadFile(filepath.Join(a.dir, "token"))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	resp, err := a.http.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
		return nil, fmt.Errorf("GET nodes: %s: %s", resp.Status, text)
	}
	return resp.Body, nil
}

// list returns all nodes and the version to watch from.
func (a *api) list(ctx context.Context) (map[string]Node, string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	body, err := a.get(ctx, "")
	if err != nil {
		return nil, "", err
	}
	defer body.Close()
	var doc struct {
		Metadata struct {
			ResourceVersion string `json:"resourceVersion"`
		} `json:"metadata"`
		Items []Node `json:"items"`
	}
	if err := json.NewDecoder(body).Decode(&doc); err != nil {
		return nil, "", fmt.Errorf("decode nodes: %w", err)
	}
	nodes := map[string]Node{}
	for _, n := range doc.Items {
		nodes[n.Metadata.Name] = n
	}
	return nodes, doc.Metadata.ResourceVersion, nil
}

// watch keeps nodes up to date from version on and calls changed after each change, until the API server ends the stream, which
// it does after some minutes at the latest.
func (a *api) watch(ctx context.Context, nodes map[string]Node, version string, changed func()) error {
	body, err := a.get(ctx, "?watch=1&timeoutSeconds=240&resourceVersion="+version)
	if err != nil {
		return err
	}
	defer body.Close()
	for dec := json.NewDecoder(body); ; {
		var event struct {
			Type   string          `json:"type"`
			Object json.RawMessage `json:"object"`
		}
		if err := dec.Decode(&event); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("watch nodes: %w", err)
		}
		if event.Type == "ERROR" {
			return fmt.Errorf("watch nodes: %s", event.Object)
		}
		var n Node
		if err := json.Unmarshal(event.Object, &n); err != nil {
			return fmt.Errorf("decode a node: %w", err)
		}
		if event.Type == "DELETED" {
			delete(nodes, n.Metadata.Name)
		} else {
			nodes[n.Metadata.Name] = n
		}
		changed()
	}
}
