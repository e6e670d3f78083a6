// Package crd holds the definitions of our own kinds of objects, in the group policy.ambit.io, as Kubernetes takes them:
// LocalRateLimitPolicy and ExtensionPolicy.
//
// It knows only the YAML. What the fields mean, and checks that a schema cannot express, are the business of whoever
// decodes the objects. It starts no goroutine. Start reading at All.
package crd

import (
	"embed"
	"io/fs"
)

//go:embed *.yaml
var files embed.FS

// Group and Version of the kinds.
const (
	Group   = "policy.ambit.io"
	Version = "v1alpha1"
)

// File is one CustomResourceDefinition.
type File struct {
	Name string
	YAML []byte
}

// All returns the definitions in the order of their names. The caller owns the result.
func All() ([]File, error) {
	names, err := fs.Glob(files, "*.yaml")
	if err != nil {
		return nil, err
	}
	var out []File
	for _, n := range names {
		b, err := files.ReadFile(n)
		if err != nil {
			return nil, err
		}
		out = append(out, File{Name: n, YAML: b})
	}
	return out, nil
}
