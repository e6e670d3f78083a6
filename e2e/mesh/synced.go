package mesh

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/e2e/lab"
)

// Synced waits until the control plane has read everything that was applied, every Gateway runs, and every proxy has
// acknowledged what it was sent, so that whoever tries a connection next meets routes and policies as they are written
// now. A lab without a control plane is in sync. Progress is told what is waited for; it may be nil.
func Synced(ctx context.Context, l *lab.Lab, progress func(string)) error {
	if _, err := os.Stat(l.Control.AdminSocket); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	mark, err := makeMark(ctx, l)
	if err != nil {
		return err
	}
	last, calm := "", 0
	for {
		waiting, err := unsynced(ctx, l, mark)
		if err != nil {
			return err
		}
		// What was read last may still be on its way into a stream: believe it when it is quiet twice.
		if calm++; waiting != "" {
			calm = 0
		}
		if calm == 2 {
			return nil
		}
		if waiting != last && waiting != "" && progress != nil {
			progress(waiting)
		}
		last = waiting
		timer := time.NewTimer(settle / 5)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("still waiting: %s: %w", last, ctx.Err())
		}
	}
}

// report is what the control plane tells about one object.
type report struct {
	Kind, Namespace, Name string
	ObservedGeneration    int `json:"observedGeneration"`
}

// unsynced names one thing that is not in force yet.
func unsynced(ctx context.Context, l *lab.Lab, mark mark) (string, error) {
	for _, check := range []func(context.Context, *lab.Lab) (string, error){mark.unread, behind, unprogrammed, unacknowledged, unbuilt} {
		if waiting, err := check(ctx, l); waiting != "" || err != nil {
			return waiting, err
		}
	}
	return "", nil
}

// behind names a policy that the control plane has not read as it is now.
func behind(ctx context.Context, l *lab.Lab) (string, error) {
	var read struct {
		Entries []Refusal `json:"entries"`
		Objects []report  `json:"objects"`
	}
	if err := ask(ctx, l, "/debug/refusals", &read); err != nil {
		return "", err
	}
	seen, doubted := map[string]int{}, false
	for _, o := range read.Objects {
		if o.Kind == "AuthorizationPolicy" {
			seen[o.Namespace+"/"+o.Name] = o.ObservedGeneration
		}
	}
	for _, r := range read.Entries {
		// A refused document has a report only if an earlier version of it is in force.
		if r.Kind == "AuthorizationPolicy" && r.Refused() {
			seen[r.Namespace+"/"+r.Name] = -1
		}
		doubted = doubted || r.Kind == "PeerAuthentication" && r.Refused()
	}
	policies, err := l.Get(ctx, "AuthorizationPolicy", "", "")
	if err != nil {
		return "", err
	}
	for _, p := range policies {
		key := p.Namespace() + "/" + p.Name()
		if got := seen[key]; got >= 0 && got < p.Number(0, "metadata", "generation") {
			return "the control plane has not read authorizationpolicy " + key, nil
		}
		delete(seen, key)
	}
	for key := range seen {
		return "the control plane has not noticed that authorizationpolicy " + key + " is gone", nil
	}
	if doubted {
		return "", nil
	}
	return unread(ctx, l)
}

// unread looks for PeerAuthentications by what is served for them, since there are no reports of them.
func unread(ctx context.Context, l *lab.Lab) (string, error) {
	var served struct {
		Policies []struct{ Name string } `json:"policies"`
	}
	if err := ask(ctx, l, "/config_dump?name="+mesh.StaticStrictPolicy, &served); err != nil {
		return "", err
	}
	peers, err := l.Get(ctx, "PeerAuthentication", "", "")
	if err != nil {
		return "", err
	}
	if (len(peers) > 0) != (len(served.Policies) > 0) {
		return "the control plane has not read the peerauthentications", nil
	}
	return "", nil
}

// unacknowledged names a proxy that has not confirmed what it was sent.
func unacknowledged(ctx context.Context, l *lab.Lab) (string, error) {
	var clients []struct {
		NodeID string `json:"nodeId"`
		Types  []struct{ SentVersion, AckedVersion, NACK string }
	}
	if err := ask(ctx, l, "/debug/clients", &clients); err != nil {
		return "", err
	}
	for _, c := range clients {
		for _, t := range c.Types {
			if t.SentVersion != t.AckedVersion && t.NACK == "" {
				return c.NodeID + " has not acknowledged", nil
			}
		}
	}
	return "", nil
}

// ask decodes an answer of the control plane's admin interface.
func ask(ctx context.Context, l *lab.Lab, path string, to any) error {
	client := http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", l.Control.AdminSocket)
		},
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://control"+path, nil)
	if err != nil {
		return fmt.Errorf("ask the control plane: %w", err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("ask the control plane: %w", err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(to); err != nil {
		return fmt.Errorf("ask the control plane: %s: %w", strings.TrimPrefix(path, "/"), err)
	}
	return nil
}
