package main

import (
	"encoding/json"
	"log/slog"
	"strings"
	"testing"

	"github.com/ambit-mesh/ambit/cni/daemon"
)

func TestLogFormat(t *testing.T) {
	cfg := daemon.Default()
	said := func() string {
		var b strings.Builder
		slog.New(handler(&b, cfg)).Info("redirecting", "backend", "nftables")
		return b.String()
	}
	if text := said(); !strings.Contains(text, "msg=redirecting backend=nftables") {
		t.Error(text)
	}
	cfg.LogJSON = true
	var line struct{ Msg, Backend string }
	if err := json.Unmarshal([]byte(said()), &line); err != nil || line.Msg != "redirecting" || line.Backend != "nftables" {
		t.Errorf("%v: %s", err, said())
	}
}
