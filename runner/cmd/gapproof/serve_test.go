package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	cryptorand "crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"math/rand"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/gapproof/gapproof/images"
)

// serveSeed makes the random image the same in every run.
const serveSeed = 20261125

// smallLab is a lab directory with one image, gapproof.example/one:v1.
func smallLab(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	path, err := layout.Write(images.LayoutDir(dir), empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	image, err := random.Image(1024, 1, random.WithSource(rand.NewSource(serveSeed)))
	if err != nil {
		t.Fatal(err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config.OS, config.Architecture = "linux", "amd64"
	if image, err = mutate.ConfigFile(image, config); err != nil {
		t.Fatal(err)
	}
	index := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{
		Add: image, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}},
	})
	if err := path.AppendIndex(index); err != nil {
		t.Fatal(err)
	}
	digest, err := index.Digest()
	if err != nil {
		t.Fatal(err)
	}
	lock := fmt.Sprintf(`{"version": %d, "platform": "linux/amd64", "images": [{"name": "gapproof.example/one", "tag": "v1", "digest": %q, "size": 1, "component": "one"}]}`,
		images.LockVersion, digest)
	if err := os.WriteFile(filepath.Join(dir, "lock.json"), []byte(lock), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// serveCert writes a certificate of these names and addresses, its own authority, as tls.crt and tls.key of a folder.
func serveCert(t *testing.T, from, to time.Time, hosts ...string) (dir string, pool *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), cryptorand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "a site"}, NotBefore: from, NotAfter: to, IsCA: true, BasicConstraintsValid: true}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
	der, err := x509.CreateCertificate(cryptorand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir = t.TempDir()
	for name, block := range map[string]*pem.Block{"tls.crt": {Type: "CERTIFICATE", Bytes: der}, "tls.key": {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pool = x509.NewCertPool()
	pool.AppendCertsFromPEM(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	return dir, pool
}

func TestWhatNodesAreToldToCallTheServer(t *testing.T) {
	now := time.Now()
	site, _ := serveCert(t, now.Add(-time.Hour), now.Add(time.Hour), "mirror.site", "*.wild.site", "10.0.0.5", "fd00::5")
	with := func(o serveOptions) serveOptions {
		o.cert, o.key = filepath.Join(site, "tls.crt"), filepath.Join(site, "tls.key")
		return o
	}
	for name, tc := range map[string]struct {
		o          serveOptions
		now        time.Time
		host       string
		fault, try string
	}{
		"the address of --listen":             {o: serveOptions{listen: "10.0.0.5:5000", plain: true}, host: "10.0.0.5"},
		"the name of --listen":                {o: serveOptions{listen: "localhost:5000"}, host: "localhost"},
		"the name of --listen, certified":     {o: with(serveOptions{listen: "mirror.site:5000"}), host: "mirror.site"},
		"an address of IPv6, certified":       {o: with(serveOptions{listen: "[fd00::5]:5000"}), host: "fd00::5"},
		"another name":                        {o: with(serveOptions{listen: ":5000", advertise: "a.wild.site"}), host: "a.wild.site"},
		"every address":                       {o: serveOptions{listen: "0.0.0.0:5000", plain: true}, fault: "does not say how nodes call this host", try: "--advertise HOST --listen 0.0.0.0:5000"},
		"every address, in short":             {o: serveOptions{listen: ":5000", plain: true}, fault: "does not say how nodes call this host"},
		"every address of IPv6":               {o: serveOptions{listen: "[::]:5000", plain: true}, fault: "does not say how nodes call this host"},
		"an address with a zone":              {o: serveOptions{listen: "[fe80::1%lo]:5000", plain: true}, fault: "does not say how nodes call this host"},
		"advertising a port":                  {o: serveOptions{listen: ":5000", plain: true, advertise: "mirror.site:5000"}, fault: `--advertise: "mirror.site:5000" is no name`},
		"advertising every address":           {o: serveOptions{listen: ":5000", plain: true, advertise: "::"}, fault: `--advertise: "::" is no name`},
		"advertising what ends a TOML string": {o: serveOptions{listen: ":5000", plain: true, advertise: "a\"\nb"}, fault: "--advertise: "},
		"an address that is not certified":    {o: with(serveOptions{listen: "127.0.0.1:5000"}), fault: "nodes would refuse it", try: "--advertise mirror.site --listen 127.0.0.1:5000"},
		"a name that is not certified":        {o: with(serveOptions{listen: ":5000", advertise: "other.site"}), fault: "nodes would refuse it"},
		"a certificate of the past":           {o: with(serveOptions{listen: "mirror.site:5000"}), now: now.Add(2 * time.Hour), fault: "it is valid from "},
		"a certificate of the future":         {o: with(serveOptions{listen: "mirror.site:5000"}), now: now.Add(-2 * time.Hour), fault: "it is valid from "},
	} {
		t.Run(name, func(t *testing.T) {
			if tc.now.IsZero() {
				tc.now = now
			}
			got, err := tc.o.check(tc.now)
			if tc.fault == "" {
				if err != nil || got.host != tc.host {
					t.Errorf("got %q, %v; want %q", got.host, err, tc.host)
				}
				return
			}
			var h hinted
			if err == nil || !strings.Contains(err.Error(), tc.fault) || !errors.As(err, &h) || !strings.Contains(h.Hint(), tc.try) {
				t.Errorf("got error %v with hint %q, want %q with %q", err, h.hint, tc.fault, tc.try)
			}
		})
	}
}

func TestBundleServeCallsItselfAsItsCertificateDoes(t *testing.T) {
	dir, pool := serveCert(t, time.Now().Add(-time.Hour), time.Now().Add(time.Hour), "mirror.site")
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	reads, out := io.Pipe()
	var said bytes.Buffer
	code := make(chan int, 1)
	go func() {
		code <- run(ctx, []string{"bundle", "serve", "--lab", smallLab(t), "--listen", "127.0.0.1:0", "--advertise", "mirror.site",
			"--tls-cert", filepath.Join(dir, "tls.crt"), "--tls-key", filepath.Join(dir, "tls.key")}, streams{out: out, err: &said})
		out.Close()
	}()
	form := regexp.MustCompile(`(?s)^# \S+\nserver = "https://mirror\.site:([1-9][0-9]*)"\ncapabilities = \["pull", "resolve"\]\n# .*--tls-cert.*\nca = "ca\.crt"\n$`)
	buffer := make([]byte, 4096)
	n, err := reads.Read(buffer) // it is printed at once
	if err != nil {
		t.Fatalf("it ended with exit code %d: %s", <-code, &said)
	}
	port := form.FindSubmatch(buffer[:n])
	if port == nil {
		t.Fatalf("it printed\n%s\nwant the form %s", buffer[:n], form)
	}
	ref, err := name.ParseReference("mirror.site:" + string(port[1]) + "/gapproof.example/one:v1")
	if err != nil {
		t.Fatal(err)
	}
	// The name leads to the server, and its certificate has to be of that name.
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, "127.0.0.1:"+string(port[1]))
	}}
	defer transport.CloseIdleConnections()
	index, err := remote.Index(ref, remote.WithTransport(transport))
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(index); err != nil {
		t.Errorf("pulling: %v", err)
	}
	interrupt()
	if got := <-code; got != exitPass {
		t.Errorf("exit code %d after the interrupt, want %d", got, exitPass)
	}
}

func TestBundleServeAnswersPullsScrapesAndItsInterrupt(t *testing.T) {
	access := filepath.Join(t.TempDir(), "access.jsonl")
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	says, say := io.Pipe()
	var out bytes.Buffer
	code := make(chan int, 1)
	go func() {
		code <- run(ctx, []string{"bundle", "serve", "--lab", smallLab(t), "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--access-log", access},
			streams{out: &out, err: say})
		say.Close()
	}()
	// Both addresses are on stderr before anything is answered.
	var said strings.Builder
	metrics, registry := regexp.MustCompile(`http://\S+/metrics`), regexp.MustCompile(`on http://(\S+) until`)
	buffer := make([]byte, 4096)
	for !metrics.MatchString(said.String()) || !registry.MatchString(said.String()) {
		n, err := says.Read(buffer)
		if err != nil {
			t.Fatalf("it ended with exit code %d: %s", <-code, said.String())
		}
		said.Write(buffer[:n])
	}
	go func() { _, _ = io.Copy(io.Discard, says) }()

	address := registry.FindStringSubmatch(said.String())[1]
	ref, err := name.ParseReference(address + "/gapproof.example/one:v1")
	if err != nil {
		t.Fatal(err)
	}
	index, err := remote.Index(ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(index); err != nil {
		t.Errorf("pulling: %v", err)
	}
	res, err := http.Get(metrics.FindString(said.String()))
	if err != nil {
		t.Fatal(err)
	}
	scraped, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if !regexp.MustCompile(`gapproof_mirror_requests_total\{kind="blob",result="served"\} [1-9]`).Match(scraped) {
		t.Errorf("the metrics do not count the pulled blobs:\n%s", scraped)
	}
	interrupt()
	if got := <-code; got != exitPass {
		t.Errorf("exit code %d after the interrupt, want %d", got, exitPass)
	}
	if want := `server = "http://` + address + `"`; !strings.Contains(out.String(), want) {
		t.Errorf("stdout has no %s:\n%s", want, &out)
	}
	log, err := os.ReadFile(access)
	if err != nil || !strings.Contains(string(log), `"reference":"v1"`) {
		t.Errorf("the access log has not the pull: %v\n%s", err, log)
	}
}
