package serve_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/probes/client"
	"github.com/gapproof/gapproof/probes/internal/leaktest"
	"github.com/gapproof/gapproof/probes/internal/stream"
	"github.com/gapproof/gapproof/probes/witness"
	"github.com/gapproof/gapproof/probes/witness/serve"
)

const token = "0123456789abcdef0123456789abcdef"

// kernel is a Kernel that keeps what it was asked; the true one has tests of its own in network namespaces.
type kernel struct {
	mu       sync.Mutex
	calls    int
	pods     []witness.Pod
	flows    []probes.Flow
	asked    []string
	forgot   []string
	seen     []probes.Sighting
	fault    error
	dropped  chan []string // what Follow tells
	followed chan error    // how each Follow ended
}

func newKernel() *kernel {
	return &kernel{dropped: make(chan []string), followed: make(chan error, 1)}
}

// call counts a call and has it do what it does, unless the kernel is to fail.
func (k *kernel) call(do func()) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.calls++
	if k.fault == nil {
		do()
	}
	return k.fault
}

func (k *kernel) Level() probes.Level { return probes.Full }

func (k *kernel) Adopt(pods []witness.Pod) error { return k.call(func() { k.pods = pods }) }

func (k *kernel) Watch(flows []probes.Flow) error {
	return k.call(func() { k.flows = append(k.flows, flows...) })
}

func (k *kernel) Sightings(ids []string) ([]probes.Sighting, error) {
	return k.seen, k.call(func() { k.asked = append(k.asked, ids...) })
}

func (k *kernel) Forget(ids []string) { _ = k.call(func() { k.forgot = append(k.forgot, ids...) }) }

func (k *kernel) Follow(ctx context.Context, told func([]string) error) (err error) {
	defer func() { k.followed <- err }()
	if err := k.call(func() {}); err != nil {
		return err
	}
	for {
		select {
		case ids := <-k.dropped:
			if err := told(ids); err != nil {
				return err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// start serves the kernel until the test's end or the returned function.
func start(t testing.TB, k *kernel) (address string, stop func()) {
	t.Helper()
	s, err := serve.New("worker", token, k, serve.Options{Release: "6.1.0", Version: "v0"})
	if err != nil {
		t.Fatal(err)
	}
	l, err := serve.Listen(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Serve(ctx, l); err != nil {
			t.Error(err)
		}
	})
	stop = func() { cancel(); wg.Wait() }
	t.Cleanup(stop)
	return l.Addr().String(), stop
}

// dial is a client of the service at the address.
func dial(t testing.TB, address, token string) *client.Witness {
	t.Helper()
	w := client.NewWitness(func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", address)
	}, token, client.Options{})
	t.Cleanup(w.Close)
	return w
}

// adopted is a client that has adopted one pod.
func adopted(t testing.TB, address string) *client.Witness {
	t.Helper()
	w := dial(t, address, token)
	if level, err := w.Adopt(t.Context(), map[string]uint64{"x/a": 7}); err != nil || level != probes.Full {
		t.Fatalf("adopting: level %s, %v", level, err)
	}
	return w
}

func flow(id string) probes.Flow {
	return probes.Flow{AttemptID: id, Protocol: probes.TCP, Source: netip.MustParseAddrPort("10.0.0.1:40000")}
}

func TestARunWatchesAsksAndForgets(t *testing.T) {
	leaktest.Check(t)
	k := newKernel()
	k.seen = []probes.Sighting{
		{AttemptID: "1", Packet: probes.Request, Point: probes.Dropped, Count: 2, Node: "worker", Reason: "NETFILTER_DROP"},
		{AttemptID: "2", Packet: probes.Request, Point: probes.Left, Count: 1, Node: "worker", Pod: "x/a"},
	}
	address, _ := start(t, k)
	w := adopted(t, address)
	if err := w.Watch(t.Context(), []probes.Flow{flow("1"), flow("2")}); err != nil {
		t.Fatal(err)
	}
	seen, err := w.Sightings(t.Context(), []string{"1", "2", "3"})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Forget(t.Context(), []string{"1"}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(k.seen, seen, cmpopts.EquateComparable(netip.AddrPort{})); diff != "" {
		t.Errorf("sightings (-seen +told):\n%s", diff)
	}
	want := &kernel{
		pods: []witness.Pod{{Identity: "x/a", NetNS: 7}}, flows: []probes.Flow{flow("1"), flow("2")},
		asked: []string{"1", "2", "3"}, forgot: []string{"1"},
	}
	for what, pair := range map[string][2]any{
		"adopted": {want.pods, k.pods}, "watched": {want.flows, k.flows}, "asked": {want.asked, k.asked}, "forgot": {want.forgot, k.forgot},
	} {
		if diff := cmp.Diff(pair[0], pair[1], cmpopts.EquateComparable(netip.AddrPort{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
}

func TestMoreFlowsThanOneRequestHoldsGoAsSeveral(t *testing.T) {
	k := newKernel()
	address, _ := start(t, k)
	w := adopted(t, address)
	var flows []probes.Flow
	for i := range 2*stream.MaxBatch + 1 {
		flows = append(flows, flow(fmt.Sprint(i)))
	}
	if err := w.Watch(t.Context(), flows); err != nil {
		t.Fatal(err)
	}
	if len(k.flows) != len(flows) || k.flows[len(flows)-1].AttemptID != flows[len(flows)-1].AttemptID {
		t.Errorf("%d flows are watched, want %d in their order", len(k.flows), len(flows))
	}
}

var posts = []string{stream.PathAdopt, stream.PathWatch, stream.PathSightings, stream.PathForget, stream.PathFollow}

// ask sends one request by hand; the answer is read whole.
func ask(t testing.TB, method, url, bearer, boot string, body io.Reader) (status int, answer string, err error) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", bearer)
	r.Header.Set(stream.BootHeader, boot)
	a, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, "", err
	}
	defer a.Body.Close()
	text, err := io.ReadAll(a.Body)
	return a.StatusCode, string(text), err
}

func bootOf(t testing.TB, address string) string {
	t.Helper()
	h, err := dial(t, address, token).Health(t.Context())
	if err != nil || h.BootID == "" {
		t.Fatalf("health %+v, %v", h, err)
	}
	return h.BootID
}

func TestARequestWithoutTheTokenGets401AndNothingElse(t *testing.T) {
	leaktest.Check(t)
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	k := newKernel()
	address, _ := start(t, k)
	boot := bootOf(t, address)
	for _, bearer := range []string{"", "Bearer ", "Bearer " + token[1:], "Bearer " + token + "x", "Basic " + token, token} {
		for _, path := range append([]string{stream.PathHealth, "/", "/metrics"}, posts...) {
			for _, method := range []string{http.MethodGet, http.MethodPost} {
				status, body, err := ask(t, method, "http://"+address+path, bearer, boot, strings.NewReader("{}\n"))
				if err != nil || status != http.StatusUnauthorized || body != "" {
					t.Errorf("%s %s with %q: status %d, body %q, %v; want a bare 401", method, path, bearer, status, body, err)
				}
			}
		}
	}
	if k.calls != 0 {
		t.Errorf("the kernel was asked %d times by callers without the token", k.calls)
	}
	if _, err := dial(t, address, "another-token-of-thirty-two-bytes").Health(t.Context()); !status(err, http.StatusUnauthorized) {
		t.Errorf("the client says %v, want status 401", err)
	}
}

func status(err error, want int) bool {
	var e *client.AgentError
	return errors.As(err, &e) && e.Status == want
}

func TestAWitnessThatWasStartedAnewSaysSoInsteadOfHavingSeenNothing(t *testing.T) {
	address, stop := start(t, newKernel())
	w := client.NewWitness(func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", address)
	}, token, client.Options{})
	defer w.Close()
	pods := map[string]uint64{"x/a": 7}
	if _, err := w.Adopt(t.Context(), pods); err != nil {
		t.Fatal(err)
	}
	stop()
	k := newKernel()
	address, _ = start(t, k)
	for what, call := range map[string]func() error{
		"watch":     func() error { return w.Watch(t.Context(), []probes.Flow{flow("1")}) },
		"sightings": func() error { _, err := w.Sightings(t.Context(), []string{"1"}); return err },
		"forget":    func() error { return w.Forget(t.Context(), []string{"1"}) },
		"follow":    func() error { return w.Follow(t.Context(), func(string) {}) },
	} {
		if err := call(); !status(err, http.StatusConflict) || !strings.Contains(err.Error(), "started anew") {
			t.Errorf("%s of the process before: %v, want status 409", what, err)
		}
	}
	if k.calls != 0 {
		t.Errorf("the kernel was asked %d times in the name of another process", k.calls)
	}
	if _, err := w.Adopt(t.Context(), pods); err != nil {
		t.Errorf("adopting anew: %v", err)
	}
	if err := w.Watch(t.Context(), []probes.Flow{flow("1")}); err != nil {
		t.Errorf("watching after adopting anew: %v", err)
	}
}

func TestAFaultyRequestIsRefusedAsAWhole(t *testing.T) {
	pod, watched := `{"identity":"x/a","netns":7}`, `{"attemptID":"1","protocol":"TCP","source":"10.0.0.1:40000"}`
	for name, tc := range map[string]struct {
		path, body string
		want       int
		says       string
	}{
		"no JSON":                        {stream.PathWatch, watched + "\nnonsense\n", http.StatusBadRequest, "line 2"},
		"a field that is not known":      {stream.PathAdopt, pod + "\n" + `{"identity":"x/b","netns":8,"more":1}` + "\n", http.StatusBadRequest, "line 2"},
		"a pod without a namespace":      {stream.PathAdopt, pod + "\n" + `{"identity":"x/b"}` + "\n", http.StatusBadRequest, "netns 0"},
		"a namespace without a pod":      {stream.PathAdopt, `{"netns":8}` + "\n", http.StatusBadRequest, `identity ""`},
		"a flow without an attempt":      {stream.PathWatch, `{"protocol":"TCP","source":"10.0.0.1:40000"}` + "\n", http.StatusBadRequest, "attemptID"},
		"a flow of lookups":              {stream.PathWatch, `{"attemptID":"1","protocol":"DNS","source":"10.0.0.1:40000"}` + "\n", http.StatusBadRequest, "protocol"},
		"a flow from port 0":             {stream.PathWatch, `{"attemptID":"1","protocol":"TCP","source":"10.0.0.1:0"}` + "\n", http.StatusBadRequest, "source"},
		"an empty attempt":               {stream.PathSightings, "\"1\"\n\"\"\n", http.StatusBadRequest, "line 2"},
		"a number for an attempt":        {stream.PathForget, "1\n", http.StatusBadRequest, "line 1"},
		"a line that is too long":        {stream.PathForget, `"` + strings.Repeat("a", stream.MaxRequestLine) + "\"\n", http.StatusRequestEntityTooLarge, ""},
		"a line too many":                {stream.PathForget, strings.Repeat("\"1\"\n", stream.MaxBatch+1), http.StatusRequestEntityTooLarge, "more than"},
		"a body that is too large":       {stream.PathForget, strings.Repeat(`"`+strings.Repeat("a", 1000)+"\"\n", serve.MaxBody/1000), http.StatusRequestEntityTooLarge, ""},
		"a path that is not a witness's": {stream.PathAttempts, "", http.StatusNotFound, ""},
	} {
		t.Run(name, func(t *testing.T) {
			k := newKernel()
			address, _ := start(t, k)
			got, body, err := ask(t, http.MethodPost, "http://"+address+tc.path, "Bearer "+token, bootOf(t, address), strings.NewReader(tc.body))
			if err != nil || got != tc.want || !strings.Contains(body, tc.says) {
				t.Errorf("status %d, %q, %v; want %d and %q", got, body, err, tc.want, tc.says)
			}
			if k.calls != 0 {
				t.Errorf("the kernel was asked %d times", k.calls)
			}
		})
	}
}

func TestWhatTheKernelRefusesIsAnErrorOfItsOwn(t *testing.T) {
	for name, tc := range map[string]struct {
		fault error
		want  int
	}{
		"a full table": {fmt.Errorf("watching flow 1: %w", witness.ErrFull), http.StatusInsufficientStorage},
		"anything":     {errors.New("the map is gone"), http.StatusInternalServerError},
	} {
		t.Run(name, func(t *testing.T) {
			k := newKernel()
			address, _ := start(t, k)
			w := adopted(t, address)
			k.fault = tc.fault
			if err := w.Watch(t.Context(), []probes.Flow{flow("1")}); !status(err, tc.want) || !strings.Contains(err.Error(), tc.fault.Error()) {
				t.Errorf("watching: %v, want status %d with %q", err, tc.want, tc.fault)
			}
			if seen, err := w.Sightings(t.Context(), []string{"1"}); !status(err, tc.want) || seen != nil {
				t.Errorf("asking: %v, %v; want status %d and no sightings", seen, err, tc.want)
			}
		})
	}
}

func TestDropsAreToldAsTheyHappen(t *testing.T) {
	leaktest.Check(t)
	k := newKernel()
	address, _ := start(t, k)
	w := adopted(t, address)
	ctx, cancel := context.WithCancel(t.Context())
	told, ended := make(chan string), make(chan error, 1)
	go func() { ended <- w.Follow(ctx, func(id string) { told <- id }) }()
	for _, ids := range [][]string{{"1"}, {"2", "3"}} {
		k.dropped <- ids // the kernel goes on only when these were written out
		for _, want := range ids {
			if got := <-told; got != want {
				t.Errorf("told of %q, want %q", got, want)
			}
		}
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the follower that gave up got %v", err)
	}
	if err := <-k.followed; !errors.Is(err, context.Canceled) {
		t.Errorf("the kernel followed on for nobody, until %v", err)
	}
}

func TestAFollowerNeverTakesAnEndForSilence(t *testing.T) {
	t.Run("the kernel fails", func(t *testing.T) {
		k := newKernel()
		address, _ := start(t, k)
		w := adopted(t, address)
		k.fault = errors.New("the ring is gone")
		if err := w.Follow(t.Context(), func(string) {}); !status(err, http.StatusServiceUnavailable) || !strings.Contains(err.Error(), "the ring is gone") {
			t.Errorf("the follower got %v, want status 503 with the kernel's words", err)
		}
	})
	t.Run("the witness stops", func(t *testing.T) {
		k := newKernel()
		address, stop := start(t, k)
		w := adopted(t, address)
		ended := make(chan error, 1)
		go func() { ended <- w.Follow(t.Context(), func(string) {}) }()
		k.dropped <- []string{"1"} // the follower is there
		stop()
		if err := <-ended; !status(err, http.StatusServiceUnavailable) {
			t.Errorf("the follower got %v, want status 503", err)
		}
	})
}

func TestAThousandConnectionsAreServed(t *testing.T) {
	leaktest.Check(t)
	k := newKernel()
	address, _ := start(t, k)
	w := adopted(t, address)
	var held []net.Conn
	defer func() {
		for _, c := range held {
			c.Close()
		}
	}()
	for i := range 1000 {
		c, err := new(net.Dialer).DialContext(t.Context(), "tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, c)
		garbage := []string{"", "POST /v1/watch HTTP/1.1\r\nHost: x\r\n", "\x16\x03\x01\x02\x00", strings.Repeat("a", 1000)}[i%4]
		if _, err := io.WriteString(c, garbage); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Watch(t.Context(), []probes.Flow{flow("1")}); err != nil {
		t.Errorf("watching beside 1 000 connections: %v", err)
	}
	if len(k.flows) != 1 {
		t.Errorf("%d flows are watched, want 1", len(k.flows))
	}
}

// FuzzRequest holds that a request is answered by a status of the service's, and reaches the kernel once or not at all.
func FuzzRequest(f *testing.F) {
	for i, body := range []string{
		`{"identity":"x/a","netns":7}` + "\n", `{"attemptID":"1","protocol":"UDP","source":"[fd00::1]:40000"}` + "\n", "\"1\"\n", "", "\x00\n",
	} {
		f.Add(uint8(i), []byte(body))
	}
	k := newKernel()
	s, err := serve.New("worker", token, k, serve.Options{})
	if err != nil {
		f.Fatal(err)
	}
	l, err := serve.Listen(f.Context(), 0)
	if err != nil {
		f.Fatal(err)
	}
	ctx, cancel := context.WithCancel(f.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.Serve(ctx, l) })
	f.Cleanup(func() { cancel(); wg.Wait() })
	address := l.Addr().String()
	boot := bootOf(f, address)
	known := []int{http.StatusOK, http.StatusBadRequest, http.StatusRequestEntityTooLarge}
	f.Fuzz(func(t *testing.T, path uint8, body []byte) {
		before := k.calls
		got, _, err := ask(t, http.MethodPost, "http://"+address+posts[int(path)%4], "Bearer "+token, boot, bytes.NewReader(body))
		calls := k.calls - before
		if err != nil || !slices.Contains(known, got) {
			t.Fatalf("status %d, %v", got, err)
		}
		if want := map[bool]int{true: 1}[got == http.StatusOK]; calls != want {
			t.Errorf("status %d, and the kernel was asked %d times, want %d", got, calls, want)
		}
	})
}
