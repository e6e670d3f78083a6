package ads

import (
	"slices"
	"strings"

	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
)

// answer is what a request says of the response before it.
type answer struct {
	accepted, nacked bool
	refusals         []Refusal
}

// tell hands it on. Callers do not hold mu.
func (a answer) tell(events Events, typeURL string) {
	if a.accepted && events.Accepted != nil {
		events.Accepted(typeURL)
	}
	if a.nacked && events.Nacked != nil {
		events.Nacked(typeURL)
	}
	for _, r := range a.refusals {
		if events.Refused != nil {
			events.Refused(r)
		}
	}
}

// settle handles the answer to the response under way. Callers hold mu.
func (f *feed) settle(req *cache.DeltaRequest, t *typeFeed) (a answer) {
	sent, typeURL := t.sent, req.GetTypeUrl()
	if nonce := req.GetResponseNonce(); sent == nil || nonce == "" || nonce != sent.nonce {
		return answer{} // of a response that the server has not numbered yet, the request knows nothing
	}
	t.sent = nil
	if req.GetErrorDetail() == nil {
		for name, id := range sent.put {
			f.server.accept(typeURL, name, id)
			if f.server.types[typeURL][name] == nil {
				t.look(name, true) // removed since; to say so matters if Envoy has left it and asked for it again meanwhile
			}
			if typeURL == TypeEndpoint {
				delete(f.warming, name)
			}
		}
		if len(t.news) == 0 {
			t.limit = 0
		}
		return answer{accepted: true}
	}
	bad := blamed(req.GetErrorDetail().GetMessage(), sent.put)
	if len(bad) == 0 && len(sent.put) == 1 {
		for name := range sent.put {
			bad = append(bad, name)
		}
	}
	a.nacked = true
	reason := legible(req.GetErrorDetail().GetMessage())
	for _, name := range bad {
		if r, news := f.server.refuse(typeURL, name, sent.put[name], reason); news {
			a.refusals = append(a.refusals, r)
		}
	}
	if len(bad) == 0 {
		t.limit = max(1, len(sent.put)/2)
	}
	// Envoy may have taken any part of the response. Everything in it is sent again, which changes nothing where it has
	// it already, except that the refused resource goes back to its last good version.
	for name := range sent.put {
		t.look(name, true)
		delete(f.warming, name)
	}
	return a
}

// blamed finds the resources that Envoy's reason names. One name may be part of another; then the longer one is meant.
func blamed(reason string, put map[string]string) []string {
	var found []string
	for name := range put {
		if strings.Contains(reason, name) {
			found = append(found, name)
		}
	}
	slices.SortFunc(found, func(a, b string) int { return len(b) - len(a) })
	var out []string
	for _, name := range found {
		if !slices.ContainsFunc(out, func(longer string) bool { return strings.Contains(longer, name) }) {
			out = append(out, name)
		}
	}
	return out
}

// legible makes one short line of Envoy's reason. It tends to quote the whole resource before it says what is wrong.
func legible(reason string) string {
	reason = strings.Join(strings.Fields(strings.ToValidUTF8(reason, "?")), " ")
	reason = strings.ReplaceAll(reason, "goo.gle/debugonly ", "")
	const head, tail = 200, 500
	if len(reason) > head+tail+10 {
		reason = reason[:head] + " … " + reason[len(reason)-tail:]
	}
	return strings.ToValidUTF8(reason, "")
}
