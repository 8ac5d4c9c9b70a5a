package dial

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/probes/internal/leaktest"
	"github.com/gapproof/gapproof/probes/internal/wire"
)

// Deadlines of tests: one that is never reached on loopback, and one that is always reached.
const (
	ample = 10 * time.Second
	short = 100 * time.Millisecond
)

func newDialer(t testing.TB) *Dialer {
	t.Helper()
	d, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func attempt(p probes.Protocol, to netip.AddrPort, deadline time.Duration) probes.Attempt {
	return probes.Attempt{ID: "a", Protocol: p, Destination: to, Token: probes.NewToken(), Deadline: deadline}
}

// serveTCP has each connection handled, until the test's end, by the function.
func serveTCP(t testing.TB, address string, handle func(*net.TCPConn)) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				handle(conn.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
	return l.Addr().(*net.TCPAddr).AddrPort()
}

// serveUDP has each datagram answered, until the test's end, with those of the function.
func serveUDP(t testing.TB, answer func([]byte) [][]byte) netip.AddrPort {
	t.Helper()
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			for _, reply := range answer(buf[:n]) {
				conn.WriteToUDPAddrPort(reply, from)
			}
		}
	})
	t.Cleanup(func() { conn.Close(); wg.Wait() })
	return conn.LocalAddr().(*net.UDPAddr).AddrPort()
}

// request reads the token that a source sent.
func request(conn net.Conn) probes.Token {
	buf := make([]byte, wire.MaxLine)
	n, _ := conn.Read(buf)
	token, _ := wire.ParseRequest(buf[:n])
	return token
}

// closedPort is a port of the loopback on which nobody listens, for TCP and UDP: bound for both, for neither served.
func closedPort(t testing.TB) netip.AddrPort {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	sa, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return addrPort(sa)
}

func TestTCPOutcomes(t *testing.T) {
	for _, tt := range []struct {
		name     string
		handle   func(*net.TCPConn)
		deadline time.Duration
		want     probes.OutcomeKind
		detail   string
	}{
		{"an identity with the token is replied", func(c *net.TCPConn) {
			c.Write(wire.AppendReply(nil, request(c), "ns/pod"))
		}, ample, probes.Replied, ""},
		{"an identity in pieces is replied", func(c *net.TCPConn) {
			for _, b := range wire.AppendReply(nil, request(c), "ns/pod") {
				c.Write([]byte{b})
			}
		}, ample, probes.Replied, ""},
		{"silence after the handshake is connected", func(c *net.TCPConn) {
			request(c)
			request(c) // until the source has gone
		}, short, probes.Connected, "no identity came before the deadline"},
		{"half an identity is connected", func(c *net.TCPConn) {
			c.Write([]byte("gapproof/1 "))
			request(c)
			request(c)
		}, short, probes.Connected, `after "gapproof/1 "`},
		{"an end without an identity is reset", func(c *net.TCPConn) {
			request(c)
		}, ample, probes.Reset, "before its identity came"},
		{"a reset is reset", func(c *net.TCPConn) {
			request(c)
			c.SetLinger(0)
		}, ample, probes.Reset, ""},
		{"a banner is connected, and quoted", func(c *net.TCPConn) {
			c.Write([]byte("SSH-2.0-OpenSSH_9.2\r\n"))
			request(c)
		}, ample, probes.Connected, "SSH-2.0-OpenSSH_9.2"},
		{"an answer without a line end is connected", func(c *net.TCPConn) {
			c.Write(bytes.Repeat([]byte("x"), 2*wire.MaxLine))
			request(c)
			request(c)
		}, ample, probes.Connected, "not a listener's"},
		{"the token of another attempt is connected", func(c *net.TCPConn) {
			request(c)
			c.Write(wire.AppendReply(nil, probes.Token{7}, "ns/pod"))
		}, ample, probes.Connected, "ns/pod answered with token 07"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			leaktest.Check(t)
			to := serveTCP(t, "127.0.0.1:0", tt.handle)
			o := newDialer(t).Do(t.Context(), attempt(probes.TCP, to, tt.deadline))
			if o.Kind != tt.want || !strings.Contains(o.Detail, tt.detail) {
				t.Errorf("want %s with %q, got %+v", tt.want, tt.detail, o)
			}
			if want := map[bool]string{true: "ns/pod"}[tt.want == probes.Replied]; o.Responder != want {
				t.Errorf("responder: want %q, got %q", want, o.Responder)
			}
			if o.AttemptID != "a" || o.Remote != to || !o.Local.IsValid() || o.Started.IsZero() || o.Took <= 0 {
				t.Errorf("addresses or times are missing: %+v", o)
			}
		})
	}
}

func TestTCPOverIPv6(t *testing.T) {
	leaktest.Check(t)
	to := serveTCP(t, "[::1]:0", func(c *net.TCPConn) { c.Write(wire.AppendReply(nil, request(c), "ns/pod")) })
	if o := newDialer(t).Do(t.Context(), attempt(probes.TCP, to, ample)); o.Kind != probes.Replied || !o.Local.Addr().Is6() {
		t.Errorf("want replied from an IPv6 address, got %+v", o)
	}
}

func TestASourceKeepsNoTimeWait(t *testing.T) {
	leaktest.Check(t)
	to := serveTCP(t, "127.0.0.1:0", func(c *net.TCPConn) { c.Write(wire.AppendReply(nil, request(c), "ns/pod")) })
	d, err := New(Options{FirstPort: 28000, LastPort: 28000, FlowMemory: time.Nanosecond})
	if err != nil {
		t.Fatal(err)
	}
	for n := range 50 { // the same four numbers each time
		if o := d.Do(t.Context(), attempt(probes.TCP, to, ample)); o.Kind != probes.Replied || o.Local.Port() != 28000 {
			t.Fatalf("attempt %d: want replied to port 28000, got %+v", n, o)
		}
	}
	table, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(table)) {
		const port, timeWait = ":6D60 ", " 06 " // 28000; TCP_TIME_WAIT in include/net/tcp_states.h
		if strings.Contains(line, port) && strings.Contains(line, timeWait) {
			t.Errorf("left behind: %s", line)
		}
	}
}

func TestUDPOutcomes(t *testing.T) {
	reply := func(b []byte) []byte {
		token, _ := wire.ParseRequest(b)
		return wire.AppendReply(nil, token, "ns/pod")
	}
	stray := wire.AppendReply(nil, probes.Token{7}, "ns/other")
	for _, tt := range []struct {
		name     string
		answer   func([]byte) [][]byte
		deadline time.Duration
		want     probes.OutcomeKind
		detail   string
	}{
		{"an echo with the token is replied", func(b []byte) [][]byte { return [][]byte{reply(b)} }, ample, probes.Replied, ""},
		{"an echo after strays is replied", func(b []byte) [][]byte { return [][]byte{stray, {}, []byte("x"), reply(b)} }, ample, probes.Replied, ""},
		{"silence is timed out", func([]byte) [][]byte { return nil }, short, probes.TimedOut, ""},
		{"strays alone are timed out, and counted", func([]byte) [][]byte { return [][]byte{stray, {}} }, short, probes.TimedOut, "2 datagrams"},
		{"an echo that is too long is timed out", func(b []byte) [][]byte {
			return [][]byte{append(reply(b), make([]byte, wire.MaxLine)...)}
		}, short, probes.TimedOut, "1 datagrams"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			leaktest.Check(t)
			to := serveUDP(t, tt.answer)
			o := newDialer(t).Do(t.Context(), attempt(probes.UDP, to, tt.deadline))
			if o.Kind != tt.want || !strings.Contains(o.Detail, tt.detail) {
				t.Errorf("want %s with %q, got %+v", tt.want, tt.detail, o)
			}
			if want := map[bool]string{true: "ns/pod"}[tt.want == probes.Replied]; o.Responder != want {
				t.Errorf("responder: want %q, got %q", want, o.Responder)
			}
		})
	}
}

func TestAClosedPortRefuses(t *testing.T) {
	leaktest.Check(t)
	to := closedPort(t)
	for protocol, rejecter := range map[probes.Protocol]netip.Addr{probes.TCP: {}, probes.UDP: to.Addr()} {
		o := newDialer(t).Do(t.Context(), attempt(protocol, to, ample))
		if o.Kind != probes.Refused || o.Errno != "ECONNREFUSED" || o.Rejecter != rejecter {
			t.Errorf("%s: want refused, ECONNREFUSED, rejecter %v; got %+v", protocol, rejecter, o)
		}
	}
}

func TestAHandshakeThatIsNotAnsweredTimesOut(t *testing.T) {
	leaktest.Check(t)
	// A listener with a full accept queue drops further SYNs: a backlog of zero holds one connection.
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	if err := errors.Join(syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), syscall.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	sa, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	to := addrPort(sa)
	first, err := net.Dial("tcp", to.String())
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	o := newDialer(t).Do(t.Context(), attempt(probes.TCP, to, short))
	if o.Kind != probes.TimedOut || o.Took < short || o.Took > ample {
		t.Errorf("want timedOut after %s, got %+v", short, o)
	}
}

func TestFaultsOfTheInstrumentAreErrors(t *testing.T) {
	leaktest.Check(t)
	silent := serveUDP(t, func([]byte) [][]byte { return nil })
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	brief, cancel := context.WithTimeout(t.Context(), short)
	defer cancel()
	busy := closedPort(t)
	good := attempt(probes.UDP, silent, ample)
	for _, tt := range []struct {
		name   string
		ctx    context.Context
		change func(*probes.Attempt)
		want   string
	}{
		{"an attempt without an ID", t.Context(), func(a *probes.Attempt) { a.ID = "" }, "id: is required"},
		{"a context that has ended", cancelled, func(*probes.Attempt) {}, "context canceled"},
		{"a context that ends before the deadline", brief, func(*probes.Attempt) {}, "cutting the attempt short"},
		{"a source port in use", t.Context(), func(a *probes.Attempt) {
			a.Protocol, a.SourcePort = probes.TCP, busy.Port()
		}, "address already in use"},
		{"a zone that is no interface", t.Context(), func(a *probes.Attempt) {
			a.Destination = netip.MustParseAddrPort("[fe80::1%nowhere]:80")
		}, `zone "nowhere"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := good
			tt.change(&a)
			began := time.Now()
			o := newDialer(t).Do(tt.ctx, a)
			if o.Kind != probes.Error || !strings.Contains(o.Detail, tt.want) {
				t.Errorf("want an error with %q, got %+v", tt.want, o)
			}
			if took := time.Since(began); took > ample/2 {
				t.Errorf("it took %s: the end of the context did not end it", took)
			}
		})
	}
	if !errors.Is(Supports(probes.ProtocolUnknown), ErrUnsupported) || Supports(probes.SCTP) != nil {
		t.Errorf("want SCTP supported and the unknown not, got %v and %v", Supports(probes.SCTP), Supports(probes.ProtocolUnknown))
	}
}

func TestAPortOfAnotherProcessIsPassedOver(t *testing.T) {
	leaktest.Check(t)
	to := serveUDP(t, func(b []byte) [][]byte {
		token, _ := wire.ParseRequest(b)
		return [][]byte{wire.AppendReply(nil, token, "ns/pod")}
	})
	busy, err := net.ListenUDP("udp4", &net.UDPAddr{Port: 28100})
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	d, err := New(Options{FirstPort: 28100, LastPort: 28101})
	if err != nil {
		t.Fatal(err)
	}
	if o := d.Do(t.Context(), attempt(probes.UDP, to, ample)); o.Kind != probes.Replied || o.Local.Port() != 28101 {
		t.Errorf("want replied to port 28101, got %+v", o)
	}
}

func TestRunningOutOfDescriptorsIsAnError(t *testing.T) {
	leaktest.Check(t)
	to := closedPort(t)
	d := newDialer(t)
	d.Do(t.Context(), attempt(probes.TCP, to, ample)) // the poller has its descriptors now
	next, err := syscall.Dup(0)
	if err != nil {
		t.Fatal(err)
	}
	syscall.Close(next)
	var old syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: uint64(next), Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	o := d.Do(t.Context(), attempt(probes.TCP, to, ample))
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	if o.Kind != probes.Error || o.Errno != "EMFILE" {
		t.Errorf("want an error, EMFILE; got %+v", o)
	}
}

func TestClassify(t *testing.T) {
	call := func(name string, errno syscall.Errno) error { return os.NewSyscallError(name, errno) }
	for _, tt := range []struct {
		name  string
		err   error
		want  probes.OutcomeKind
		errno string
	}{
		{"a deadline", &os.PathError{Op: "read", Err: os.ErrDeadlineExceeded}, probes.TimedOut, ""},
		{"the kernel's own time-out", call("connect", syscall.ETIMEDOUT), probes.TimedOut, "ETIMEDOUT"},
		{"no route to the host", call("connect", syscall.EHOSTUNREACH), probes.Unreachable, "EHOSTUNREACH"},
		{"no route to the network", call("connect", syscall.ENETUNREACH), probes.Unreachable, "ENETUNREACH"},
		{"a prohibit route", call("connect", syscall.EACCES), probes.Unreachable, "EACCES"},
		{"a local drop of what was sent", &os.PathError{Op: "write", Err: syscall.EPERM}, probes.Unreachable, "EPERM"},
		{"a pipe that broke", &os.PathError{Op: "write", Err: syscall.EPIPE}, probes.Reset, "EPIPE"},
		{"a blackhole route, or a bad call", call("connect", syscall.EINVAL), probes.Error, "EINVAL"},
		{"no permission to make a socket", call("socket", syscall.EPERM), probes.Error, "EPERM"},
		{"no permission to bind", call("bind", syscall.EACCES), probes.Error, "EACCES"},
		{"no descriptor", call("socket", syscall.EMFILE), probes.Error, "EMFILE"},
		{"no buffer", &os.PathError{Op: "write", Err: syscall.ENOBUFS}, probes.Error, "ENOBUFS"},
		{"no address", call("connect", syscall.EADDRNOTAVAIL), probes.Error, "EADDRNOTAVAIL"},
		{"an error without a name here", call("connect", syscall.EDOM), probes.Error, "errno 33"},
		{"an error that is not the kernel's", errors.New("odd"), probes.Error, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var o probes.Outcome
			classify(t.Context(), &o, nil, tt.err)
			if o.Kind != tt.want || o.Errno != tt.errno {
				t.Errorf("want %s, %q; got %+v", tt.want, tt.errno, o)
			}
			if o.Kind == probes.Error && o.Detail == "" {
				t.Error("an error without words")
			}
		})
	}
}

func TestAThousandAtOnceHaveAPortEach(t *testing.T) {
	leaktest.Check(t)
	const attempts, atOnce = 1000, 250
	tcp := serveTCP(t, "127.0.0.1:0", func(c *net.TCPConn) { c.Write(wire.AppendReply(nil, request(c), "ns/pod")) })
	udp := serveUDP(t, func(b []byte) [][]byte {
		token, _ := wire.ParseRequest(b)
		return [][]byte{wire.AppendReply(nil, token, "ns/pod")}
	})
	d := newDialer(t)
	outcomes := make([]probes.Outcome, attempts)
	slots := make(chan struct{}, atOnce)
	var wg sync.WaitGroup
	for i := range outcomes {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			if i%2 == 0 {
				outcomes[i] = d.Do(t.Context(), attempt(probes.TCP, tcp, ample))
			} else {
				outcomes[i] = d.Do(t.Context(), attempt(probes.UDP, udp, ample))
			}
		})
	}
	wg.Wait()
	var seen [2]map[uint16]bool
	seen[0], seen[1] = make(map[uint16]bool), make(map[uint16]bool)
	for i, o := range outcomes {
		if o.Kind != probes.Replied || seen[i%2][o.Local.Port()] {
			t.Errorf("attempt %d: want replied to a port of its own, got %+v", i, o)
		}
		seen[i%2][o.Local.Port()] = true
	}
}

func BenchmarkAttempts(b *testing.B) {
	tcp := serveTCP(b, "127.0.0.1:0", func(c *net.TCPConn) { c.Write(wire.AppendReply(nil, request(c), "ns/pod")) })
	udp := serveUDP(b, func(p []byte) [][]byte {
		token, _ := wire.ParseRequest(p)
		return [][]byte{wire.AppendReply(nil, token, "ns/pod")}
	})
	for protocol, to := range map[probes.Protocol]netip.AddrPort{probes.TCP: tcp, probes.UDP: udp} {
		b.Run(protocol.String(), func(b *testing.B) {
			d, err := New(Options{FlowMemory: time.Nanosecond})
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			b.SetParallelism(32)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if o := d.Do(b.Context(), attempt(protocol, to, ample)); o.Kind != probes.Replied {
						b.Errorf("want replied, got %+v", o)
					}
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "attempts/s")
		})
	}
}
