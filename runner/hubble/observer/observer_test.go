package observer

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cilium/cilium/api/v1/flow"
	api "github.com/cilium/cilium/api/v1/observer"
	relayapi "github.com/cilium/cilium/api/v1/relay"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/fake"
	"sigs.k8s.io/yaml"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/runner/hubble"
)

var start = time.Date(2026, 3, 4, 10, 11, 12, 345, time.UTC)

// hubbleServer is Hubble's own API on a loopback port.
type hubbleServer struct {
	api.UnimplementedObserverServer
	at   netip.AddrPort
	grpc *grpc.Server
	// says are what a call for flows is answered with, call by call; the last is followed until the caller leaves, those before end.
	says [][]*api.GetFlowsResponse

	mu    sync.Mutex
	asked []*api.GetFlowsRequest
}

func (s *hubbleServer) ServerStatus(context.Context, *api.ServerStatusRequest) (*api.ServerStatusResponse, error) {
	return &api.ServerStatusResponse{Version: "1.20.2"}, nil
}

func (s *hubbleServer) GetFlows(r *api.GetFlowsRequest, stream api.Observer_GetFlowsServer) error {
	s.mu.Lock()
	s.asked = append(s.asked, r)
	n := len(s.asked) - 1
	s.mu.Unlock()
	for _, response := range s.says[min(n, len(s.says)-1)] {
		if err := stream.Send(response); err != nil {
			return err
		}
	}
	if n < len(s.says)-1 {
		return nil
	}
	<-stream.Context().Done()
	return stream.Context().Err()
}

func (s *hubbleServer) requests() []*api.GetFlowsRequest {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.asked)
}

func serve(t *testing.T, says [][]*api.GetFlowsResponse, options ...grpc.ServerOption) *hubbleServer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &hubbleServer{at: l.Addr().(*net.TCPAddr).AddrPort(), grpc: grpc.NewServer(options...), says: says}
	api.RegisterObserverServer(s.grpc, s)
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.grpc.Serve(l) })
	t.Cleanup(func() {
		s.grpc.Stop()
		wg.Wait()
	})
	return s
}

// overLoopback is a way to a port of this host.
type overLoopback struct{ at netip.AddrPort }

func (o overLoopback) Dial(ctx context.Context) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "tcp", o.at.String())
}

func (overLoopback) Close() error { return nil }

// cluster is what pods there are, by kind, and where each of them answers.
type cluster struct {
	relays, agents []server
	at             map[string]netip.AddrPort
}

func pods(k kind, names ...string) []server {
	var out []server
	for _, n := range names {
		out = append(out, server{k, "kube-system", n, "node-of-" + n})
	}
	return out
}

func (c cluster) find(_ context.Context, k kind) ([]server, error) {
	if k == relay {
		return c.relays, nil
	}
	return c.agents, nil
}

func (c cluster) connect(_ context.Context, s server) (way, error) {
	at, ok := c.at[s.name]
	if !ok {
		return nil, errors.New("opening a port-forward: pods \"" + s.name + "\" is forbidden")
	}
	return overLoopback{at}, nil
}

// watched reads until ready says that enough has come.
func watched(t *testing.T, c cluster, limits func(*Watch), ready func(*Watch) bool) hubble.Reading {
	t.Helper()
	w := newWatch(hubble.NewLog(), []string{"x", "y"}, start, c.connect)
	if limits != nil {
		limits(w)
	}
	w.start(t.Context(), c.find)
	poll(t, "the flows to come", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return ready(w)
	})
	return w.Stop()
}

// poll waits until a condition holds.
func poll(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(10 * time.Second); !holds(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("waiting for %s: not so within 10 s", what)
		}
	}
}

// noGoroutineLeft fails the test that ends with goroutines it did not begin with. It is to be called first.
func noGoroutineLeft(t *testing.T) {
	t.Helper()
	before := goroutines()
	t.Cleanup(func() {
		poll(t, "goroutines to end", func() bool {
			for id := range goroutines() {
				if !before[id] {
					return false
				}
			}
			return true
		})
	})
}

// goroutines are those of this package and of gRPC, by the first words of their stacks.
func goroutines() map[string]bool {
	buf := make([]byte, 1<<20)
	found := map[string]bool{}
	for _, stack := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		if id, _, ok := strings.Cut(stack, " ["); ok && (strings.Contains(stack, "google.golang.org/grpc") || strings.Contains(stack, "runner/hubble")) {
			found[id] = true
		}
	}
	return found
}

// packet is a flow of TCP as an agent tells it, edited.
func packet(edit func(*flow.Flow)) *api.GetFlowsResponse {
	f := &flow.Flow{
		Time: timestamppb.New(start.Add(time.Second)), NodeName: "node-b", Verdict: flow.Verdict_FORWARDED, Type: flow.FlowType_L3_L4,
		IP: &flow.IP{Source: "10.0.0.1", Destination: "10.0.1.2"}, TraceObservationPoint: flow.TraceObservationPoint_TO_ENDPOINT,
		L4:               &flow.Layer4{Protocol: &flow.Layer4_TCP{TCP: &flow.TCP{SourcePort: 12000, DestinationPort: 80}}},
		TrafficDirection: flow.TrafficDirection_INGRESS, IsReply: wrapperspb.Bool(false),
	}
	edit(f)
	return &api.GetFlowsResponse{ResponseTypes: &api.GetFlowsResponse_Flow{Flow: f}}
}

func asItIs(*flow.Flow) {}

func lost(n uint64) *api.GetFlowsResponse {
	return &api.GetFlowsResponse{ResponseTypes: &api.GetFlowsResponse_LostEvents{LostEvents: &flow.LostEvent{NumEventsLost: n, Source: flow.LostEventSource_HUBBLE_RING_BUFFER}}}
}

func TestEveryAgentIsRead(t *testing.T) {
	noGoroutineLeft(t)
	says := []*api.GetFlowsResponse{packet(asItIs), lost(3), lost(4)}
	a, b := serve(t, [][]*api.GetFlowsResponse{says}), serve(t, [][]*api.GetFlowsResponse{says[:1]})
	c := cluster{agents: pods(agent, "a", "b"), at: map[string]netip.AddrPort{"a": a.at, "b": b.at}}
	got := watched(t, c, nil, func(w *Watch) bool {
		return len(w.reading.Sources) == 2 && w.reading.Lost() == 7 && w.reading.Sources[0].Flows == 1 && w.reading.Sources[1].Flows == 1
	})
	want := hubble.Reading{Sources: []hubble.Source{
		{Name: "kube-system/a", Node: "node-of-a", Read: true, Version: "1.20.2", Flows: 1, Lost: 7},
		{Name: "kube-system/b", Node: "node-of-b", Read: true, Version: "1.20.2", Flows: 1},
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("reading (-want +got):\n%s", diff)
	}
	filter := []*flow.FlowFilter{{SourcePod: []string{"x/", "y/"}}, {DestinationPod: []string{"x/", "y/"}}}
	asked := &api.GetFlowsRequest{Follow: true, Since: timestamppb.New(start), Whitelist: filter, Blacklist: []*flow.FlowFilter{{Reply: []bool{true}}}}
	if r := a.requests(); len(r) != 1 || !proto.Equal(r[0], asked) {
		t.Errorf("asked for %v, want %v", r, asked)
	}
}

func TestARelaySpeaksForAll(t *testing.T) {
	noGoroutineLeft(t)
	away := &api.GetFlowsResponse{ResponseTypes: &api.GetFlowsResponse_NodeStatus{NodeStatus: &relayapi.NodeStatusEvent{
		StateChange: relayapi.NodeState_NODE_UNAVAILABLE, NodeNames: []string{"node-b"}, Message: "connection refused"}}}
	here := &api.GetFlowsResponse{ResponseTypes: &api.GetFlowsResponse_NodeStatus{NodeStatus: &relayapi.NodeStatusEvent{
		StateChange: relayapi.NodeState_NODE_CONNECTED, NodeNames: []string{"node-a"}}}}
	r := serve(t, [][]*api.GetFlowsResponse{{here, away, packet(asItIs)}})
	c := cluster{relays: pods(relay, "gone", "r", "spare"), agents: pods(agent, "a"), at: map[string]netip.AddrPort{"r": r.at}}
	got := watched(t, c, nil, func(w *Watch) bool { return len(w.reading.Sources) == 2 && w.reading.Sources[1].Flows == 1 })
	want := hubble.Reading{Sources: []hubble.Source{
		{Name: "kube-system/gone", Node: "node-of-gone", Fault: `opening a port-forward: pods "gone" is forbidden`},
		{Name: "kube-system/r", Node: "node-of-r", Read: true, Version: "1.20.2", Flows: 1, Fault: "the relay cannot reach node-b: connection refused"},
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("reading (-want +got):\n%s", diff)
	}
}

func TestAStreamThatEndsIsTakenUpWhereItWasLeft(t *testing.T) {
	noGoroutineLeft(t)
	s := serve(t, [][]*api.GetFlowsResponse{{packet(asItIs)}, {packet(func(f *flow.Flow) { f.Time = timestamppb.New(start.Add(2 * time.Second)) })}})
	c := cluster{agents: pods(agent, "a"), at: map[string]netip.AddrPort{"a": s.at}}
	got := watched(t, c, func(w *Watch) { w.reopen = time.Millisecond }, func(w *Watch) bool { return len(w.reading.Sources) == 1 && w.reading.Sources[0].Flows == 2 })
	if f := got.Sources[0].Fault; f != "it ended the stream of flows" || got.Absent != "" {
		t.Errorf("fault %q, absent %q", f, got.Absent)
	}
	if r := s.requests(); len(r) != 2 || !r[1].GetSince().AsTime().Equal(start.Add(time.Second)) {
		t.Errorf("asked again for %v, want flows from %s on", r, start.Add(time.Second))
	}
}

func TestWhatKeepsFlowsFromBeingReadIsSaid(t *testing.T) {
	refused, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := refused.Addr().(*net.TCPAddr).AddrPort()
	refused.Close()
	for _, tt := range []struct {
		name string
		at   func(*testing.T) netip.AddrPort
		want string // part of the fault
	}{
		{"nobody listens", func(*testing.T) netip.AddrPort { return nobody }, "connection refused"},
		{"it never answers", func(t *testing.T) netip.AddrPort {
			l, err := net.Listen("tcp", "127.0.0.1:0") // the kernel takes connections for it, and nobody reads them
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
			return l.Addr().(*net.TCPAddr).AddrPort()
		}, "no answer within 300ms"},
		{"it wants TLS", func(t *testing.T) netip.AddrPort {
			return serve(t, nil, grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{certificate(t)}}))).at
		}, "it wants TLS"},
		{"it wants a client's certificate", func(t *testing.T) netip.AddrPort {
			return serve(t, nil, grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{certificate(t)}, ClientAuth: tls.RequireAnyClientCert}))).at
		}, "it wants TLS"},
		{"it is something else", func(t *testing.T) netip.AddrPort { return empty(t) }, "unknown service observer.Observer"},
		{"it does not let us", func(t *testing.T) netip.AddrPort {
			return serve(t, nil, grpc.UnaryInterceptor(func(context.Context, any, *grpc.UnaryServerInfo, grpc.UnaryHandler) (any, error) {
				return nil, status.Error(codes.PermissionDenied, "not for you")
			})).at
		}, "not for you"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			noGoroutineLeft(t)
			c := cluster{agents: pods(agent, "a"), at: map[string]netip.AddrPort{"a": tt.at(t)}}
			got := watched(t, c, func(w *Watch) { w.answer = 300 * time.Millisecond }, func(w *Watch) bool {
				return len(w.reading.Sources) == 1 && w.reading.Sources[0].Fault != ""
			})
			if s := got.Sources[0]; s.Read || !strings.Contains(s.Fault, tt.want) {
				t.Errorf("fault %q, want one that says %q", s.Fault, tt.want)
			}
			if !strings.HasPrefix(got.Absent, "no Hubble server answered: kube-system/a on node-of-a: ") {
				t.Errorf("absent: %q", got.Absent)
			}
		})
	}
}

// empty is a server of gRPC that has no Observer.
func empty(t *testing.T) netip.AddrPort {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.Serve(l) })
	t.Cleanup(func() {
		s.Stop()
		wg.Wait()
	})
	return l.Addr().(*net.TCPAddr).AddrPort()
}

func certificate(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"node-a.default.hubble-grpc.cilium.io"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func TestAClusterWithoutHubble(t *testing.T) {
	forbidden := apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, "", errors.New("no role"))
	for name, tt := range map[string]struct {
		find func(context.Context, kind) ([]server, error)
		want string
	}{
		"no pod":          {cluster{}.find, "no running pod is labelled k8s-app=hubble-relay or k8s-app=cilium"},
		"no right to ask": {func(context.Context, kind) ([]server, error) { return nil, fmt.Errorf("listing pods: %w", forbidden) }, "forbidden"},
	} {
		noGoroutineLeft(t)
		w := newWatch(hubble.NewLog(), nil, start, cluster{}.connect)
		w.start(t.Context(), tt.find)
		poll(t, "the search", func() bool { w.mu.Lock(); defer w.mu.Unlock(); return w.reading.Absent != "" })
		if got := w.Stop(); !strings.Contains(got.Absent, tt.want) || len(got.Sources) > 0 {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestStopEndsASearchThatHangs(t *testing.T) {
	noGoroutineLeft(t)
	w := newWatch(hubble.NewLog(), nil, start, cluster{}.connect)
	began := make(chan struct{})
	w.start(t.Context(), func(ctx context.Context, _ kind) ([]server, error) {
		close(began)
		<-ctx.Done()
		return nil, ctx.Err()
	})
	<-began
	w.Stop()
}

func TestNoMoreAgentsAreReadThanTheAPIServerShouldCarry(t *testing.T) {
	noGoroutineLeft(t)
	var names []string
	for n := range mostAgents + 2 {
		names = append(names, fmt.Sprintf("a%03d", n))
	}
	got := watched(t, cluster{agents: pods(agent, names...)}, nil, func(w *Watch) bool {
		return len(w.reading.Sources) == len(names) && !slices.ContainsFunc(w.reading.Sources, func(s hubble.Source) bool { return s.Fault == "" })
	})
	if f := got.Sources[mostAgents+1].Fault; f != "no more than 100 agents are read, a hubble-relay speaks for all" {
		t.Errorf("the last one's fault is %q", f)
	}
}

func TestWhatIsTakenFromAFlow(t *testing.T) {
	tcp := hubble.Flow{
		Time: start.Add(time.Second), Node: "node-b", Verdict: hubble.Forwarded, Point: "TO_ENDPOINT", Direction: "INGRESS", Protocol: probes.TCP,
		Source: netip.MustParseAddrPort("10.0.0.1:12000"), Destination: netip.MustParseAddrPort("10.0.1.2:80"),
	}
	with := func(edit func(*hubble.Flow)) hubble.Flow {
		f := tcp
		edit(&f)
		return f
	}
	for _, tt := range []struct {
		name string
		edit func(*flow.Flow)
		want hubble.Flow // the zero value where the flow is passed over
	}{
		{"TCP", asItIs, tcp},
		{"UDP", func(f *flow.Flow) {
			f.L4 = &flow.Layer4{Protocol: &flow.Layer4_UDP{UDP: &flow.UDP{SourcePort: 12000, DestinationPort: 80}}}
		}, with(func(f *hubble.Flow) { f.Protocol = probes.UDP })},
		{"SCTP over IPv6", func(f *flow.Flow) {
			f.IP = &flow.IP{Source: "fd00::1", Destination: "fd00::2"}
			f.L4 = &flow.Layer4{Protocol: &flow.Layer4_SCTP{SCTP: &flow.SCTP{SourcePort: 12000, DestinationPort: 80}}}
		}, with(func(f *hubble.Flow) {
			f.Protocol, f.Source, f.Destination = probes.SCTP, netip.MustParseAddrPort("[fd00::1]:12000"), netip.MustParseAddrPort("[fd00::2]:80")
		})},
		{"a drop, of which nobody knows whether it was a reply", func(f *flow.Flow) {
			f.Verdict, f.DropReasonDesc, f.TraceObservationPoint, f.IsReply = flow.Verdict_DROPPED, flow.DropReason_POLICY_DENIED, 0, nil
		}, with(func(f *hubble.Flow) { f.Verdict, f.DropReason, f.Point = hubble.Dropped, "POLICY_DENIED", "" })},
		{"a reason and a verdict of a later release", func(f *flow.Flow) { f.Verdict, f.DropReasonDesc = 77, 7777 }, with(func(f *hubble.Flow) { f.Verdict = hubble.Unknown })},
		{"without a direction", func(f *flow.Flow) { f.TrafficDirection = 0 }, with(func(f *hubble.Flow) { f.Direction = "" })},
		{"a reply", func(f *flow.Flow) { f.IsReply = wrapperspb.Bool(true) }, hubble.Flow{}},
		{"a request of layer 7", func(f *flow.Flow) { f.Type = flow.FlowType_L7 }, hubble.Flow{}},
		{"a socket's", func(f *flow.Flow) { f.Type = flow.FlowType_SOCK }, hubble.Flow{}},
		{"an echo", func(f *flow.Flow) {
			f.L4 = &flow.Layer4{Protocol: &flow.Layer4_ICMPv4{ICMPv4: &flow.ICMPv4{Type: 8}}}
		}, hubble.Flow{}},
		{"without addresses", func(f *flow.Flow) { f.IP = nil }, hubble.Flow{}},
		{"with nothing", func(f *flow.Flow) { proto.Reset(f) }, hubble.Flow{}},
	} {
		got, ok := read(packet(tt.edit).GetFlow())
		if wanted := tt.want != (hubble.Flow{}); ok != wanted || ok && got != tt.want {
			t.Errorf("%s: %v %+v, want %v %+v", tt.name, ok, got, wanted, tt.want)
		}
	}
}

func TestEveryVerdictOfTheAPIIsKnownByItsName(t *testing.T) {
	for _, name := range flow.Verdict_name {
		var read hubble.Verdict
		if err := read.UnmarshalText([]byte(name)); err != nil || hubble.VerdictOf(name) != hubble.Verdict(name) {
			t.Errorf("%s: taken as %s, read as %s, %v", name, hubble.VerdictOf(name), read, err)
		}
	}
}

func TestTheRoleIsWhatReadingNeeds(t *testing.T) {
	pod := func(name, app string, phase corev1.PodPhase) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "kube-system", Labels: map[string]string{"k8s-app": app}}, Spec: corev1.PodSpec{NodeName: "node-" + name}, Status: corev1.PodStatus{Phase: phase}}
	}
	client := fake.NewClientset(pod("b", "cilium", corev1.PodRunning), pod("a", "cilium", corev1.PodRunning), pod("c", "cilium", corev1.PodPending), pod("d", "coredns", corev1.PodRunning))
	got, err := find(t.Context(), client, agent)
	if err != nil {
		t.Fatal(err)
	}
	want := []server{{agent, "kube-system", "a", "node-a"}, {agent, "kube-system", "b", "node-b"}}
	if !slices.Equal(got, want) {
		t.Errorf("found %v, want %v", got, want)
	}
	var role rbacv1.ClusterRole
	if err := yaml.UnmarshalStrict([]byte(Role), &role); err != nil {
		t.Fatal(err)
	}
	var granted []string
	for _, r := range role.Rules {
		for _, verb := range r.Verbs {
			granted = append(granted, verb+" "+strings.Join(r.Resources, ","))
		}
	}
	asked := []string{"get pods/portforward", "create pods/portforward"} // kube.OpenTunnel, over WebSocket and over SPDY
	for _, a := range client.Actions() {
		asked = append(asked, a.GetVerb()+" "+a.GetResource().Resource)
	}
	slices.Sort(granted)
	slices.Sort(asked)
	if diff := cmp.Diff(granted, asked); diff != "" {
		t.Errorf("requests (-granted +asked):\n%s", diff)
	}
}
