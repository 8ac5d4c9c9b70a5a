package dial

import (
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/probes/internal/leaktest"
	"github.com/gapproof/gapproof/probes/internal/netnstest"
)

// pingGroups lets the groups open ping sockets: the range "1 0" is nobody.
func pingGroups(t *testing.T, groups string) {
	t.Helper()
	if err := os.WriteFile("/proc/sys/net/ipv4/ping_group_range", []byte(groups), 0); err != nil {
		t.Fatal(err)
	}
}

func TestEchoesOverPingAndRawSockets(t *testing.T) {
	netnstest.Run(t, func(t *testing.T) {
		leaktest.Check(t)
		netnstest.Do(t, `ip address add 192.0.2.1/32 dev lo
ip address add 2001:db8::1/128 dev lo nodad
ip route add unreachable 198.51.100.0/24
nft -f - <<'RULES'
table inet t {
	chain in {
		type filter hook input priority 0;
		ip daddr 127.0.0.3 icmp type echo-request drop
		ip daddr 127.0.0.4 icmp type echo-request reject with icmp port-unreachable
		ip daddr 127.0.0.5 icmp type echo-request reject with icmp admin-prohibited
		ip daddr 127.0.0.6 icmp type echo-reply drop
	}
}
RULES`)
		for _, tt := range []struct {
			name, to string
			want     probes.OutcomeKind
			errno    string
			rejecter string
		}{
			{"the loopback replies", "127.0.0.1", probes.Replied, "", ""},
			{"an address of the node replies", "192.0.2.1", probes.Replied, "", ""},
			{"the loopback replies over IPv6", "::1", probes.Replied, "", ""},
			{"an IPv6 address of the node replies", "2001:db8::1", probes.Replied, "", ""},
			{"a request that is dropped times out", "127.0.0.3", probes.TimedOut, "", ""},
			{"a port unreachable refuses", "127.0.0.4", probes.Refused, "ECONNREFUSED", "127.0.0.4"},
			{"what is prohibited is unreachable", "127.0.0.5", probes.Unreachable, "EHOSTUNREACH", "127.0.0.5"},
			{"no route is unreachable, and nobody says so", "198.51.100.1", probes.Unreachable, "EHOSTUNREACH", ""},
		} {
			for groups, socket := range map[string]probes.SocketKind{"0 2147483647": probes.PingSocket, "1 0": probes.RawSocket} {
				pingGroups(t, groups)
				deadline := ample
				if tt.want == probes.TimedOut {
					deadline = short
				}
				to := netip.MustParseAddr(tt.to)
				o := newDialer(t).Do(t.Context(), attempt(probes.ICMP, netip.AddrPortFrom(to, 0), deadline))
				if o.Kind != tt.want || o.Errno != tt.errno || o.Socket != socket {
					t.Errorf("%s: want %s %s over a %s socket, got %+v", tt.name, tt.want, tt.errno, socket, o)
				}
				if got := o.Rejecter; tt.rejecter != "" && got != netip.MustParseAddr(tt.rejecter) || tt.rejecter == "" && got.IsValid() {
					t.Errorf("%s over a %s socket: want the rejecter %q, got %v", tt.name, socket, tt.rejecter, got)
				}
				if tt.want != probes.Replied {
					continue
				}
				if o.ReplyFrom != to || o.Local.Port() < DefaultFirstPort || o.Local.Port() > DefaultLastPort || o.Responder != "" {
					t.Errorf("%s over a %s socket: want a reply from %s to an identifier of ours and no identity, got %+v", tt.name, socket, to, o)
				}
			}
		}
	}, "nft")
}

func TestAnEchoWithoutAnyRightIsAnErrorThatSaysWhatIsMissing(t *testing.T) {
	netnstest.Run(t, func(t *testing.T) {
		pingGroups(t, "1 0")
		runtime.LockOSThread() // never unlocked: the thread that lost the capability must not serve another goroutine
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if err := unix.Capset(&header, &none[0]); err != nil {
			t.Fatal(err)
		}
		for protocol, want := range map[probes.Protocol]string{probes.ICMP: "ping_group_range", probes.SCTP: "NET_RAW"} {
			o := newDialer(t).Do(t.Context(), attempt(protocol, netip.MustParseAddrPort("127.0.0.1:80"), ample))
			if o.Kind != probes.Error || o.Errno != "EPERM" || !strings.Contains(o.Detail, want) {
				t.Errorf("%s: want an error that names %s, got %+v", protocol, want, o)
			}
		}
	})
}

func TestEchoesAreToldApart(t *testing.T) {
	e := echo{id: 7, payload: []byte("token")}
	reply := func(change func(b []byte) []byte) []byte {
		b := e.request()
		b[0] = echoReply4
		return change(b)
	}
	for name, b := range map[string][]byte{
		"a request":              e.request(),
		"nothing":                {},
		"half a head":            reply(func(b []byte) []byte { return b[:6] }),
		"another identifier":     reply(func(b []byte) []byte { b[5]++; return b }),
		"another number":         reply(func(b []byte) []byte { b[7]++; return b }),
		"another payload":        reply(func(b []byte) []byte { b[8]++; return b }),
		"a payload cut short":    reply(func(b []byte) []byte { return b[:len(b)-1] }),
		"a payload and more":     reply(func(b []byte) []byte { return append(b, 0) }),
		"a destination's errors": reply(func(b []byte) []byte { b[0] = 3; return b }),
	} {
		if e.answers(b) {
			t.Errorf("%s was taken for the reply", name)
		}
	}
	if !e.answers(reply(func(b []byte) []byte { return b })) {
		t.Error("the reply was not taken")
	}
}

func FuzzEcho(f *testing.F) {
	e := echo{raw: true, id: 7, payload: []byte("token")}
	f.Add(append([]byte{0x45, 19: 0}, e.request()...))
	f.Add([]byte{0x4f})
	f.Fuzz(func(t *testing.T, b []byte) {
		if e.answers(b) && (withoutHeader(b)[0] != echoReply4 || len(withoutHeader(b)) != echoHead+len(e.payload)) {
			t.Errorf("%x was taken for the reply", b)
		}
		e.quoted(b)
	})
}
