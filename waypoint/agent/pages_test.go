package agent

import (
	"os"
	"strings"
	"testing"
)

// Pages of the program that were given back are read again when they are needed, and nothing is lost with them.
func TestDropPages(t *testing.T) {
	file := func() int { return processStatus(t, os.Getpid(), "RssFile:") }
	program, err := os.ReadFile("/proc/self/exe") // so that the kernel has it, and needs no disk below
	if err != nil {
		t.Fatal(err)
	}
	before := file()
	if err := dropPages(); err != nil {
		t.Fatal(err)
	}
	if after := file(); after > before*3/4 {
		t.Errorf("%d KiB of files in memory before, %d after", before, after)
	}
	if cfg := Default(); !strings.Contains(string(program[:4]), "ELF") || cfg.Validate() == nil {
		t.Error("the program is not what it was")
	}
}
