package daemon

import (
	"fmt"
	"os"

	"github.com/ambit-mesh/ambit/api/xds"
	"github.com/ambit-mesh/ambit/ztunnel/state"
	"github.com/ambit-mesh/ambit/ztunnel/static"
)

// loadStatic puts what LOCAL_XDS and LOCAL_XDS_PATH hold into the state, and into one of its own that is shown as it was
// given. A control plane may add to it, and replace it by name.
func (c Config) loadStatic(into ...*state.State) error {
	texts := map[string][]byte{}
	if c.LocalXDS != "" {
		texts["LOCAL_XDS"] = []byte(c.LocalXDS)
	}
	if c.LocalXDSPath != "" {
		b, err := os.ReadFile(c.LocalXDSPath)
		if err != nil {
			return fmt.Errorf("LOCAL_XDS_PATH: %w", err)
		}
		texts["LOCAL_XDS_PATH="+c.LocalXDSPath] = b
	}
	for source, text := range texts {
		resources, err := static.Parse(text, c.ClusterID)
		if err != nil {
			return fmt.Errorf("%s: %w", source, err)
		}
		for _, r := range resources {
			for _, st := range into {
				if rejected := st.Apply(r.TypeURL, []xds.Raw{r.Raw}, nil); len(rejected) > 0 {
					return fmt.Errorf("%s: %s: %w", source, rejected[0].Name, rejected[0].Err)
				}
			}
		}
	}
	return nil
}
