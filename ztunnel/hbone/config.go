package hbone

import "time"

// Config tunes a connection. The zero value of each field means the default of the Istio ambient wire contract
// (istio/ztunnel src/config.rs), named beside it. A Config is copied in and never changed.
type Config struct {
	// StreamWindow is how much a peer may send on one stream before we consume it. Default 4 MiB.
	StreamWindow int
	// ConnWindow is the same for the whole connection. Default 16 MiB.
	ConnWindow int
	// MaxFrame is the SETTINGS_MAX_FRAME_SIZE we announce. Default 1 MiB.
	MaxFrame int
	// MaxStreams bounds concurrent streams: those a server admits (default 200), those a client opens (default 100).
	MaxStreams int
	// HeaderList bounds one received header list, RFC 9113 §6.5.2. Default 64 KiB for servers, 16 KiB for clients.
	HeaderList int
	// PingInterval is how long the peer may be silent before we ask whether it lives. Default 10 s; negative: never.
	PingInterval time.Duration
	// PingTimeout is how long the answer may take. Default 20 s.
	PingTimeout time.Duration
	// SettingsTimeout bounds the wait for the peer's preface and first SETTINGS. Default 10 s.
	SettingsTimeout time.Duration
	// DrainGrace is the pause between a server's two GOAWAY frames when the peer does not answer the PING between
	// them. Default 1 s.
	DrainGrace time.Duration
	// Drain, when closed, makes a server connection drain as ServerConn.Drain does.
	Drain <-chan struct{}
}

func (c Config) withDefaults(client bool) Config {
	orInt := func(p *int, def int) {
		if *p == 0 {
			*p = def
		}
	}
	orDur := func(p *time.Duration, def time.Duration) {
		if *p == 0 {
			*p = def
		}
	}
	streams, list := 200, 64<<10
	if client {
		streams, list = 100, 16<<10
	}
	orInt(&c.StreamWindow, 4<<20)
	orInt(&c.ConnWindow, 16<<20)
	orInt(&c.MaxFrame, 1<<20)
	orInt(&c.MaxStreams, streams)
	orInt(&c.HeaderList, list)
	orDur(&c.PingInterval, 10*time.Second)
	orDur(&c.PingTimeout, 20*time.Second)
	orDur(&c.SettingsTimeout, 10*time.Second)
	orDur(&c.DrainGrace, time.Second)
	return c
}
