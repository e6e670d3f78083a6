package proc

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// TestOurselves measures the test's own process, which has used a processor and some memory.
func TestOurselves(t *testing.T) {
	before := CPU(os.Getpid())
	for end := time.Now().Add(20 * time.Millisecond); time.Now().Before(end); {
	}
	if after := CPU(os.Getpid()); after <= before {
		t.Errorf("busy for 20 ms, and the account went from %s to %s", before, after)
	}
	resident, anonymous := Memory(os.Getpid())
	if resident < 1<<20 || anonymous <= 0 || anonymous > resident {
		t.Errorf("resident %d, anonymous %d", resident, anonymous)
	}
	if r, a := Memory(1 << 30); r != 0 || a != 0 || CPU(1<<30) != 0 {
		t.Errorf("a process that is not: %d, %d", r, a)
	}
}

func TestLogKeepsTheEnd(t *testing.T) {
	var l Log
	for i := range 5000 {
		fmt.Fprintf(&l, "line %d\n", i)
	}
	if got := l.String(); len(got) > keepLog || !strings.HasSuffix(got, "line 4999\n") {
		t.Errorf("%d bytes, ending in %q", len(got), got[max(0, len(got)-20):])
	}
}
