// Package proc tells what a running process costs, and keeps the end of its log for when something goes wrong.
//
// It starts nothing and knows no program. Start reading at CPU.
package proc

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// CPU is the processor time that processes have used so far, by the scheduler's own account: the tick counters of stat are
// too coarse for a single change. A process that is gone counts nothing.
func CPU(pids ...int) time.Duration {
	var sum int64
	for _, pid := range pids {
		files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
		if err != nil {
			continue
		}
		for _, f := range files {
			data, err := os.ReadFile(f)
			if err != nil {
				continue // the thread ended
			}
			if fields := strings.Fields(string(data)); len(fields) > 0 {
				ns, _ := strconv.ParseInt(fields[0], 10, 64)
				sum += ns
			}
		}
	}
	return time.Duration(sum)
}

// Memory is the resident memory of a process in bytes, and that part of it that is its own and not its program's pages;
// 0 when it is gone.
func Memory(pid int) (resident, anonymous int64) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0
	}
	for line := range strings.Lines(string(data)) {
		name, value, _ := strings.Cut(line, ":")
		fields := strings.Fields(value)
		if len(fields) == 0 {
			continue
		}
		kib, _ := strconv.ParseInt(fields[0], 10, 64)
		switch name {
		case "VmRSS":
			resident = kib << 10
		case "RssAnon":
			anonymous = kib << 10
		}
	}
	return resident, anonymous
}

// A Log is a writer that keeps the last 8 KiB. It may be used by several goroutines.
type Log struct {
	// Echo also writes everything to standard error.
	Echo bool

	mu  sync.Mutex
	buf []byte // guarded by mu
}

const keepLog = 8 << 10

func (l *Log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.buf = append(l.buf, b...)
	if len(l.buf) > keepLog {
		l.buf = bytes.Clone(l.buf[len(l.buf)-keepLog:])
	}
	if l.Echo {
		os.Stderr.Write(b)
	}
	return len(b), nil
}

func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.buf)
}
