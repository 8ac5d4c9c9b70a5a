package kube

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/streaming/pkg/httpstream"
)

// faultLimit bounds what is kept of a kubelet's message, which is one line.
const faultLimit = 4096

// ErrTunnelLost reports that the port-forward's connection ended: pod gone, kubelet or API server restarted.
var ErrTunnelLost = errors.New("port-forward lost")

// Tunnel is one port-forward connection to one port of one pod's loopback. Dial may be called concurrently. The zero value
// is not usable; see [OpenTunnel].
type Tunnel struct {
	pod  string
	port uint16
	conn httpstream.Connection
	next atomic.Int64
}

// OpenTunnel connects. WebSocket first; API servers before 1.31 and proxies that refuse the upgrade get SPDY, as kubectl does.
// The caller closes the Tunnel.
func OpenTunnel(ctx context.Context, config *rest.Config, client rest.Interface, namespace, pod string, port uint16) (*Tunnel, error) {
	url := client.Post().Resource("pods").Namespace(namespace).Name(pod).SubResource("portforward").URL()
	transport, upgrader, err := spdy.RoundTripperFor(config)
	if err != nil {
		return nil, fmt.Errorf("opening a port-forward to %s/%s: %w", namespace, pod, err)
	}
	overSPDY := spdy.NewDialerForStreaming(upgrader, &http.Client{Transport: transport}, http.MethodPost, url)
	overWebSocket, err := portforward.NewSPDYOverWebsocketDialerForStreaming(url, config)
	if err != nil {
		return nil, fmt.Errorf("opening a port-forward to %s/%s: %w", namespace, pod, err)
	}
	dialer := portforward.NewFallbackDialerForStreaming(overWebSocket, overSPDY, func(err error) bool {
		return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)
	})

	type dialed struct {
		conn httpstream.Connection
		err  error
	}
	done := make(chan dialed, 1)
	go func() { // the dialers take no context; an answer nobody waits for any more is closed
		conn, _, err := dialer.Dial(portforward.PortForwardProtocolV1Name)
		done <- dialed{conn, err}
	}()
	select {
	case d := <-done:
		if d.err != nil {
			return nil, fmt.Errorf("opening a port-forward to %s/%s: %w", namespace, pod, d.err)
		}
		return &Tunnel{pod: namespace + "/" + pod, port: port, conn: d.conn}, nil
	case <-ctx.Done():
		go func() {
			if d := <-done; d.conn != nil {
				d.conn.Close()
			}
		}()
		return nil, fmt.Errorf("opening a port-forward to %s/%s: %w", namespace, pod, context.Cause(ctx))
	}
}

// Dial opens one more stream to the port. The error matches [ErrTunnelLost] once the connection has ended.
func (t *Tunnel) Dial(ctx context.Context) (net.Conn, error) {
	select {
	case <-t.conn.CloseChan():
		return nil, fmt.Errorf("dialling %s port %d: %w", t.pod, t.port, ErrTunnelLost)
	case <-ctx.Done():
		return nil, fmt.Errorf("dialling %s port %d: %w", t.pod, t.port, context.Cause(ctx))
	default:
	}
	headers := http.Header{}
	headers.Set(corev1.PortHeader, strconv.Itoa(int(t.port)))
	headers.Set(corev1.PortForwardRequestIDHeader, strconv.FormatInt(t.next.Add(1), 10))
	headers.Set(corev1.StreamType, corev1.StreamTypeError)
	faults, err := t.conn.CreateStream(headers)
	if err != nil {
		return nil, fmt.Errorf("dialling %s port %d: %w: %w", t.pod, t.port, ErrTunnelLost, err)
	}
	faults.Close() // we send nothing on it
	headers.Set(corev1.StreamType, corev1.StreamTypeData)
	data, err := t.conn.CreateStream(headers)
	if err != nil {
		t.conn.RemoveStreams(faults)
		return nil, fmt.Errorf("dialling %s port %d: %w: %w", t.pod, t.port, ErrTunnelLost, err)
	}
	s := &stream{Stream: data, tunnel: t, faults: faults, told: make(chan struct{})}
	go s.watch()
	return s, nil
}

// Lost is closed when the connection has ended.
func (t *Tunnel) Lost() <-chan bool { return t.conn.CloseChan() }

// Close ends every stream and the connection.
func (t *Tunnel) Close() error { return t.conn.Close() }

// stream is one data stream as a net.Conn.
type stream struct {
	httpstream.Stream
	tunnel *Tunnel
	faults httpstream.Stream

	told  chan struct{} // closed once fault is final
	fault string

	once     sync.Once
	mu       sync.Mutex
	deadline *time.Timer
}

// watch reads what the kubelet says went wrong, such as a refused connection inside the pod; it ends with the stream.
func (s *stream) watch() {
	message, err := io.ReadAll(io.LimitReader(s.faults, faultLimit))
	if err == nil && len(message) > 0 {
		s.fault = strings.TrimSpace(string(message))
	}
	close(s.told)
	if s.fault != "" {
		s.Reset() // nothing will come any more, and nothing else would wake a reader
	}
}

// Read reads, and adds the kubelet's own words where it had any.
func (s *stream) Read(p []byte) (int, error) {
	n, err := s.Stream.Read(p)
	if err != nil {
		select {
		case <-s.told:
			if s.fault != "" {
				return n, fmt.Errorf("reading from %s: %s", s.tunnel.pod, s.fault)
			}
		default:
		}
	}
	return n, err
}

// Close ends the stream in both directions; the Tunnel stays.
func (s *stream) Close() error {
	var err error
	s.once.Do(func() {
		s.SetDeadline(time.Time{})
		err = s.Reset()
		s.faults.Reset()
		s.tunnel.conn.RemoveStreams(s.Stream, s.faults)
	})
	return err
}

type tunnelAddr string

func (tunnelAddr) Network() string  { return "port-forward" }
func (a tunnelAddr) String() string { return string(a) }

func (s *stream) LocalAddr() net.Addr { return tunnelAddr("runner") }
func (s *stream) RemoteAddr() net.Addr {
	return tunnelAddr(s.tunnel.pod + ":" + strconv.Itoa(int(s.tunnel.port)))
}

// SetDeadline ends the stream when t has passed: the protocol below has no deadlines of its own. A zero t means none.
func (s *stream) SetDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.deadline != nil {
		s.deadline.Stop()
		s.deadline = nil
	}
	if !t.IsZero() {
		s.deadline = time.AfterFunc(time.Until(t), func() { s.Reset() })
	}
	return nil
}

// SetReadDeadline is SetDeadline: a stream cannot time out in one direction alone.
func (s *stream) SetReadDeadline(t time.Time) error { return s.SetDeadline(t) }

// SetWriteDeadline is SetDeadline: a stream cannot time out in one direction alone.
func (s *stream) SetWriteDeadline(t time.Time) error { return s.SetDeadline(t) }
