package agent

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/api/workload"
	"github.com/ambit-mesh/ambit/ca/catest"
	"github.com/ambit-mesh/ambit/waypoint/envoy/envoytest"
)

// childVariable holds the configuration of an agent that a test runs in a process of its own.
const childVariable = "AMBIT_TEST_AGENT"

// child runs such an agent until it is told to stop.
func child(config string) int {
	debug.SetGCPercent(50) // as the command does
	var cfg Config
	if err := json.Unmarshal([]byte(config), &cfg); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if err := Run(ctx, cfg, Deps{Signer: catest.New(), Logger: log, Version: "test"}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func address(n int) []byte {
	return binary.BigEndian.AppendUint32(nil, 0x0a600000+uint32(n))
}

// BenchmarkFootprint measures a whole agent with 1,000 services of 10 pods beside a real Envoy: memory of both and the
// time from a start to ready.
func BenchmarkFootprint(b *testing.B) {
	w := &envoytest.World{}
	for i := range 1000 {
		var pods []*workload.Workload
		for j := range 10 {
			ip, _ := netip.AddrFromSlice(address(10000 + 10*i + j))
			pods = append(pods, envoytest.Pod(fmt.Sprintf("service-%d-5f7d8c9b6d-%05d", i, j), ip.String(), "app"))
		}
		ip, _ := netip.AddrFromSlice(address(i + 1))
		svc := w.Add(fmt.Sprintf("service-%d.default.svc.cluster.local", i), ip.String(),
			[]envoytest.Port{{Number: 80, Target: 8080, Protocol: waypoint.Protocol_HTTP1}}, pods...)
		svc.Ports[0].Http = []*waypoint.HTTPRule{{Action: &waypoint.HTTPRule_Direct{Direct: &waypoint.DirectResponse{Status: 200}}}}
	}
	r := prepare(b)
	r.plane.push(w)
	config, err := json.Marshal(r.cfg)
	if err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childVariable+"="+string(config))
	cmd.Stderr = r.log
	start := time.Now()
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := errors.Join(cmd.Process.Signal(syscall.SIGTERM), cmd.Wait()); err != nil {
			b.Errorf("%v\n%s", err, r.log)
		}
	})
	r.ready()
	started := time.Since(start)
	r.synced()
	n := 0
	for b.Loop() {
		n++
		w.Services[n%1000].Ports[0].Http[0].Action = &waypoint.HTTPRule_Direct{Direct: &waypoint.DirectResponse{Status: uint32(200 + n%100)}}
		r.plane.push(w)
		r.synced()
	}
	sleep(b.Context(), 3*time.Second) // what was needed to start is given back
	b.ReportMetric(started.Seconds(), "s/start")
	own, all := memory(b, cmd.Process.Pid)
	b.ReportMetric(own, "MiB/agent")
	b.ReportMetric(all, "MiB/agent-resident")
	own, _ = memory(b, r.pid())
	b.ReportMetric(own, "MiB/envoy")
}

func (r *running) synced() {
	r.t.Helper()
	r.Await("synced", func() error {
		_, err := r.get("http://" + r.cfg.ToolsAddress + "/synced")
		return err
	})
}

// memory is the resident memory of a process in MiB: what is its own, and all with the pages of its program.
func memory(t testing.TB, pid int) (own, all float64) {
	t.Helper()
	return float64(processStatus(t, pid, "RssAnon:")) / 1024, float64(processStatus(t, pid, "VmRSS:")) / 1024
}

// processStatus is a figure of /proc/PID/status, in KiB.
func processStatus(t testing.TB, pid int, field string) (kib int) {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), field)
	if _, err := fmt.Sscan(rest, &kib); err != nil {
		t.Fatal(err)
	}
	return kib
}
