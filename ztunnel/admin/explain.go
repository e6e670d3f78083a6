package admin

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/ambit-mesh/ambit/ztunnel/explain"
)

// captures reports whether the connections of a pod, as a question names it, enter this proxy.
func (s Sources) captures(pod string) bool {
	if s.Pods == nil {
		return false
	}
	return slices.ContainsFunc(s.Pods(), func(p Pod) bool {
		if p.State != "Up" && p.State != "Draining" {
			return false
		}
		return p.Namespace+"/"+p.Name == pod || p.UID == pod || strings.HasSuffix(pod, "//Pod/"+p.Namespace+"/"+p.Name)
	})
}

// explainOutbound answers ?workload=&host=&port= with explain.Way.
func (s Sources) explainOutbound(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	port, err := strconv.ParseUint(q.Get("port"), 10, 16)
	if err != nil || q.Get("workload") == "" || q.Get("host") == "" {
		http.Error(w, "want ?workload=UID, NAMESPACE/NAME or ADDRESS, &host=NAME or ADDRESS, &port=NUMBER", http.StatusBadRequest)
		return
	}
	way, err := explain.Outbound(s.State(), s.Mesh, explain.Question{Workload: q.Get("workload"), Host: q.Get("host"), Port: uint16(port), Unredirected: !s.captures(q.Get("workload"))})
	answer(w, way, err)
}

// explainInbound answers ?workload=&port=&service=&peer=&peer_ip=&client=&client_ip= with explain.Verdict.
func (s Sources) explainInbound(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	port, err := strconv.ParseUint(q.Get("port"), 10, 16)
	if err != nil || q.Get("workload") == "" {
		http.Error(w, "want ?workload=UID, NAMESPACE/NAME or ADDRESS, &port=NUMBER of the pod, and of whom: &peer=SPIFFE_ID&peer_ip=&client=SPIFFE_ID&client_ip=", http.StatusBadRequest)
		return
	}
	a := explain.Arrival{Unredirected: !s.captures(q.Get("workload")), Workload: q.Get("workload"), Port: uint16(port), Service: q.Get("service"), Peer: q.Get("peer"), Client: q.Get("client")}
	for name, to := range map[string]*netip.Addr{"peer_ip": &a.PeerIP, "client_ip": &a.ClientIP} {
		if text := q.Get(name); text != "" {
			if *to, err = netip.ParseAddr(text); err != nil {
				http.Error(w, fmt.Sprintf("%s: %v", name, err), http.StatusBadRequest)
				return
			}
		}
	}
	v, err := explain.Inbound(s.State(), s.Mesh, a)
	answer(w, v, err)
}

func answer(w http.ResponseWriter, v any, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // who asked may be gone
}
