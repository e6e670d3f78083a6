package enroll

// Sink is told what there is on a node, by a folder or by an API server. Calls come one at a time.
type Sink interface {
	SetPod(p Pod)
	DeletePod(k Key)
	SetNamespace(name string, labels map[string]string)
	DeleteNamespace(name string)
	// Synced ends the initial state.
	Synced()
}
