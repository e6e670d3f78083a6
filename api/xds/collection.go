package xds

// Collection holds the current resources of one type.
type Collection struct {
	typeURL string
}

// NewCollection returns an empty collection of one resource type.
func NewCollection(typeURL string) *Collection { return &Collection{typeURL: typeURL} }

// Apply puts and removes resources as one step and wakes the streams.
func (c *Collection) Apply(put []*Resource, remove []string) {}
