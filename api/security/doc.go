// Package security is the generated code of authorization.proto: L4 policies as a node proxy evaluates them.
// It has no behaviour; control/model writes the messages and ztunnel/authz evaluates them. Regenerate with `make generate`.
// Start reading at authorization.proto.
package security
