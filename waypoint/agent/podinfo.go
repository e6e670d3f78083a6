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
)

// podStats reads from the pod's annotations which of Envoy's own statistics its owner wants besides the usual ones. The
// folder is what the downward API writes; without it there is nothing to read.
func (c *Config) podStats() error {
	if c.PodInfo == "" {
		return nil
	}
	annotations, err := readAnnotations(filepath.Join(c.PodInfo, "annotations"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
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

// readAnnotations reads lines of key="value", as Kubernetes pkg/fieldpath FormatMap writes them.
func readAnnotations(path string) (map[string]string, error) {
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
			return nil, fmt.Errorf("%s: annotation %s is not quoted", path, key)
		}
		out[key] = value
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return out, nil
}
