// Package way decides how a cluster comes to be, and says so in words.
//
// There are three ways: a cluster that is given (KUBECONFIG), kind with a published node image on the user's Docker
// (KIND_IMAGE), and kind with a node image of our own on a Docker of our own, which needs neither Docker nor an image registry.
// Decide is pure and knows nothing of how to go a way.
package way

import (
	"errors"
	"fmt"
	"strings"
)

// A Kind of way.
type Kind string

// The ways.
const (
	Given     Kind = "given"     // the cluster is there already; nothing is created and nothing deleted
	Published Kind = "published" // a node image that others publish, on the user's Docker
	Built     Kind = "built"     // a node image built here, on a Docker of our own
)

// Facts are what the decision rests on.
type Facts struct {
	// Kubeconfig, Image and Kubernetes are the variables KUBECONFIG, KIND_IMAGE and KUBERNETES.
	Kubeconfig, Image, Kubernetes string
	// Root: this process may make network namespaces. Debian: there is apt-get.
	Root, Debian bool
	// Kubectl: there is a kubectl to call. Clusters built here bring their own.
	Kubectl bool
	// Docker: the user's Docker daemon answers. DockerProblem is why not.
	Docker        bool
	DockerProblem string
	// OS is the operating system's name as Go has it.
	OS string
}

// A Way to a cluster.
type Way struct {
	Kind Kind
	// Because is the decision and its reason, for the user to read.
	Because string
}

// Decide chooses, or says what the user can do.
func Decide(f Facts) (Way, error) {
	if f.Kubernetes != "" && f.Kubeconfig+f.Image != "" {
		return Way{}, fmt.Errorf("KUBERNETES=%s chooses what a cluster is built of, but KUBECONFIG or KIND_IMAGE names one with a version of its own: leave one out", f.Kubernetes)
	}
	if !f.Kubectl && f.Kubeconfig+f.Image != "" {
		return Way{}, errors.New("KUBECONFIG and KIND_IMAGE need kubectl on the PATH: install it, or leave them out for a cluster built here")
	}
	if f.Kubeconfig != "" {
		return Way{Given, fmt.Sprintf("the cluster that KUBECONFIG=%s points at is used as it is (KUBECONFIG= for one of our own)", f.Kubeconfig)}, nil
	}
	if f.Image != "" {
		if !f.Docker {
			return Way{}, fmt.Errorf("KIND_IMAGE=%s asks for kind on your Docker, which does not answer: %s", f.Image, f.DockerProblem)
		}
		return Way{Published, fmt.Sprintf("kind with the published image %s on your Docker, because KIND_IMAGE says so", f.Image)}, nil
	}
	var missing []string
	if f.OS != "linux" {
		missing = append(missing, "Linux")
	}
	if !f.Root {
		missing = append(missing, "root")
	}
	if !f.Debian {
		missing = append(missing, "apt-get (Debian or Ubuntu)")
	}
	if len(missing) == 0 {
		return Way{Built, "kind with a node image built here on a Docker of our own in a network namespace of its own " +
			"(KIND_IMAGE=kindest/node:… for a published one on your Docker, KUBECONFIG=… for a cluster you have)"}, nil
	}
	advice := "KIND_IMAGE=kindest/node:v1.33.4 make kind uses your Docker"
	if !f.Docker {
		advice = "start Docker and say KIND_IMAGE=kindest/node:v1.33.4 make kind"
	}
	return Way{}, errors.New("a cluster built here needs " + strings.Join(missing, " and ") + "; " + advice + ", KUBECONFIG=FILE make kind a cluster you have")
}
