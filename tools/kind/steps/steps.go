// Package steps tells a person what a long command is doing: a line when a step takes more than a second, how long it has taken
// when it ends, and the whole output of a program only when it fails.
//
// It decides nothing. A step's goroutine ends with the step. Start reading at Printer.Do.
package steps

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Printer writes what happens. Live is for a terminal, where the running step is a line that is written again and again.
type Printer struct {
	W    io.Writer
	Live bool

	mu sync.Mutex
}

// New prints to f.
func New(f *os.File) *Printer {
	info, err := f.Stat()
	return &Printer{W: f, Live: err == nil && info.Mode()&os.ModeCharDevice != 0}
}

// Say prints a line.
func (p *Printer) Say(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintf(p.W, "  "+format+"\n", args...)
}

// Do runs a step.
func (p *Printer) Do(title string, f func() error) error {
	began := time.Now()
	done, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		p.tick(title, began, done)
	}()
	err := f()
	close(done)
	<-stopped
	took := time.Since(began)
	switch {
	case err != nil:
		p.Say("FAILED %s", title)
	case took >= time.Second:
		p.Say("ok %s (%ds)", title, int(took.Seconds()+0.5))
	}
	return err
}

// tick shows that a step is under way: every second on a terminal, every minute elsewhere.
func (p *Printer) tick(title string, began time.Time, done <-chan struct{}) {
	timer := time.NewTimer(time.Second)
	defer timer.Stop()
	for {
		select {
		case <-done:
			if p.Live {
				p.mu.Lock()
				fmt.Fprint(p.W, "\r\033[K")
				p.mu.Unlock()
			}
			return
		case <-timer.C:
		}
		spent := int(time.Since(began).Seconds())
		if p.Live {
			p.mu.Lock()
			fmt.Fprintf(p.W, "\r\033[K  … %s (%ds)", title, spent)
			p.mu.Unlock()
			timer.Reset(time.Second)
			continue
		}
		if spent < 60 {
			p.Say("… %s", title)
		} else {
			p.Say("… %s (%d min)", title, spent/60)
		}
		timer.Reset(time.Minute)
	}
}

// A Command is a program to run as a step. In is its standard input, Dir its folder, Env is added to the environment.
type Command struct {
	Title string
	Args  []string
	Dir   string
	Env   []string
	In    io.Reader
	// Path is a folder to look for the program in first.
	Path string
	// Setup may change the command before it starts. Nil: nothing to change.
	Setup func(*exec.Cmd)
}

// Run runs a program as a step and returns its standard output. The error of one that fails has all it said.
func (p *Printer) Run(ctx context.Context, c Command) (string, error) {
	var out, all bytes.Buffer
	run := func() error {
		program := c.Args[0]
		if own := filepath.Join(c.Path, program); c.Path != "" && exists(own) {
			program = own
		}
		cmd := exec.CommandContext(ctx, program, c.Args[1:]...)
		cmd.Dir, cmd.Stdin = c.Dir, c.In
		cmd.Env = append(os.Environ(), c.Env...)
		both := &locked{w: &all}
		cmd.Stdout, cmd.Stderr = io.MultiWriter(&out, both), both
		if c.Setup != nil {
			c.Setup(cmd)
		}
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("%s: %w\n%s", strings.Join(c.Args, " "), err, strings.TrimSpace(all.String()))
		}
		return nil
	}
	if c.Title == "" {
		err := run()
		return out.String(), err
	}
	err := p.Do(c.Title, run)
	return out.String(), err
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

type locked struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *locked) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(b)
}
