package apply

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
)

// maxManifest bounds what is read of the Gateway API's definitions.
const maxManifest = 32 << 20

// GatewayAPI applies the definitions of the Gateway API from a file or URL. Definitions that are there already stay as they
// are: they are the cluster's, not the mesh's, and an uninstall leaves them.
func (i *Installer) GatewayAPI(ctx context.Context, from string) error {
	data, err := read(ctx, from)
	if err != nil {
		return fmt.Errorf("the Gateway API: %w", err)
	}
	var made []*unstructured.Unstructured
	for dec := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(data), 4096); ; {
		var o map[string]any
		if err := dec.Decode(&o); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return fmt.Errorf("the Gateway API: %s: %w", from, err)
		}
		u := &unstructured.Unstructured{Object: o}
		if len(o) == 0 {
			continue
		}
		if !strings.Contains(u.GetName(), "gateway.networking") {
			return fmt.Errorf("the Gateway API: %s: %s is none of its objects", from, Name(u))
		}
		old, err := i.Client.Fetch(ctx, o)
		if err != nil {
			return err
		}
		if old != nil {
			continue
		}
		got, err := i.Client.Put(ctx, o, i.Dry)
		if err != nil {
			return err
		}
		if got.GetKind() == "CustomResourceDefinition" {
			made = append(made, got)
		}
	}
	i.tell("gateway-api: %d definitions applied from %s", len(made), from)
	if i.Dry {
		return nil
	}
	if err := i.established(ctx, made); err != nil {
		return err
	}
	i.Client.Mapper.Reset()
	return nil
}

func read(ctx context.Context, from string) ([]byte, error) {
	if scheme, _, url := strings.Cut(from, "://"); url && scheme != "https" {
		return nil, fmt.Errorf("%s could be anybody's by the time it is here: give an https URL, or a file", from)
	} else if !url {
		return os.ReadFile(from)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", from, resp.Status)
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxManifest+1))
	if len(data) > maxManifest {
		return nil, fmt.Errorf("%s is larger than %d MiB", from, maxManifest>>20)
	}
	return data, err
}
