// Command ambit-runc is runc for machines that lack capabilities: it takes what the machine lacks out of the container's
// specification and becomes runc. dockerd is given it as its runtime only where it is needed (see tools/kind/engine).
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/ambit-mesh/ambit/tools/kind/spec"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "ambit-runc:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	runc, err := exec.LookPath("runc")
	if err != nil {
		return fmt.Errorf("find runc (apt-get install runc): %w", err)
	}
	switch {
	case slices.Contains(args, "create"), slices.Contains(args, "run"):
		if dir := option(args, "--bundle", "-b"); dir != "" {
			err = rewrite(filepath.Join(dir, "config.json"), func(doc map[string]any) map[string]any {
				p, _ := doc["process"].(map[string]any)
				return p
			})
		}
	case slices.Contains(args, "exec"):
		if file := option(args, "--process", "-p"); file != "" {
			err = rewrite(file, func(doc map[string]any) map[string]any { return doc })
		}
	}
	if err != nil {
		return err
	}
	return syscall.Exec(runc, append([]string{"runc"}, args...), os.Environ())
}

// option finds the value of an option in either spelling, "--long value" or "--long=value".
func option(args []string, spellings ...string) string {
	for i, a := range args {
		for _, s := range spellings {
			if a == s && i+1 < len(args) {
				return args[i+1]
			}
			if v, ok := strings.CutPrefix(a, s+"="); ok {
				return v
			}
		}
	}
	return ""
}

func rewrite(path string, process func(doc map[string]any) map[string]any) error {
	own, err := self()
	if err != nil {
		return err
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var doc map[string]any
	if err := json.Unmarshal(raw, &doc); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if p := process(doc); p != nil {
		spec.Trim(p, own)
	}
	if raw, err = json.Marshal(doc); err != nil {
		return err
	}
	return os.WriteFile(path, raw, 0o600)
}

func self() (spec.Own, error) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return spec.Own{}, err
	}
	bits, err := spec.ParseStatus(string(status))
	if err != nil {
		return spec.Own{}, err
	}
	score, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return spec.Own{}, err
	}
	adj, err := strconv.Atoi(strings.TrimSpace(string(score)))
	return spec.Own{Capabilities: bits, OOMScore: adj}, err
}
