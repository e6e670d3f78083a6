// Package auth is the generated code of ca.proto: the request for a certificate and its answer.
// It has no behaviour; ca/client and ca/server are its two ends. Regenerate with `make generate`. Start reading at ca.proto.
package auth
