// Package images builds Ambit's container images from the tree: no registry, no container runtime, no Dockerfile.
//
// An image is a row of Catalog: which programs it holds, which files of pinned Debian packages they need, who it runs as.
// Build compiles the programs, makes layers of them, and writes one archive per image that is an OCI layout and what
// `docker save` writes at once, so that docker, podman, containerd, kind and skopeo all read it. The same tree gives the
// same bytes on every machine: layers carry no times, the configuration carries the time of the last commit.
//
// It does not know what the programs do or how they are installed, and it pushes nothing anywhere. Every function returns
// when what it started has ended. Start reading at Build.
package images
