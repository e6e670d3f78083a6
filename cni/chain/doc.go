// Package chain keeps the CNI plugin in the way of every pod that a node starts: its program among the node's plugins, and its
// entry in the configuration that the container runtime reads.
//
// Deciding is pure (plan.go, conf.go): the files of a folder in, changes out. Keeper does the changes and does them again when
// somebody else writes there: network plugins rewrite their configuration whenever they start. It knows no API server, and not
// what the plugin does. Keeper.Run waits for what it starts. Start reading at plan.go.
package chain
