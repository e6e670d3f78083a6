package agent

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/ambit-mesh/ambit/api/mesh"
)

// podLabels takes from the pod's labels what the environment did not say: the Gateway it is an instance of, and where it
// runs. The folder is what the downward API writes; without it there is nothing to read.
func (c *Config) podLabels() error {
	labels, err := c.podInfo("labels")
	if err != nil {
		return err
	}
	for label, to := range map[string]*string{
		mesh.LabelGatewayName: &c.GatewayName, mesh.LabelRegion: &c.Region, mesh.LabelZone: &c.Zone, mesh.LabelSubzone: &c.Subzone,
	} {
		if *to == "" {
			*to = labels[label]
		}
	}
	return nil
}

// podInfo reads one of the files of the downward API.
func (c *Config) podInfo(name string) (map[string]string, error) {
	if c.PodInfo == "" {
		return nil, nil
	}
	m, err := readMap(filepath.Join(c.PodInfo, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return m, err
}

// podStats reads from the pod's annotations which of Envoy's own statistics its owner wants besides the usual ones.
func (c *Config) podStats() error {
	annotations, err := c.podInfo("annotations")
	if err != nil {
		return err
	}
	// Istio annotation.SidecarStatsInclusion*; pkg/bootstrap/config.go has the same precedence: the annotation wins.
	var proxy struct {
		Matcher struct {
			Prefixes []string `json:"inclusionPrefixes"`
			Suffixes []string `json:"inclusionSuffixes"`
			Regexps  []string `json:"inclusionRegexps"`
		} `json:"proxyStatsMatcher"`
	}
	if err := yaml.Unmarshal([]byte(annotations["proxy.istio.io/config"]), &proxy); err != nil {
		return fmt.Errorf("annotation proxy.istio.io/config of the pod: %w", err)
	}
	pick := func(annotation string, other []string) []string {
		if list := strings.FieldsFunc(annotations[annotation], func(r rune) bool { return r == ',' || r == ' ' }); len(list) > 0 {
			return list
		}
		return other
	}
	c.StatsPrefixes = pick("sidecar.istio.io/statsInclusionPrefixes", proxy.Matcher.Prefixes)
	c.StatsSuffixes = pick("sidecar.istio.io/statsInclusionSuffixes", proxy.Matcher.Suffixes)
	c.StatsRegexps = pick("sidecar.istio.io/statsInclusionRegexps", proxy.Matcher.Regexps)
	return nil
}

// readMap reads lines of key="value", as Kubernetes pkg/fieldpath FormatMap writes them.
func readMap(path string) (map[string]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	out := map[string]string{}
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		key, quoted, ok := strings.Cut(lines.Text(), "=")
		if !ok {
			continue
		}
		value, err := strconv.Unquote(quoted)
		if err != nil {
			return nil, fmt.Errorf("%s: the value of %s is not quoted", path, key)
		}
		out[key] = value
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return out, nil
}
