package model

import (
	"fmt"
	"hash/fnv"
	"testing"

	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	"github.com/ambit-mesh/ambit/api/security"
	"github.com/ambit-mesh/ambit/api/workload"
	"github.com/ambit-mesh/ambit/control/object"
)

// recorder is an Output that keeps the latest of everything and checks that the model keeps its side of the contract.
type recorder struct {
	t         testing.TB
	workloads map[string]*workload.Workload
	services  map[string]*workload.Service
	policies  map[string]*security.Authorization
	reports   map[object.Key]Report
	hosts     map[string]Host
	scopes    map[string][]string
	sums      map[string]uint64
	// puts counts what was handed over and was new, calls all of it.
	puts, calls int
}

func newRecorder(t testing.TB) *recorder {
	return &recorder{
		t: t, workloads: map[string]*workload.Workload{}, services: map[string]*workload.Service{},
		policies: map[string]*security.Authorization{}, reports: map[object.Key]Report{}, sums: map[string]uint64{},
		hosts: map[string]Host{}, scopes: map[string][]string{},
	}
}

func (r *recorder) put(name string, m proto.Message, before uint64) uint64 {
	if r.sums[name] != before {
		r.t.Fatalf("%s: the model says %x was handed over before, it was %x", name, before, r.sums[name])
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		r.t.Fatal(err)
	}
	h := fnv.New64a()
	h.Write(b)
	sum := max(1, h.Sum64())
	r.calls++
	if sum != before {
		r.puts++
	}
	r.sums[name] = sum
	return sum
}

func (r *recorder) Host(h Host) {
	name := h.Namespace + "/" + h.Hostname
	if h.Object == (object.Key{}) {
		if _, ok := r.hosts[name]; !ok {
			r.t.Fatalf("host %s is gone, but was never spoken of", name)
		}
		delete(r.hosts, name)
		return
	}
	r.hosts[name] = h
}

func (r *recorder) Workload(w *workload.Workload, scopes []string, before uint64) uint64 {
	r.scopes[w.Uid] = scopes
	r.workloads[w.Uid] = proto.Clone(w).(*workload.Workload)
	return r.put("address/"+w.Uid, w, before)
}

func (r *recorder) Service(s *workload.Service, before uint64) uint64 {
	name := s.Namespace + "/" + s.Hostname
	r.services[name] = proto.Clone(s).(*workload.Service)
	return r.put("address/"+name, s, before)
}

func (r *recorder) Policy(p *security.Authorization, before uint64) uint64 {
	name := p.Namespace + "/" + p.Name
	r.policies[name] = proto.Clone(p).(*security.Authorization)
	return r.put("policy/"+name, p, before)
}

func (r *recorder) RemoveAddress(name string) {
	if r.sums["address/"+name] == 0 {
		r.t.Fatalf("address %s is removed, but was never handed over", name)
	}
	delete(r.sums, "address/"+name)
	delete(r.workloads, name)
	delete(r.scopes, name)
	delete(r.services, name)
}

func (r *recorder) RemovePolicy(name string) {
	if r.sums["policy/"+name] == 0 {
		r.t.Fatalf("policy %s is removed, but was never handed over", name)
	}
	delete(r.sums, "policy/"+name)
	delete(r.policies, name)
}

func (r *recorder) Report(k object.Key, rep Report) {
	if rep.Empty() {
		delete(r.reports, k)
		return
	}
	r.reports[k] = rep
}

// text is everything recorded, in a form that compares and prints well.
func (r *recorder) text() map[string]string {
	out := map[string]string{}
	o := prototext.MarshalOptions{Multiline: true}
	clean := func(m proto.Message) string { return o.Format(m) }
	for k, v := range r.workloads {
		out["workload "+k] = clean(v) + fmt.Sprint(r.scopes[k])
	}
	for k, v := range r.services {
		out["service "+k] = clean(v)
	}
	for k, v := range r.policies {
		out["policy "+k] = clean(v)
	}
	for k, v := range r.hosts {
		out["host "+k] = fmt.Sprintf("%+v", v)
	}
	for k, v := range r.reports {
		s := ""
		for _, c := range v.Conditions {
			s += c.Type + " " + c.Reason + ": " + c.Message + "\n"
		}
		for _, a := range v.Addresses {
			s += "address " + a.Host + " " + a.Address.String() + "\n"
		}
		for _, w := range v.Warnings {
			s += w.Field + ": " + w.Problem + "\n"
		}
		out["report "+k.String()] = s
	}
	return out
}
