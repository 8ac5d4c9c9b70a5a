package observer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/cilium/cilium/api/v1/flow"
	api "github.com/cilium/cilium/api/v1/observer"
	relayapi "github.com/cilium/cilium/api/v1/relay"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/runner/hubble"
	"github.com/gapproof/gapproof/runner/internal/kube"
)

const (
	// answerLimit bounds finding the servers, and for each the way to it and its first answer. A world takes as long to come up.
	answerLimit = 10 * time.Second
	// tlsLimit bounds finding out whether a server that does not speak plainly wants TLS.
	tlsLimit = 3 * time.Second
)

// client is a connection to one server that has answered.
type client struct {
	conn    *grpc.ClientConn
	way     *noting
	version string
}

// open connects to a server and asks how it is.
func (w *Watch) open(ctx context.Context, s server) (_ *client, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, w.answer, fmt.Errorf("no answer within %s", w.answer))
	defer cancel()
	opened, err := w.connect(ctx, s)
	if err != nil {
		return nil, err
	}
	c := &client{way: &noting{way: opened}}
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	c.conn, err = grpc.NewClient("passthrough:///"+s.String(), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithUserAgent(kube.Manager),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return c.way.Dial(ctx) }))
	if err != nil {
		return nil, fmt.Errorf("asking Hubble: %w", err)
	}
	answer, err := api.NewObserverClient(c.conn).ServerStatus(ctx, &api.ServerStatusRequest{})
	if err != nil {
		return nil, c.words(ctx, err)
	}
	c.version = answer.GetVersion()
	return c, nil
}

// close ends the connection and the way to the server.
func (c *client) close() {
	if c.conn != nil {
		c.conn.Close()
	}
	c.way.way.Close()
}

// words say why a call failed: what happened on the way is more to the point than what gRPC makes of it.
func (c *client) words(ctx context.Context, err error) error {
	switch {
	case context.Cause(ctx) != nil:
		return fmt.Errorf("asking Hubble: %w", context.Cause(ctx))
	case status.Code(err) == codes.Unavailable && c.wantsTLS(ctx):
		return errors.New("asking Hubble: it wants TLS, for which this run has no certificate")
	case c.way.noted() != nil:
		return fmt.Errorf("asking Hubble: %w", c.way.noted())
	default:
		return fmt.Errorf("asking Hubble: %s", status.Convert(err).Message())
	}
}

// wantsTLS tells whether the server shakes hands when it is spoken to in TLS. Nothing is sent to it thereafter, so it need not be who it
// says it is.
func (c *client) wantsTLS(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, tlsLimit)
	defer cancel()
	conn, err := c.way.way.Dial(ctx)
	if err != nil {
		return false
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	err = tls.Client(conn, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}).Handshake()
	var alert tls.AlertError
	return err == nil || errors.As(err, &alert)
}

// flows reads requests' flows until the stream ends, and says why it did and when the last flow was seen. It calls each for every flow, lost
// with how many events the server lost, and fault with what it says of other nodes, all from the caller's goroutine.
func (c *client) flows(ctx context.Context, namespaces []string, since time.Time, each func(hubble.Flow), lost func(uint64), fault func(string)) (last time.Time, err error) {
	stream, err := api.NewObserverClient(c.conn).GetFlows(ctx, request(namespaces, since))
	for err == nil {
		var r *api.GetFlowsResponse
		if r, err = stream.Recv(); err != nil {
			break
		}
		switch {
		case r.GetLostEvents() != nil:
			lost(r.GetLostEvents().GetNumEventsLost())
		case r.GetNodeStatus() != nil:
			if s := r.GetNodeStatus(); s.GetStateChange() == relayapi.NodeState_NODE_UNAVAILABLE || s.GetStateChange() == relayapi.NodeState_NODE_ERROR {
				fault(strings.TrimSpace(fmt.Sprintf("the relay cannot reach %s: %s", strings.Join(s.GetNodeNames(), ", "), s.GetMessage())))
			}
		case r.GetFlow() != nil:
			if f, ok := read(r.GetFlow()); ok {
				last = f.Time
				each(f)
			}
		}
	}
	if errors.Is(err, io.EOF) {
		return last, errors.New("it ended the stream of flows")
	}
	return last, c.words(ctx, err)
}

// request asks for the flows of which one end is a pod of the namespaces, but for replies.
func request(namespaces []string, since time.Time) *api.GetFlowsRequest {
	var pods []string
	for _, ns := range namespaces {
		pods = append(pods, ns+"/") // every pod of it
	}
	return &api.GetFlowsRequest{
		Follow: true, Since: timestamppb.New(since),
		Whitelist: []*flow.FlowFilter{{SourcePod: pods}, {DestinationPod: pods}},
		Blacklist: []*flow.FlowFilter{{Reply: []bool{true}}},
	}
}

// read takes from a flow what counts; false for one that is no packet of a request, or of no protocol whose ports tell attempts apart.
func read(f *flow.Flow) (hubble.Flow, bool) {
	out := hubble.Flow{Time: f.GetTime().AsTime(), Node: f.GetNodeName(), Verdict: hubble.VerdictOf(f.GetVerdict().String())}
	if f.GetType() != flow.FlowType_L3_L4 || f.GetIsReply().GetValue() {
		return out, false
	}
	if d := f.GetTrafficDirection(); d != flow.TrafficDirection_TRAFFIC_DIRECTION_UNKNOWN {
		out.Direction = d.String()
	}
	if p := f.GetTraceObservationPoint(); p != flow.TraceObservationPoint_UNKNOWN_POINT {
		out.Point = p.String()
	}
	if f.GetVerdict() == flow.Verdict_DROPPED {
		out.DropReason = f.GetDropReasonDesc().String()
	}
	var source, destination uint32
	switch l4 := f.GetL4(); {
	case l4.GetTCP() != nil:
		out.Protocol, source, destination = probes.TCP, l4.GetTCP().GetSourcePort(), l4.GetTCP().GetDestinationPort()
	case l4.GetUDP() != nil:
		out.Protocol, source, destination = probes.UDP, l4.GetUDP().GetSourcePort(), l4.GetUDP().GetDestinationPort()
	case l4.GetSCTP() != nil:
		out.Protocol, source, destination = probes.SCTP, l4.GetSCTP().GetSourcePort(), l4.GetSCTP().GetDestinationPort()
	default:
		return out, false
	}
	from, err := netip.ParseAddr(f.GetIP().GetSource())
	to, err2 := netip.ParseAddr(f.GetIP().GetDestination())
	if errors.Join(err, err2) != nil {
		return out, false
	}
	out.Source, out.Destination = netip.AddrPortFrom(from, uint16(source)), netip.AddrPortFrom(to, uint16(destination))
	return out, true
}

// noting is a way that remembers what went wrong on it, in the words of whoever knows best, as a kubelet that finds no listener in the pod.
type noting struct {
	way
	mu  sync.Mutex
	err error
}

// Dial opens a connection whose errors are remembered.
func (n *noting) Dial(ctx context.Context) (net.Conn, error) {
	conn, err := n.way.Dial(ctx)
	if err != nil {
		n.note(err)
		return nil, err
	}
	return notingConn{conn, n}, nil
}

func (n *noting) note(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.err = err
}

func (n *noting) noted() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.err
}

type notingConn struct {
	net.Conn
	to *noting
}

// Read reads; an end is no error worth remembering, and neither is a connection that was closed here.
func (c notingConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
		c.to.note(err)
	}
	return n, err
}
