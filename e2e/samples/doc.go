// Package samples holds the YAML of sample applications, policies and routes, for people, guides and stories. It has no
// code but the test that the control plane understands every file.
package samples
