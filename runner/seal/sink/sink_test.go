package sink

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// names is a log that may be read while the sink writes.
type names struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (n *names) Write(p []byte) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.b.Write(p)
}

func (n *names) read(t *testing.T) []Query {
	t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	all, err := ReadLog(bytes.NewReader(n.b.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	return all
}

var nodeAddress = netip.MustParseAddr("172.30.0.4")

func lookupNode(_ context.Context, name string) ([]netip.Addr, error) {
	if name != "lab-worker" {
		return nil, errors.New("somebody else was looked up")
	}
	return []netip.Addr{nodeAddress}, nil
}

// question is a message as resolvers send it.
func question(t testing.TB, name string, kind dnsmessage.Type) []byte {
	t.Helper()
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 7, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: kind, Class: dnsmessage.ClassINET}},
	}
	raw, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// asker is a host on the lab's network.
var asker = &net.UDPAddr{IP: net.IPv4(172, 30, 0, 9), Port: 4000}

func TestOnlyNodesHaveAddressesAndEveryNameIsRecorded(t *testing.T) {
	for _, tt := range []struct {
		name  string
		asked string
		kind  dnsmessage.Type
		from  net.Addr
		code  dnsmessage.RCode
		count int
		want  Query
	}{
		{"a node by its name", "lab-worker.", dnsmessage.TypeA, asker, dnsmessage.RCodeSuccess, 1, Query{Name: "lab-worker", Type: "A", Known: true}},
		{"a node in other letters", "LAB-Worker.", dnsmessage.TypeA, asker, dnsmessage.RCodeSuccess, 1, Query{Name: "lab-worker", Type: "A", Known: true}},
		{"a node has no address of that family", "lab-worker.", dnsmessage.TypeAAAA, asker, dnsmessage.RCodeSuccess, 0, Query{Name: "lab-worker", Type: "AAAA", Known: true}},
		{"any other name", "registry.example.", dnsmessage.TypeA, asker, dnsmessage.RCodeNameError, 0, Query{Name: "registry.example", Type: "A"}},
		{"a name below a node's", "x.lab-worker.", dnsmessage.TypeTXT, asker, dnsmessage.RCodeNameError, 0, Query{Name: "x.lab-worker", Type: "TXT"}},
		{"a node, asked from the sink's own host", "lab-worker.", dnsmessage.TypeA, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 4000},
			dnsmessage.RCodeNameError, 0, Query{Name: "lab-worker", Type: "A", Known: true}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			log := &names{}
			s := New([]string{"lab-worker"}, lookupNode, log, nil)
			var m dnsmessage.Message
			if err := m.Unpack(s.answer(t.Context(), question(t, tt.asked, tt.kind), tt.from, "udp")); err != nil {
				t.Fatal(err)
			}
			if m.ID != 7 || !m.Response || m.RCode != tt.code || len(m.Answers) != tt.count {
				t.Errorf("answer %+v with %d addresses, want %s with %d", m.Header, len(m.Answers), tt.code, tt.count)
			}
			got := log.read(t)
			if len(got) != 1 {
				t.Fatalf("%d names recorded, want one", len(got))
			}
			tt.want.Time, tt.want.Transport = got[0].Time, "udp"
			tt.want.Source = netip.MustParseAddrPort(tt.from.String())
			if got[0] != tt.want {
				t.Errorf("recorded %+v, want %+v", got[0], tt.want)
			}
		})
	}
}

func TestAResolverIsAnsweredOverUDPAndTCPUntilTheContextEnds(t *testing.T) {
	packets, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	log := &names{}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- New(nil, lookupNode, log, nil).Serve(ctx, packets, l) }()
	for _, transport := range []string{"udp", "tcp"} {
		r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			to := packets.LocalAddr().String()
			if transport == "tcp" {
				to = l.Addr().String()
			}
			return (&net.Dialer{}).DialContext(ctx, transport, to)
		}}
		asking, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		_, err := r.LookupNetIP(asking, "ip4", transport+".canary.invalid.")
		cancel()
		var refused *net.DNSError
		if !errors.As(err, &refused) || !refused.IsNotFound {
			t.Errorf("over %s: %v, want that there is no such name", transport, err)
		}
	}
	stop()
	if err := <-done; err != nil {
		t.Errorf("Serve: %v, want nil once its context ended", err)
	}
	for _, transport := range []string{"udp", "tcp"} {
		if !slices.ContainsFunc(log.read(t), func(q Query) bool { return q.Name == transport+".canary.invalid" && q.Transport == transport }) {
			t.Errorf("the name asked for over %s is not recorded", transport)
		}
	}
}

// broken is a log that takes nothing.
type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errors.New("disk full") }

func TestANameThatCannotBeRecordedIsNotAnswered(t *testing.T) {
	s := New([]string{"lab-worker"}, lookupNode, broken{}, nil)
	if answer := s.answer(t.Context(), question(t, "lab-worker.", dnsmessage.TypeA), asker, "udp"); answer != nil {
		t.Error("a name was answered that no evidence has")
	}
}

func TestALineStillBeingWrittenIsLeftOutAndABrokenOneIsNamed(t *testing.T) {
	got, err := ReadLog(strings.NewReader("{\"name\":\"a\"}\n{\"na"))
	if err != nil || len(got) != 1 {
		t.Errorf("got %v, %v; want the one whole line", got, err)
	}
	if _, err := ReadLog(strings.NewReader("{}\nnonsense\n")); err == nil || !strings.Contains(err.Error(), "line 2") {
		t.Errorf("a broken line: %v, want line 2 named", err)
	}
}

// FuzzAnswer: whatever is sent, there is no panic, and an answer is one to the question's ID.
func FuzzAnswer(f *testing.F) {
	f.Add(question(f, "lab-worker.", dnsmessage.TypeA))
	f.Add([]byte{0, 1, 2})
	s := New([]string{"lab-worker"}, lookupNode, &names{}, nil)
	f.Fuzz(func(t *testing.T, raw []byte) {
		answer := s.answer(t.Context(), raw, asker, "udp")
		if answer == nil {
			return
		}
		var m dnsmessage.Message
		if err := m.Unpack(answer); err != nil {
			t.Fatalf("the answer cannot be read: %v", err)
		}
		if !m.Response || m.ID != uint16(raw[0])<<8|uint16(raw[1]) {
			t.Errorf("answer %+v to another question", m.Header)
		}
	})
}
