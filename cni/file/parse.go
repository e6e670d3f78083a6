package file

import (
	"bytes"
	"fmt"
	"net/netip"

	"sigs.k8s.io/yaml"

	"github.com/ambit-mesh/ambit/api/folder"
	"github.com/ambit-mesh/ambit/cni/enroll"
)

// AnnotationNetns tells, in the lab, where a pod's network namespace is mounted.
const AnnotationNetns = "lab.ambit.io/netns"

// object is a Pod of this node, or a Namespace.
type object struct {
	pod       *enroll.Pod
	namespace string
	labels    map[string]string
}

// document is what we read of either kind. Everything else in it is other people's.
type document struct {
	Kind     string `json:"kind"`
	Metadata struct {
		Name        string            `json:"name"`
		Namespace   string            `json:"namespace"`
		UID         string            `json:"uid"`
		Labels      map[string]string `json:"labels"`
		Annotations map[string]string `json:"annotations"`
	} `json:"metadata"`
	Spec struct {
		NodeName           string `json:"nodeName"`
		HostNetwork        bool   `json:"hostNetwork"`
		ServiceAccountName string `json:"serviceAccountName"`
	} `json:"spec"`
	Status struct {
		Phase  string `json:"phase"`
		PodIP  string `json:"podIP"`
		PodIPs []struct {
			IP string `json:"ip"`
		} `json:"podIPs"`
	} `json:"status"`
}

// parse reads a file's documents. One that is broken fails the file: which pod it meant is unknown, so no pod of the
// file can be taken for deleted.
func parse(data []byte, node string) ([]object, error) {
	var out []object
	for _, d := range folder.SplitDocuments(data) {
		// Most of what a folder holds is of no interest here, and reading YAML is slow.
		if !bytes.Contains(d.Data, []byte("Pod")) && !bytes.Contains(d.Data, []byte("Namespace")) {
			continue
		}
		var head struct {
			Kind string `json:"kind"`
		}
		if err := yaml.Unmarshal(d.Data, &head); err != nil {
			return nil, fmt.Errorf("document at line %d: %w", d.Line, err)
		}
		if head.Kind != "Pod" && head.Kind != "Namespace" {
			continue
		}
		var doc document
		if err := yaml.Unmarshal(d.Data, &doc); err != nil {
			return nil, fmt.Errorf("document at line %d: %w", d.Line, err)
		}
		if doc.Metadata.Name == "" {
			return nil, fmt.Errorf("document at line %d: %s without metadata.name", d.Line, doc.Kind)
		}
		switch {
		case doc.Kind == "Namespace":
			out = append(out, object{namespace: doc.Metadata.Name, labels: doc.Metadata.Labels})
		case doc.Spec.NodeName == node:
			out = append(out, object{pod: doc.pod()})
		}
	}
	return out, nil
}

func (d *document) pod() *enroll.Pod {
	p := &enroll.Pod{
		UID: d.Metadata.UID, Namespace: d.Metadata.Namespace, Name: d.Metadata.Name, Node: d.Spec.NodeName,
		ServiceAccount: d.Spec.ServiceAccountName, Labels: d.Metadata.Labels, Annotations: d.Metadata.Annotations,
		HostNetwork: d.Spec.HostNetwork, Phase: d.Status.Phase, Netns: d.Metadata.Annotations[AnnotationNetns],
	}
	if p.Namespace == "" {
		p.Namespace = "default"
	}
	if p.ServiceAccount == "" {
		p.ServiceAccount = "default"
	}
	if p.UID == "" {
		p.UID = p.Namespace + "/" + p.Name
	}
	texts := []string{d.Status.PodIP}
	for _, ip := range d.Status.PodIPs {
		texts = append(texts, ip.IP)
	}
	seen := map[netip.Addr]bool{}
	for _, text := range texts {
		if a, err := netip.ParseAddr(text); err == nil && !seen[a] {
			seen[a] = true
			p.IPs = append(p.IPs, a)
		}
	}
	return p
}
