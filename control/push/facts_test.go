package push

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ambit-mesh/ambit/api/mesh"
	facts "github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/api/xds"
	"github.com/ambit-mesh/ambit/control/jwks"
	"github.com/ambit-mesh/ambit/control/model"
	"github.com/ambit-mesh/ambit/control/object"
	"github.com/ambit-mesh/ambit/control/waypoint"
)

// TestFacts follows objects through both models into the collections, and key sets the other way.
func TestFacts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		services, gateways := xds.NewCollection(mesh.TypeWaypointService), xds.NewCollection(mesh.TypeWaypointGateway)
		needed := make(chan []jwks.Source, 10)
		told := map[object.Key]model.Report{}
		p := New(model.New(model.Config{}), Config{
			Addresses: xds.NewCollection(mesh.TypeAddress), Policies: xds.NewCollection(mesh.TypeAuthorization),
			Waypoints: waypoint.New(waypoint.Config{}), Facts: []*xds.Collection{services, gateways},
			KeySets:  func(all []jwks.Source) { needed <- all },
			Gateways: func(k object.Key, r model.Report) { told[k] = r },
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- p.Run(ctx) }()
		at := func(name string, labels ...string) object.Meta {
			return object.Meta{Namespace: "shop", Name: name, Labels: object.LabelsOf(labels...)}
		}
		p.Apply([]object.Event{
			object.Put(&object.Gateway{
				Meta: at("wp"), Class: mesh.GatewayClassWaypoint, Status: []object.GatewayAddress{{Kind: object.AddressHostname, Value: "h"}},
			}),
			object.Put(&object.Service{Meta: at("web", mesh.LabelUseWaypoint, "wp"), Ports: []object.ServicePort{{Name: "http", Port: 80, TargetPort: 80}}}),
			object.Put(&object.RequestAuthentication{
				Meta: at("tokens"), TargetRefs: []object.TargetRef{{Kind: "Service", Name: "web"}},
				Rules: []object.JWTRule{{Rule: &facts.JWTRule{Issuer: "i"}, JWKSURI: "https://keys"}},
			}),
		})
		p.Synced()
		<-p.Ready()
		synctest.Wait()
		if services.Len() != 1 || gateways.Len() != 1 {
			t.Fatalf("%d services, %d gateways", services.Len(), gateways.Len())
		}
		res := services.Snapshot()[0]
		if res.Name != "shop/wp/shop/web.shop.svc.cluster.local" || len(res.Scopes) != 1 || res.Scopes[0] != "shop/wp" {
			t.Errorf("%+v", res)
		}
		sources := <-needed
		if len(sources) != 1 || sources[0].URI != "https://keys" {
			t.Fatalf("needed %v", sources)
		}
		if _, ok := told[object.Key{Kind: object.KindGateway, Namespace: "shop", Name: "wp"}]; !ok {
			t.Errorf("told of %v", told)
		}
		before := services.Version()
		p.SetKeys(sources[0], jwks.Set{Keys: `{"keys":[]}`})
		time.Sleep(2 * MaxWindow) // virtual
		synctest.Wait()
		if services.Version() == before || !strings.Contains(string(services.Snapshot()[0].Body), `{"keys":[]}`) {
			t.Error("the key set did not come")
		}
		p.Apply([]object.Event{object.Delete(object.Key{Kind: object.KindGateway, Namespace: "shop", Name: "wp"})})
		time.Sleep(2 * MaxWindow) // virtual
		synctest.Wait()
		if services.Len()+gateways.Len() != 0 {
			t.Errorf("%d services, %d gateways are left", services.Len(), gateways.Len())
		}
		if all := <-needed; len(all) != 0 {
			t.Errorf("still needed: %v", all)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestMayReadGateway: the proxies of a Gateway are known by its account, or by that of the pods that are its instances.
func TestMayReadGateway(t *testing.T) {
	m := model.New(model.Config{})
	p := New(m, Config{})
	at := func(name string, labels ...string) object.Meta {
		return object.Meta{Namespace: "shop", Name: name, Labels: object.LabelsOf(labels...)}
	}
	own := at("own")
	own.Annotations = object.LabelsOf(mesh.AnnotationServiceAccount, "mine")
	p.Apply([]object.Event{
		object.Put(&object.Gateway{Meta: at("wp"), Class: mesh.GatewayClassWaypoint}),
		object.Put(&object.Gateway{Meta: at("edge"), Class: mesh.GatewayClassIngress}),
		object.Put(&object.Gateway{Meta: own, Class: mesh.GatewayClassWaypoint}),
		object.Put(&object.Pod{Meta: at("by-hand", mesh.LabelGatewayName, "edge"), ServiceAccount: "hand"}),
		object.Put(&object.Pod{Meta: object.Meta{Namespace: "other", Name: "p", Labels: object.LabelsOf(mesh.LabelGatewayName, "edge")}, ServiceAccount: "evil"}),
	})
	for _, c := range []struct {
		gateway, ns, account string
		ok                   bool
	}{
		{"shop/wp", "shop", "wp", true},
		{"shop/wp", "other", "wp", false},
		{"shop/wp", "shop", "default", false},
		{"shop/edge", "shop", "edge-istio", true},
		{"shop/edge", "shop", "hand", true},
		{"shop/edge", "shop", "edge", false},
		{"shop/edge", "other", "evil", false},
		{"shop/edge", "shop", "evil", false},
		{"shop/own", "shop", "mine", true},
		{"shop/own", "shop", "own", false},
		{"shop/none", "shop", "none", false},
		{"shop", "shop", "", false},
	} {
		if err := p.MayReadGateway(c.gateway, c.ns, c.account); (err == nil) != c.ok {
			t.Errorf("%s/%s reads %s: %v", c.ns, c.account, c.gateway, err)
		}
	}
}
