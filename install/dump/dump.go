// Package dump reads a node proxy's config_dump, of ours and of Istio's ztunnel alike.
//
// It knows the JSON and keeps the original text of every element, so that what it has no field for is shown all the same.
// It does not know where a dump comes from nor how it is shown. It starts no goroutines. Start reading at Parse.
package dump

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Item is one element of a dump: decoded as far as we know it, and as it was.
type Item[T any] struct {
	Value T
	Raw   json.RawMessage
}

// UnmarshalJSON keeps both forms.
func (i *Item[T]) UnmarshalJSON(data []byte) error {
	i.Raw = bytes.Clone(data)
	return json.Unmarshal(data, &i.Value)
}

// MarshalJSON is the original text.
func (i Item[T]) MarshalJSON() ([]byte, error) { return i.Raw, nil }

// Dump is a config_dump. Istio ambient wire contract, node proxy admin.
type Dump struct {
	Workloads    []Item[Workload]    `json:"workloads"`
	Services     []Item[Service]     `json:"services"`
	Policies     []Item[Policy]      `json:"policies"`
	Certificates []Item[Certificate] `json:"certificates"`
	Pods         map[string]Pod      `json:"workloadState"`
	Version      struct {
		Version string `json:"version"`
	} `json:"version"`
}

// Gateway is where a waypoint or network gateway is: namespace/hostname or network/address.
type Gateway struct {
	Destination string `json:"destination"`
	Port        uint16 `json:"hboneMtlsPort"`
}

// Workload is one workload the proxy knows.
type Workload struct {
	UID       string   `json:"uid"`
	Name      string   `json:"name"`
	Namespace string   `json:"namespace"`
	IPs       []string `json:"workloadIps"`
	Network   string   `json:"network"`
	Node      string   `json:"node"`
	Protocol  string   `json:"protocol"`
	Waypoint  *Gateway `json:"waypoint"`
	Status    string   `json:"status"`
}

// Service is one service the proxy knows.
type Service struct {
	Name      string              `json:"name"`
	Namespace string              `json:"namespace"`
	Hostname  string              `json:"hostname"`
	VIPs      []string            `json:"vips"`
	CIDRs     []string            `json:"cidrVips"`
	Waypoint  *Gateway            `json:"waypoint"`
	Endpoints map[string]Endpoint `json:"endpoints"`
}

// Endpoint is one endpoint of a service.
type Endpoint struct {
	WorkloadUID string `json:"workloadUid"`
	Status      string `json:"status"`
}

// Policy is one authorization policy the proxy enforces.
type Policy struct {
	Name      string `json:"name"`
	Namespace string `json:"namespace"`
	Scope     string `json:"scope"`
	Action    string `json:"action"`
	DryRun    bool   `json:"dryRun"`
}

// Certificate is one identity the proxy holds.
type Certificate struct {
	Identity string `json:"identity"`
	State    string `json:"state"`
	Chain    []X509 `json:"certChain"`
	Roots    []X509 `json:"rootCerts"`
}

// X509 is one X.509 certificate; PEM is base64 of the PEM text.
type X509 struct {
	PEM          string `json:"pem"`
	SerialNumber string `json:"serialNumber"`
	ValidFrom    string `json:"validFrom"`
	Expires      string `json:"expirationTime"`
}

// Pod is one pod the proxy serves, with its open connections.
type Pod struct {
	State       string `json:"state"`
	Connections struct {
		Inbound  []Connection `json:"inbound"`
		Outbound []Connection `json:"outbound"`
	} `json:"connections"`
	Info struct {
		Name           string `json:"name"`
		Namespace      string `json:"namespace"`
		ServiceAccount string `json:"serviceAccount"`
	} `json:"info"`
}

// Connection is one open connection.
type Connection struct {
	Src         string `json:"src"`
	OriginalDst string `json:"originalDst"`
	ActualDst   string `json:"actualDst"`
	Protocol    string `json:"protocol"`
}

// ErrFormat is wrapped by every refusal of Parse.
var ErrFormat = errors.New("not a config_dump")

// Parse reads a dump. Lists may also be maps by uid or name, as older proxies write them.
func Parse(r io.Reader) (*Dump, error) {
	data, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("read config_dump: %w", err)
	}
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(data, &raw); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	if _, ok := raw["workloads"]; !ok {
		return nil, fmt.Errorf("%w: it has no \"workloads\"", ErrFormat)
	}
	d := &Dump{}
	for key, to := range map[string]any{
		"workloads": list(&d.Workloads), "services": list(&d.Services), "policies": list(&d.Policies), "certificates": list(&d.Certificates),
		"workloadState": &d.Pods, "version": &d.Version,
	} {
		if raw[key] == nil {
			continue
		}
		if err := json.Unmarshal(raw[key], to); err != nil {
			return nil, fmt.Errorf("%w: %s: %w", ErrFormat, key, err)
		}
	}
	d.sort()
	return d, nil
}

// lenient decodes a JSON array, or the values of a JSON object, into a slice.
type lenient[T any] struct{ to *[]T }

func list[T any](to *[]T) *lenient[T] { return &lenient[T]{to} }

func (l *lenient[T]) UnmarshalJSON(data []byte) error {
	if len(data) == 0 || data[0] != '{' {
		return json.Unmarshal(data, l.to)
	}
	var m map[string]T
	if err := json.Unmarshal(data, &m); err != nil {
		return err
	}
	for _, v := range m {
		*l.to = append(*l.to, v)
	}
	return nil
}

// sort brings everything into the order people look for it.
func (d *Dump) sort() {
	order(d.Workloads, func(w Workload) string { return w.Namespace + "\x00" + w.Name + "\x00" + w.UID })
	order(d.Services, func(s Service) string { return s.Namespace + "\x00" + s.Name + "\x00" + s.Hostname })
	order(d.Policies, func(p Policy) string { return p.Namespace + "\x00" + p.Name })
	order(d.Certificates, func(c Certificate) string { return c.Identity })
}

func order[T any](items []Item[T], key func(T) string) {
	slices.SortStableFunc(items, func(a, b Item[T]) int { return strings.Compare(key(a.Value), key(b.Value)) })
}
