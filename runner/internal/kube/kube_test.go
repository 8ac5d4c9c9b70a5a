package kube

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

func config(t *testing.T, server string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	text := `{apiVersion: v1, kind: Config, current-context: c, users: [{name: u, user: {}}],
  contexts: [{name: c, context: {cluster: c, user: u}}], clusters: [{name: c, cluster: {server: "` + server + `"}}]}`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestLoadingTellsAWrongFileFromASilentServer(t *testing.T) {
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, `{"gitVersion":"v1.37.2"}`) }))
	defer api.Close()
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, `<html>`) }))
	defer other.Close()
	c, err := Load(t.Context(), config(t, api.URL), "")
	if err != nil || c.Version != "v1.37.2" || c.Context != "c" {
		t.Errorf("%+v, %v; want v1.37.2 in context c", c, err)
	}
	if _, err := Load(t.Context(), filepath.Join(t.TempDir(), "none"), ""); !errors.Is(err, ErrConfig) {
		t.Errorf("no file: %v, want ErrConfig", err)
	}
	if _, err := Load(t.Context(), config(t, api.URL), "other"); !errors.Is(err, ErrConfig) {
		t.Errorf("no such context: %v, want ErrConfig", err)
	}
	if _, err := Load(t.Context(), config(t, "http://127.0.0.1:1"), ""); !errors.Is(err, ErrUnreachable) {
		t.Errorf("nobody listens: %v, want ErrUnreachable", err)
	}
	if _, err := Load(t.Context(), config(t, other.URL), ""); err == nil || !strings.Contains(err.Error(), "version") {
		t.Errorf("not an API server: %v, want a word about its version", err)
	}
}

func TestPollingReportsTheLastStateOrTheCause(t *testing.T) {
	_, err := Poll(t.Context(), "rain", time.Millisecond, 20*time.Millisecond, func(context.Context) (bool, string, error) { return false, "dry", nil })
	if err == nil || !strings.Contains(err.Error(), "waiting for rain") || !strings.Contains(err.Error(), "last state: dry") {
		t.Errorf("error %v, want what was waited for and the last state", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("interrupted")
	cancel(why)
	if _, err := Poll(ctx, "rain", time.Millisecond, time.Second, func(context.Context) (bool, string, error) { return false, "", nil }); !errors.Is(err, why) {
		t.Errorf("error %v, want the cause", err)
	}
	boom := errors.New("boom")
	if _, err := Poll(t.Context(), "rain", time.Millisecond, time.Second, func(context.Context) (bool, string, error) { return false, "", boom }); !errors.Is(err, boom) {
		t.Errorf("error %v, want the condition's", err)
	}
}

// tunnelTo is a Tunnel over a real SPDY connection whose far end treats streams as a kubelet does: handle gets each data stream, and
// says what goes to its error stream.
func tunnelTo(t *testing.T, handle func(httpstream.Stream) string) *Tunnel {
	t.Helper()
	near, far := net.Pipe()
	faults := map[string]httpstream.Stream{}
	server, err := spdy.NewServerConnection(far, func(s httpstream.Stream, replied <-chan struct{}) error {
		id := s.Headers().Get(corev1.PortForwardRequestIDHeader)
		if s.Headers().Get(corev1.StreamType) == corev1.StreamTypeError {
			faults[id] = s // the data stream of the same request comes after it, on the same goroutine
			return nil
		}
		fault := faults[id]
		go func() {
			<-replied
			io.WriteString(fault, handle(s))
			fault.Close()
		}()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	client, err := spdy.NewClientConnection(near)
	if err != nil {
		t.Fatal(err)
	}
	tunnel := &Tunnel{pod: "x/a", port: 4370, conn: client}
	t.Cleanup(func() { tunnel.Close() })
	return tunnel
}

func TestOneTunnelCarriesManyStreams(t *testing.T) {
	tunnel := tunnelTo(t, func(s httpstream.Stream) string {
		io.Copy(s, s)
		s.Close()
		return ""
	})
	for range 3 {
		c, err := tunnel.Dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(c, "hello"); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 5)
		if _, err := io.ReadFull(c, got); err != nil || string(got) != "hello" {
			t.Errorf("read %q, %v; want hello", got, err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestTheKubeletsOwnWordsReachTheReader(t *testing.T) {
	tunnel := tunnelTo(t, func(s httpstream.Stream) string { return "connection refused inside the pod\n" })
	c, err := tunnel.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, err = c.Read(make([]byte, 1))
	if err == nil || !strings.Contains(err.Error(), "connection refused inside the pod") {
		t.Errorf("error %v, want the kubelet's words", err)
	}
}

func TestADeadlineWakesAReader(t *testing.T) {
	tunnel := tunnelTo(t, func(s httpstream.Stream) string { <-t.Context().Done(); return "" })
	c, err := tunnel.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("read ended well, want an error after the deadline")
	}
}

func TestALostTunnelSaysSo(t *testing.T) {
	tunnel := tunnelTo(t, func(httpstream.Stream) string { return "" })
	tunnel.Close()
	<-tunnel.Lost()
	if _, err := tunnel.Dial(t.Context()); !errors.Is(err, ErrTunnelLost) {
		t.Errorf("error %v, want ErrTunnelLost", err)
	}
}
