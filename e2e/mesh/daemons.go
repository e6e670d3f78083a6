// Package mesh puts Ambit's real daemons on the hosts of a lab.
package mesh

import "github.com/ambit-mesh/ambit/e2e/lab"

// Daemons returns what to run where so that the lab carries a mesh.
func Daemons(*lab.Lab) ([]lab.Daemon, error) { return nil, nil }
