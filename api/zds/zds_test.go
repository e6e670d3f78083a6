package zds

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
)

// pair returns both ends of one connection, the proxy's hello not yet said.
func pair(t *testing.T) (*AgentConn, *ProxyConn) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "z.sock")
	ln, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	proxy, err := Dial(context.Background(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { proxy.Close() })
	agent, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { agent.Close() })
	return agent, proxy
}

// answer runs the proxy side of n requests.
func answer(t *testing.T, proxy *ProxyConn, n int, fn func(*Request) error) <-chan struct{} {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range n {
			req, err := proxy.Read(time.Now().Add(Timeout))
			if err != nil {
				t.Error(err)
				return
			}
			err = fn(req)
			req.Close()
			if err := proxy.Ack(err); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	t.Cleanup(func() { <-done })
	return done
}

func TestConversation(t *testing.T) {
	agent, proxy := pair(t)
	if err := proxy.Hello(); err != nil {
		t.Fatal(err)
	}
	if err := agent.Hello(); err != nil {
		t.Fatal(err)
	}
	netns, err := os.Open("/proc/self/ns/net")
	if err != nil {
		t.Skip("no /proc/self/ns/net:", err)
	}
	defer netns.Close()
	want, _ := netns.Stat()

	var seen []string
	done := answer(t, proxy, 5, func(r *Request) error {
		switch {
		case r.GetKeep() != nil:
			seen = append(seen, "keep "+r.GetKeep().GetUid())
		case r.GetAdd() != nil:
			f := r.TakeNetns()
			defer f.Close()
			if got, err := f.Stat(); err != nil || !os.SameFile(got, want) {
				t.Errorf("descriptor is not the namespace sent: %v", err)
			}
			info := r.GetAdd().GetWorkloadInfo()
			seen = append(seen, "add "+r.GetAdd().GetUid()+" "+info.GetNamespace()+"/"+info.GetName()+"/"+info.GetServiceAccount())
		case r.GetDel() != nil:
			if r.GetDel().GetUid() == "unknown" {
				return errors.New("no such pod\xff " + strings.Repeat("x", 2000))
			}
			seen = append(seen, "del "+r.GetDel().GetUid())
		case r.GetSnapshotSent() != nil:
			seen = append(seen, "snapshot")
		}
		return nil
	})
	for _, err := range []error{
		agent.Keep("a"),
		agent.Add("b", &WorkloadInfo{Name: "web", Namespace: "shop", ServiceAccount: "till"}, netns),
		agent.SnapshotSent(),
		agent.Del("b"),
	} {
		if err != nil {
			t.Error(err)
		}
	}
	var refused *AckError
	if err := agent.Del("unknown"); !errors.As(err, &refused) || !strings.HasPrefix(refused.Text, "no such pod? x") {
		t.Errorf("refusal came back as %v", err)
	}
	<-done
	if got := strings.Join(seen, "; "); got != "keep a; add b shop/web/till; snapshot; del b" {
		t.Errorf("proxy saw %q", got)
	}
	if err := agent.Alive(); err != nil {
		t.Errorf("idle proxy: %v", err)
	}
}

func TestAlive(t *testing.T) {
	agent, proxy := pair(t)
	if err := proxy.Ack(nil); err != nil {
		t.Fatal(err)
	}
	if err := agent.Alive(); !errors.Is(err, ErrMessage) {
		t.Errorf("unasked message: %v", err)
	}
	proxy.Close()
	if err := agent.Alive(); !errors.Is(err, io.EOF) {
		t.Errorf("hung up: %v", err)
	}
}

func TestTooLarge(t *testing.T) {
	agent, _ := pair(t)
	if err := agent.Del(strings.Repeat("x", MaxMessage)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("got %v", err)
	}
}

// raw writes bytes and descriptors the typed ends would not send.
func raw(t *testing.T, nc *net.UnixConn, b []byte, fds ...int) {
	t.Helper()
	var oob []byte
	if len(fds) > 0 {
		oob = syscall.UnixRights(fds...)
	}
	if _, _, err := nc.WriteMsgUnix(b, oob, nil); err != nil {
		t.Fatal(err)
	}
}

func TestProxyRefuses(t *testing.T) {
	add, _ := proto.Marshal(&WorkloadRequest{Payload: &WorkloadRequest_Add{Add: &AddWorkload{Uid: "a"}}})
	del, _ := proto.Marshal(&WorkloadRequest{Payload: &WorkloadRequest_Del{Del: &DelWorkload{Uid: "a"}}})
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	fd := int(null.Fd())
	for _, c := range []struct {
		name  string
		bytes []byte
		fds   []int
		want  error
	}{
		{"garbage", []byte("\xff\xff\xff"), nil, ErrMessage},
		{"a request without a payload", []byte{0x22, 0x00}, nil, ErrMessage},
		{"an add without a descriptor", add, nil, ErrDescriptors},
		{"an add with two descriptors", add, []int{fd, fd}, ErrDescriptors},
		{"a del with a descriptor", del, []int{fd}, ErrDescriptors},
		{"too many descriptors for the buffer", add, []int{fd, fd, fd, fd, fd, fd, fd, fd}, ErrTruncated},
		{"one byte too many", make([]byte, MaxMessage+1), nil, ErrTruncated},
		{"far too many bytes", make([]byte, 4*MaxMessage), []int{fd}, ErrTruncated},
		{"the shortest add", add, []int{fd}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			agent, proxy := pair(t)
			before := openFiles(t)
			raw(t, agent.nc, c.bytes, c.fds...)
			req, err := proxy.Read(time.Now().Add(Timeout))
			if !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if req != nil {
				req.Close()
			}
			if after := openFiles(t); after != before {
				t.Errorf("%d files open, %d before: descriptors leak", after, before)
			}
		})
	}
}

func TestReadTimeoutKeepsConnection(t *testing.T) {
	agent, proxy := pair(t)
	if _, err := proxy.Read(time.Now().Add(time.Millisecond)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
	answer(t, proxy, 1, func(*Request) error { return nil })
	if err := agent.SnapshotSent(); err != nil {
		t.Error(err)
	}
}

func TestHelloVersion(t *testing.T) {
	agent, proxy := pair(t)
	raw(t, proxy.nc, []byte{0x08, 0x07})
	if err := agent.Hello(); !errors.Is(err, ErrMessage) || !strings.Contains(err.Error(), "version 7") {
		t.Errorf("got %v", err)
	}
}

func TestListenTakesOver(t *testing.T) {
	path := filepath.Join(t.TempDir(), "z.sock")
	first, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	second, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	first.Close()
	proxy, err := Dial(context.Background(), path)
	if err != nil {
		t.Fatalf("the successor's socket went away with the old listener: %v", err)
	}
	proxy.Close()
	if conn, err := second.Accept(); err != nil {
		t.Error(err)
	} else {
		conn.Close()
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), ".z*")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip("no /proc/self/fd:", err)
	}
	return len(entries)
}

func FuzzRequest(f *testing.F) {
	for _, m := range []*WorkloadRequest{
		{Payload: &WorkloadRequest_Add{Add: &AddWorkload{Uid: "a", WorkloadInfo: &WorkloadInfo{Name: "n", Namespace: "ns"}}}},
		{Payload: &WorkloadRequest_Del{Del: &DelWorkload{Uid: "a"}}},
		{Payload: &WorkloadRequest_Keep{Keep: &KeepWorkload{Uid: "a"}}},
		{Payload: &WorkloadRequest_SnapshotSent{SnapshotSent: &SnapshotSent{}}},
	} {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, 1)
		f.Add(b, 0)
	}
	f.Fuzz(func(t *testing.T, b []byte, fds int) {
		if fds < 0 || fds > maxFDs {
			return
		}
		files := make([]*os.File, fds)
		req, err := parseRequest(b, files)
		if err != nil {
			return
		}
		if (req.GetAdd() != nil) != (fds == 1) || (fds != 1 && fds != 0) {
			t.Fatalf("accepted %v with %d descriptors", req.WorkloadRequest, fds)
		}
	})
}

func FuzzAck(f *testing.F) {
	b, _ := proto.Marshal(&WorkloadResponse{Payload: &WorkloadResponse_Ack{Ack: &Ack{Error: "no"}}})
	f.Add(b)
	f.Add([]byte{0x0a, 0x00})
	f.Fuzz(func(t *testing.T, b []byte) {
		err := parseAck(b, 0)
		var refused *AckError
		if err != nil && !errors.As(err, &refused) && !errors.Is(err, ErrMessage) {
			t.Fatalf("unclassified error %v", err)
		}
	})
}
