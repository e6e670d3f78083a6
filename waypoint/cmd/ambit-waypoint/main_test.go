package main

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// run executes the command line and returns what it wrote.
func run(t *testing.T, args ...string) (string, error) {
	t.Helper()
	cmd := command()
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SetArgs(args)
	err := cmd.ExecuteContext(t.Context())
	return out.String(), err
}

func TestEnvoyPrintsThePath(t *testing.T) {
	path := filepath.Join(t.TempDir(), "envoy")
	if err := os.WriteFile(path, []byte("#!/bin/sh\necho 'envoy  version: abc/1.40.0/Clean/RELEASE/BoringSSL'\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := run(t, "envoy", "--envoy", path); err != nil || out != path+"\n" {
		t.Errorf("%q, %v", out, err)
	}
	if _, err := run(t, "envoy", "--envoy", path+"x"); err == nil || !strings.Contains(err.Error(), path+"x") {
		t.Errorf("a missing binary: %v", err)
	}
}

func TestRefusesToStart(t *testing.T) {
	for _, name := range []string{"GATEWAY_NAME", "POD_NAME", "POD_NAMESPACE", "CA_ADDRESS", "CA_ADDR"} {
		t.Setenv(name, "")
	}
	if _, err := run(t); err == nil || !strings.Contains(err.Error(), "GATEWAY_NAME") || !strings.Contains(err.Error(), "POD_NAMESPACE") {
		t.Errorf("without a Gateway: %v", err)
	}
	t.Setenv("INSTANCE_IP", "here")
	if _, err := run(t); err == nil || !strings.Contains(err.Error(), "INSTANCE_IP") {
		t.Errorf("with a bad variable: %v", err)
	}
	if out, err := run(t, "--help"); err != nil || !strings.Contains(out, "XDS_ADDRESS") || !strings.Contains(out, "--drain-wait") {
		t.Errorf("--help: %v\n%s", err, out)
	}
}

func TestLogFormat(t *testing.T) {
	for format, want := range map[string]string{"": "msg=hello", "plain": "msg=hello", "json": `"msg":"hello"`, "JSON": `"msg":"hello"`} {
		var out bytes.Buffer
		slog.New(handler(&out, slog.LevelWarn, format)).Info("quiet")
		slog.New(handler(&out, slog.LevelInfo, format)).Info("hello")
		if !strings.Contains(out.String(), want) || strings.Contains(out.String(), "quiet") {
			t.Errorf("LOG_FORMAT=%q writes %s", format, out.String())
		}
	}
}
