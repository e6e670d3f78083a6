package buffer

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net"
	"testing"
)

// TestQueueIsABytesBuffer does random things to a Queue and to a bytes.Buffer.
func TestQueueIsABytesBuffer(t *testing.T) {
	for seed := range uint64(10) {
		r := rand.New(rand.NewPCG(seed, 0))
		var q Queue
		var want bytes.Buffer
		next := byte(0)
		fill := func(n int) []byte {
			b := make([]byte, n)
			for i := range b {
				next++
				b[i] = next
			}
			return b
		}
		for range 300 {
			switch r.IntN(5) {
			case 0, 1:
				p := fill(r.IntN(1 << r.IntN(18)))
				q.Write(p)
				want.Write(p)
			case 2:
				b := Get(1 + r.IntN(Large))
				p := fill(1 + r.IntN(len(b.Room())))
				b.Append(p)
				q.Push(b)
				want.Write(p)
			case 3:
				got := make([]byte, r.IntN(1<<r.IntN(18)))
				got = got[:q.Read(got)]
				if !bytes.Equal(got, want.Next(len(got))) {
					t.Fatalf("seed %d: read other bytes", seed)
				}
			case 4:
				b := q.Pop()
				if b == nil {
					break
				}
				if !bytes.Equal(b.Bytes(), want.Next(b.Len())) {
					t.Fatalf("seed %d: popped other bytes", seed)
				}
				b.Free()
			}
			if q.Size() != want.Len() || q.Empty() != (want.Len() == 0) {
				t.Fatalf("seed %d: size %d, want %d", seed, q.Size(), want.Len())
			}
		}
		if n := q.Discard(); n != want.Len() || !q.Empty() {
			t.Errorf("seed %d: discarded %d of %d", seed, n, want.Len())
		}
	}
}

func TestHeadroom(t *testing.T) {
	for _, size := range []int{0, 1, Tiny, Small, Medium, Large, 2 * Large} {
		b := Get(size)
		if len(b.Room()) < min(size, Large) {
			t.Errorf("asked for %d, got room for %d", size, len(b.Room()))
		}
		b.Append([]byte("payload"))
		copy(b.Prepend(Headroom), "123456789")
		if got := string(b.Bytes()); got != "123456789payload" {
			t.Errorf("got %q", got)
		}
		b.Free()
	}
}

func TestSource(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	p, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	raw, err := p.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	s := NewSource(raw)
	io.WriteString(c, "hello, world")
	for _, want := range []string{"hello", ", wor", "ld"} {
		b, err := s.Next(5)
		if err != nil || string(b.Bytes()) != want {
			t.Fatalf("got %q, %v", b.Bytes(), err)
		}
		b.Free()
	}
	c.Close()
	if b, err := s.Next(5); b != nil || err != nil {
		t.Errorf("at the end: %v, %v", b, err)
	}
	p.Close()
	if _, err := s.Next(5); err == nil {
		t.Error("no error after Close")
	}
}
