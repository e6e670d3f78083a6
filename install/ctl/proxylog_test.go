package ctl

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/ambit-mesh/ambit/install/admin"
)

func TestEnvoyLevels(t *testing.T) {
	levels := map[string]string{"admin": "warning", "http": "warning", "misc": "error", "rbac": "warning", "router": "warning", "upstream": "warning"}
	envoy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		if l := q.Get("level"); l != "" {
			for name := range levels {
				levels[name] = l
			}
		}
		for p := range strings.SplitSeq(q.Get("paths"), ",") {
			if name, l, ok := strings.Cut(p, ":"); ok {
				levels[name] = l
			}
		}
		io.WriteString(w, "active loggers:\n")
		for name, l := range levels {
			fmt.Fprintf(w, "  %s: %s\n", name, l)
		}
	}))
	defer envoy.Close()
	i := instance{endpoint: admin.Endpoint{What: "Envoy", Address: strings.TrimPrefix(envoy.URL, "http://")}}
	for _, step := range []struct{ ask, want, problem string }{
		{ask: "", want: "warning,misc:error"},
		{ask: "rbac:debug,http:trace", want: "warning,http:trace,misc:error,rbac:debug"},
		{ask: "nope", problem: "no level"},
		{ask: "nope:debug", problem: "there are admin, http, misc, rbac, router, upstream"},
		{ask: "warn,rbac:info", want: "warning,rbac:info"},
	} {
		all, one, err := readLevels(step.ask)
		var got map[string]string
		if err == nil {
			got, err = i.setLevels(t.Context(), all, one)
		}
		switch {
		case step.problem != "":
			if err == nil || !strings.Contains(err.Error(), step.problem) {
				t.Errorf("%q: %v, want %q", step.ask, err, step.problem)
			}
		case err != nil || levelsText(got) != step.want:
			t.Errorf("%q: %s, %v, want %s", step.ask, levelsText(got), err, step.want)
		}
	}
}
