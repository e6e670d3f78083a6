// Package charts holds the Helm charts of the mesh, as files: base, control, cni, ztunnel and gateway, in the order in which
// they are installed.
//
// They are the only source of what is installed: Helm renders them for its users, package render for ambitctl's. What is
// generated in them (values.yaml, values.schema.json, _ambit.tpl, files/crd) comes from shared and from the modules that
// define the kinds; run make generate after a change there. It knows no values and starts no goroutine. Start reading at
// Files, then at control/templates.
package charts

import "embed"

// Files are the charts, each in the folder of its name.
//
//go:embed all:base all:control all:cni all:ztunnel all:gateway
var Files embed.FS

// Names of the charts, in the order of installation. The last one is no part of the mesh itself.
func Names() []string { return []string{Base, Control, CNI, Ztunnel, Gateway} }

// Charts.
const (
	Base    = "base"
	Control = "control"
	CNI     = "cni"
	Ztunnel = "ztunnel"
	Gateway = "gateway"
)
