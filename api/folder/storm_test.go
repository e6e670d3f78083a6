package folder

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// Many writers replace the same files at once. A watcher must never see a mixture, and must end with the last state.
func TestStormOfWriters(t *testing.T) {
	root := t.TempDir()
	m := start(t, root, never)
	const writers, rounds, files = 6, 40, 4
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range rounds {
				body := strings.Repeat(fmt.Sprintf("writer %d round %d\n", w, i), 200)
				if err := Write(root, fmt.Sprintf("d/%d.yaml", i%files), []byte(body)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for f := range files {
		p := fmt.Sprintf("d/%d.yaml", f)
		want, err := Read(root, p)
		if err != nil {
			t.Fatal(err)
		}
		m.wait(t, p, string(want))
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for p, all := range m.told {
		for _, s := range all {
			first, _, _ := strings.Cut(s, "\n")
			if s != strings.Repeat(first+"\n", 200) {
				t.Errorf("%s: a mixture was read: %.80q…", p, s)
			}
		}
	}
	left, _ := filepath.Glob(filepath.Join(root, "d/.*"))
	if len(left) > 0 {
		t.Errorf("temporary files were left: %v", left)
	}
}

// Every increment of a counter must survive concurrent edits, along with the fields of others.
func TestEditsDoNotLoseEachOther(t *testing.T) {
	root := t.TempDir()
	if err := Write(root, "c.yaml", []byte("big: 9007199254740993\nkeep: [a, 1.5, true]\ncount: 0\nwhen: 2026-01-02T03:04:05Z\n")); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() {
			for range 20 {
				err := Edit(root, "c.yaml", func(d map[string]any) (map[string]any, error) {
					d["count"] = d["count"].(int64) + 1
					return d, nil
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	got, err := Read(root, "c.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if want := "big: 9007199254740993\ncount: 100\nkeep:\n- a\n- 1.5\n- true\nwhen: \"2026-01-02T03:04:05Z\"\n"; string(got) != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// A program that writes in place and pauses briefly within is read once, as a whole.
func TestHalfWrittenFileIsNotRead(t *testing.T) {
	root := t.TempDir()
	m := start(t, root, Options{Rescan: time.Hour, Settle: 50 * time.Millisecond})
	f, err := os.Create(filepath.Join(root, "slow.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var whole bytes.Buffer
	for i := range 8 {
		line := fmt.Sprintf("line%d: x\n", i)
		whole.WriteString(line)
		if _, err := f.WriteString(line); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond) // the pause of the program this test imitates
	}
	f.Close()
	m.wait(t, "slow.yaml", whole.String())
	if told := m.told["slow.yaml"]; len(told) != 1 {
		t.Errorf("it was read %d times: %q", len(told), told)
	}
}

// A file that is never left alone is still read, if only once a second.
func TestEndlessWriterIsRead(t *testing.T) {
	root := t.TempDir()
	m := start(t, root, Options{Rescan: time.Hour, Settle: 20 * time.Millisecond})
	f, err := os.Create(filepath.Join(root, "log.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	eventually(t, "read while it is being written", func() bool {
		fmt.Fprintln(f, "more: x")
		s, _ := m.get("log.yaml")
		return len(s) > 0
	})
}
