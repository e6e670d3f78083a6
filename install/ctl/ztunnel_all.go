package ctl

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ambit-mesh/ambit/install/dump"
	"github.com/ambit-mesh/ambit/install/table"
)

func (a *app) zcAll() *cobra.Command {
	var s proxySource
	var f format
	var headers bool
	cmd := &cobra.Command{Use: "all [NODE|POD]", Short: "Show workloads, services, policies, certificates and connections of one proxy", Args: atMostOne}
	a.proxyFlags(cmd, &s, true)
	a.outputFlag(cmd, &f)
	cmd.Flags().BoolVar(&headers, "with-headers", false, "a line with the name above each table")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		all, err := a.proxies(cmd.Context(), s, args)
		if err != nil {
			return err
		}
		p, d, err := a.first(cmd.Context(), all)
		if err != nil {
			return err
		}
		if f.structured() {
			return a.whole(cmd, p, f)
		}
		answers := []answer{{p.node, d}}
		for i, section := range []struct {
			name string
			t    *table.Table
		}{
			{"workloads", workloadTable(answers, [][]dump.Item[dump.Workload]{d.Workloads})},
			{"services", serviceTable(answers, [][]dump.Item[dump.Service]{d.Services})},
			{"policies", policyTable(answers, [][]dump.Item[dump.Policy]{d.Policies})},
			{"certificates", certificateTable(answers, [][]dump.Item[dump.Certificate]{d.Certificates}, a.env.Now())},
			{"connections", connectionTable(answers, [][]dump.Item[dump.Pod]{podItems(d, "")}, false)},
		} {
			if i > 0 {
				fmt.Fprintln(a.env.Out)
			}
			if headers {
				fmt.Fprintf(a.env.Out, "# %s\n", section.name)
			}
			if err := a.table(section.t); err != nil {
				return err
			}
		}
		return nil
	}
	return cmd
}

// whole prints the dump as the proxy wrote it.
func (a *app) whole(cmd *cobra.Command, p proxy, f format) error {
	var in io.ReadCloser
	var err error
	if p.file != "" {
		in, err = os.Open(p.file)
	} else {
		in, err = p.endpoint.Get(cmd.Context(), "/config_dump")
	}
	if err != nil {
		return fmt.Errorf("config_dump: %w", err)
	}
	defer in.Close()
	data, err := io.ReadAll(in)
	if err != nil {
		return fmt.Errorf("config_dump: %w", err)
	}
	return a.data(f, json.RawMessage(data))
}

func (a *app) zcLog() *cobra.Command {
	var s proxySource
	var level string
	var reset bool
	cmd := &cobra.Command{Use: "log [NODE|POD]", Short: "Show or change what a proxy logs",
		Long: `Show or change what a proxy logs, until it restarts.

  ambitctl ztunnel-config log                          the filter of every proxy
  ambitctl ztunnel-config log --level debug            everything, on all nodes
  ambitctl ztunnel-config log node1 --level info,access:debug
  ambitctl ztunnel-config log -r                       back to what it started with`, Args: atMostOne}
	a.proxyFlags(cmd, &s, false)
	cmd.Flags().StringVar(&level, "level", "", "LEVEL, or TARGET:LEVEL, or several with commas; levels are trace, debug, info, warn, error, off")
	cmd.Flags().BoolVarP(&reset, "reset", "r", false, "back to the levels it started with")
	cmd.MarkFlagsMutuallyExclusive("level", "reset")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if s.address == "" && (reset || level != "") {
			if _, err := a.meshToChange(); err != nil {
				return err
			}
		}
		all, err := a.proxies(cmd.Context(), s, args)
		if err != nil {
			return err
		}
		var errs []error
		for _, p := range all {
			text, err := p.logging(cmd, level, reset)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			if p.node != "" {
				text = p.node + ": " + text
			}
			fmt.Fprintln(a.env.Out, strings.TrimSpace(text))
		}
		return errors.Join(errs...)
	}
	return cmd
}

func (p proxy) logging(cmd *cobra.Command, level string, reset bool) (string, error) {
	switch {
	case reset:
		return p.endpoint.Post(cmd.Context(), "/logging?reset")
	case level != "":
		// istioctl writes target:level, the proxy target=level.
		return p.endpoint.Post(cmd.Context(), "/logging?level="+url.QueryEscape(strings.ReplaceAll(level, ":", "=")))
	}
	body, err := p.endpoint.Get(cmd.Context(), "/logging")
	if err != nil {
		return "", err
	}
	defer body.Close()
	text, err := io.ReadAll(body)
	return string(text), err
}
