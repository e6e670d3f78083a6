package waypoint

import (
	"google.golang.org/protobuf/proto"

	facts "github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/control/object"
)

func (m *Model) buildEdge(r *reader, g *object.Gateway, f *facts.Gateway) {}

func (m *Model) buildAttachment(r *reader, gw gatewayName, route object.Key) []topic { return nil }

func (m *Model) buildVirtualHost(r *reader, gw gatewayName, listener, host string) proto.Message {
	return nil
}

func (m *Model) publish(u *unit, now []topic) {}
