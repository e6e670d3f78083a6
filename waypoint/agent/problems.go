package agent

import (
	"slices"
	"strings"
	"time"

	"github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/api/xds"
)

// Problem is something that is not in force as it was written. /problems lists them.
type Problem struct {
	// Source is who found it: "facts" (a fact was refused), "expansion" (it has no meaning in Envoy's words), "envoy",
	// "expiry" or "revocation".
	Source string `json:"source"`
	// Objects are what to mend, as "VirtualService namespace/name", as far as known.
	Objects []string `json:"objects,omitempty"`
	// Type and Resource are what was refused, Unit the part of the configuration it belongs to.
	Type     string `json:"type,omitempty"`
	Resource string `json:"resource,omitempty"`
	Unit     string `json:"unit,omitempty"`
	Text     string `json:"text"`
	// Kept: an earlier version stays in force.
	Kept  bool       `json:"kept"`
	Since *time.Time `json:"since,omitempty"`
}

type rejectedID struct{ typeURL, name string }

type rejection struct {
	text  string
	since time.Time
}

// maxRejected bounds the memory a broken control plane can take.
const maxRejected = 1000

// noteRejected keeps track of facts that were refused until they are sent anew or taken away.
func (a *agent) noteRejected(typeURL string, upserts []xds.Raw, removed []string, rejected []xds.Rejected) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.rejected) > 0 {
		for _, r := range upserts {
			delete(a.rejected, rejectedID{typeURL, r.Name})
		}
		for _, name := range removed {
			delete(a.rejected, rejectedID{typeURL, name})
		}
	}
	for _, r := range rejected {
		if len(a.rejected) >= maxRejected {
			break
		}
		a.rejected[rejectedID{typeURL, r.Name}] = rejection{r.Err.Error(), time.Now()}
	}
	a.own.rejected.Set(float64(len(a.rejected)))
}

// problems lists everything that is not in force as it was written.
func (a *agent) problems() []Problem {
	out := []Problem{}
	snapshot := a.facts.Current()
	refusals := a.ads.Refusals()
	a.mu.Lock()
	defer a.mu.Unlock()
	for id, r := range a.rejected {
		out = append(out, Problem{Source: "facts", Type: shortType(id.typeURL), Resource: id.name, Text: r.text, Kept: true, Since: &r.since})
	}
	slices.SortFunc(out, func(a, b Problem) int { return strings.Compare(a.Type+a.Resource, b.Type+b.Resource) })
	if r := a.unrevoked; r != nil {
		out = append(out, Problem{Source: "revocation", Text: r.text, Since: &r.since})
	}
	type told struct{ object, text string }
	seen := map[told]bool{} // a service says the same for each of its ports
	for _, p := range a.renderer.Problems() {
		object := p.Object
		if !strings.Contains(object, " ") { // settings merged from several objects have no name
			object += " of " + p.Unit
		}
		if !seen[told{object, p.Text}] {
			seen[told{object, p.Text}] = true
			out = append(out, Problem{Source: "expansion", Objects: []string{object}, Unit: p.Unit, Text: p.Text})
		}
	}
	var secrets []*waypoint.Secret
	for _, name := range snapshot.SecretNames() {
		secrets = append(secrets, snapshot.Secret(name))
	}
	out = append(out, outOfDate(secrets, time.Now())...)
	for _, r := range refusals {
		unit, objects := a.renderer.Objects(snapshot, r.Type, r.Name)
		out = append(out, Problem{
			Source: "envoy", Objects: objects, Type: shortType(r.Type), Resource: r.Name, Unit: unit, Text: r.Reason, Kept: r.Kept, Since: &r.Since,
		})
	}
	return out
}

// shortType is the last part of a type URL.
func shortType(typeURL string) string { return typeURL[strings.LastIndexByte(typeURL, '.')+1:] }
