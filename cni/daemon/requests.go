package daemon

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"github.com/ambit-mesh/ambit/cni/enroll"
	"github.com/ambit-mesh/ambit/cni/plugin"
)

// maxRequest bounds what the plugin may send.
const maxRequest = 1 << 20

// pluginHandler answers the CNI plugin.
func (a *Agent) pluginHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+plugin.AddPath, a.answer(a.cmdAdd))
	mux.HandleFunc("POST "+plugin.CheckPath, a.answer(a.check))
	return mux
}

// answer decodes the request and turns an error into a code: 400 for what cannot be read, 500 for all else.
// istio/istio cni/pkg/nodeagent/cni-watcher.go.
func (a *Agent) answer(fn func(context.Context, plugin.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		code := http.StatusOK
		defer func() { a.metrics.requests.WithLabelValues(strconv.Itoa(code)).Inc() }()
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
		var req plugin.Request
		if err == nil {
			err = json.Unmarshal(body, &req)
		}
		if err != nil || req.PodName == "" || req.PodNamespace == "" {
			code = http.StatusBadRequest
			http.Error(w, fmt.Sprintf("want JSON with PodName, PodNamespace, Netns and IPs: %v", err), code)
			return
		}
		reply, err := fn(r.Context(), req)
		if err != nil {
			code = http.StatusInternalServerError
			a.log.Warn("plugin's request failed", "path", r.URL.Path, "pod", req.PodNamespace+"/"+req.PodName, "err", err)
			http.Error(w, err.Error(), code)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(reply)
	}
}

// cmdAdd enrols a pod that is being made: nothing runs in it yet.
func (a *Agent) cmdAdd(ctx context.Context, req plugin.Request) (any, error) {
	pod, labels, err := a.await(ctx, req)
	if err != nil {
		return nil, err
	}
	if d := a.cfg.Policy.Decide(pod, labels); !d.Enrolled {
		return nil, fmt.Errorf("pod %s is not for the mesh: %s", pod.Key(), d.Reason)
	}
	if req.Netns == "" {
		return nil, fmt.Errorf("pod %s: the request names no network namespace", pod.Key())
	}
	unlock, err := a.locks.Lock(ctx, pod.Key())
	if err != nil {
		return nil, fmt.Errorf("pod %s: %w", pod.Key(), err)
	}
	defer unlock()
	if rec := a.record(pod.Key()); rec != nil && rec.pod.UID != pod.UID {
		a.forget(ctx, pod.Key(), rec)
	}
	var addrs []netip.Addr
	for _, ip := range req.IPs {
		if addr, ok := netip.AddrFromSlice(ip.Address.IP); ok {
			addrs = append(addrs, addr.Unmap())
		}
	}
	if err := a.enrol(ctx, pod, request{path: req.Netns, addrs: addrs, wait: true}); err != nil {
		return nil, err
	}
	return struct{}{}, nil
}

// check tells a plugin that cannot ask the API server whether a pod is to be announced.
func (a *Agent) check(ctx context.Context, req plugin.Request) (any, error) {
	pod, labels, err := a.await(ctx, req)
	if err != nil {
		return nil, err
	}
	d := a.cfg.Policy.Decide(pod, labels)
	return plugin.Eligibility{Eligible: d.Enrolled, Reason: d.Reason, Captured: a.record(pod.Key()) != nil}, nil
}

// await looks the pod up; the plugin is often quicker than the source, which is then asked. Istio's agent looks ten times
// instead (istio/istio cni/pkg/nodeagent/cni-watcher.go).
func (a *Agent) await(ctx context.Context, req plugin.Request) (enroll.Pod, map[string]string, error) {
	k := enroll.Key{Namespace: req.PodNamespace, Name: req.PodName}
	asker, canAsk := a.source.(Asker)
	for range 10 {
		if pod, labels, ok := a.lookup(k); ok && isPod(pod, req.PodUID) && a.namespaceKnown(k.Namespace) {
			return pod, labels, nil
		}
		if canAsk || !waitFor(ctx, nil, 10*time.Millisecond) {
			break
		}
	}
	pod, labels, ok := a.lookup(k)
	if canAsk {
		var err error
		if pod, labels, err = asker.Get(ctx, k); err != nil {
			return pod, nil, err
		}
		ok = true
	}
	switch {
	case !ok:
		return pod, nil, fmt.Errorf("pod %s is not known on node %s", k, a.cfg.Node)
	case !isPod(pod, req.PodUID):
		return pod, nil, fmt.Errorf("pod %s is another one by now, with UID %s", k, pod.UID)
	}
	return pod, labels, nil
}

// isPod reports whether the runtime means this pod and not one before it that had the same name. Not all runtimes say.
func isPod(p enroll.Pod, uid string) bool { return uid == "" || uid == p.UID || uid == p.RuntimeUID }

func (a *Agent) namespaceKnown(name string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	_, known := a.namespaces[name]
	return known
}

// logHandler repeats what the plugin logs, which has no output of its own.
func (a *Agent) logHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /log", func(w http.ResponseWriter, r *http.Request) {
		lines := bufio.NewScanner(http.MaxBytesReader(w, r.Body, maxRequest))
		for lines.Scan() {
			var line map[string]any
			if json.Unmarshal(lines.Bytes(), &line) != nil {
				continue
			}
			level := slog.LevelInfo
			text, _ := line["level"].(string)
			_ = level.UnmarshalText([]byte(text))
			attrs := []slog.Attr{slog.String("area", "plugin")}
			for _, k := range []string{"pod", "reason", "err"} {
				if v, ok := line[k]; ok {
					attrs = append(attrs, slog.Any(k, v))
				}
			}
			a.log.LogAttrs(r.Context(), level, fmt.Sprint(line["msg"]), attrs...)
		}
	})
	return mux
}
