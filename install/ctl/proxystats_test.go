package ctl

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/install/cluster"
)

// TestStatsAndRoots asks two gateways, of which one trusts another root.
func TestStatsAndRoots(t *testing.T) {
	dir := t.TempDir()
	m := &fakeMesh{proxies: map[string]string{}}
	var pods []cluster.Object
	for name, serial := range map[string]string{"one": "aa", "two": "aa", "odd": "bb"} {
		socket := filepath.Join(dir, name)
		serve(t, socket, answers{
			"/stats/prometheus": "istio_requests_total 3\nenvoy_x 1\n", "/stats": "cluster.x: 1\n",
			"/config_dump": fmt.Sprintf(`{"configs":[{"@type":"type.googleapis.com/envoy.admin.v3.SecretsConfigDump","dynamic_active_secrets":[{"name":"ROOTCA","secret":{"name":"ROOTCA","validation_context":{"trusted_ca":{"inline_bytes":%q}}}}]}]}`, rootPEM(t, serial)),
		})
		m.proxies[name+"-1"] = socket
		pods = append(pods, cluster.Object{"kind": "Pod", "metadata": map[string]any{"name": name + "-1", "namespace": "shop", "labels": map[string]any{"gateway.networking.k8s.io/gateway-name": name}}})
	}
	m.Cluster = &fakeCluster{objects: pods}
	for args, c := range map[string]struct {
		code int
		want string
	}{
		"pc es one":                   {exitOK, "istio_requests_total 3\nenvoy_x 1\n"},
		"pc es one --filter requests": {exitOK, "istio_requests_total 3\n"},
		"pc es one --type envoy":      {exitOK, "cluster.x: 1\n"},
		"pc es one --type nothing":    {exitUsage, "prometheus or envoy"},
		"pc es one -o json":           {exitUsage, "for --type envoy"},
		"pc rootca-compare one two":   {exitOK, "Both trust root aa"},
		"pc rc one odd":               {exitIssues, "no root in common"},
		"pc rc one":                   {exitUsage, "name two"},
		"pc rc one absent":            {exitError, "is called \"absent\""},
	} {
		if r := run(t, strings.Fields(args), func(e *Env) { e.Mesh = m }); r.code != c.code || !strings.Contains(r.out+r.err, c.want) {
			t.Errorf("%s: code %d, %s%s", args, r.code, r.out, r.err)
		}
	}
}

// rootPEM is base64 of a certificate with a serial number.
func rootPEM(t *testing.T, serial string) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	n, _ := new(big.Int).SetString(serial, 16)
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	tmpl := &x509.Certificate{SerialNumber: n, NotBefore: at, NotAfter: at.AddDate(10, 0, 0)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: der}); err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(out.Bytes())
}
