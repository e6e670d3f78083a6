package pemdir

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func set(n int) map[string]File {
	return map[string]File{
		"key":  {Data: fmt.Appendf(nil, "%d", n), Mode: 0o600},
		"cert": {Data: fmt.Appendf(nil, "%d", n), Mode: 0o644},
	}
}

func TestWriteRead(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	for n := range 5 {
		if err := Write(dir, set(n)); err != nil {
			t.Fatal(err)
		}
		got, err := Read(dir, "key", "cert", "absent")
		if err != nil {
			t.Fatal(err)
		}
		if len(got) != 2 || string(got["key"].Data) != fmt.Sprint(n) || got["key"].Mode != 0o600 || got["cert"].Mode != 0o644 {
			t.Fatalf("round %d: %+v", n, got)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	generations := 0
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), genPrefix) {
			generations++
		}
	}
	if generations != 2 {
		t.Errorf("%d generations are left, want the current and the previous one", generations)
	}
	if err := Write(dir, map[string]File{"cert": set(9)["cert"]}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(filepath.Join(dir, "key")); err == nil {
		t.Error("a file that left the set still has its name")
	}
}

func TestReadPlain(t *testing.T) {
	dir := t.TempDir()
	if got, err := Read(filepath.Join(dir, "none"), "key"); err != nil || len(got) != 0 {
		t.Errorf("no folder: %v, %v", got, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "key"), []byte("x"), 0o640); err != nil {
		t.Fatal(err)
	}
	if got, err := Read(dir, "key"); err != nil || string(got["key"].Data) != "x" || got["key"].Mode != 0o640 {
		t.Errorf("plain folder: %v, %v", got, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "big"), make([]byte, maxFile+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(dir, "big"); err == nil {
		t.Error("read a file beyond the limit")
	}
	// What was a plain folder can be taken over.
	if err := Write(dir, set(1)); err != nil {
		t.Fatal(err)
	}
	if got, err := Read(dir, "key"); err != nil || string(got["key"].Data) != "1" {
		t.Errorf("taken over: %v, %v", got, err)
	}
}

// A reader beside a busy writer never sees halves of two sets.
func TestReadIsConsistent(t *testing.T) {
	dir := t.TempDir()
	if err := Write(dir, set(0)); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		for n := 1; n <= 40; n++ {
			if err := Write(dir, set(n)); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for {
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			return
		default:
		}
		got, err := Read(dir, "key", "cert")
		if err != nil {
			continue // it gave up on a folder that changes too fast, and said so
		}
		if string(got["key"].Data) != string(got["cert"].Data) || len(got) != 2 {
			t.Fatalf("halves of two sets: %q and %q", got["key"].Data, got["cert"].Data)
		}
	}
}

func TestLock(t *testing.T) {
	dir := t.TempDir()
	unlock, err := Lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan struct{})
	go func() {
		defer close(got)
		if unlock, err := Lock(dir); err == nil {
			unlock()
		}
	}()
	select {
	case <-got:
		t.Fatal("two holders")
	default:
	}
	unlock()
	<-got
}
