package engine

import (
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

func TestArguments(t *testing.T) {
	e := &Engine{Run: "/run/x", Data: "/data", Wrapper: "/w/ambit-runc"}
	plain := strings.Join(e.Arguments(nil), " ")
	if strings.Contains(plain, "ambit-runc") || !strings.Contains(plain, "--host unix:///run/x/docker.sock --data-root /data") {
		t.Errorf("on a machine that lacks nothing: %s", plain)
	}
	if strings.Contains(plain, "ip6tables") {
		t.Errorf("without IPv6: %s", plain)
	}
	e.IPv6 = true
	if six := strings.Join(e.Arguments(nil), " "); !strings.HasSuffix(six, "--experimental --ip6tables") {
		t.Errorf("with IPv6: %s", six)
	}
	if wrapped := strings.Join(e.Arguments([]string{"CAP_SYS_RESOURCE"}), " "); !strings.HasSuffix(wrapped, "--add-runtime ambit-runc=/w/ambit-runc --default-runtime ambit-runc") {
		t.Errorf("on a machine that lacks something: %s", wrapped)
	}
}

// TestEndChecks: a pid file may be older than the process that has its number now.
func TestEndChecks(t *testing.T) {
	sleep := exec.Command("sleep", "60")
	if err := sleep.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- sleep.Wait() }()
	file := filepath.Join(t.TempDir(), "pid")
	write := func() {
		if err := os.WriteFile(file, []byte(strconv.Itoa(sleep.Process.Pid)+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write()
	if err := end(t.Context(), file, "dockerd"); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		t.Fatalf("somebody else's process was stopped: %v", err)
	default:
	}
	write()
	if err := end(t.Context(), file, "sleep"); err != nil {
		t.Fatal(err)
	}
	<-ended
	if err := end(t.Context(), file, "sleep"); err != nil {
		t.Errorf("nothing to stop: %v", err)
	}
}

func TestRelay(t *testing.T) {
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	go func() {
		c, err := server.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		// The answer comes after the end of the question, so that a lost half-close would hang.
		text, _ := io.ReadAll(c)
		_, _ = c.Write([]byte(strings.ToUpper(string(text))))
	}()
	front, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		done <- Relay(front, func() (net.Conn, error) { return net.Dial("tcp", server.Addr().String()) })
	}()
	c, err := net.Dial("tcp", front.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(c); err != nil || string(got) != "HELLO" {
		t.Errorf("got %q, %v", got, err)
	}
	front.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
