package mirror

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

func TestEveryAnswerIsCountedOnceAndEverySeriesStartsAtZero(t *testing.T) {
	registry := prometheus.NewRegistry()
	m := newMirror(t, newLab(t, pause), Options{Metrics: registry})
	if n := testutil.CollectAndCount(m.metrics.requests); n != 12 {
		t.Errorf("%d series of requests before the first one, want 12: four kinds, three results", n)
	}
	get(t, m, http.MethodGet, "/v2/")
	_, body := get(t, m, http.MethodGet, "/v2/pause/manifests/3.10?ns=registry.k8s.io")
	get(t, m, http.MethodGet, "/v2/busybox/manifests/latest?ns=docker.io")
	_, refusal := get(t, m, http.MethodPut, "/v2/pause/manifests/3.10?ns=registry.k8s.io")
	if len(refusal) == 0 {
		t.Fatal("a write was refused without a word")
	}
	for _, c := range []struct {
		kind, result string
		want         float64
	}{{"base", served, 1}, {"manifest", served, 1}, {"manifest", refused, 2}, {"blob", served, 0}, {"manifest", failed, 0}} {
		if got := testutil.ToFloat64(m.metrics.requests.WithLabelValues(c.kind, c.result)); got != c.want {
			t.Errorf("requests of kind %s that were %s: %g, want %g", c.kind, c.result, got, c.want)
		}
	}
	if got := testutil.ToFloat64(m.metrics.sent.WithLabelValues("manifest")); got < float64(len(body)+len(refusal)) {
		t.Errorf("%g bytes sent for manifests, want at least the %d of the manifest and the refusal", got, len(body)+len(refusal))
	}
	problems, err := testutil.GatherAndLint(registry)
	if err != nil || len(problems) > 0 {
		t.Errorf("linting the metrics: %v, %v", problems, err)
	}
	if _, err := newMetrics(registry); err == nil {
		t.Error("two mirrors registered with one registry: their counts would be one")
	}
}

func TestARemoteClientPullsOverTLS(t *testing.T) {
	l := newLab(t, pause)
	server := httptest.NewTLSServer(newMirror(t, l, Options{}))
	defer server.Close()
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	pull := func(transport http.RoundTripper) error {
		t.Helper()
		ref, err := name.ParseReference(strings.TrimPrefix(server.URL, "https://") + "/registry.k8s.io/pause:3.10")
		if err != nil {
			t.Fatal(err)
		}
		index, err := remote.Index(ref, remote.WithTransport(transport))
		if err != nil {
			return err
		}
		return validate.Index(index)
	}
	if err := pull(&http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}); err != nil {
		t.Errorf("pulling over TLS: %v", err)
	}
	if err := pull(&http.Transport{TLSClientConfig: &tls.Config{RootCAs: x509.NewCertPool()}}); err == nil {
		t.Error("a client that does not trust the certificate pulled")
	}
}
