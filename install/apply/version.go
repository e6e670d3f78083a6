package apply

import (
	"context"
	"fmt"
	"strconv"
	"strings"
)

// Version is an API server's.
type Version struct {
	Major, Minor int
	Git          string
}

// Oldest is the first one that Ambit is made for.
var Oldest = Version{Major: 1, Minor: 29}

// AtLeast compares.
func (v Version) AtLeast(o Version) bool {
	return v.Major > o.Major || v.Major == o.Major && v.Minor >= o.Minor
}

func (v Version) String() string {
	if v.Git != "" {
		return v.Git
	}
	return fmt.Sprintf("v%d.%d", v.Major, v.Minor)
}

// ServerVersion asks the API server.
func (c *Client) ServerVersion(ctx context.Context) (Version, error) {
	// The discovery client takes no context; its answer is bounded by the client's timeout.
	if err := ctx.Err(); err != nil {
		return Version{}, err
	}
	info, err := c.Core.Discovery().ServerVersion()
	if err != nil {
		return Version{}, fmt.Errorf("ask for the API server's version: %w", explain(err))
	}
	v := Version{Git: info.GitVersion}
	v.Major, _ = strconv.Atoi(info.Major)
	v.Minor, err = strconv.Atoi(strings.TrimRight(info.Minor, "+"))
	if err != nil {
		return v, fmt.Errorf("the API server says its version is %q.%q", info.Major, info.Minor)
	}
	return v, nil
}
