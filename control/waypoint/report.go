package waypoint

import (
	"github.com/ambit-mesh/ambit/control/model"
	"github.com/ambit-mesh/ambit/control/object"
)

func (m *Model) buildReport(r *reader, k object.Key) model.Report { return model.Report{} }
