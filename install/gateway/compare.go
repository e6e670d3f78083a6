package gateway

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/ambit-mesh/ambit/api/waypoint"
)

// Sent is what the control plane has for a gateway, by kind. The key of a kind is its type's name in small letters.
type Sent map[string][]struct {
	Name     string
	Resource json.RawMessage
}

// Difference is one kind of fact, as sent and as held.
type Difference struct {
	Kind string
	// Count of those sent.
	Count int
	// Missing are sent and not held, Extra are held and not sent, Other are held with another content.
	Missing, Extra, Other []string
}

// Same reports whether there is none.
func (d Difference) Same() bool { return len(d.Missing)+len(d.Extra)+len(d.Other) == 0 }

// String is one line.
func (d Difference) String() string {
	if d.Same() {
		return fmt.Sprintf("%s match (%d)", d.Kind, d.Count)
	}
	var parts []string
	for _, p := range []struct {
		what  string
		names []string
	}{{"not at the proxy: ", d.Missing}, {"only at the proxy: ", d.Extra}, {"another content: ", d.Other}} {
		if len(p.names) > 0 {
			parts = append(parts, p.what+strings.Join(p.names, ", "))
		}
	}
	return d.Kind + " differ: " + strings.Join(parts, "; ")
}

// Compare compares all kinds but secrets, whose content nobody shows.
func Compare(sent Sent, held *Facts) ([]Difference, error) {
	prefix := ""
	var gateways []*waypoint.Gateway
	if g := held.Gateway; g != nil {
		gateways, prefix = append(gateways, g), g.GetNamespace()+"/"+g.GetName()+"/"
	}
	var out []Difference
	for _, err := range []error{
		compare(&out, "Gateway", sent["gateway"], gateways, func(*waypoint.Gateway) string { return prefix + "gateway" }),
		compare(&out, "Hosts", sent["virtualhost"], held.VirtualHosts, func(h *waypoint.VirtualHost) string {
			name := h.GetHostname()
			if name == "" {
				name = "*"
			}
			return prefix + h.GetListener() + "/" + name
		}),
		compare(&out, "Services", sent["service"], held.Services, func(s *waypoint.Service) string { return prefix + s.GetNamespace() + "/" + s.GetHostname() }),
		compare(&out, "Destinations", sent["destination"], held.Destinations, func(d *waypoint.Destination) string { return prefix + d.GetNamespace() + "/" + d.GetHostname() }),
	} {
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// compare compares one kind. P is *T.
func compare[T any, P interface {
	*T
	proto.Message
}](out *[]Difference, kind string, sent []struct {
	Name     string
	Resource json.RawMessage
}, held []P, name func(P) string) error {
	d := Difference{Kind: kind, Count: len(sent)}
	have := map[string]P{}
	for _, h := range held {
		have[name(h)] = h
	}
	for _, s := range sent {
		m := P(new(T))
		if err := unmarshal(s.Resource, m); err != nil {
			return fmt.Errorf("%s of the control plane: %w", s.Name, err)
		}
		switch h, ok := have[s.Name]; {
		case !ok:
			d.Missing = append(d.Missing, s.Name)
		case !proto.Equal(h, m):
			d.Other = append(d.Other, s.Name)
		}
		delete(have, s.Name)
	}
	for n := range have {
		d.Extra = append(d.Extra, n)
	}
	slices.Sort(d.Extra)
	*out = append(*out, d)
	return nil
}
