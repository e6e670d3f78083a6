package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/ambit-mesh/ambit/tools/kind/steps"
)

// oldGateway is the last release of the Gateway API whose definitions API servers before 1.31 take whole.
const oldGateway = "sigs.k8s.io/gateway-api@v1.4.1"

// GatewayAPI applies the kinds of the Gateway API from a folder, unless the cluster has some: they may be somebody's.
// An API server that is too old for them gets those of an older release, from its Go module.
func GatewayAPI(ctx context.Context, p *steps.Printer, env []string, programs, dir string) error {
	kubectl := func(title string, args ...string) (string, error) {
		return p.Run(ctx, steps.Command{Title: title, Args: append([]string{"kubectl"}, args...), Env: env, Path: programs})
	}
	have, err := kubectl("", "get", "crd", "gateways.gateway.networking.k8s.io", "--ignore-not-found", "--output=name")
	if err != nil || strings.TrimSpace(have) != "" {
		return err
	}
	said, err := kubectl("", "version", "--output=json")
	if err != nil {
		return err
	}
	minor, err := serverMinor(said)
	if err != nil {
		return err
	}
	if minor < 31 {
		p.Say("an API server of 1.%d gets the Gateway API of %s, because it does not take all of later ones", minor, oldGateway)
		if dir, err = oldDefinitions(ctx, p); err != nil {
			return err
		}
	}
	_, err = kubectl("applying the Gateway API", "apply", "--server-side", "--kustomize", dir)
	return err
}

// serverMinor reads what kubectl version says in JSON.
func serverMinor(text string) (int, error) {
	var doc struct {
		ServerVersion struct{ Minor string } `json:"serverVersion"`
	}
	if err := json.Unmarshal([]byte(text), &doc); err != nil {
		return 0, fmt.Errorf("read the API server's version: %w", err)
	}
	// Some providers write 29+.
	minor, err := strconv.Atoi(strings.TrimSuffix(doc.ServerVersion.Minor, "+"))
	if err != nil {
		return 0, fmt.Errorf("read the API server's version: %w", err)
	}
	return minor, nil
}

func oldDefinitions(ctx context.Context, p *steps.Printer) (dir string, err error) {
	out, err := p.Run(ctx, steps.Command{
		Title: "fetching " + oldGateway, Args: []string{"go", "mod", "download", "-json", oldGateway}, Dir: os.TempDir(), Env: []string{"GOWORK=off", "GOFLAGS="},
	})
	if err != nil {
		return "", err
	}
	var module struct{ Dir string }
	if err := json.Unmarshal([]byte(out), &module); err != nil {
		return "", fmt.Errorf("read what go mod download says: %w", err)
	}
	return filepath.Join(module.Dir, "config", "crd", "experimental"), nil
}
