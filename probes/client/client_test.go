package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/probes/agent"
	"github.com/gapproof/gapproof/probes/client"
	"github.com/gapproof/gapproof/probes/dial"
	"github.com/gapproof/gapproof/probes/internal/leaktest"
	"github.com/gapproof/gapproof/probes/internal/stream"
	"github.com/gapproof/gapproof/probes/listen"
)

const (
	token    = "0123456789abcdef0123456789abcdef"
	identity = "shop/web-0"
	ample    = 10 * time.Second
)

// pod is a whole probe pod on the loopback: dialer, listeners, agent, and a client that counts its streams.
type pod struct {
	*client.Client
	address  string
	tcp, udp netip.AddrPort
	dials    atomic.Int32
	stop     func() // as SIGTERM
}

func newPod(t testing.TB, listening listen.Options) *pod {
	t.Helper()
	leaktest.Check(t)
	ctx, cancel := context.WithCancel(t.Context())
	g, err := listen.Start(ctx, identity, []listen.Spec{{Protocol: probes.TCP}, {Protocol: probes.UDP}}, listening)
	if err != nil {
		t.Fatal(err)
	}
	d, err := dial.New(dial.Options{FlowMemory: time.Nanosecond})
	if err != nil {
		t.Fatal(err)
	}
	a, err := agent.New(identity, token, d, g, agent.Options{Version: "v1"})
	if err != nil {
		t.Fatal(err)
	}
	socket, err := agent.Listen(ctx, 0)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := a.Serve(ctx, socket); err != nil {
			t.Error(err)
		}
	})
	loopback := netip.MustParseAddr("127.0.0.1")
	p := &pod{
		address: socket.Addr().String(),
		tcp:     netip.AddrPortFrom(loopback, g.Ports()[0]), udp: netip.AddrPortFrom(loopback, g.Ports()[1]),
		stop: func() { cancel(); wg.Wait(); g.Close() },
	}
	p.Client = client.New(func(ctx context.Context) (net.Conn, error) {
		p.dials.Add(1)
		var dialer net.Dialer
		return dialer.DialContext(ctx, "tcp", p.address)
	}, token, client.Options{})
	t.Cleanup(func() { p.Close(); p.stop() })
	return p
}

// batch is n attempts at the pod's own listeners, by turns.
func (p *pod) batch(n int, deadline time.Duration) []probes.Attempt {
	attempts := make([]probes.Attempt, n)
	for i := range attempts {
		attempts[i] = probes.Attempt{
			ID: fmt.Sprintf("a%d", i), Protocol: probes.TCP, Destination: p.tcp, Token: probes.NewToken(), Deadline: deadline,
		}
		if i%2 == 1 {
			attempts[i].Protocol, attempts[i].Destination = probes.UDP, p.udp
		}
	}
	return attempts
}

func tokensOf(attempts []probes.Attempt) []probes.Token {
	tokens := make([]probes.Token, len(attempts))
	for i, a := range attempts {
		tokens[i] = a.Token
	}
	return tokens
}

func TestAThousandAttemptsAreAnsweredAndArrive(t *testing.T) {
	p := newPod(t, listen.Options{})
	attempts := p.batch(1000, ample)
	outcomes, err := p.Attempts(t.Context(), attempts)
	if err != nil {
		t.Fatal(err)
	}
	for i, o := range outcomes {
		if o.AttemptID != attempts[i].ID || o.Kind != probes.Replied || o.Responder != identity {
			t.Errorf("slot %d: want %s replied by %s, got %+v", i, attempts[i].ID, identity, o)
		}
	}
	arrivals, err := p.Arrivals(t.Context(), tokensOf(attempts))
	if err != nil || len(arrivals) != len(attempts) {
		t.Fatalf("want %d arrivals, got %d, %v", len(attempts), len(arrivals), err)
	}
	sources := make(map[probes.Token]netip.AddrPort)
	for _, a := range arrivals {
		if a.Count != 1 || a.Listener != identity {
			t.Errorf("want it once at %s, got %+v", identity, a)
		}
		sources[a.Token] = a.Source
	}
	for i, a := range attempts {
		if sources[a.Token] != outcomes[i].Local {
			t.Errorf("attempt %d went from %s and arrived from %s", i, outcomes[i].Local, sources[a.Token])
		}
	}
	since, cursor, err := p.ArrivalsSince(t.Context(), 990)
	if err != nil || len(since) != 10 || cursor != 1000 {
		t.Errorf("since 990: want 10 and cursor 1000, got %d and %d, %v", len(since), cursor, err)
	}
}

func TestOneStreamServesManyCalls(t *testing.T) {
	p := newPod(t, listen.Options{})
	for range 20 {
		attempts := p.batch(50, ample)
		if _, err := p.Attempts(t.Context(), attempts); err != nil {
			t.Fatal(err)
		}
		if _, err := p.Arrivals(t.Context(), tokensOf(attempts)); err != nil {
			t.Fatal(err)
		}
		if _, err := p.Health(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if got := p.dials.Load(); got != 1 {
		t.Errorf("want one stream for 60 calls, got %d", got)
	}
}

func TestCallsAtOnceShareFewStreams(t *testing.T) {
	p := newPod(t, listen.Options{})
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			if _, err := p.Attempts(t.Context(), p.batch(20, ample)); err != nil {
				t.Error(err)
			}
			if _, err := p.Health(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := p.dials.Load(); got > client.DefaultMaxConns {
		t.Errorf("want at most %d streams, got %d", client.DefaultMaxConns, got)
	}
}

func TestHealthTellsOfAgentAndListeners(t *testing.T) {
	p := newPod(t, listen.Options{})
	first, err := p.Health(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := probes.Health{
		Identity: identity, BootID: first.BootID, At: first.At, NetNS: first.NetNS, Version: "v1",
		Listeners: []probes.ListenerHealth{{Protocol: probes.TCP, Port: p.tcp.Port()}, {Protocol: probes.UDP, Port: p.udp.Port()}},
	}
	if diff := cmp.Diff(want, first); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if link, err := os.Readlink("/proc/self/ns/net"); err == nil && link != fmt.Sprintf("net:[%d]", first.NetNS) {
		t.Errorf("network namespace: want %s, got %d", link, first.NetNS)
	}
	second, err := p.Health(t.Context())
	if err != nil || second.BootID != first.BootID || first.BootID == "" || !second.At.After(first.At) {
		t.Errorf("want the same boot at a later time, got %+v and %+v, %v", first, second, err)
	}
}

func TestABatchIsMadeNoMoreThanSoManyAtOnce(t *testing.T) {
	p := newPod(t, listen.Options{})
	silent, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	attempts := p.batch(4, 50*time.Millisecond)
	for i := range attempts {
		attempts[i].Protocol, attempts[i].Destination = probes.UDP, silent.LocalAddr().(*net.UDPAddr).AddrPort()
	}
	var ended time.Time // of the attempt before, by the agent's clock
	err = p.Run(t.Context(), attempts, 1, func(o probes.Outcome) {
		if o.Kind != probes.TimedOut || o.Started.Before(ended) {
			t.Errorf("%s: %v, begun %s before the one before it had ended", o.AttemptID, o.Kind, ended.Sub(o.Started))
		}
		ended = o.Started.Add(o.Took)
	})
	if err != nil || ended.IsZero() {
		t.Errorf("the batch ended %v, %v", ended, err)
	}
}

func TestAnAgentThatStopsInABatchLeavesThePartAndIsGone(t *testing.T) {
	p := newPod(t, listen.Options{})
	silent, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	attempts := p.batch(300, time.Minute)
	for i := 100; i < len(attempts); i++ { // the first hundred are answered
		attempts[i].Protocol, attempts[i].Destination = probes.UDP, silent.LocalAddr().(*net.UDPAddr).AddrPort()
	}
	var got []probes.Outcome
	var once sync.Once
	var wg sync.WaitGroup
	err = p.Run(t.Context(), attempts, 0, func(o probes.Outcome) {
		if got = append(got, o); len(got) == 100 {
			once.Do(func() { wg.Go(p.stop) })
		}
	})
	wg.Wait()
	if !errors.Is(err, client.ErrAgentGone) {
		t.Errorf("want %v, got %v", client.ErrAgentGone, err)
	}
	for _, o := range got[:100] {
		if o.Kind != probes.Replied {
			t.Errorf("before the stop: want replied, got %+v", o)
		}
	}
	for _, o := range got[100:] {
		if o.Kind != probes.Error {
			t.Errorf("after the stop: want an error, got %+v", o)
		}
	}
	if len(got) == len(attempts) {
		t.Error("want some attempts without an outcome: they were never begun")
	}
	if _, err := p.Health(t.Context()); !errors.Is(err, client.ErrAgentGone) {
		t.Errorf("health of the stopped agent: want %v, got %v", client.ErrAgentGone, err)
	}
}

// cable is a stream that can be cut, as by the SIGKILL of an agent or the end of a port-forward.
type cable struct {
	net.Conn
	left atomic.Int64 // bytes that can still be read; below zero is cut
}

func (c *cable) Read(b []byte) (int, error) {
	if c.left.Load() <= 0 {
		c.Close()
		return 0, io.EOF
	}
	n, err := c.Conn.Read(b[:min(int64(len(b)), c.left.Load())])
	c.left.Add(-int64(n))
	return n, err
}

func TestAStreamThatIsCutLeavesThePartAndIsReplaced(t *testing.T) {
	p := newPod(t, listen.Options{})
	var dials atomic.Int32
	c := client.New(func(ctx context.Context) (net.Conn, error) {
		conn, err := net.Dial("tcp", p.address)
		cut := &cable{Conn: conn}
		cut.left.Store(4000) // some ten outcomes
		if dials.Add(1) > 1 {
			cut.left.Store(1 << 40)
		}
		return cut, err
	}, token, client.Options{})
	defer c.Close()
	attempts := p.batch(200, ample)
	outcomes, err := c.Attempts(t.Context(), attempts)
	if !errors.Is(err, client.ErrAgentGone) {
		t.Errorf("want %v, got %v", client.ErrAgentGone, err)
	}
	var replied, unknown int
	for i, o := range outcomes {
		switch {
		case o.AttemptID == attempts[i].ID && o.Kind == probes.Replied:
			replied++
		case o.AttemptID == attempts[i].ID && o.Kind == probes.OutcomeUnknown:
			unknown++
		}
	}
	if replied == 0 || unknown == 0 || replied+unknown != len(attempts) {
		t.Errorf("want some replied, the others unknown; got %d and %d of %d", replied, unknown, len(attempts))
	}
	if _, err := c.Health(t.Context()); err != nil {
		t.Errorf("on the next stream: %v", err)
	}
}

func TestAnIdleStreamThatBrokeIsReplacedUnseen(t *testing.T) {
	p := newPod(t, listen.Options{})
	var last *cable
	c := client.New(func(ctx context.Context) (net.Conn, error) {
		conn, err := net.Dial("tcp", p.address)
		last = &cable{Conn: conn}
		last.left.Store(1 << 40)
		return last, err
	}, token, client.Options{})
	defer c.Close()
	for range 3 {
		if _, err := c.Health(t.Context()); err != nil {
			t.Fatal(err)
		}
		last.Conn.(*net.TCPConn).CloseWrite() // the agent ends its side
	}
}

// doomed is a stream that breaks at the first request after it was doomed: the request is taken, and no answer comes.
type doomed struct {
	net.Conn
	now atomic.Bool
}

func (d *doomed) Write(b []byte) (int, error) {
	if d.now.Load() {
		d.Close()
		return len(b), nil
	}
	return d.Conn.Write(b)
}

func TestOnlyQuestionsAreAskedTwice(t *testing.T) {
	p := newPod(t, listen.Options{})
	var last *doomed
	c := client.New(func(ctx context.Context) (net.Conn, error) {
		conn, err := net.Dial("tcp", p.address)
		last = &doomed{Conn: conn}
		return last, err
	}, token, client.Options{})
	defer c.Close()
	attempts := p.batch(2, ample)
	for _, tt := range []struct {
		name string
		call func() error
		want error
	}{
		{"health", func() error { _, err := c.Health(t.Context()); return err }, nil},
		{"arrivals", func() error { _, err := c.Arrivals(t.Context(), tokensOf(attempts)); return err }, nil},
		{"attempts", func() error { _, err := c.Attempts(t.Context(), attempts); return err }, client.ErrAgentGone},
	} {
		if _, err := c.Health(t.Context()); err != nil {
			t.Fatal(err)
		}
		last.now.Store(true)
		if err := tt.call(); !errors.Is(err, tt.want) {
			t.Errorf("%s: want %v, got %v", tt.name, tt.want, err)
		}
	}
}

func TestAnAgentThatCannotBeReachedIsGone(t *testing.T) {
	leaktest.Check(t)
	refused := errors.New("no such pod")
	c := client.New(func(context.Context) (net.Conn, error) { return nil, refused }, token, client.Options{})
	defer c.Close()
	_, err := c.Health(t.Context())
	if !errors.Is(err, client.ErrAgentGone) || !errors.Is(err, refused) {
		t.Errorf("want %v for the reason %v, got %v", client.ErrAgentGone, refused, err)
	}
	outcomes, err := c.Attempts(t.Context(), []probes.Attempt{{ID: "a"}})
	if !errors.Is(err, client.ErrAgentGone) || len(outcomes) != 1 || outcomes[0].Kind != probes.OutcomeUnknown {
		t.Errorf("want %v and one unknown, got %+v, %v", client.ErrAgentGone, outcomes, err)
	}
}

func TestACallerThatGivesUpGetsItsOwnError(t *testing.T) {
	p := newPod(t, listen.Options{})
	silent, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	attempts := p.batch(1, time.Minute)
	attempts[0].Protocol, attempts[0].Destination = probes.UDP, silent.LocalAddr().(*net.UDPAddr).AddrPort()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := p.Attempts(ctx, attempts); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, client.ErrAgentGone) {
		t.Errorf("want %v alone, got %v", context.DeadlineExceeded, err)
	}
}

func TestAWrongTokenIsTheAgentsAnswer(t *testing.T) {
	p := newPod(t, listen.Options{})
	c := client.New(func(ctx context.Context) (net.Conn, error) { return net.Dial("tcp", p.address) }, strings.Repeat("x", 32), client.Options{})
	defer c.Close()
	_, health := c.Health(t.Context())
	for call, err := range map[string]error{
		"health":   health,
		"run":      c.Run(t.Context(), p.batch(10, ample), 0, func(probes.Outcome) {}),
		"arrivals": func() error { _, err := c.Arrivals(t.Context(), make([]probes.Token, 1)); return err }(),
	} {
		var refusal *client.AgentError
		if !errors.As(err, &refusal) || refusal.Status != http.StatusUnauthorized || errors.Is(err, client.ErrAgentGone) {
			t.Errorf("%s: want status 401 and not gone, got %v", call, err)
		}
	}
}

func TestIDsMustDiffer(t *testing.T) {
	p := newPod(t, listen.Options{})
	for _, attempts := range [][]probes.Attempt{{{ID: "a"}, {ID: "a"}}, {{}}} {
		if err := p.Run(t.Context(), attempts, 0, func(probes.Outcome) {}); err == nil {
			t.Errorf("%+v: want an error", attempts)
		}
	}
	if got := p.dials.Load(); got != 0 {
		t.Errorf("want nothing sent, got %d streams", got)
	}
}

func TestAMalformedAttemptHasAnErrorOutcome(t *testing.T) {
	p := newPod(t, listen.Options{})
	outcomes, err := p.Attempts(t.Context(), append(p.batch(1, ample), probes.Attempt{ID: "b", Protocol: probes.TCP}))
	if err != nil || outcomes[0].Kind != probes.Replied || outcomes[1].Kind != probes.Error || outcomes[1].Detail == "" {
		t.Errorf("want one replied and one error with words, got %+v, %v", outcomes, err)
	}
}

func TestMoreThanOneRequestHoldsGoesAsSeveral(t *testing.T) {
	p := newPod(t, listen.Options{})
	attempts := make([]probes.Attempt, stream.MaxBatch+1)
	for i := range attempts { // malformed, so that no socket is opened
		attempts[i].ID = fmt.Sprint(i)
	}
	outcomes, err := p.Attempts(t.Context(), attempts)
	if err != nil {
		t.Fatal(err)
	}
	for i, o := range outcomes {
		if o.Kind != probes.Error {
			t.Fatalf("slot %d: want an error, got %+v", i, o)
		}
	}
}

func TestLostArrivalsAreTold(t *testing.T) {
	p := newPod(t, listen.Options{MaxArrivals: 4})
	attempts := p.batch(10, ample)
	if _, err := p.Attempts(t.Context(), attempts); err != nil {
		t.Fatal(err)
	}
	arrivals, err := p.Arrivals(t.Context(), tokensOf(attempts))
	var lost *client.LostError
	if !errors.As(err, &lost) || lost.Lost != 6 || len(arrivals) != 4 {
		t.Fatalf("want 4 arrivals and 6 lost, got %d, %v", len(arrivals), err)
	}
	if _, err := p.Arrivals(t.Context(), []probes.Token{arrivals[0].Token}); err != nil {
		t.Errorf("where none is missing: %v", err)
	}
	health, err := p.Health(t.Context())
	if err != nil || health.ArrivalsLost != 6 || !health.ArrivalsLostUntil.Equal(lost.Until) {
		t.Errorf("health: want 6 until %s, got %+v, %v", lost.Until, health, err)
	}
}

func TestAnswersThatAreNotAnAgentsAreErrors(t *testing.T) {
	for _, tt := range []struct{ name, answer, want string }{
		{"an end too early", `{"end":{"lines":0}}` + "\n", "after 0 of 1 outcomes"},
		{"no end", `{"outcome":{"attemptID":"a","kind":"replied","started":"2026-01-01T00:00:00Z","took":1}}` + "\n", "gone"},
		{"half a line", `{"outcome":{"att`, "gone"},
		{"an outcome that was not asked for", `{"outcome":{"attemptID":"z","kind":"replied","started":"2026-01-01T00:00:00Z","took":1}}` + "\n" +
			`{"end":{"lines":1}}` + "\n", `"z"`},
		{"another language", "<html>\n", "reading line 1"},
		{"a fault", `{"fault":{"status":413,"line":2,"message":"too long"}}` + "\n" + `{"end":{"lines":0}}` + "\n",
			"413 Request Entity Too Large for line 2: too long"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			leaktest.Check(t)
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				io.Copy(io.Discard, r.Body)
				io.WriteString(w, tt.answer)
			}))
			defer server.Close()
			c := client.New(func(ctx context.Context) (net.Conn, error) {
				return net.Dial("tcp", server.Listener.Addr().String())
			}, token, client.Options{})
			defer c.Close()
			err := c.Run(t.Context(), []probes.Attempt{{ID: "a"}}, 0, func(probes.Outcome) {})
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("want an error with %q, got %v", tt.want, err)
			}
		})
	}
}

func BenchmarkBatch(b *testing.B) {
	p := newPod(b, listen.Options{})
	const each = 324 // attempts of a step with nine pods, two protocols and two ports
	for b.Loop() {
		outcomes, err := p.Attempts(b.Context(), p.batch(each, ample))
		if err != nil {
			b.Fatal(err)
		}
		for _, o := range outcomes {
			if o.Kind != probes.Replied {
				b.Fatalf("want replied, got %+v", o)
			}
		}
	}
	b.ReportMetric(float64(b.N*each)/b.Elapsed().Seconds(), "attempts/s")
}
