package proxy

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/ztunnel/dns"
	"github.com/ambit-mesh/ambit/ztunnel/telemetry"
)

// SOCKS version 5 without authentication, CONNECT only. RFC 1928.
const (
	socksVersion   = 5
	socksNoAuth    = 0
	socksNoMethod  = 0xff
	socksConnect   = 1
	socksIPv4      = 1
	socksName      = 3
	socksIPv6      = 4
	socksOK        = 0
	socksFailure   = 1
	socksForbidden = 2
	socksNoHost    = 4
	socksRefused   = 5
	socksNoCommand = 7
	socksNoAddress = 8

	maxSOCKSRequest = 512
)

// listenSOCKS opens the listeners on loopback only: who may use them acts as the pod.
func (pd *pod) listenSOCKS(ctx context.Context, opts control) error {
	addrs := []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}
	if pd.v6 {
		addrs = append(addrs, netip.IPv6Loopback())
	}
	for _, a := range addrs {
		at := netip.AddrPortFrom(a, mesh.PortSOCKS5)
		l, err := pd.netns.Listen(ctx, "tcp", at, opts)
		if err != nil {
			return fmt.Errorf("listen on %s for SOCKS5 (UNSTABLE_ENABLE_SOCKS5): %w", at, err)
		}
		pd.socksL = append(pd.socksL, l)
		take(l)
	}
	return nil
}

// socks serves a connection whose application says itself where it goes.
func (pd *pod) socks(ctx context.Context, c *net.TCPConn) {
	defer c.Close()
	pd.keepalive(c)
	_ = c.SetDeadline(time.Now().Add(connectTimeout)) // fails on a closed connection only, as the next line will
	dst, code, err := pd.readSOCKS(ctx, c)
	if err != nil {
		pd.log.Debug("SOCKS5 request refused", "src", c.RemoteAddr().String(), "error", err)
		if code != socksOK && answerSOCKS(c, code) == nil && c.CloseWrite() == nil {
			// Closing while something is unread would be a reset, and the answer lost.
			_, _ = io.CopyN(io.Discard, c, maxSOCKSRequest)
		}
		return
	}
	_ = c.SetDeadline(time.Time{})
	// The application's own address on loopback says nothing about the pod: connections through SOCKS come from the pod's.
	src := addrPort(c.RemoteAddr())
	if w := pd.described(pd.proxy.State.Current()); w != nil {
		for _, a := range w.Addrs {
			if a.Is4() == dst.Addr().Is4() {
				src = netip.AddrPortFrom(a, src.Port())
			}
		}
	}
	pd.carry(ctx, c, src, dst, func(err error) error {
		if failed := answerSOCKS(c, socksCode(err)); failed != nil {
			return failed
		}
		return err // answered in words, so that there is nothing to reset
	})
}

// readSOCKS reads the greeting and the request. A code other than OK is what to answer when there is an error.
func (pd *pod) readSOCKS(ctx context.Context, c net.Conn) (dst netip.AddrPort, code byte, err error) {
	var b [256]byte
	if _, err := io.ReadFull(c, b[:2]); err != nil {
		return dst, socksOK, err
	}
	if b[0] != socksVersion {
		return dst, socksOK, fmt.Errorf("version %d, want 5", b[0])
	}
	methods := b[:b[1]]
	if _, err := io.ReadFull(c, methods); err != nil {
		return dst, socksOK, err
	}
	if !bytes.Contains(methods, []byte{socksNoAuth}) {
		_, err := c.Write([]byte{socksVersion, socksNoMethod})
		return dst, socksOK, errors.Join(errors.New("client insists on authentication"), err)
	}
	if _, err := c.Write([]byte{socksVersion, socksNoAuth}); err != nil {
		return dst, socksOK, err
	}
	if _, err := io.ReadFull(c, b[:4]); err != nil {
		return dst, socksOK, err
	}
	if b[0] != socksVersion || b[1] != socksConnect {
		return dst, socksNoCommand, fmt.Errorf("version %d command %d, want CONNECT", b[0], b[1])
	}
	return pd.readSOCKSAddress(ctx, c, b[3])
}

func (pd *pod) readSOCKSAddress(ctx context.Context, c net.Conn, kind byte) (dst netip.AddrPort, code byte, err error) {
	var b [256 + 2]byte
	size := 0
	switch kind {
	case socksIPv4:
		size = 4
	case socksIPv6:
		size = 16
	case socksName:
		if _, err := io.ReadFull(c, b[:1]); err != nil {
			return dst, socksOK, err
		}
		size = int(b[0])
	default:
		return dst, socksNoAddress, fmt.Errorf("address type %d", kind)
	}
	if _, err := io.ReadFull(c, b[:size+2]); err != nil {
		return dst, socksOK, err
	}
	port := binary.BigEndian.Uint16(b[size:])
	if kind != socksName {
		a, _ := netip.AddrFromSlice(b[:size])
		return netip.AddrPortFrom(a.Unmap(), port), socksOK, nil
	}
	a, err := pd.resolve(ctx, string(b[:size]))
	if err != nil {
		return dst, socksNoHost, err
	}
	return netip.AddrPortFrom(a, port), socksOK, nil
}

// resolve finds the address of a name as the pod would: one of the mesh, or one outside.
func (pd *pod) resolve(ctx context.Context, name string) (netip.Addr, error) {
	if a, err := netip.ParseAddr(name); err == nil {
		return a.Unmap().WithZone(""), nil
	}
	s, cfg := pd.proxy.State.Current(), pd.proxy.cfg
	zone := dns.Zone{Domain: cfg.ClusterDomain, Network: cfg.Network, PreferredNamespace: cfg.PreferredNamespace, Search: pd.proxy.Upstream.Search}
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	known := false
	for _, v6 := range []bool{false, true} {
		answer, ok := dns.Lookup(s, zone, pd.self(s, netip.Addr{}), name, v6)
		if known = known || ok; len(answer.Addrs) > 0 {
			return answer.Addrs[0], nil
		}
	}
	if known {
		return netip.Addr{}, fmt.Errorf("%s has no address", name)
	}
	addrs, err := pd.proxy.Resolver.Resolve(ctx, name)
	if err == nil && len(addrs) == 0 {
		err = fmt.Errorf("%s has no address", name)
	}
	if err != nil {
		return netip.Addr{}, err
	}
	return addrs[0].Unmap(), nil
}

// answerSOCKS ends the exchange. The address we are bound to is of no use to anybody, so it is all zero.
func answerSOCKS(c net.Conn, code byte) error {
	_, err := c.Write([]byte{socksVersion, code, 0, socksIPv4, 0, 0, 0, 0, 0, 0})
	return err
}

func socksCode(err error) byte {
	reason := telemetry.ReasonOf(err)
	switch {
	case reason == telemetry.OK:
		return socksOK
	case reason.Flags() == "DENY":
		return socksForbidden
	case reason == telemetry.ConnectRefused:
		return socksRefused
	case reason == telemetry.Unresolvable, reason == telemetry.NoHealthyUpstream, reason == telemetry.UnknownDestination:
		return socksNoHost
	}
	return socksFailure
}
