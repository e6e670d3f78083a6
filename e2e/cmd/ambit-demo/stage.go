package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"
)

// stage runs commands and tells about them.
type stage struct {
	bin, lab, samples string
	colour            bool
	env               []string
	steps             int
	out               io.Writer
}

func newStage(bin, lab, samples string) *stage {
	info, err := os.Stdout.Stat()
	tty := err == nil && info.Mode()&os.ModeCharDevice != 0
	_, plain := os.LookupEnv("NO_COLOR")
	return &stage{
		bin: bin, lab: lab, samples: samples, colour: tty && !plain, out: os.Stdout,
		env: append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "AMBIT_LAB="+lab, "AMBIT_BIN="+bin),
	}
}

func (s *stage) paint(code, text string) string {
	if !s.colour {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

// step opens a chapter.
func (s *stage) step(title, why string) {
	s.steps++
	fmt.Fprintf(s.out, "\n%s\n", s.paint("1;36", fmt.Sprintf("%2d. %s", s.steps, title)))
	if why != "" {
		fmt.Fprintf(s.out, "    %s\n", why)
	}
}

// note says something between commands.
func (s *stage) note(format string, args ...any) {
	fmt.Fprintf(s.out, "    %s\n", fmt.Sprintf(format, args...))
}

// proof says what was just shown.
func (s *stage) proof(format string, args ...any) {
	fmt.Fprintf(s.out, "    %s %s\n", s.paint("32", "✓"), fmt.Sprintf(format, args...))
}

func (s *stage) command(ctx context.Context, line string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "bash", "-c", line)
	cmd.Env = s.env
	return cmd
}

// output runs a command line without telling.
func (s *stage) output(ctx context.Context, line string) (string, error) {
	var b bytes.Buffer
	cmd := s.command(ctx, line)
	cmd.Stdout, cmd.Stderr = &b, &b
	err := cmd.Run()
	if err != nil {
		err = fmt.Errorf("%s: %w\n%s", line, err, b.String())
	}
	return b.String(), err
}

// show prints a command line as one would type it, runs it, and prints what it says, at most so many lines.
func (s *stage) show(ctx context.Context, lines int, line string) (string, error) {
	s.typed(line)
	out, err := s.output(ctx, line)
	s.print(out, lines)
	return out, err
}

// fails is show for a command whose failure is the point.
func (s *stage) fails(ctx context.Context, lines int, line string) error {
	s.typed(line)
	out, err := s.output(ctx, line)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err == nil:
		return fmt.Errorf("%s was not refused:\n%s", line, out)
	}
	s.print(out, lines)
	return nil
}

func (s *stage) typed(line string) {
	line = strings.ReplaceAll(line, s.samples, "e2e/samples")
	fmt.Fprintf(s.out, "    %s %s\n", s.paint("2", "$"), s.paint("1", line))
}

func (s *stage) print(out string, lines int) {
	all := strings.Split(strings.TrimRight(out, "\n"), "\n")
	for i, line := range all {
		if i == lines {
			fmt.Fprintf(s.out, "      %s\n", s.paint("2", fmt.Sprintf("… %d more lines", len(all)-lines)))
			return
		}
		if line != "" {
			fmt.Fprintf(s.out, "      %s\n", s.paint("2", line))
		}
	}
}

// background is a command that runs while others do.
type background struct {
	cmd  *exec.Cmd
	out  bytes.Buffer
	done chan error
}

func (s *stage) start(ctx context.Context, line string) (*background, error) {
	s.typed(line + " &")
	b := &background{cmd: s.command(ctx, line), done: make(chan error, 1)}
	b.cmd.Stdout, b.cmd.Stderr = &b.out, &b.out
	if err := b.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { b.done <- b.cmd.Wait() }()
	return b, nil
}

// wait returns what the command wrote once it has ended.
func (b *background) wait(ctx context.Context) (string, error) {
	select {
	case err := <-b.done:
		return b.out.String(), err
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// until asks again and again, for at most ten seconds.
func until(ctx context.Context, what string, ask func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		ok, err := ask()
		if ok {
			return nil
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w", what, cause(err, ctx.Err()))
		}
	}
}

func cause(err, otherwise error) error {
	if err != nil {
		return err
	}
	return otherwise
}

func hasLab(list, name string) bool {
	for line := range strings.Lines(list) {
		if f := strings.Fields(line); len(f) > 0 && f[0] == name {
			return true
		}
	}
	return false
}
