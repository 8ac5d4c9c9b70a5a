package dial

import (
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/probes/internal/leaktest"
)

// Flags of a DNS message's head (RFC 1035, section 4.1.1), with recursion asked for and available.
const (
	answered  = 0x8180
	truncated = answered | 0x0200
	noName    = answered | 3
	failure   = answered | 2
)

// reply answers a query with the flags and the addresses, one record each.
func reply(query []byte, flags uint16, addrs ...string) []byte {
	end := 12 // the question starts after the head
	for query[end] != 0 {
		end += int(query[end]) + 1
	}
	end += 5 // the root label, type and class
	b := slices.Clone(query[:end])
	binary.BigEndian.PutUint16(b[2:], flags)
	binary.BigEndian.PutUint16(b[6:], uint16(len(addrs)))
	binary.BigEndian.PutUint32(b[8:], 0) // no authority, no additional records
	for _, addr := range addrs {
		ip := netip.MustParseAddr(addr).AsSlice()
		b = append(b, 0xc0, 12) // the name of the question
		b = append(b, query[end-4:end]...)
		b = binary.BigEndian.AppendUint32(b, 60)
		b = binary.BigEndian.AppendUint16(b, uint16(len(ip)))
		b = append(b, ip...)
	}
	return b
}

func TestDNSOutcomes(t *testing.T) {
	for _, tt := range []struct {
		name   string
		family probes.Family
		answer func([]byte) [][]byte
		want   probes.OutcomeKind
		addrs  string
		detail string
	}{
		{"addresses are replied", probes.FamilyUnknown, func(q []byte) [][]byte {
			return [][]byte{reply(q, answered, "10.0.0.1", "10.0.0.2")}
		}, probes.Replied, "10.0.0.1 10.0.0.2", ""},
		{"addresses of IPv6 are replied where asked for", probes.IPv6, func(q []byte) [][]byte {
			return [][]byte{reply(q, answered, "fd00::1")}
		}, probes.Replied, "fd00::1", ""},
		{"a name that is not there is replied", probes.IPv4, func(q []byte) [][]byte {
			return [][]byte{reply(q, noName)}
		}, probes.Replied, "", "no such name"},
		{"a name without addresses is replied", probes.IPv4, func(q []byte) [][]byte {
			return [][]byte{reply(q, answered)}
		}, probes.Replied, "", "no such name"},
		{"a server's failure is replied", probes.IPv4, func(q []byte) [][]byte {
			return [][]byte{reply(q, failure)}
		}, probes.Replied, "", "server misbehaving"},
		{"silence is timed out", probes.IPv4, func([]byte) [][]byte { return nil }, probes.TimedOut, "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			leaktest.Check(t)
			d := newDialer(t)
			server := serveUDP(t, func(q []byte) [][]byte {
				if !strings.HasPrefix(string(q[12:]), "\x03web\x04shop\x00") {
					t.Errorf("want a query for web.shop, got %q", q[12:])
				}
				return tt.answer(q)
			})
			d.nameServer = server.String()
			deadline := ample
			if tt.want == probes.TimedOut {
				deadline = short
			}
			o := d.Do(t.Context(), probes.Attempt{
				ID: "a", Protocol: probes.DNS, Name: "web.shop", Family: tt.family, SourcePort: 28200, Deadline: deadline,
			})
			var addrs []string
			for _, addr := range o.Addresses {
				addrs = append(addrs, addr.String())
			}
			slices.Sort(addrs)
			if o.Kind != tt.want || strings.Join(addrs, " ") != tt.addrs || !strings.Contains(o.Detail, tt.detail) {
				t.Errorf("want %s, %q, %q; got %+v", tt.want, tt.addrs, tt.detail, o)
			}
			if o.Remote != server || o.Local.Port() != 28200 {
				t.Errorf("want it from port 28200 to %s, got %s to %s", server, o.Local, o.Remote)
			}
		})
	}
}

func TestANameServerThatRefusesIsRefused(t *testing.T) {
	leaktest.Check(t)
	d := newDialer(t)
	d.nameServer = closedPort(t).String()
	o := d.Do(t.Context(), probes.Attempt{ID: "a", Protocol: probes.DNS, Name: "web.shop.", Deadline: ample})
	if o.Kind != probes.Refused || o.Errno != "ECONNREFUSED" {
		t.Errorf("want refused, got %+v", o)
	}
}

func TestATruncatedAnswerIsAskedForAgainOverTCP(t *testing.T) {
	leaktest.Check(t)
	d := newDialer(t)
	server := serveUDP(t, func(q []byte) [][]byte { return [][]byte{reply(q, truncated)} })
	serveTCP(t, server.String(), func(c *net.TCPConn) {
		buf := make([]byte, 512)
		n, err := io.ReadAtLeast(c, buf, 2)
		if err != nil {
			return
		}
		if _, err := io.ReadFull(c, buf[n:2+binary.BigEndian.Uint16(buf)]); err != nil {
			return
		}
		answer := reply(buf[2:], answered, "10.0.0.3")
		c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...))
		c.Read(buf)
	})
	d.nameServer = server.String()
	o := d.Do(t.Context(), probes.Attempt{ID: "a", Protocol: probes.DNS, Name: "web.shop", Deadline: ample})
	if o.Kind != probes.Replied || len(o.Addresses) != 1 || !strings.Contains(o.Detail, "then tcp") {
		t.Errorf("want one address, and TCP in the detail; got %+v", o)
	}
}

func TestANameOfTheHostsFileIsNoLookup(t *testing.T) {
	// The hosts file of the machine is not the test's to write, so this begins where the resolver has returned without a dial.
	var o probes.Outcome
	new(query).report(t.Context(), &o, []netip.Addr{netip.MustParseAddr("10.0.0.1")}, nil)
	if o.Kind != probes.Error || !strings.Contains(o.Detail, "no query was sent") || o.Addresses != nil {
		t.Errorf("want an error, got %+v", o)
	}
}
