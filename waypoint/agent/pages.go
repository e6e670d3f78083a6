package agent

import (
	"bufio"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// dropPages gives back the pages of this program that starting has touched: registering and describing a few thousand messages
// reads most of the binary, which is not read again. The kernel keeps the file and maps what is used after all, sixteen
// pages at a time. Only mappings of the program that nothing was ever written to are dropped, so that nothing is lost.
func dropPages() error {
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("give back pages of the program: %w", err)
	}
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		return fmt.Errorf("give back pages of the program: %w", err)
	}
	defer f.Close()
	var from, to uintptr // of the mapping that the lines are about; to is 0 when it is none of ours
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		line := lines.Text()
		if field, rest, _ := strings.Cut(line, ":"); !strings.Contains(field, " ") {
			// proc_pid_smaps(5): pages of a private mapping that are no longer those of the file are anonymous.
			if field == "Anonymous" && to > 0 && strings.TrimSpace(rest) == "0 kB" {
				if _, _, errno := unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_DONTNEED); errno != 0 {
					return fmt.Errorf("give back pages of the program: %w", errno)
				}
			}
			continue
		}
		to = 0
		if words := strings.Fields(line); len(words) == 6 && words[5] == program && !strings.Contains(words[1], "w") {
			if _, err := fmt.Sscanf(words[0], "%x-%x", &from, &to); err != nil {
				return fmt.Errorf("give back pages of the program: mapping %q: %w", words[0], err)
			}
		}
	}
	return lines.Err()
}
