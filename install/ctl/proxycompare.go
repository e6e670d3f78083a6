package ctl

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ambit-mesh/ambit/install/gateway"
)

// gatewayNamed finds the running proxy that a name means, if it is a waypoint's or gateway's.
func (a *app) gatewayNamed(ctx context.Context, s controlSource, name string) (instance, error) {
	if s.file != "" || s.address != "" {
		return instance{}, errors.New("an answer by itself has no proxies to ask")
	}
	return a.instanceFor(ctx, gatewaySource{}, []string{name})
}

// settling is how long a difference may last: what has changed is on its way meanwhile.
const settling = 3 * time.Second

// compare says whether a proxy holds what the control plane has for it.
func (a *app) compare(cmd *cobra.Command, s controlSource, i instance, connected []client, verbose int) error {
	if len(connected) == 0 {
		return fmt.Errorf("%s is not connected to the control plane: it goes on with what it was last told; see %q", i, a.words().Logs(i.namespace, i.pod))
	}
	if err := a.clients(connected, verbose); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), settling)
	defer cancel()
	for {
		kinds, err := a.differences(cmd, s, i)
		if err != nil {
			return err
		}
		same := true
		for _, k := range kinds {
			same = same && k.Same()
		}
		if !same && ctx.Err() == nil {
			select {
			case <-ctx.Done():
			case <-time.After(200 * time.Millisecond):
			}
			continue
		}
		fmt.Fprintln(a.env.Out)
		for _, k := range kinds {
			fmt.Fprintln(a.env.Out, k)
		}
		if !same {
			return errIssues
		}
		return nil
	}
}

func (a *app) differences(cmd *cobra.Command, s controlSource, i instance) ([]gateway.Difference, error) {
	var sent gateway.Sent
	if err := a.ask(cmd, s, "/debug/facts?"+url.Values{"gateway": {i.namespace + "/" + i.gateway}}.Encode(), &sent); err != nil {
		return nil, err
	}
	held, err := i.facts(cmd.Context())
	if err != nil {
		return nil, err
	}
	kinds, err := gateway.Compare(sent, held)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", errData, strings.TrimSpace(i.String()), err)
	}
	return kinds, nil
}
