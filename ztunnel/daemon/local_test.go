package daemon

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/ca/identity"
	"github.com/ambit-mesh/ambit/ztunnel/admin"
	"github.com/ambit-mesh/ambit/ztunnel/telemetry"
)

func localConfig(t *testing.T, text string) Config {
	t.Helper()
	path := filepath.Join(t.TempDir(), "local.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := FromEnv([]string{"NODE_NAME=n1", "XDS_ADDRESS=", "FAKE_CA=true", "LOCAL_XDS_PATH=" + path,
		`LOCAL_XDS={services: [{name: web, namespace: shop, hostname: web.example, vips: [/10.96.0.1], ports: {80: 8080}}]}`})
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func assemble(t *testing.T, cfg Config) (*ztunnel, error) {
	t.Helper()
	levels, err := telemetry.NewLevels("off")
	if err != nil {
		t.Fatal(err)
	}
	return build(cfg, telemetry.NewLogs(t.Output(), false, levels), "test", func() {})
}

// Without a control plane a proxy is ready with what it was given, and shows it.
func TestLocalConfiguration(t *testing.T) {
	z, err := assemble(t, localConfig(t, "workloads: [{name: web, namespace: shop, protocol: HBONE, workloadIps: [10.0.0.1], services: {shop/web.example: {80: 8080}}}]"))
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-z.synced:
	default:
		t.Error("waits for a control plane that there is none of")
	}
	if z.xds != nil || z.ca != nil || z.state.Current().Pod("Kubernetes", "shop", "web") == nil || z.state.Current().ServiceByKey("shop/web.example") == nil {
		t.Error("not in force")
	}
	w := httptest.NewRecorder()
	admin.Handler(admin.Sources{State: z.state.Current, Static: z.static.Current}).ServeHTTP(w, httptest.NewRequest("GET", "/config_dump", nil))
	var dump struct {
		StaticConfig struct {
			Workloads []struct{ Name string }
			Services  []struct{ Hostname string }
			Policies  []any
		}
	}
	if err := json.Unmarshal(w.Body.Bytes(), &dump); err != nil {
		t.Fatal(err)
	}
	s := dump.StaticConfig
	if len(s.Workloads) != 1 || s.Workloads[0].Name != "web" || len(s.Services) != 1 || s.Services[0].Hostname != "web.example" || s.Policies == nil {
		t.Errorf("staticConfig %+v", s)
	}
}

func TestLocalConfigurationMistakes(t *testing.T) {
	for text, want := range map[string]string{
		"workloads: [{name: web}]":                                            "LOCAL_XDS_PATH=",
		"policies: [{name: p, scope: Namespace, action: Deny}]":               "/p",
		"services: [{namespace: shop, hostname: x, ports: {80: 8080, 0: 1}}]": "service_port 0 is not a port",
	} {
		_, err := assemble(t, localConfig(t, text))
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "LOCAL_XDS_PATH") {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
	cfg := localConfig(t, "")
	cfg.LocalXDSPath = "/does/not/exist"
	if _, err := assemble(t, cfg); err == nil || !strings.Contains(err.Error(), "/does/not/exist") {
		t.Errorf("missing file: %v", err)
	}
}

// Two proxies with FAKE_CA trust each other.
func TestFakeAuthority(t *testing.T) {
	one, err := newFakeCA(time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	two, err := newFakeCA(time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	id := identity.ID{TrustDomain: "cluster.local", Namespace: "shop", ServiceAccount: "web"}
	a, err := one.Sign(context.Background(), id)
	if err != nil {
		t.Fatal(err)
	}
	b, err := two.Sign(context.Background(), id)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Bundle().Verify(a.Chain(), x509.ExtKeyUsageClientAuth, time.Now()); err != nil {
		t.Error(err)
	}
	if d := time.Until(a.NotAfter); d > time.Hour || d < 50*time.Minute {
		t.Errorf("lasts %s", d)
	}
	if _, err := one.Sign(context.Background(), identity.ID{}); err == nil {
		t.Error("signed for nobody")
	}
}
