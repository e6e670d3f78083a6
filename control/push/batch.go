package push

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"slices"
	"strconv"

	"google.golang.org/protobuf/proto"

	"github.com/ambit-mesh/ambit/api/security"
	"github.com/ambit-mesh/ambit/api/workload"
	"github.com/ambit-mesh/ambit/api/xds"
	"github.com/ambit-mesh/ambit/control/jwks"
	"github.com/ambit-mesh/ambit/control/model"
	"github.com/ambit-mesh/ambit/control/object"
	"github.com/ambit-mesh/ambit/control/waypoint"
)

// batchSize bounds how much is held between the model and the collections. A start with 100,000 pods goes through in
// pieces; what clients are sent is cut by their streams anyway.
const batchSize = 4096

// batch is a model.Output that encodes what changed.
type batch struct {
	addresses, policies *xds.Collection
	reports             *reports
	waypoints           *waypoint.Model // nil without; told of hosts as they come
	keySets             func([]jwks.Source)

	facts           factSets
	gateways        map[object.Key]model.Report // what is new to say about Gateways
	address, policy resources
	retiring        []string // policies to be removed once no workload that clients know names them
	buf             []byte   // of what is being encoded
	put, removed    int
	failed          error // the last message that could not be encoded
	// wrapped are reused for every message: what travels is an Address with one of the two inside.
	asWorkload workload.Address_Workload
	asService  workload.Address_Service
	wrapper    workload.Address
}

// resources is what one collection is about to be told.
type resources struct {
	put    []*xds.Resource
	remove []string
}

var (
	_ model.Output    = (*batch)(nil)
	_ waypoint.Output = (*batch)(nil)
)

// Two runs over the same content must give the same bytes: the version that clients come back with is a hash of them.
var marshal = proto.MarshalOptions{Deterministic: true}

// Workload implements model.Output.
func (b *batch) Workload(w *workload.Workload, scopes []string, before uint64) uint64 {
	b.asWorkload.Workload = w
	b.wrapper.Type = &b.asWorkload
	sum, ok := b.encode(&b.wrapper, before, scopes...)
	if !ok {
		return sum
	}
	r := &xds.Resource{Name: w.Uid, Version: version(sum), Body: slices.Clone(b.buf), Node: w.Node, Scopes: scopes}
	for _, a := range w.Addresses {
		r.Aliases = append(r.Aliases, alias(w.Network, a, nil))
	}
	for name := range w.Services {
		r.Services = append(r.Services, name)
	}
	slices.Sort(r.Services)
	b.add(r)
	return sum
}

// Service implements model.Output.
func (b *batch) Service(s *workload.Service, before uint64) uint64 {
	b.asService.Service = s
	b.wrapper.Type = &b.asService
	sum, ok := b.encode(&b.wrapper, before)
	if !ok {
		return sum
	}
	r := &xds.Resource{Name: s.Namespace + "/" + s.Hostname, Version: version(sum), Body: slices.Clone(b.buf)}
	for _, a := range s.Addresses {
		r.Aliases = append(r.Aliases, alias(a.Network, a.Address, a.Length))
	}
	b.add(r)
	return sum
}

func (b *batch) add(r *xds.Resource) {
	b.put++
	b.address.put = append(b.address.put, r)
	if len(b.address.put) >= batchSize {
		b.apply()
	}
}

// Policy implements model.Output. Policies have no version, so every client is sent all of them when it comes back.
func (b *batch) Policy(a *security.Authorization, before uint64) uint64 {
	sum, ok := b.encode(a, before)
	if ok {
		b.put++
		b.policy.put = append(b.policy.put, &xds.Resource{Name: a.Namespace + "/" + a.Name, Body: slices.Clone(b.buf)})
	}
	return sum
}

// RemoveAddress implements model.Output.
func (b *batch) RemoveAddress(name string) {
	b.removed++
	b.address.remove = append(b.address.remove, name)
}

// RemovePolicy implements model.Output.
func (b *batch) RemovePolicy(name string) {
	b.removed++
	b.policy.remove = append(b.policy.remove, name)
}

// Host implements model.Output.
func (b *batch) Host(h model.Host) {
	if b.waypoints != nil {
		b.waypoints.Host(h)
	}
}

// Report implements model.Output.
func (b *batch) Report(of object.Key, r model.Report) { b.reports.set(fromModel, of, r) }

// encode leaves the bytes of a message in buf. ok is false when they are what was handed over before.
func (b *batch) encode(m proto.Message, before uint64, scopes ...string) (sum uint64, ok bool) {
	var err error
	if b.buf, err = marshal.MarshalAppend(b.buf[:0], m); err != nil {
		// The only way to get here is text that is not UTF-8. It cannot be sent, so it is as if it did not change.
		b.failed = err
		return before, false
	}
	content := b.buf
	for _, s := range scopes {
		// Who may see it is part of what it is, but not of what is sent.
		content = append(append(content, 0), s...)
	}
	digest := sha256.Sum256(content)
	b.buf = content[:len(b.buf)]
	sum = max(1, binary.BigEndian.Uint64(digest[:]))
	return sum, sum != before
}

func version(sum uint64) string {
	var raw [8]byte
	binary.BigEndian.PutUint64(raw[:], sum)
	return hex.EncodeToString(raw[:])
}

// alias is how on-demand clients ask for an address: network/ip, and network/ip/length for a range.
func alias(network string, raw []byte, length *uint32) string {
	a, _ := netip.AddrFromSlice(raw)
	s := network + "/" + a.String()
	if length != nil {
		s += "/" + strconv.Itoa(int(*length))
	}
	return s
}

// apply hands over what was collected. New policies go first, removed ones last: a workload must name neither one that
// clients have not heard of, nor one they have forgotten, or it would be without any for that moment. What is to be removed
// waits for retire.
func (b *batch) apply() {
	b.retiring = slices.DeleteFunc(b.retiring, func(name string) bool {
		return slices.ContainsFunc(b.policy.put, func(r *xds.Resource) bool { return r.Name == name })
	})
	b.retiring = append(b.retiring, b.policy.remove...)
	if len(b.policy.put) > 0 {
		b.policies.Apply(b.policy.put, nil)
	}
	b.policy.clear()
	if len(b.address.put)+len(b.address.remove) > 0 {
		b.addresses.Apply(b.address.put, b.address.remove)
		b.address.clear()
	}
	b.facts.apply()
}

// retire removes the policies that nobody names any more.
func (b *batch) retire() {
	if len(b.retiring) > 0 {
		b.policies.Apply(nil, b.retiring)
		b.retiring = nil
	}
}

func (r *resources) clear() {
	clear(r.put)
	r.put = r.put[:0]
	clear(r.remove)
	r.remove = r.remove[:0]
}

func (b *batch) counts() (put, removed int) { return b.put, b.removed }

// release lets go of buffers that a large batch left behind.
func (b *batch) release() {
	b.put, b.removed, b.failed = 0, 0, nil
	clear(b.gateways)
	for i := range b.facts {
		if cap(b.facts[i].put) > 256 {
			b.facts[i].put = nil
		}
	}
	for _, r := range []*resources{&b.address, &b.policy} {
		if cap(r.put) > 256 {
			r.put = nil
		}
		if cap(r.remove) > 256 {
			r.remove = nil
		}
	}
}
