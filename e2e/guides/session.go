package guides

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A Session is the shell that a guide is executed in.
type Session struct {
	Dir   string        // where the commands run: the root of the checkout
	Env   []string      // the whole environment, as in exec.Cmd
	Limit time.Duration // for all steps together
}

// Follow runs the steps in one shell, as a reader would, and returns what went otherwise than the guide says; file is its
// name in the messages. It waits for the shell and ends whatever the steps left in the background.
func (s Session) Follow(ctx context.Context, file string, steps []Step) []error {
	output, err := s.run(ctx, steps)
	parts := split(output, len(steps))
	last := 0
	for i, part := range parts {
		if part != nil {
			last = i
		}
	}
	if err != nil {
		step := steps[last]
		return []error{fmt.Errorf("%s:%d: %w\n%s\n--- printed:\n%s", file, step.Line, err, step.Command, deref(parts[last]))}
	}
	var problems []error
	for i, step := range steps {
		if missing := Compare(step.Want, deref(parts[i])); missing != "" {
			problems = append(problems, fmt.Errorf("%s:%d: the output lacks the line\n  %s\n--- command:\n%s\n--- printed:\n%s",
				file, step.Line, missing, step.Command, deref(parts[i])))
		}
	}
	return problems
}

const marker = "\x1e--- step "

// run executes all steps and returns everything they printed, with a marker before each step.
func (s Session) run(ctx context.Context, steps []Step) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, s.Limit)
	defer cancel()
	var script strings.Builder
	for i, step := range steps {
		fmt.Fprintf(&script, "printf '%s%%d\\n' %d\n%s\n", marker, i, step.Command)
	}
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", script.String())
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = s.Dir, s.Env, &out, &out
	// What a step left in the background ends with the session.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	err := cmd.Run()
	if ctx.Err() != nil {
		err = errors.Join(fmt.Errorf("not done after %s", s.Limit), err)
	}
	return out.String(), err
}

var mark = regexp.MustCompile(marker + `(\d+)\n`)

// split cuts the output of a session into that of its steps; nil stands for a step that was not reached.
func split(output string, steps int) []*string {
	parts := make([]*string, steps)
	at := mark.FindAllStringSubmatchIndex(output, -1)
	for n, m := range at {
		end := len(output)
		if n+1 < len(at) {
			end = at[n+1][0]
		}
		i, err := strconv.Atoi(output[m[2]:m[3]])
		if err != nil || i >= steps {
			continue
		}
		text := output[m[1]:end]
		parts[i] = &text
	}
	return parts
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
