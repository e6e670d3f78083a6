package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/ambit-mesh/ambit/e2e/lab"
	"github.com/ambit-mesh/ambit/e2e/lab/sandbox"
	"github.com/spf13/cobra"
)

func (a *app) exec() *cobra.Command {
	var container string
	var interactive, tty bool
	c := &cobra.Command{
		Use:   "exec (POD | node/NODE | control) -- COMMAND…",
		Short: "Run a command in a pod, or in the network of a node",
		Long: `Run a command in a pod's namespaces, or with node/NODE or control in the network of a node or of the control host.
POD may also be the name of what owns the pod, as deployment/web, or the beginning of its name if only one pod has it.
The command uses this terminal as it is, so -i and -t change nothing and are accepted out of habit.`,
		Args: cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := a.open()
			if err != nil {
				return err
			}
			stdio := sandbox.Stdio{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}
			// Ctrl-C reaches the command by way of the terminal, and what comes of it is for the command to say.
			ctx, stop := signal.NotifyContext(context.WithoutCancel(cmd.Context()), syscall.SIGTERM, syscall.SIGHUP)
			defer stop()
			host, isNode := strings.CutPrefix(args[0], "node/")
			if isNode || host == lab.ControlHost {
				// The lab's own programs are at hand on its hosts, as they are in its pods.
				if dirs, err := binaries(); err == nil {
					_ = os.Setenv("PATH", dirs[0]+":"+os.Getenv("PATH"))
				}
				code, err := l.ExecHost(ctx, host, args[1:], stdio)
				return status(code, err)
			}
			pod, err := a.pod(ctx, l, args[0])
			if err != nil {
				return err
			}
			code, err := l.Exec(ctx, a.namespace, pod, container, args[1:], stdio)
			return status(code, err)
		},
	}
	c.Flags().StringVarP(&container, "container", "c", "", "container; the pod's first if not given")
	c.Flags().BoolVarP(&interactive, "stdin", "i", false, "accepted out of habit")
	c.Flags().BoolVarP(&tty, "tty", "t", false, "accepted out of habit")
	return a.namespaced(c)
}

func status(code int, err error) error {
	if err == nil && code != 0 {
		return exitError(code)
	}
	return err
}

// pod finds the pod that a person means by its name, the beginning of it, or deployment/NAME.
func (a *app) pod(ctx context.Context, l *lab.Lab, what string) (string, error) {
	pods, err := l.Get(ctx, "pod", a.namespace, "")
	if err != nil {
		return "", err
	}
	prefix := what
	if _, name, ok := strings.Cut(what, "/"); ok {
		prefix = name + "-"
	}
	var found []string
	for _, p := range pods {
		if p.Name() == what {
			return what, nil
		}
		if strings.HasPrefix(p.Name(), prefix) && p.Text("status", "phase") == "Running" && p.Text("metadata", "deletionTimestamp") == "" {
			found = append(found, p.Name())
		}
	}
	slices.Sort(found)
	switch {
	case len(found) == 1, len(found) > 1 && prefix != what:
		return found[0], nil
	case len(found) > 1:
		return "", fmt.Errorf("%q is the beginning of several pods: %s", what, strings.Join(found, ", "))
	}
	return "", fmt.Errorf("there is no pod %q in namespace %q; \"ambit-lab get pods -A\" lists them", what, a.namespace)
}

func (a *app) logs() *cobra.Command {
	var container string
	var follow bool
	tail := -1
	c := &cobra.Command{
		Use: "logs (POD | daemon/NAME)", Short: "Show what a pod or a daemon has written", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := a.open()
			if err != nil {
				return err
			}
			file, err := a.logFile(cmd.Context(), l, args[0], container)
			if err != nil {
				return err
			}
			data, err := l.ReadLog(file)
			if err != nil {
				return err
			}
			if _, err := os.Stdout.Write(lastLines(data, tail)); err != nil || !follow {
				return err
			}
			return followFile(cmd.Context(), file)
		},
	}
	c.Flags().StringVarP(&container, "container", "c", "", "container; the pod's first if not given")
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on until interrupted")
	c.Flags().IntVar(&tail, "tail", -1, "only the last lines")
	return a.namespaced(c)
}

func (a *app) logFile(ctx context.Context, l *lab.Lab, what, container string) (string, error) {
	if name, ok := strings.CutPrefix(what, "daemon/"); ok {
		st, err := l.Status(ctx)
		if err != nil {
			return "", err
		}
		var names []string
		for _, d := range st.Daemons {
			// A daemon that was rolled has a successor, whose name has a + more.
			if d.Name == name || strings.TrimRight(d.Name, "+") == name {
				return d.Log, nil
			}
			names = append(names, d.Name)
		}
		return "", fmt.Errorf("there is no daemon %q, only %s", name, strings.Join(names, ", "))
	}
	pod, err := a.pod(ctx, l, what)
	if err != nil {
		return "", err
	}
	p, err := l.Pod(ctx, a.namespace, pod)
	if err != nil {
		return "", err
	}
	var names []string
	for _, c := range p.Containers {
		if container == "" || container == c.Name {
			return c.Log, nil
		}
		names = append(names, c.Name)
	}
	return "", fmt.Errorf("pod %s has no container %q, only %s", pod, container, strings.Join(names, ", "))
}

func lastLines(data []byte, n int) []byte {
	if n < 0 {
		return data
	}
	end := len(data)
	if end > 0 && data[end-1] == '\n' {
		end--
	}
	for i := end - 1; i >= 0; i-- {
		if data[i] == '\n' {
			if n--; n <= 0 {
				return data[i+1:]
			}
		}
	}
	if n <= 0 {
		return nil
	}
	return data
}

// followFile prints what is appended until ctx ends. A file that gets shorter was rotated and is read from its start.
func followFile(ctx context.Context, file string) error {
	f, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("follow log: %w", err)
	}
	defer f.Close()
	at, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return fmt.Errorf("follow log: %w", err)
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		info, err := f.Stat()
		if err == nil && info.Size() < at {
			at, err = f.Seek(0, io.SeekStart)
		}
		if err != nil {
			return fmt.Errorf("follow log: %w", err)
		}
		n, err := io.Copy(os.Stdout, f)
		if err != nil {
			return fmt.Errorf("follow log: %w", err)
		}
		at += n
	}
}

func (a *app) fail() *cobra.Command {
	var restart bool
	c := &cobra.Command{
		Use:   "fail (node | link | ztunnel | cni) NODE, fail (control | ca)",
		Short: "Break something until it is healed: kill it, or cut its link",
		Args:  cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := a.open()
			if err != nil {
				return err
			}
			f := lab.Fault{Kind: args[0], Restart: restart}
			if len(args) == 2 {
				f.Host = args[1]
			} else if slices.Contains([]string{"node", "link", "ztunnel", "cni"}, f.Kind) {
				return usagef("on which node? as in: ambit-lab fail %s node1", f.Kind)
			}
			if err := l.Fail(cmd.Context(), f); err != nil {
				return err
			}
			what := strings.TrimSpace(f.Kind + " " + f.Host)
			if restart {
				fmt.Printf("%s was killed and is started again\n", what)
				return nil
			}
			fmt.Printf("%s is broken; repair it with: ambit-lab heal %s\n", what, what)
			return nil
		},
	}
	c.Flags().BoolVar(&restart, "restart", false, "a crash: killed, and started again at once")
	return c
}

func (a *app) heal() *cobra.Command {
	return &cobra.Command{
		Use: "heal [KIND [NAME]]", Short: "Repair what was broken; all of it without arguments", Args: cobra.MaximumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := a.open()
			if err != nil {
				return err
			}
			var f lab.Fault
			if len(args) > 0 {
				f.Kind = args[0]
			}
			if len(args) > 1 {
				f.Host = args[1]
			}
			healed, err := l.Heal(cmd.Context(), f)
			for _, h := range healed {
				what := h.Kind
				if h.Host != h.Kind && h.Kind != "ca" {
					what += " " + h.Host
				}
				fmt.Printf("%s is repaired\n", what)
			}
			if err == nil && len(healed) == 0 {
				fmt.Println("nothing is broken")
			}
			return err
		},
	}
}

func (a *app) capture() *cobra.Command {
	var file string
	var seconds int
	c := &cobra.Command{
		Use: "capture NODE", Short: "Watch a node's link: who talks to whom, and what of it is readable", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := a.open()
			if err != nil {
				return err
			}
			if seconds < 1 {
				return errors.New("--seconds: at least 1")
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), time.Duration(seconds)*time.Second)
			defer cancel()
			fmt.Fprintf(os.Stderr, "watching the link of %s for %d s\n", args[0], seconds)
			report, err := l.Capture(ctx, args[0], file)
			if err != nil {
				return err
			}
			fmt.Print(report)
			if file != "" {
				fmt.Printf("packets are in %s\n", file)
			}
			return nil
		},
	}
	c.Flags().StringVarP(&file, "write", "w", "", "also write the packets to this file, in pcap format")
	c.Flags().IntVar(&seconds, "seconds", 10, "how long")
	return c
}
