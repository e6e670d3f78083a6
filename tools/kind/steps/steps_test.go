package steps

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestDo(t *testing.T) {
	for name, tc := range map[string]struct {
		takes time.Duration
		err   error
		want  string
	}{
		"quick":  {100 * time.Millisecond, nil, ""},
		"slow":   {5 * time.Second, nil, "  … build\n  ok build (5s)\n"},
		"long":   {90 * time.Second, nil, "  … build\n  … build (1 min)\n  ok build (90s)\n"},
		"failed": {100 * time.Millisecond, errors.New("no"), "  FAILED build\n"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var b bytes.Buffer
				err := (&Printer{W: &b}).Do("build", func() error { time.Sleep(tc.takes); return tc.err })
				if err != tc.err || b.String() != tc.want {
					t.Errorf("got %v and\n%swant\n%s", err, b.String(), tc.want)
				}
			})
		})
	}
}

func TestRun(t *testing.T) {
	p := &Printer{W: &bytes.Buffer{}}
	out, err := p.Run(t.Context(), Command{Args: []string{"sh", "-c", "echo out; echo problem >&2"}})
	if err != nil || out != "out\n" {
		t.Errorf("got %q, %v", out, err)
	}
	_, err = p.Run(t.Context(), Command{Args: []string{"sh", "-c", "echo problem >&2; exit 3"}, Title: "try"})
	if err == nil || !strings.Contains(err.Error(), "problem") {
		t.Errorf("the error hides what the program said: %v", err)
	}
}
