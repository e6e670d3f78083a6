package gateway

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// Dump is Envoy's config_dump, of which only what is shown is taken apart.
type Dump struct {
	Raw     json.RawMessage
	configs map[string]json.RawMessage // by the last part of the type
}

// ReadDump decodes the answer of /config_dump.
func ReadDump(r io.Reader) (*Dump, error) {
	raw, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("read config_dump: %w", err)
	}
	var in struct{ Configs []json.RawMessage }
	if err := json.Unmarshal(raw, &in); err != nil || in.Configs == nil {
		return nil, fmt.Errorf("this is no config_dump of Envoy: %w", errOr(err, "there is no list of configs"))
	}
	d := &Dump{Raw: raw, configs: map[string]json.RawMessage{}}
	for _, c := range in.Configs {
		var head struct {
			Type string `json:"@type"`
		}
		if json.Unmarshal(c, &head) == nil {
			d.configs[head.Type[strings.LastIndexByte(head.Type, '.')+1:]] = c
		}
	}
	return d, nil
}

func errOr(err error, text string) error {
	if err == nil {
		return fmt.Errorf("%s", text)
	}
	return err
}

// Part is one kind of configuration as Envoy dumps it: BootstrapConfigDump, ClustersConfigDump ...
func (d *Dump) Part(name string) json.RawMessage { return d.configs[name] }

func (d *Dump) part(name string, to any) { _ = json.Unmarshal(d.configs[name], to) } // a part that is absent stays empty

// Cluster is a cluster by the parts of its name.
type Cluster struct {
	Name, FQDN, Subset, Direction, Type, Rule string
	Port                                      string
}

// Clusters lists all clusters, by name.
func (d *Dump) Clusters() []Cluster {
	type one struct {
		Cluster struct {
			Name, Type  string
			ClusterType struct{ Name string } `json:"cluster_type"`
			Metadata    struct {
				FilterMetadata map[string]map[string]any `json:"filter_metadata"`
			}
		}
	}
	var in struct {
		Static  []one `json:"static_clusters"`
		Dynamic []one `json:"dynamic_active_clusters"`
	}
	d.part("ClustersConfigDump", &in)
	var out []Cluster
	for _, c := range append(in.Static, in.Dynamic...) {
		k := splitName(c.Cluster.Name)
		k.Type = c.Cluster.Type
		if k.Type == "" {
			k.Type = strings.TrimPrefix(c.Cluster.ClusterType.Name, "envoy.clusters.")
		}
		for _, m := range c.Cluster.Metadata.FilterMetadata {
			if v, ok := m["destination_rule"].(string); ok {
				k.Rule = v
			}
		}
		out = append(out, k)
	}
	slices.SortFunc(out, func(a, b Cluster) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// splitName takes a cluster's name apart: inbound-vip|port|protocol[/subset]|host and outbound|port|subset|host.
func splitName(name string) Cluster {
	c := Cluster{Name: name, FQDN: name}
	parts := strings.Split(name, "|")
	if len(parts) != 4 {
		return c
	}
	c.Direction, c.Port, c.FQDN = parts[0], parts[1], parts[3]
	c.Subset = parts[2]
	if c.Direction == "inbound-vip" {
		_, c.Subset, _ = strings.Cut(parts[2], "/")
	}
	return c
}

// Listener is a listener and its filter chains.
type Listener struct {
	Name, Address string
	Chains        []string
}

// Listeners lists static and dynamic listeners.
func (d *Dump) Listeners() []Listener {
	type listener struct {
		Name    string
		Address struct {
			Socket struct {
				Address string
				Port    uint32 `json:"port_value"`
			} `json:"socket_address"`
		}
		Internal *struct{}               `json:"internal_listener"`
		Chains   []struct{ Name string } `json:"filter_chains"`
	}
	var in struct {
		Static []struct {
			Listener listener
		} `json:"static_listeners"`
		Dynamic []struct {
			Name   string
			Active struct {
				Listener listener
			} `json:"active_state"`
		} `json:"dynamic_listeners"`
	}
	d.part("ListenersConfigDump", &in)
	var out []Listener
	add := func(l listener) {
		one := Listener{Name: l.Name, Address: "internal"}
		if l.Internal == nil {
			one.Address = fmt.Sprintf("%s:%d", l.Address.Socket.Address, l.Address.Socket.Port)
		}
		for _, c := range l.Chains {
			one.Chains = append(one.Chains, c.Name)
		}
		out = append(out, one)
	}
	for _, l := range in.Static {
		add(l.Listener)
	}
	for _, l := range in.Dynamic {
		l.Active.Listener.Name = l.Name
		add(l.Active.Listener)
	}
	slices.SortFunc(out, func(a, b Listener) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// VirtualHost is one virtual host of a route configuration.
type VirtualHost struct {
	Config, Name, Domains, Match, Route string
}

// VirtualHosts lists the routes as Envoy has them.
func (d *Dump) VirtualHosts() []VirtualHost {
	type config struct {
		Route struct {
			Name  string
			Hosts []struct {
				Name    string
				Domains []string
				Routes  []struct {
					Name  string
					Match map[string]any
				}
			} `json:"virtual_hosts"`
		} `json:"route_config"`
	}
	var in struct {
		Static  []config `json:"static_route_configs"`
		Dynamic []config `json:"dynamic_route_configs"`
	}
	d.part("RoutesConfigDump", &in)
	var out []VirtualHost
	for _, c := range append(in.Static, in.Dynamic...) {
		for _, h := range c.Route.Hosts {
			for _, r := range h.Routes {
				out = append(out, VirtualHost{c.Route.Name, h.Name, strings.Join(h.Domains, ","), envoyMatch(r.Match), r.Name})
			}
		}
	}
	return out
}

func envoyMatch(m map[string]any) string {
	var out []string
	for _, k := range []string{"prefix", "path", "path_separated_prefix"} {
		if v, ok := m[k].(string); ok {
			out = append(out, map[string]string{"prefix": v + "*", "path": "=" + v, "path_separated_prefix": v + "/*"}[k])
		}
	}
	if v, ok := m["safe_regex"].(map[string]any); ok {
		out = append(out, fmt.Sprint("~", v["regex"]))
	}
	for _, k := range []string{"headers", "query_parameters", "dynamic_metadata"} {
		if v, ok := m[k].([]any); ok {
			out = append(out, fmt.Sprintf("%d %s", len(v), strings.ReplaceAll(k, "_", " ")))
		}
	}
	return strings.Join(out, " ")
}

// Endpoint is one address of a cluster, as Envoy sees it.
type Endpoint struct{ Address, Status, Outlier, Cluster string }

// ReadEndpoints decodes the answer of /clusters?format=json.
func ReadEndpoints(r io.Reader) ([]Endpoint, error) {
	var in struct {
		Clusters []struct {
			Name  string
			Hosts []struct {
				Address struct {
					Socket struct {
						Address string
						Port    uint32 `json:"port_value"`
					} `json:"socket_address"`
					Internal struct {
						Listener string `json:"server_listener_name"`
						ID       string `json:"endpoint_id"`
					} `json:"envoy_internal_address"`
					Pipe struct{ Path string }
				}
				Health struct {
					EDS     string `json:"eds_health_status"`
					Outlier bool   `json:"failed_outlier_check"`
				} `json:"health_status"`
			} `json:"host_statuses"`
		} `json:"cluster_statuses"`
	}
	if err := json.NewDecoder(r).Decode(&in); err != nil {
		return nil, fmt.Errorf("decode clusters: %w", err)
	}
	var out []Endpoint
	for _, c := range in.Clusters {
		for _, h := range c.Hosts {
			e := Endpoint{Cluster: c.Name, Status: h.Health.EDS, Outlier: "OK"}
			switch {
			case h.Address.Internal.Listener != "":
				e.Address = h.Address.Internal.Listener
				if h.Address.Internal.ID != "" {
					e.Address = "hbone://" + h.Address.Internal.ID
				}
			case h.Address.Pipe.Path != "":
				e.Address = "unix://" + h.Address.Pipe.Path
			default:
				e.Address = fmt.Sprintf("%s:%d", h.Address.Socket.Address, h.Address.Socket.Port)
			}
			if h.Health.Outlier {
				e.Outlier = "FAILED"
			}
			out = append(out, e)
		}
	}
	slices.SortFunc(out, func(a, b Endpoint) int { return strings.Compare(a.Cluster+a.Address, b.Cluster+b.Address) })
	return out, nil
}

// Secret is a certificate Envoy holds.
type Secret struct {
	Name       string    `json:"name"`
	Type       string    `json:"type"`
	Status     string    `json:"status"`
	Valid      bool      `json:"valid"`
	Serial     string    `json:"serialNumber"`
	NotAfter   time.Time `json:"notAfter"`
	NotBefore  time.Time `json:"notBefore"`
	Identities []string  `json:"identities,omitempty"`
}

// Secrets lists certificates and roots; keys are never shown.
func (d *Dump) Secrets(now time.Time) []Secret {
	type bytesOf struct {
		Inline []byte `json:"inline_bytes"`
		Text   string `json:"inline_string"`
	}
	type state struct {
		Name   string
		Secret struct {
			Certificate struct {
				Chain bytesOf `json:"certificate_chain"`
			} `json:"tls_certificate"`
			Validation struct {
				CA bytesOf `json:"trusted_ca"`
			} `json:"validation_context"`
		}
	}
	var in struct {
		Active  []state `json:"dynamic_active_secrets"`
		Warming []state `json:"dynamic_warming_secrets"`
	}
	d.part("SecretsConfigDump", &in)
	var out []Secret
	add := func(s state, status string) {
		for kind, b := range map[string]bytesOf{"Cert Chain": s.Secret.Certificate.Chain, "CA": s.Secret.Validation.CA} {
			data := append(b.Inline, b.Text...)
			for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
				cert, err := x509.ParseCertificate(block.Bytes)
				if err != nil {
					continue
				}
				one := Secret{
					Name: s.Name, Type: kind, Status: status, Serial: fmt.Sprintf("%x", cert.SerialNumber), NotAfter: cert.NotAfter, NotBefore: cert.NotBefore,
					Valid: now.After(cert.NotBefore) && now.Before(cert.NotAfter),
				}
				for _, u := range cert.URIs {
					one.Identities = append(one.Identities, u.String())
				}
				out = append(out, one)
			}
		}
	}
	for _, s := range in.Active {
		add(s, "ACTIVE")
	}
	for _, s := range in.Warming {
		add(s, "WARMING")
	}
	slices.SortStableFunc(out, func(a, b Secret) int { return strings.Compare(a.Name+a.Type, b.Name+b.Type) })
	return out
}

// Extension is a filter configuration delivered by itself.
type Extension struct{ Name, Type string }

// Extensions lists what came by ECDS.
func (d *Dump) Extensions() []Extension {
	var in struct {
		Filters []struct {
			Filter struct {
				Name  string
				Typed struct {
					Type string `json:"@type"`
				} `json:"typed_config"`
			} `json:"ecds_filter"`
		} `json:"ecds_filters"`
	}
	d.part("EcdsConfigDump", &in)
	var out []Extension
	for _, f := range in.Filters {
		out = append(out, Extension{f.Filter.Name, f.Filter.Typed.Type[strings.LastIndexByte(f.Filter.Typed.Type, '.')+1:]})
	}
	return out
}
