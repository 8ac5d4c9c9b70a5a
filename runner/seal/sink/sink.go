package sink

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sync/errgroup"
)

const (
	// maxMessage is the longest question that is read: UDP's without extensions has 512 bytes, TCP's length is two bytes.
	maxMessage = 4096
	// lookupLimit is how long the engine may take to find a node: it answers from memory, and a resolver asks again after five seconds.
	lookupLimit = 2 * time.Second
	// idleLimit is how long a TCP connection may be silent.
	idleLimit = 10 * time.Second
	// atOnce bounds how many questions are answered at the same time; a lab asks a few a second.
	atOnce = 64
	// nodeTTL is short: a node that was made anew has another address.
	nodeTTL = 5
)

// Lookup finds the addresses of a node by its name; none when there is no such node.
type Lookup func(ctx context.Context, name string) ([]netip.Addr, error)

// Sink answers questions. It is safe for concurrent use.
type Sink struct {
	nodes  map[string]bool
	lookup Lookup
	names  queryLog
	log    *slog.Logger
}

// New makes a sink that knows the nodes by name and records into names, one line in each Write. log may be nil.
func New(nodes []string, lookup Lookup, names io.Writer, log *slog.Logger) *Sink {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s := &Sink{nodes: map[string]bool{}, lookup: lookup, names: queryLog{w: names}, log: log}
	for _, n := range nodes {
		s.nodes[strings.ToLower(n)] = true
	}
	return s
}

// Serve answers on both until ctx ends, then closes them and returns nil once every answer is out.
func (s *Sink) Serve(ctx context.Context, packets net.PacketConn, l net.Listener) error {
	g, ctx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(ctx, func() {
		_ = packets.Close()
		_ = l.Close()
	})
	defer stop()
	g.Go(func() error { return s.servePackets(ctx, packets) })
	g.Go(func() error { return s.serveStreams(ctx, l) })
	err := g.Wait()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func (s *Sink) servePackets(ctx context.Context, c net.PacketConn) error {
	var answers sync.WaitGroup
	defer answers.Wait()
	slots := make(chan struct{}, atOnce)
	buffer := make([]byte, maxMessage)
	for {
		n, from, err := c.ReadFrom(buffer)
		if err != nil {
			return fmt.Errorf("reading a question: %w", err)
		}
		question := append([]byte(nil), buffer[:n]...)
		slots <- struct{}{}
		answers.Go(func() {
			defer func() { <-slots }()
			if answer := s.answer(ctx, question, from, "udp"); answer != nil {
				_, _ = c.WriteTo(answer, from) // who asked asks again
			}
		})
	}
}

func (s *Sink) serveStreams(ctx context.Context, l net.Listener) error {
	var streams sync.WaitGroup
	defer streams.Wait()
	slots := make(chan struct{}, atOnce)
	for {
		c, err := l.Accept()
		if err != nil {
			return fmt.Errorf("accepting a connection: %w", err)
		}
		slots <- struct{}{}
		streams.Go(func() {
			defer func() { <-slots }()
			defer c.Close()
			stop := context.AfterFunc(ctx, func() { _ = c.Close() })
			defer stop()
			s.serveStream(ctx, c)
		})
	}
}

// serveStream answers one question after the other; each has its length in front (RFC 1035, section 4.2.2).
func (s *Sink) serveStream(ctx context.Context, c net.Conn) {
	for {
		if c.SetDeadline(time.Now().Add(idleLimit)) != nil {
			return
		}
		var length [2]byte
		if _, err := io.ReadFull(c, length[:]); err != nil {
			return
		}
		question := make([]byte, binary.BigEndian.Uint16(length[:]))
		if _, err := io.ReadFull(c, question); err != nil {
			return
		}
		answer := s.answer(ctx, question, c.RemoteAddr(), "tcp")
		if answer == nil {
			return
		}
		if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...)); err != nil {
			return
		}
	}
}

// answer makes the answer to a message, nil for one that is no question.
func (s *Sink) answer(ctx context.Context, raw []byte, from net.Addr, transport string) []byte {
	var p dnsmessage.Parser
	header, err := p.Start(raw)
	if err != nil || header.Response {
		return nil
	}
	question, err := p.Question()
	if err != nil {
		return build(dnsmessage.Header{ID: header.ID, Response: true, OpCode: header.OpCode, RCode: dnsmessage.RCodeFormatError}, nil, nil)
	}
	source, _ := netip.ParseAddrPort(from.String())
	source = netip.AddrPortFrom(source.Addr().Unmap(), source.Port())
	name := strings.ToLower(strings.TrimSuffix(question.Name.String(), "."))
	known := s.nodes[name] && question.Class == dnsmessage.ClassINET
	q := Query{
		Time: time.Now().UTC(), Source: source, Name: name, Type: strings.TrimPrefix(question.Type.String(), "Type"), Transport: transport, Known: known,
	}
	if err := s.names.write(q); err != nil { // a name that cannot be recorded is not answered: whoever proves the seal misses it then
		s.log.Error("recording a name", "err", err)
		return nil
	}
	h := dnsmessage.Header{ID: header.ID, Response: true, OpCode: header.OpCode, RecursionDesired: header.RecursionDesired, RecursionAvailable: true}
	if !known || source.Addr().IsLoopback() {
		h.RCode = dnsmessage.RCodeNameError
		return build(h, &question, nil)
	}
	looking, cancel := context.WithTimeout(ctx, lookupLimit)
	defer cancel()
	addresses, err := s.lookup(looking, name)
	if err != nil {
		s.log.Error("looking for a node", "node", name, "err", err)
		h.RCode = dnsmessage.RCodeServerFailure
		return build(h, &question, nil)
	}
	if len(addresses) == 0 {
		h.RCode = dnsmessage.RCodeNameError
	}
	return build(h, &question, addresses)
}

// build makes a message with those of the addresses that the question asks for. A name that exists has an answer without any, not an error.
func build(h dnsmessage.Header, q *dnsmessage.Question, addresses []netip.Addr) []byte {
	m := dnsmessage.Message{Header: h}
	if q != nil {
		m.Questions = []dnsmessage.Question{*q}
		head := dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: nodeTTL}
		for _, a := range addresses {
			switch {
			case a.Is4() && q.Type == dnsmessage.TypeA:
				m.Answers = append(m.Answers, dnsmessage.Resource{Header: head, Body: &dnsmessage.AResource{A: a.As4()}})
			case a.Is6() && q.Type == dnsmessage.TypeAAAA:
				m.Answers = append(m.Answers, dnsmessage.Resource{Header: head, Body: &dnsmessage.AAAAResource{AAAA: a.As16()}})
			}
		}
	}
	raw, err := m.Pack()
	if err != nil {
		panic("encoding an answer: " + err.Error()) // the name was parsed from a message and a handful of addresses fit
	}
	return raw
}

// EngineLookup finds nodes with this container's own resolver, which is the engine's and knows the containers of its network.
func EngineLookup(ctx context.Context, name string) ([]netip.Addr, error) {
	r := net.Resolver{PreferGo: true}
	found, err := r.LookupNetIP(ctx, "ip", name)
	var missing *net.DNSError
	if errors.As(err, &missing) && missing.IsNotFound {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("asking the engine for %s: %w", name, err)
	}
	for i := range found {
		found[i] = found[i].Unmap()
	}
	return found, nil
}
