package headers

import (
	"strings"
	"unicode/utf8"
)

// Workload is what baggage tells of a workload. istio/ztunnel src/baggage.rs.
type Workload struct {
	Cluster, Namespace string
	// Kind is the workload type: "deployment", "pod", "cronjob" or "job". It becomes part of a key name.
	Kind, Name string
	// Service and Version are the canonical name and revision.
	Service, Version string
	Region, Zone     string
}

// The keys of baggage, in the order upstream writes them.
const (
	keyCluster   = "k8s.cluster.name"
	keyNamespace = "k8s.namespace.name"
	keyService   = "service.name"
	keyVersion   = "service.version"
	keyRegion    = "cloud.region"
	keyZone      = "cloud.availability_zone"
)

// String returns the baggage field of w, without the keys it has no value for.
func (w Workload) String() string {
	var b strings.Builder
	add := func(key, value string) {
		if value == "" {
			return
		}
		if b.Len() > 0 {
			b.WriteByte(',')
		}
		b.WriteString(key)
		b.WriteByte('=')
		escape(&b, value)
	}
	add(keyCluster, w.Cluster)
	add(keyNamespace, w.Namespace)
	if kinds(w.Kind) {
		add("k8s."+w.Kind+".name", w.Name)
	}
	add(keyService, w.Service)
	add(keyVersion, w.Version)
	add(keyRegion, w.Region)
	add(keyZone, w.Zone)
	return b.String()
}

func kinds(s string) bool {
	switch s {
	case "deployment", "pod", "cronjob", "job":
		return true
	}
	return false
}

// ParseBaggage reads a baggage field. Unknown keys and members it cannot read are passed over; of a repeated key the
// last one counts.
func ParseBaggage(field string) Workload {
	var w Workload
	if len(field) > maxField {
		return w
	}
	for member := range strings.SplitSeq(field, ",") {
		member, _, _ = strings.Cut(member, ";") // properties
		key, value, ok := strings.Cut(member, "=")
		if !ok {
			continue
		}
		if value, ok = unescape(strings.TrimSpace(value)); !ok {
			continue
		}
		w.set(strings.TrimSpace(key), value)
	}
	return w
}

func (w *Workload) set(key, value string) {
	switch key {
	case keyCluster:
		w.Cluster = value
	case keyNamespace:
		w.Namespace = value
	case keyService:
		w.Service = value
	case keyVersion:
		w.Version = value
	case keyRegion:
		w.Region = value
	case keyZone:
		w.Zone = value
	default:
		kind, ok := strings.CutPrefix(key, "k8s.")
		if kind, ok2 := strings.CutSuffix(kind, ".name"); ok && ok2 && kinds(kind) {
			w.Kind, w.Name = kind, value
		}
	}
}

// plain are the baggage-octets of W3C Baggage §3.2.1.3 but for the percent sign, which starts an escape.
func plain(c byte) bool {
	return c > ' ' && c < 0x7f && c != '"' && c != ',' && c != ';' && c != '\\' && c != '%'
}

const hex = "0123456789ABCDEF"

func escape(b *strings.Builder, s string) {
	for i := 0; i < len(s); i++ {
		if c := s[i]; plain(c) {
			b.WriteByte(c)
		} else {
			b.WriteByte('%')
			b.WriteByte(hex[c>>4])
			b.WriteByte(hex[c&15])
		}
	}
}

// unescape undoes escape. It refuses what must not reach logs and metric labels: control characters and broken UTF-8.
func unescape(s string) (string, bool) {
	if strings.IndexByte(s, '%') >= 0 {
		var b strings.Builder
		for i := 0; i < len(s); i++ {
			c := s[i]
			if c == '%' {
				if i+2 >= len(s) {
					return "", false
				}
				hi, lo := nibble(s[i+1]), nibble(s[i+2])
				if hi < 0 || lo < 0 {
					return "", false
				}
				c = byte(hi<<4 | lo)
				i += 2
			}
			b.WriteByte(c)
		}
		s = b.String()
	}
	for _, r := range s {
		if r < ' ' || r == 0x7f || r == utf8.RuneError {
			return "", false
		}
	}
	return s, true
}

func nibble(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}
