// Package telemetry says what happened to each connection: Istio's TCP metrics, one access-log line, and the closed list
// of reasons both share with the operator's tools.
//
// It does not know how connections are made, and decides nothing. A Recorder hands out one Connection for each TCP
// connection; whoever carries the connection counts bytes on it and closes it once. The only goroutine is Recorder.Run,
// which drops series nobody has touched for ten minutes. Start reading at connection.go, then reason.go.
package telemetry
