package main

import (
	"io"
	"testing"
)

// TestUsage holds wrong command lines apart from labs that fail: scripts do by the exit status.
func TestUsage(t *testing.T) {
	t.Setenv("AMBIT_LAB_DIR", t.TempDir())
	for _, c := range []struct {
		usage bool
		args  []string
	}{
		{true, []string{"bogus"}},
		{true, []string{"get"}},
		{true, []string{"get", "pods", "--bogus"}},
		{true, []string{"apply"}},
		{true, []string{"fail"}},
		{true, []string{"exec", "pod"}},
		{true, []string{"up", "--nodes", "0"}},
		{true, []string{"up", "--redirection", "bpf"}},
		{false, []string{"up", "--file", "/nowhere"}},
		{false, []string{"get", "pods", "--lab", "nowhere"}},
		{false, []string{"status"}},
	} {
		root := newRoot()
		root.SetArgs(c.args)
		root.SetOut(io.Discard)
		root.SetErr(io.Discard)
		err := root.Execute()
		if err == nil || isUsage(err) != c.usage {
			t.Errorf("%q: usage error is %v: %v", c.args, !c.usage, err)
		}
	}
}
