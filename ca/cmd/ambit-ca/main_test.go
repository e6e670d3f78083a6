package main

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/ca/certs"
	"github.com/ambit-mesh/ambit/ca/client"
	"github.com/ambit-mesh/ambit/ca/identity"
	"github.com/ambit-mesh/ambit/ca/issuer"
)

// asMain makes the test binary be ambit-ca: what these tests start and kill is a process of its own.
const asMain = "AMBIT_CA_TEST_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(asMain) != "" {
		main()
	}
	os.Exit(m.Run())
}

func command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Env = append(os.Environ(), asMain+"=1")
	return cmd
}

// ok runs a command to its end and returns what it prints.
func ok(t *testing.T, args ...string) string {
	t.Helper()
	out, err := command(t, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("ambit-ca %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

func TestUsage(t *testing.T) {
	for args, text := range map[string]string{
		"":                                 "no issuer",
		"nonsense":                         `unknown command "nonsense"`,
		"--nonsense":                       "flag provided but not defined",
		"--issuer x extra":                 `unexpected argument "extra"`,
		"--issuer x --admin 0.0.0.0:1":     "not a loopback address",
		"--issuer x --serving-cert nodirs": "DIR=name",
		"--issuer x --default-ttl soon":    "invalid",
		"token --ns a":                     "are needed",
		"token-key":                        "--out FILE is needed",
	} {
		cmd := command(t, strings.Fields(args)...)
		out, _ := cmd.CombinedOutput()
		if cmd.ProcessState.ExitCode() != 64 || !strings.Contains(string(out), text) {
			t.Errorf("%q: exit code %d, %s; want 64 with %q", args, cmd.ProcessState.ExitCode(), out, text)
		}
	}
	if out := ok(t, "-h"); !strings.Contains(out, "-serving-cert") {
		t.Errorf("help: %s", out)
	}
}

func TestTokenKeyIsKept(t *testing.T) {
	dir := t.TempDir()
	key, jwks := filepath.Join(dir, "key"), filepath.Join(dir, "jwks")
	ok(t, "token-key", "--out", key, "--jwks", jwks)
	first, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	printed := ok(t, "token-key", "--out", key)
	again, err := os.ReadFile(key)
	if err != nil || !bytes.Equal(first, again) {
		t.Errorf("the key was replaced (%v)", err)
	}
	if written, err := os.ReadFile(jwks); err != nil || strings.TrimSpace(string(written)) != printed {
		t.Errorf("the public half differs (%v)", err)
	}
	if st, err := os.Stat(key); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("key file: %v, %v", st.Mode(), err)
	}
}

// A process that is killed again and again, also amid rotations, comes back with a root its predecessors' certificates
// verify against, and serves within the second.
func TestKilled(t *testing.T) {
	dir, err := os.MkdirTemp("", "ca") // short, for the socket's sake
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	file := func(name string) string { return filepath.Join(dir, name) }
	ok(t, "token-key", "--out", file("key"), "--jwks", file("jwks"))
	raw := ok(t, "token", "--key", file("key"), "--ns", "default", "--sa", "alice")
	reserved, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := reserved.Addr().String()
	reserved.Close()
	start := func() *exec.Cmd {
		cmd := command(t, "--listen", addr, "--admin", "unix:"+file("sock"), "--issuer", file("issuer"), "--roots-file", file("roots.pem"), "--token-keys", file("jwks"))
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	alice := identity.ID{TrustDomain: "cluster.local", Namespace: "default", ServiceAccount: "alice"}
	cl := client.New(client.Config{Address: addr, ServerName: "localhost", RootCA: client.RootFile(file("roots.pem")), Token: func() (string, error) { return raw, nil }})
	defer cl.Close()

	var last *certs.SVID
	for round := range 4 {
		cmd := start()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		svid := sign(ctx, t, cl, alice)
		cancel()
		if last != nil {
			if err := svid.Bundle().Verify(last.Chain(), 0, time.Now()); err != nil {
				t.Errorf("round %d: the certificate from before the kill is not trusted: %v", round, err)
			}
		}
		last = svid
		rotateAndKill(t, cmd, file("sock"))
		if _, err := issuer.Open(issuer.Config{Dir: file("issuer")}); err != nil {
			t.Fatalf("round %d: the issuer's folder after a kill: %v", round, err)
		}
	}
	cmd := start()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	sign(ctx, t, cl, alice)
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("after SIGTERM: %v", err)
	}
}

// sign retries until the process is up.
func sign(ctx context.Context, t *testing.T, cl *client.Client, id identity.ID) *certs.SVID {
	t.Helper()
	for {
		svid, err := cl.Sign(ctx, id)
		if err == nil {
			return svid
		}
		if ctx.Err() != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond) // another process; there is nothing to wait on
	}
}

// rotateAndKill asks for rotations until the kill, a few milliseconds later, cuts one short.
func rotateAndKill(t *testing.T, cmd *exec.Cmd, sock string) {
	t.Helper()
	hc := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", sock)
	}}}
	defer hc.CloseIdleConnections()
	killer := time.AfterFunc(30*time.Millisecond, func() { _ = cmd.Process.Kill() })
	defer killer.Stop()
	for range 50 {
		resp, err := hc.Post("http://admin/rotate", "", nil)
		if err != nil {
			break
		}
		resp.Body.Close()
	}
	_ = cmd.Wait()
}
