// Package guides executes the user guides of docs/, so that a command in a guide is a command that works.
//
// A fenced block marked sh is run by bash, all blocks of a guide in one shell session after the other, stopping at the
// first failure. A block marked text right behind it is what the command must have printed: each of its lines must appear,
// in order; an ellipsis (…) stands for anything within the line, and a line of only an ellipsis for any number of lines.
// The package knows nothing of the mesh. Start reading at Parse.
package guides

import (
	"bufio"
	"fmt"
	"io"
	"strings"
)

// A Step is one command block of a guide and what it must print.
type Step struct {
	Line    int // of the opening fence
	Command string
	Want    []string // lines; empty: anything
}

// Parse reads the steps of a guide.
func Parse(r io.Reader) ([]Step, error) {
	var steps []Step
	var lang string
	var body []string
	var opened int
	fresh := false // the last thing seen was a command block
	sc := bufio.NewScanner(r)
	for n := 1; sc.Scan(); n++ {
		line := sc.Text()
		fence, isFence := strings.CutPrefix(line, "```")
		switch {
		case opened == 0 && isFence:
			opened, lang, body = n, strings.TrimSpace(fence), nil
		case opened == 0:
			if strings.TrimSpace(line) != "" {
				fresh = false
			}
		case line == "```":
			switch {
			case lang == "sh":
				steps = append(steps, Step{Line: opened, Command: strings.Join(body, "\n")})
				fresh = true
			case lang == "text" && fresh:
				steps[len(steps)-1].Want = body
				fresh = false
			default:
				fresh = false
			}
			opened = 0
		default:
			body = append(body, line)
		}
	}
	if opened != 0 {
		return nil, fmt.Errorf("line %d: the block is never closed", opened)
	}
	return steps, sc.Err()
}

// Compare returns the first wanted line that the output lacks, or "".
func Compare(want []string, output string) string {
	lines := strings.Split(output, "\n")
	at := 0
	for _, w := range want {
		if strings.TrimSpace(w) == "…" || strings.TrimSpace(w) == "" {
			continue
		}
		found := false
		for ; at < len(lines) && !found; at++ {
			found = match(fields(w), fields(lines[at]))
		}
		if !found {
			return w
		}
	}
	return ""
}

// fields makes runs of blanks equal: columns move with their content.
func fields(s string) string { return strings.Join(strings.Fields(s), " ") }

// match compares a line with a pattern in which … stands for anything.
func match(pattern, line string) bool {
	parts := strings.Split(pattern, "…")
	if len(parts) == 1 {
		return pattern == line
	}
	if !strings.HasPrefix(line, parts[0]) {
		return false
	}
	line = line[len(parts[0]):]
	for _, p := range parts[1 : len(parts)-1] {
		i := strings.Index(line, p)
		if i < 0 {
			return false
		}
		line = line[i+len(p):]
	}
	return strings.HasSuffix(line, parts[len(parts)-1])
}
