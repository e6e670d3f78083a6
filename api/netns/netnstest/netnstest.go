//go:build linux

// Package netnstest makes network namespaces for tests, and skips the tests that may not.
//
// It starts no goroutine; a namespace ends with its test.
package netnstest

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ambit-mesh/ambit/api/netns"
)

// Make returns a namespace nobody else is in, whose interfaces are down. The test is skipped without CAP_SYS_ADMIN.
func Make(t testing.TB) *netns.Netns {
	t.Helper()
	n, err := netns.Make()
	if errors.Is(err, unix.EPERM) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	return n
}
