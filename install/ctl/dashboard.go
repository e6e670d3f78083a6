package ctl

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os/exec"
	"time"

	"github.com/spf13/cobra"

	"github.com/ambit-mesh/ambit/install/cluster"
	"github.com/ambit-mesh/ambit/install/dashboard"
	"github.com/ambit-mesh/ambit/install/picture"
)

func (a *app) dashboard() *cobra.Command {
	var address string
	var every time.Duration
	var browser bool
	cmd := &cobra.Command{Use: "dashboard", Aliases: []string{"dash"}, Short: "Show the mesh in a browser: who calls whom, what is captured, refused, or about to expire", Args: none,
		Long: `Show the mesh in a browser on this machine, until interrupted: who calls whom, how safely, and through which waypoint; what is
in the mesh; what is refused of the configuration; certificates; and how the mesh's own parts are.

The page can only look. It is served on a loopback address, to whoever has the key that is part of the printed address.
A cluster is asked with your own permissions, as by ambitctl's other commands, and only while a browser shows the page.`,
		Example: "  ambitctl dashboard\n  ambitctl dashboard envoy waypoint.bookinfo\n  ambitctl dashboard grafana"}
	cmd.PersistentFlags().StringVar(&address, "address", "127.0.0.1:0", "loopback address to serve on; port 0 is any that is free")
	cmd.PersistentFlags().BoolVar(&browser, "browser", false, "open a browser")
	cmd.Flags().DurationVar(&every, "every", 3*time.Second, "how often the mesh is asked")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if every < time.Second {
			return usagef("--every %s: at least 1s", every)
		}
		m, err := a.mesh()
		if err != nil {
			return err
		}
		d := &drawer{app: a, mesh: m}
		s, err := dashboard.New(dashboard.Config{Title: m.String(), Draw: d.draw, Every: every, Logger: slog.New(slog.NewTextHandler(a.env.Err, nil))})
		if err != nil {
			return err
		}
		l, err := a.loopback(cmd.Context(), address)
		if err != nil {
			return err
		}
		fmt.Fprintln(a.env.Out, s.Address(l.Addr()))
		fmt.Fprintf(a.env.Err, "The picture of %s is at this address until you interrupt this command.\n", m)
		a.browse(cmd.Context(), browser, s.Address(l.Addr()))
		return s.Run(cmd.Context(), l)
	}
	a.forwards(cmd, &address, &browser)
	return cmd
}

// loopback listens where only this machine can connect to.
func (a *app) loopback(ctx context.Context, address string) (net.Listener, error) {
	if !dashboard.Local(address) {
		return nil, usagef("--address %s: a loopback address, such as 127.0.0.1:8080; to look from elsewhere, forward the port with ssh -L", address)
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("serve the page: %w", err)
	}
	return l, nil
}

// browse opens a browser if there is a program for it. It is nobody's fault if not.
func (a *app) browse(ctx context.Context, wanted bool, address string) {
	if !wanted {
		return
	}
	for _, name := range []string{"xdg-open", "open"} {
		if path, err := exec.LookPath(name); err == nil {
			if err := exec.CommandContext(ctx, path, address).Run(); err != nil {
				fmt.Fprintf(a.env.Err, "ambitctl: %s: %v\n", name, err)
			}
			return
		}
	}
	fmt.Fprintln(a.env.Err, "ambitctl: there is neither xdg-open nor open here: open the address yourself")
}

// drawPatience bounds how long one picture may take.
const drawPatience = 20 * time.Second

// drawer asks the mesh for pictures, one after another.
type drawer struct {
	*app
	mesh   cluster.Mesh
	before picture.Traffic
	when   time.Time
}

// draw asks all parts at once and makes a picture of what they say.
func (d *drawer) draw(ctx context.Context) picture.Picture {
	ctx, cancel := context.WithTimeout(ctx, drawPatience)
	defer cancel()
	s := &sketch{drawer: d, in: picture.Input{Mesh: d.mesh.String(), Now: d.env.Now(), Traffic: picture.Traffic{}, Before: d.before, BeforeTime: d.when}}
	s.ask(ctx)
	d.before, d.when = s.in.Traffic, s.in.Now
	return picture.Build(s.in)
}

// quiet are errors that a picture need not mention.
func quiet(err error) bool { return err == nil || errors.Is(err, context.Canceled) }
