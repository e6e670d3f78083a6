package dns

import (
	"errors"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

// ttl is how long a client may keep an answer. istio/ztunnel src/dns/server.rs.
const ttl = 30

// Sizes of messages over UDP. RFC 1035 §4.2.1 and RFC 6891 §6.2.5: 512 unless the client offers more. More than 4096 is
// not worth the fragments.
const (
	minUDP = 512
	maxUDP = 4096
	maxTCP = 65535
)

// query is one question as it came.
type query struct {
	header   dnsmessage.Header
	question dnsmessage.Question
	edns     bool
	limit    int // bytes the client takes over UDP
}

var (
	errNotQuery = errors.New("message is a response")
	errShort    = errors.New("message has no header")
)

// parse reads a question. With an error there may still be a header to answer to: errShort and errNotQuery mean that there
// must be no answer at all.
func parse(msg []byte) (query, error) {
	q := query{limit: minUDP}
	var p dnsmessage.Parser
	h, err := p.Start(msg)
	if err != nil {
		return q, errShort
	}
	q.header = h
	if h.Response {
		// Answering answers is how two servers are made to talk to each other forever.
		return q, errNotQuery
	}
	questions, err := p.AllQuestions()
	if err != nil {
		return q, err
	}
	if len(questions) != 1 {
		return q, errors.New("not exactly one question")
	}
	q.question = questions[0]
	if p.SkipAllAnswers() != nil || p.SkipAllAuthorities() != nil {
		return q, nil // an update or worse, for which there are no local answers anyway
	}
	for {
		rh, err := p.AdditionalHeader()
		if err != nil {
			return q, nil
		}
		if rh.Type == dnsmessage.TypeOPT {
			q.edns = true
			q.limit = min(max(int(rh.Class), minUDP), maxUDP)
		}
		if p.SkipAdditional() != nil {
			return q, nil
		}
	}
}

// name returns the asked name the way look-ups want it.
func (q *query) name() string {
	return strings.ToLower(strings.TrimSuffix(q.question.Name.String(), "."))
}

// answerable reports whether the question is of a kind that is answered from the mesh.
func (q *query) answerable() bool {
	t := q.question.Type
	return q.header.OpCode == 0 && q.question.Class == dnsmessage.ClassINET && (t == dnsmessage.TypeA || t == dnsmessage.TypeAAAA)
}

// reply builds an answer of at most limit bytes; what does not fit is left out, and the client told to come by TCP.
func (q *query) reply(a Answer, limit int) ([]byte, error) {
	for n := len(a.Addrs); ; n /= 2 {
		msg, err := q.build(a, n)
		if err != nil || len(msg) <= limit || n == 0 {
			return msg, err
		}
	}
}

func (q *query) build(a Answer, n int) ([]byte, error) {
	h := q.answerHeader(dnsmessage.RCodeSuccess)
	h.Authoritative, h.Truncated = true, n < len(a.Addrs)
	b := dnsmessage.NewBuilder(nil, h)
	b.EnableCompression()
	if err := errors.Join(b.StartQuestions(), b.Question(q.question), b.StartAnswers()); err != nil {
		return nil, err
	}
	rr := dnsmessage.ResourceHeader{Name: q.question.Name, Class: dnsmessage.ClassINET, TTL: ttl}
	if a.Alias > 0 {
		target, err := dnsmessage.NewName(q.question.Name.String()[:a.Alias] + ".")
		if err != nil {
			return nil, err
		}
		if err := b.CNAMEResource(rr, dnsmessage.CNAMEResource{CNAME: target}); err != nil {
			return nil, err
		}
		rr.Name = target
	}
	for _, addr := range a.Addrs[:n] {
		var err error
		if addr.Is4() {
			err = b.AResource(rr, dnsmessage.AResource{A: addr.As4()})
		} else {
			err = b.AAAAResource(rr, dnsmessage.AAAAResource{AAAA: addr.As16()})
		}
		if err != nil {
			return nil, err
		}
	}
	return q.finish(&b)
}

// failure builds an answer that is nothing but a code.
func (q *query) failure(code dnsmessage.RCode) ([]byte, error) {
	b := dnsmessage.NewBuilder(nil, q.answerHeader(code))
	if q.question.Name.Length > 0 {
		if err := errors.Join(b.StartQuestions(), b.Question(q.question)); err != nil {
			return nil, err
		}
	}
	return q.finish(&b)
}

func (q *query) answerHeader(code dnsmessage.RCode) dnsmessage.Header {
	return dnsmessage.Header{
		ID: q.header.ID, Response: true, OpCode: q.header.OpCode, RecursionDesired: q.header.RecursionDesired,
		RecursionAvailable: true, RCode: code,
	}
}

// finish adds EDNS when the client spoke it. RFC 6891 §6.1.1.
func (q *query) finish(b *dnsmessage.Builder) ([]byte, error) {
	if q.edns {
		var rh dnsmessage.ResourceHeader
		if err := errors.Join(b.StartAdditionals(), rh.SetEDNS0(maxUDP, dnsmessage.RCodeSuccess, false), b.OPTResource(rh, dnsmessage.OPTResource{})); err != nil {
			return nil, err
		}
	}
	return b.Finish()
}

// typeName is the query type as metrics show it. Types nobody has a name for share one, or clients could invent 65,000
// label values.
func typeName(t dnsmessage.Type) string {
	switch t {
	case 64:
		return "SVCB"
	case 65:
		return "HTTPS"
	}
	name, ok := strings.CutPrefix(t.GoString(), "dnsmessage.Type")
	if !ok {
		return "UNKNOWN"
	}
	return name
}
