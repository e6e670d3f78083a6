package model

import (
	"reflect"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/ambit-mesh/ambit/api/security"
	"github.com/ambit-mesh/ambit/control/object"
)

// Every attribute a policy can name is either carried out or said to be left out, and an ALLOW that names one a node
// proxy does not see allows nothing by that rule. A field that is new in the objects must not slip through here unseen.
func TestNoAttributeIsLostInSilence(t *testing.T) {
	value := map[string]string{"IPBlocks": "10.0.0.0/8", "NotIPBlocks": "10.0.0.0/8", "RemoteIPBlocks": "10.0.0.0/8", "NotRemoteIPBlocks": "10.0.0.0/8", "Ports": "80", "NotPorts": "80"}
	convert := func(r object.Rule) (*security.Authorization, *verdict) {
		return convertPolicy(Config{RootNamespace: "root"}, &object.AuthorizationPolicy{Meta: object.Meta{Namespace: "ns", Name: "p"}, Rules: []object.Rule{r}})
	}
	try := func(name string, without, rule object.Rule) {
		a, v := convert(rule)
		if less, _ := convert(without); v == nil && proto.Equal(a, less) {
			t.Errorf("%s: makes no difference and nothing is said", name)
		}
		if a == nil {
			t.Errorf("%s: no policy: %+v", name, v)
			return
		}
		carried := len(a.Rules) == 1 && fires(a)
		if carried == (v != nil) {
			t.Errorf("%s: carried out is %v and what is said %+v", name, carried, v)
		}
		if !carried && len(a.Rules) != 0 {
			t.Errorf("%s: the rule allows by what is left of it: %v", name, a.Rules)
		}
	}
	fill := func(v reflect.Value, i int) string {
		name := v.Type().Field(i).Name
		s := value[name]
		if s == "" {
			s = "x"
		}
		v.Field(i).Set(reflect.ValueOf([]string{s}))
		return name
	}
	for i := range reflect.TypeFor[object.Source]().NumField() {
		var s, without object.Source
		name := fill(reflect.ValueOf(&s).Elem(), i)
		// Together with something a node proxy does see, so that what is left over would match.
		if !strings.HasSuffix(name, "Namespaces") {
			s.Namespaces = []string{"y"}
			without.Namespaces = s.Namespaces
		}
		try("source "+name, object.Rule{From: []object.Source{without}}, object.Rule{From: []object.Source{s}})
	}
	for i := range reflect.TypeFor[object.Operation]().NumField() {
		var o, without object.Operation
		name := fill(reflect.ValueOf(&o).Elem(), i)
		if !strings.HasSuffix(name, "Ports") {
			o.Ports = []string{"80"}
			without.Ports = o.Ports
		}
		try("operation "+name, object.Rule{To: []object.Operation{without}}, object.Rule{To: []object.Operation{o}})
	}
}
