package facts

import (
	"encoding/json"
	"io"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// WriteJSON writes everything known as one JSON object of lists, for people and tools. Private keys are left out.
func (s *Snapshot) WriteJSON(w io.Writer) error {
	out := map[string]any{
		"gateway":      nil,
		"services":     messages(s.services.values()),
		"destinations": messages(s.destinations.values()),
		"virtualHosts": messages(s.hosts.values()),
		"addresses":    messages(s.addresses.values()),
		"workloads":    messages(workloads(s.workloads.values())),
	}
	if s.gateway != nil {
		out["gateway"] = message{s.gateway}
	}
	secrets := []map[string]string{}
	for _, m := range s.secrets.values() {
		secrets = append(secrets, map[string]string{
			"namespace": m.GetNamespace(), "name": m.GetName(), "certificateChain": string(m.GetCertificateChain()),
			"ca": string(m.GetCa()),
		})
	}
	out["secrets"] = secrets
	enc := json.NewEncoder(w)
	enc.SetIndent("", " ")
	return enc.Encode(out)
}

// message is a proto that encodes itself.
type message struct{ m proto.Message }

// MarshalJSON implements json.Marshaler.
func (m message) MarshalJSON() ([]byte, error) { return protojson.Marshal(m.m) }

func messages[M proto.Message](list []M) []message {
	out := make([]message, len(list))
	for i, m := range list {
		out[i] = message{m}
	}
	return out
}
