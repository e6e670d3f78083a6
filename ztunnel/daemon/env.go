package daemon

import (
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ambit-mesh/ambit/ztunnel/inpod"
)

// env reads typed values and remembers what it could not read.
type env struct {
	values map[string]string
	errs   []error
}

// str keeps the default when the variable is empty; set takes the empty string as a value.
func (e *env) str(name string, to *string) {
	if v := e.values[name]; v != "" {
		*to = v
	}
}

func (e *env) set(name string, to *string) {
	if v, ok := e.values[name]; ok {
		*to = v
	}
}

func (e *env) prefixed(prefix string) map[string]string {
	out := map[string]string{}
	for k, v := range e.values {
		if name, ok := strings.CutPrefix(k, prefix); ok && name != "" {
			out[name] = v
		}
	}
	return out
}

func (e *env) parse(name, want string, set func(string) error) {
	v := e.values[name]
	if v == "" {
		return
	}
	if err := set(v); err != nil {
		e.errs = append(e.errs, fmt.Errorf("%s=%q: want %s", name, v, want))
	}
}

func (e *env) boolean(name string, to *bool) {
	e.parse(name, "true or false", func(v string) (err error) { *to, err = strconv.ParseBool(v); return })
}

func (e *env) integer(name string, to *int) {
	e.parse(name, "a number of at least 1", func(v string) error {
		n, err := strconv.Atoi(v)
		if err == nil && n < 1 {
			err = strconv.ErrRange
		}
		*to = n
		return err
	})
}

func (e *env) u32(name string, to *uint32) {
	e.parse(name, "a number", func(v string) error {
		n, err := strconv.ParseUint(v, 0, 32)
		*to = uint32(n)
		return err
	})
}

// dedicated reads PROXY_MODE and PROXY_WORKLOAD_INFO. istio/ztunnel src/config.rs.
func (e *env) dedicated(to *inpod.Info) {
	switch mode := e.values["PROXY_MODE"]; mode {
	case "", "shared":
		return
	case "dedicated":
	default:
		e.errs = append(e.errs, fmt.Errorf("PROXY_MODE=%q: want shared or dedicated", mode))
		return
	}
	info := e.values["PROXY_WORKLOAD_INFO"]
	parts := strings.Split(info, "/")
	if len(parts) != 3 || slices.Contains(parts, "") {
		e.errs = append(e.errs, fmt.Errorf("PROXY_WORKLOAD_INFO=%q: want NAMESPACE/POD/SERVICEACCOUNT, which PROXY_MODE=dedicated needs", info))
		return
	}
	*to = inpod.Info{Namespace: parts[0], Name: parts[1], ServiceAccount: parts[2]}
}

// threads accepts a number, or a share of the machine's processors such as 25%.
func (e *env) threads(name string, to *int) {
	e.parse(name, "a number of at least 1, or a percentage such as 25%", func(v string) error {
		text, share := strings.CutSuffix(v, "%")
		n, err := strconv.Atoi(text)
		if err == nil && n < 1 {
			err = strconv.ErrRange
		}
		if share {
			n = max(1, (runtime.NumCPU()*n+99)/100)
		}
		*to = n
		return err
	})
}

func (e *env) addr(name string, to *netip.Addr) {
	e.parse(name, "an IP address", func(v string) (err error) { *to, err = netip.ParseAddr(v); return })
}

// duration accepts 90s and 5m, and a bare number of seconds.
func (e *env) duration(name string, to *time.Duration) {
	e.parse(name, "a duration such as 90s or 5m", func(v string) error {
		d, err := time.ParseDuration(v)
		if err != nil {
			d, err = time.ParseDuration(v + "s")
		}
		if err == nil && d <= 0 {
			err = strconv.ErrRange
		}
		*to = d
		return err
	})
}

// deadline leaves the drain a little less than the time after which the pod is killed.
// istio/ztunnel src/config.rs, CONNECTION_TERMINATION_DEADLINE.
func (e *env) deadline(def time.Duration) time.Duration {
	d := def
	if e.values["CONNECTION_TERMINATION_DEADLINE"] != "" {
		e.duration("CONNECTION_TERMINATION_DEADLINE", &d)
		return d
	}
	var grace time.Duration
	e.duration("TERMINATION_GRACE_PERIOD_SECONDS", &grace)
	switch {
	case grace == 0:
		return def
	case grace > 10*time.Second:
		return grace - 5*time.Second
	default:
		return max(grace-time.Second, time.Second)
	}
}
