package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// Dial opens a socket to an upstream server. It decides where it is opened: in the pod's namespace, so that the pod's
// NetworkPolicy sees the pod ask.
type Dial func(ctx context.Context, network string, server netip.AddrPort) (net.Conn, error)

// tryTimeout is how long one server is waited for. Clients give up after five seconds, and two servers should fit.
const tryTimeout = 2 * time.Second

var errNoServers = errors.New("there is no upstream name server")

// forward asks the upstream servers in turn and returns the first answer as it is, with the client's id. Whatever was asked
// is passed on byte by byte, so that options this package has never heard of survive.
func (s *Server) forward(ctx context.Context, q query, msg []byte, tcp bool) ([]byte, error) {
	err := errNoServers
	for _, server := range s.cfg.Upstream.Servers {
		var answer []byte
		answer, err = s.ask(ctx, "udp", server, q, msg)
		if err == nil && tcp && answer[2]&2 != 0 {
			// TC: the client is on TCP already because of that, so the rest must be fetched the same way. RFC 7766 §5.
			answer, err = s.ask(ctx, "tcp", server, q, msg)
		}
		if err == nil {
			return answer, nil
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, err
}

func (s *Server) ask(ctx context.Context, network string, server netip.AddrPort, q query, msg []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, tryTimeout)
	defer cancel()
	c, err := s.cfg.Dial(ctx, network, server)
	if err != nil {
		return nil, fmt.Errorf("dial name server %s: %w", server, err)
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })()
	// An id of our own: the client's may be guessable, and an answer to a guess must not get through. RFC 5452 §4.
	asked := append([]byte(nil), msg...)
	id := uint16(rand.Uint32())
	binary.BigEndian.PutUint16(asked, id)
	exchange := exchangeUDP
	if network == "tcp" {
		exchange = exchangeTCP
	}
	answer, err := exchange(c, asked, func(answer []byte) bool { return answers(answer, id, q.question) })
	if err != nil {
		return nil, fmt.Errorf("ask name server %s: %w", server, err)
	}
	binary.BigEndian.PutUint16(answer, q.header.ID)
	return answer, nil
}

// answers reports whether a message is the answer to a question with an id, and not some other message.
func answers(msg []byte, id uint16, question dnsmessage.Question) bool {
	var p dnsmessage.Parser
	h, err := p.Start(msg)
	if err != nil || !h.Response || h.ID != id {
		return false
	}
	got, err := p.Question()
	if errors.Is(err, dnsmessage.ErrSectionDone) {
		// Some servers refuse without repeating the question.
		return h.RCode != dnsmessage.RCodeSuccess
	}
	return err == nil && got.Type == question.Type && got.Class == question.Class && equalFold(got.Name, question.Name)
}

func equalFold(a, b dnsmessage.Name) bool {
	if a.Length != b.Length {
		return false
	}
	for i := range a.Data[:a.Length] {
		x, y := a.Data[i], b.Data[i]
		if 'A' <= x && x <= 'Z' {
			x += 'a' - 'A'
		}
		if 'A' <= y && y <= 'Z' {
			y += 'a' - 'A'
		}
		if x != y {
			return false
		}
	}
	return true
}

// strays is how many foreign datagrams are read past before a server is given up on.
const strays = 16

var datagrams = sync.Pool{New: func() any { return new([maxTCP]byte) }}

func exchangeUDP(c net.Conn, asked []byte, ours func([]byte) bool) ([]byte, error) {
	if _, err := c.Write(asked); err != nil {
		return nil, err
	}
	// A datagram is cut to the buffer without a word, so the buffer holds the largest there is.
	buf := datagrams.Get().(*[maxTCP]byte)
	defer datagrams.Put(buf)
	for range strays {
		n, err := c.Read(buf[:])
		if err != nil {
			return nil, err
		}
		if ours(buf[:n]) {
			return append([]byte(nil), buf[:n]...), nil
		}
	}
	return nil, errors.New("it sends answers to other questions")
}

func exchangeTCP(c net.Conn, asked []byte, ours func([]byte) bool) ([]byte, error) {
	if err := writeTCP(c, asked); err != nil {
		return nil, err
	}
	answer, err := readTCP(c)
	if err != nil {
		return nil, err
	}
	if !ours(answer) {
		return nil, errors.New("it sent an answer to another question")
	}
	return answer, nil
}

// Messages over TCP have their length in front. RFC 1035 §4.2.2.

func readTCP(r io.Reader) ([]byte, error) {
	var length [2]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return nil, err
	}
	msg := make([]byte, binary.BigEndian.Uint16(length[:]))
	_, err := io.ReadFull(r, msg)
	return msg, err
}

func writeTCP(w io.Writer, msg []byte) error {
	if len(msg) > maxTCP {
		return fmt.Errorf("message of %d bytes is too long", len(msg))
	}
	// One write: a length in a segment of its own confuses some clients.
	framed := make([]byte, 2, 2+len(msg))
	binary.BigEndian.PutUint16(framed, uint16(len(msg)))
	_, err := w.Write(append(framed, msg...))
	return err
}
