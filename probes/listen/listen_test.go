package listen

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/probes/internal/leaktest"
	"github.com/gapproof/gapproof/probes/internal/wire"
)

const identity = "shop/web-0"

// ample is never reached on loopback.
const ample = 10 * time.Second

// start opens a TCP and a UDP listener on ports of the kernel's choice.
func start(t *testing.T, opts Options) (g *Group, tcp, udp uint16) {
	t.Helper()
	leaktest.Check(t)
	g, err := Start(t.Context(), identity, []Spec{{Protocol: probes.TCP}, {Protocol: probes.UDP}}, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Close)
	return g, g.Ports()[0], g.Ports()[1]
}

// ask sends text to the address and returns the line that came back, empty where the connection ended without one.
func ask(t *testing.T, network, host string, port uint16, text string) (line string, source, remote netip.AddrPort) {
	t.Helper()
	conn, err := net.Dial(network, net.JoinHostPort(host, fmt.Sprint(port)))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(ample))
	if _, err := conn.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, wire.MaxLine)
	n, _ := conn.Read(buf)
	return string(buf[:n]), netip.MustParseAddrPort(conn.LocalAddr().String()), netip.MustParseAddrPort(conn.RemoteAddr().String())
}

func TestEveryAddressAnswersForItselfAndRecordsTheArrival(t *testing.T) {
	g, tcp, udp := start(t, Options{})
	for _, host := range []string{"127.0.0.1", "127.0.0.2", "::1"} {
		if host == "127.0.0.2" && runtime.GOOS != "linux" {
			continue
		}
		for network, port := range map[string]uint16{"tcp": tcp, "udp": udp} {
			token := probes.NewToken()
			before := time.Now()
			// A UDP socket of the source is connected: it takes a reply from the address it sent to and no other.
			line, source, remote := ask(t, network, host, port, string(wire.AppendRequest(nil, token)))
			if want := string(wire.AppendReply(nil, token, identity)); line != want {
				t.Errorf("%s to %s: want %q, got %q", network, host, want, line)
			}
			got := g.Find([]probes.Token{token})
			if len(got) != 1 || got[0].At.Before(before) {
				t.Fatalf("%s to %s: want one arrival of now, got %+v", network, host, got)
			}
			want := probes.Arrival{Token: token, Source: source, Destination: remote, Listener: identity, At: got[0].At, Count: 1}
			want.Protocol = map[string]probes.Protocol{"tcp": probes.TCP, "udp": probes.UDP}[network]
			if want != got[0] {
				t.Errorf("%s to %s: want %+v, got %+v", network, host, want, got[0])
			}
		}
	}
}

func TestForeignRequestsGetNoAnswerAndAreNotRecorded(t *testing.T) {
	g, tcp, udp := start(t, Options{ReadTimeout: 50 * time.Millisecond})
	for name, text := range map[string]string{
		"a line of HTTP":              "GET / HTTP/1.1\r\n\r\n",
		"more than a line may have":   strings.Repeat("x", 4*wire.MaxLine),
		"half a line, and no end":     "gapproof/1 00",
		"a reply":                     string(wire.AppendReply(nil, probes.Token{1}, "a/b")),
		"a request in capital digits": "gapproof/1 " + strings.ToUpper(probes.Token{0xab}.String()) + "\n",
	} {
		if line, _, _ := ask(t, "tcp", "127.0.0.1", tcp, text); line != "" {
			t.Errorf("%s: answered with %q", name, line)
		}
		conn, err := net.Dial("udp", fmt.Sprint("127.0.0.1:", udp))
		if err != nil {
			t.Fatal(err)
		}
		conn.Write([]byte(text))
		conn.Close()
	}
	for _, h := range g.Check(t.Context()) { // also: they live, and have read all that was sent before
		if h.Fault != "" {
			t.Errorf("listener is not well: %+v", h)
		}
	}
	if got, cursor := g.Since(0); len(got) != 0 || cursor != 0 {
		t.Errorf("want nothing recorded, got %+v", got)
	}
}

func TestChecksAreAnsweredAndNotRecorded(t *testing.T) {
	g, tcp, udp := start(t, Options{})
	want := []probes.ListenerHealth{{Protocol: probes.TCP, Port: tcp}, {Protocol: probes.UDP, Port: udp}}
	if diff := cmp.Diff(want, g.Check(t.Context())); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got, _ := g.Since(0); len(got) != 0 {
		t.Errorf("want nothing recorded, got %+v", got)
	}
}

func TestAPortInUseIsTheFaultOfItsListenerAlone(t *testing.T) {
	leaktest.Check(t)
	busy, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	port := uint16(busy.Addr().(*net.TCPAddr).Port)
	g, err := Start(t.Context(), identity, []Spec{{probes.TCP, port}, {probes.UDP, port}, {probes.ICMP, port}}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	health := g.Check(t.Context())
	for i, want := range []string{"address already in use", "", "unsupported"} {
		if got := health[i].Fault; !strings.Contains(got, want) || (want == "") != (got == "") {
			t.Errorf("listener %d: want a fault %q, got %q", i, want, got)
		}
	}
}

func TestAListenerWithoutRoomFailsItsCheckAndRecovers(t *testing.T) {
	g, tcp, _ := start(t, Options{MaxConns: 2, ReadTimeout: 2 * checkTimeout})
	for range 2 {
		slow, err := net.Dial("tcp", fmt.Sprint("127.0.0.1:", tcp))
		if err != nil {
			t.Fatal(err)
		}
		defer slow.Close()
	}
	if got := g.Check(t.Context())[0]; got.Fault == "" {
		t.Error("with all slots held: want a fault")
	}
	began := time.Now()
	for g.Check(t.Context())[0].Fault != "" {
		if time.Since(began) > ample {
			t.Fatal("the slots of silent connections did not come free")
		}
	}
}

func TestTheEndOfTheContextEndsTheListeners(t *testing.T) {
	leaktest.Check(t)
	for range 400 { // the end may fall between the accept of a connection and the wait for its line
		ctx, cancel := context.WithCancel(t.Context())
		g, err := Start(ctx, identity, []Spec{{Protocol: probes.TCP}, {Protocol: probes.UDP}}, Options{})
		if err != nil {
			t.Fatal(err)
		}
		held, err := net.Dial("tcp", fmt.Sprint("127.0.0.1:", g.Ports()[0]))
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		cancel()
		g.Close()
		held.Close()
		if took := time.Since(began); took > DefaultReadTimeout/2 {
			t.Fatalf("it took %s, with a connection open", took)
		}
	}
}

func TestAnIdentityThatCannotBeSentIsRefused(t *testing.T) {
	if _, err := Start(t.Context(), "two words", nil, Options{}); err == nil {
		t.Error("want an error")
	}
}

func TestRecordKeepsTheNewestAndCountsTheLost(t *testing.T) {
	r := newRecord(3)
	at := time.Unix(1000, 0)
	add := func(n byte) {
		r.add(probes.Arrival{Token: probes.Token{n}, At: at.Add(time.Duration(n) * time.Second), Count: 1})
	}
	tokens := func(arrivals []probes.Arrival) (got []byte) {
		for _, a := range arrivals {
			got = append(got, a.Token[0])
		}
		return got
	}
	for n := range byte(3) {
		add(n)
	}
	add(1) // once more
	if lost, until := r.lost(); lost != 0 || !until.IsZero() {
		t.Errorf("not yet full: want none lost, got %d until %s", lost, until)
	}
	if got := r.find([]probes.Token{{1}}); len(got) != 1 || got[0].Count != 2 {
		t.Errorf("a repeat: want a count of 2, got %+v", got)
	}
	_, cursor := r.since(0)
	for n := byte(3); n < 5; n++ {
		add(n)
	}
	if lost, until := r.lost(); lost != 2 || !until.Equal(at.Add(time.Second)) {
		t.Errorf("want 2 lost until %s, got %d until %s", at.Add(time.Second), lost, until)
	}
	if diff := cmp.Diff([]byte{2, 4}, tokens(r.find([]probes.Token{{4}, {1}, {0}, {2}}))); diff != "" {
		t.Errorf("found (-want +got):\n%s", diff)
	}
	all, end := r.since(0)
	if diff := cmp.Diff([]byte{2, 3, 4}, tokens(all)); diff != "" || end != 5 {
		t.Errorf("all, to cursor %d (-want +got):\n%s", end, diff)
	}
	newer, end := r.since(cursor)
	if diff := cmp.Diff([]byte{3, 4}, tokens(newer)); diff != "" || end != 5 {
		t.Errorf("after cursor %d, to cursor %d (-want +got):\n%s", cursor, end, diff)
	}
	add(1) // what was lost comes as new
	if got := r.find([]probes.Token{{1}}); len(got) != 1 || got[0].Count != 1 {
		t.Errorf("come again after its loss: want a count of 1, got %+v", got)
	}
}

func TestParseSpecsNamesEveryFault(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		want       []Spec
		err        string
	}{
		{"nothing is no listener", "", nil, ""},
		{"one of each", "TCP/80,UDP/65535", []Spec{{probes.TCP, 80}, {probes.UDP, 65535}}, ""},
		{"one port for two protocols", "TCP/80,UDP/80", []Spec{{probes.TCP, 80}, {probes.UDP, 80}}, ""},
		{"every fault is told", "tcp/80,ICMP/1,TCP,TCP/0,UDP/65536,UDP/+1,UDP/01,UDP/2,UDP/2,", nil,
			`listener "tcp/80": protocol "tcp" is not one of TCP, UDP, SCTP
listener "ICMP/1": protocol "ICMP" is not one of TCP, UDP, SCTP
listener "TCP": want PROTOCOL/PORT
listener "TCP/0": port "0" is not a number from 1 to 65535
listener "UDP/65536": port "65536" is not a number from 1 to 65535
listener "UDP/+1": port "+1" is not a number from 1 to 65535
listener "UDP/01": port "01" is not a number from 1 to 65535
listener "UDP/2": is named twice
listener "": want PROTOCOL/PORT`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseSpecs(tt.text)
			if err != nil {
				if diff := cmp.Diff(tt.err, err.Error()); diff != "" {
					t.Errorf("faults (-want +got):\n%s", diff)
				}
				return
			}
			if diff := cmp.Diff(tt.want, got); diff != "" || tt.err != "" {
				t.Errorf("want error %q; specs (-want +got):\n%s", tt.err, diff)
			}
		})
	}
}

func FuzzParseSpecs(f *testing.F) {
	f.Add("TCP/80,UDP/81")
	f.Fuzz(func(t *testing.T, text string) {
		specs, err := ParseSpecs(text)
		if err != nil {
			return
		}
		words := make([]string, len(specs))
		for i, s := range specs {
			words[i] = s.String()
		}
		if again := strings.Join(words, ","); again != text {
			t.Errorf("%q was read as %q", text, again)
		}
	})
}
