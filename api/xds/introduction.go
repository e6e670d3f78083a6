package xds

import (
	"cmp"
	"strings"
	"unicode"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"github.com/ambit-mesh/ambit/api/mesh"
)

// What is kept of a client's words about itself. Anybody with a token may say anything, and people read it in terminals.
const (
	maxSaid     = 64
	maxFeatures = 16
)

// introduction is what a client says of itself, as far as it is kept.
func introduction(node *corev3.Node) ClientStatus {
	meta := func(key string) string { return said(node.GetMetadata().GetFields()[key].GetStringValue(), maxSaid) }
	cs := ClientStatus{
		NodeID:   said(node.GetId(), 8*maxSaid),
		Agent:    said(node.GetUserAgentName(), maxSaid),
		Cluster:  meta(mesh.MetadataCluster),
		Version:  cmp.Or(meta(mesh.MetadataVersion), meta(mesh.MetadataIstioVersion), said(node.GetUserAgentVersion(), maxSaid)),
		NodeName: said(node.GetMetadata().GetFields()[metadataNode].GetStringValue(), 4*maxSaid),
	}
	features := node.GetClientFeatures()
	for _, f := range features[:min(len(features), maxFeatures)] {
		cs.Features = append(cs.Features, said(f, maxSaid))
	}
	return cs
}

// metadataNode names the Kubernetes node in a client's metadata.
const metadataNode = "NODE_NAME"

// said is text of a client, short and without anything that does not print.
func said(text string, most int) string {
	text = strings.ToValidUTF8(text[:min(len(text), most)], "")
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return -1
	}, text)
}
