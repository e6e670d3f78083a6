package inpod

import "github.com/ambit-mesh/ambit/api/netns"

// Netns is the network namespace of one pod: see Listen, ListenPacket and Dial for sockets inside it.
type Netns = netns.Netns

// NetnsID tells namespaces apart.
type NetnsID = netns.ID
