package sctp

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
	"sync"
	"time"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/probes/internal/wire"
)

// MaxAssociations is how many associations the listeners of a pod keep: as many as a TCP listener keeps connections. A cookie that comes
// back beyond that is not answered, which the listeners' own check then shows as a fault.
const MaxAssociations = 1024

// Listeners answers for the SCTP ports of one pod, as a kernel would: an INIT to any other port is aborted. Its methods may be called by
// many goroutines at once.
type Listeners struct {
	identity string
	life     time.Duration
	arrived  func(probes.Token, Path)
	epoch    time.Time         // cookies count from here; monotonic, so that a clock that is set does not age them
	key      [sha256.Size]byte // of the cookies

	mu           sync.Mutex
	ports        map[uint16]struct{}
	associations map[Path]*association
}

// Path is the two ends of an association, as the listener's packets have them.
type Path struct {
	// Source is the end that began it, Destination the listener's.
	Source, Destination netip.AddrPort
}

// association is what a cookie that came back has made.
type association struct {
	cookie
	next  uint32 // the TSN of our next DATA
	since time.Time
}

// NewListeners answers with the identity, which has passed [wire.CheckIdentity]; a cookie and an association are good for as long as
// life. Arrived is called once per attempt with the token, before anything is answered to the packet that brought it.
func NewListeners(identity string, life time.Duration, arrived func(probes.Token, Path)) *Listeners {
	l := &Listeners{
		identity: identity, life: life, arrived: arrived, epoch: time.Now(),
		ports: map[uint16]struct{}{}, associations: map[Path]*association{},
	}
	rand.Read(l.key[:]) // never fails: crypto/rand ends the program instead
	return l
}

// Serve adds a port.
func (l *Listeners) Serve(port uint16) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ports[port] = struct{}{}
}

// Receive takes one packet and gives the answer, to be sent back from where it came to; nil for none.
func (l *Listeners) Receive(from, to netip.Addr, b []byte, now time.Time) []byte {
	p, err := Parse(b)
	if err != nil || len(p.Chunks) == 0 {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	path := Path{Source: netip.AddrPortFrom(from, p.Source), Destination: netip.AddrPortFrom(to, p.Destination)}
	if first := p.Chunks[0]; first.Type == Init {
		if p.Tag != 0 || len(p.Chunks) != 1 { // RFC 9260, 8.5.1
			return nil
		}
		return l.initiated(path, first, now)
	}
	if first := p.Chunks[0]; first.Type == CookieEcho {
		if !l.admit(path, p.Tag, first.Value, now) {
			return nil
		}
	}
	a := l.associations[path]
	if a == nil || p.Tag != a.own {
		return nil
	}
	var answer []Chunk
	for _, c := range p.Chunks {
		switch c.Type {
		case CookieEcho:
			answer = append(answer, Chunk{Type: CookieAck})
		case Data:
			answer = append(answer, l.received(path, a, c)...)
		case Shutdown:
			delete(l.associations, path)
			answer = append(answer, Chunk{Type: ShutdownAck})
		case Abort:
			delete(l.associations, path)
			return nil
		}
	}
	if answer == nil {
		return nil
	}
	return reply(path, a.peer, answer...)
}

func reply(path Path, tag uint32, chunks ...Chunk) []byte {
	return Packet{Source: path.Destination.Port(), Destination: path.Source.Port(), Tag: tag, Chunks: chunks}.Append(nil)
}

// initiated answers an INIT: with a cookie, or where nobody listens with an ABORT (RFC 9260, 8.4).
func (l *Listeners) initiated(path Path, c Chunk, now time.Time) []byte {
	i, err := parseInitiation(c.Value)
	if err != nil {
		return nil
	}
	if _, ok := l.ports[path.Destination.Port()]; !ok {
		return reply(path, i.tag, Chunk{Type: Abort})
	}
	k := cookie{own: newTag(), peer: i.tag, first: newTag(), made: now.Sub(l.epoch)}
	if token := i.params[paramToken]; len(token) == len(k.token) {
		k.token = probes.Token(token)
		l.arrived(k.token, path)
	}
	ack := initiation{tag: k.own, tsn: k.first, params: map[uint16][]byte{paramCookie: k.seal(l.key[:], path)}}
	return reply(path, i.tag, Chunk{Type: InitAck, Value: ack.value(paramCookie)})
}

// admit makes an association of a cookie that is ours and fresh. One that comes twice changes nothing.
func (l *Listeners) admit(path Path, tag uint32, sealed []byte, now time.Time) bool {
	k, ok := openCookie(sealed, l.key[:], path)
	age := now.Sub(l.epoch) - k.made
	if !ok || k.own != tag || age < 0 || age > l.life {
		return false
	}
	if a := l.associations[path]; a != nil && a.own == k.own {
		return true
	}
	if len(l.associations) >= MaxAssociations {
		for p, a := range l.associations {
			if now.Sub(a.since) > l.life {
				delete(l.associations, p)
			}
		}
		if len(l.associations) >= MaxAssociations {
			return false
		}
	}
	l.associations[path] = &association{cookie: k, next: k.first, since: now}
	return true
}

// received answers a DATA chunk with the identity; one that is not a source's line ends the association.
func (l *Listeners) received(path Path, a *association, c Chunk) []Chunk {
	tsn, text, whole := message(c)
	token, err := wire.ParseRequest(text)
	if !whole || err != nil {
		delete(l.associations, path)
		return []Chunk{{Type: Abort}}
	}
	if token != a.token { // of the INIT, which was recorded then
		a.token = token
		l.arrived(token, path)
	}
	answer := []Chunk{sack(tsn), data(a.next, wire.AppendReply(nil, token, l.identity))}
	a.next++
	return answer
}

// cookie is what a listener must know of an INIT that it answered, kept by the source in the meantime.
type cookie struct {
	own, peer uint32        // verification tags: in packets to us, in packets to the source
	first     uint32        // the TSN of our first DATA
	made      time.Duration // since the epoch
	token     probes.Token
}

// cookieSize is the size of a cookie without its authentication.
const cookieSize = 4 + 4 + 4 + 8 + len(probes.Token{})

// seal writes the cookie with a code that holds it to the path (RFC 9260, 5.1.3).
func (k cookie) seal(key []byte, path Path) []byte {
	b := binary.BigEndian.AppendUint32(nil, k.own)
	b = binary.BigEndian.AppendUint32(b, k.peer)
	b = binary.BigEndian.AppendUint32(b, k.first)
	b = binary.BigEndian.AppendUint64(b, uint64(k.made))
	b = append(b, k.token[:]...)
	return append(b, authenticate(key, b, path)...)
}

func openCookie(b, key []byte, path Path) (cookie, bool) {
	if len(b) != cookieSize+sha256.Size || !hmac.Equal(b[cookieSize:], authenticate(key, b[:cookieSize], path)) {
		return cookie{}, false
	}
	return cookie{
		own: binary.BigEndian.Uint32(b), peer: binary.BigEndian.Uint32(b[4:]), first: binary.BigEndian.Uint32(b[8:]),
		made: time.Duration(binary.BigEndian.Uint64(b[12:])), token: probes.Token(b[20:cookieSize]),
	}, true
}

func authenticate(key, b []byte, path Path) []byte {
	code := hmac.New(sha256.New, key)
	code.Write(b)
	for _, end := range []netip.AddrPort{path.Source, path.Destination} {
		text, _ := end.MarshalBinary() // never fails
		code.Write(text)
	}
	return code.Sum(nil)
}
