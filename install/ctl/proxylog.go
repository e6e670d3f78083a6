package ctl

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

var envoyLevels = []string{"trace", "debug", "info", "warning", "error", "critical", "off"}

func (a *app) pcLog() *cobra.Command {
	var s gatewaySource
	var level string
	cmd := &cobra.Command{Use: "log [GATEWAY|POD]", Aliases: []string{"o"}, Short: "Show or set Envoy's log levels", Args: atMostOne,
		Long: `Show or set Envoy's log levels, of one pod or of all pods of a Gateway.

A level that was set lasts until the pod is replaced.`,
		Example: `  ambitctl proxy-config log waypoint.bookinfo
  ambitctl proxy-config log waypoint.bookinfo --level rbac:debug,http:debug
  ambitctl proxy-config log waypoint.bookinfo --level warning`}
	s.add(cmd, false)
	cmd.Flags().StringVar(&level, "level", "", "LEVEL for all, LOGGER:LEVEL,…, or both ("+strings.Join(envoyLevels, ", ")+")")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		all, one, err := readLevels(level)
		if err != nil {
			return err
		}
		if s.address == "" && level != "" {
			if _, err := a.meshToChange(); err != nil {
				return err
			}
		}
		found, err := a.instancesFor(cmd.Context(), s, args)
		if err != nil {
			return err
		}
		for _, i := range found {
			now, err := i.setLevels(cmd.Context(), all, one)
			if err != nil {
				return err
			}
			name := i.endpoint.What
			if i.pod != "" {
				name = i.String()
			}
			fmt.Fprintf(a.env.Out, "%s: current log level is %s\n", name, levelsText(now))
		}
		return nil
	}
	return cmd
}

// readLevels takes "info,rbac:debug" apart.
func readLevels(text string) (all string, one map[string]string, err error) {
	one = map[string]string{}
	if text == "" {
		return "", one, nil
	}
	for _, part := range strings.Split(text, ",") {
		logger, level, single := strings.Cut(part, ":")
		if !single {
			logger, level = "", part
		}
		if level == "warn" {
			level = "warning"
		}
		if !slices.Contains(envoyLevels, level) {
			return "", nil, usagef("there is no level %q: write one of %s", level, strings.Join(envoyLevels, ", "))
		}
		if single {
			one[logger] = level
		} else {
			all = level
		}
	}
	return all, one, nil
}

// setLevels sets what is asked for, and returns the levels of all loggers.
func (i instance) setLevels(ctx context.Context, all string, one map[string]string) (map[string]string, error) {
	ask := func(query url.Values) (map[string]string, error) {
		path := "/logging"
		if len(query) > 0 {
			path += "?" + query.Encode()
		}
		text, err := i.endpoint.Post(ctx, path)
		if err != nil {
			return nil, err
		}
		return loggers(text), nil
	}
	now, err := ask(nil)
	if err != nil {
		return nil, err
	}
	for logger := range one {
		if _, ok := now[logger]; !ok {
			return nil, usagef("Envoy has no logger %q: there are %s", logger, strings.Join(slices.Sorted(maps.Keys(now)), ", "))
		}
	}
	if all != "" {
		if now, err = ask(url.Values{"level": {all}}); err != nil {
			return nil, err
		}
	}
	var paths []string
	for _, logger := range slices.Sorted(maps.Keys(one)) {
		paths = append(paths, logger+":"+one[logger])
	}
	if len(paths) > 0 {
		return ask(url.Values{"paths": {strings.Join(paths, ",")}})
	}
	return now, nil
}

// loggers reads Envoy's list.
func loggers(text string) map[string]string {
	out := map[string]string{}
	for line := range strings.Lines(text) {
		if name, level, ok := strings.Cut(strings.TrimSpace(line), ": "); ok {
			out[name] = level
		}
	}
	return out
}

// levelsText names the level that most loggers have, and those with another.
func levelsText(levels map[string]string) string {
	count := map[string]int{}
	for _, l := range levels {
		count[l]++
	}
	most := slices.MaxFunc(append(slices.Sorted(maps.Keys(count)), ""), func(a, b string) int { return cmp.Compare(count[a], count[b]) })
	out := []string{most}
	for _, name := range slices.Sorted(maps.Keys(levels)) {
		if levels[name] != most {
			out = append(out, name+":"+levels[name])
		}
	}
	return strings.Join(out, ",")
}
