// Package h2spec holds our HTTP/2 engine against summerwind/h2spec, both as the accepting and as the opening end.
//
// It knows the two engines and nothing of a mesh: the server cases talk to hbone.Serve over plain TCP, the client
// cases are served by h2spec and called by hbone.Client. There is no code outside the tests; start at server_test.go.
package h2spec
