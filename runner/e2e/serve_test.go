package e2e

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/crane"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// served is an image that the lab has and no node of the tests' cluster.
const served = "gapproof.dev/cni-none:lab"

func TestBundleServeFeedsContainerdAndCrane(t *testing.T) {
	dir := t.TempDir()
	gateway := strings.TrimSpace(sh(t, "", "docker", "network", "inspect", "gapproof-"+clusterName, "--format", "{{(index .IPAM.Config 0).Gateway}}"))
	pool := certificate(t, dir, net.ParseIP(gateway))
	// A site keeps what the server prints as the hosts.toml of its nodes; the port is of the kernel's choice.
	printed, err := os.Create(filepath.Join(dir, "hosts.toml"))
	if err != nil {
		t.Fatal(err)
	}
	defer printed.Close()
	serve := gapproof(t, "bundle", "serve", "--listen", net.JoinHostPort(gateway, "0"), "--tls-cert", filepath.Join(dir, "tls.crt"),
		"--tls-key", filepath.Join(dir, "tls.key"), "--access-log", filepath.Join(dir, "access.jsonl"))
	serve.Cmd.Stdout = printed
	if err := serve.Start(); err != nil {
		t.Fatal(err)
	}
	stop := func() error {
		serve.Process.Signal(syscall.SIGINT)
		return serve.Wait()
	}
	ended := false
	t.Cleanup(func() {
		if !ended {
			_ = stop()
		}
	})
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, DisableKeepAlives: true}}
	var hosts, address string
	eventually(t, "the server answers over TLS", func() (bool, string) {
		said, err := os.ReadFile(printed.Name())
		if err != nil {
			return false, err.Error()
		}
		server := regexp.MustCompile(`(?m)^server = "https://(.+)"\n(?s:.+)^ca = "ca.crt"\n\z`).FindSubmatch(said)
		if server == nil {
			return false, fmt.Sprintf("it printed %q", said)
		}
		hosts, address = string(said), string(server[1])
		resp, err := client.Get("https://" + address + "/v2/")
		if err != nil {
			return false, err.Error()
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK, resp.Status
	})

	// The containerd of a node, told by what the server printed, and nothing else, where to pull from.
	const node, hostsDir = "gapproof-" + clusterName + "-worker", "/tmp/serve-hosts"
	authority, err := os.ReadFile(filepath.Join(dir, "tls.crt"))
	if err != nil {
		t.Fatal(err)
	}
	sh(t, "", "docker", "exec", node, "mkdir", "-p", hostsDir+"/_default")
	write := func(content, file string) { // docker cp does not see the node's tmpfs
		sh(t, content, "docker", "exec", "-i", node, "sh", "-c", "cat > "+hostsDir+"/_default/"+file)
	}
	write(string(authority), "ca.crt")
	write(hosts, "hosts.toml")
	sh(t, "", "docker", "exec", node, "ctr", "--namespace", "served", "images", "pull", "--hosts-dir", hostsDir, served)
	pulled := sh(t, "", "docker", "exec", node, "ctr", "--namespace", "served", "images", "list")

	image, err := crane.Pull(address+"/"+served, crane.WithTransport(client.Transport))
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(image); err != nil { // reads every blob and holds it against its digest
		t.Errorf("what crane pulled: %v", err)
	}
	digest, err := crane.Digest(address+"/"+served, crane.WithTransport(client.Transport)) // the index's, which the image is one of
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(pulled, digest) {
		t.Errorf("containerd has another image than crane, which has %s:\n%s", digest, pulled)
	}
	if _, err := crane.Pull(address+"/gapproof.dev/nobody:lab", crane.WithTransport(client.Transport)); err == nil {
		t.Error("an image that the lock does not list was served")
	}

	ended = true
	if err := stop(); err != nil {
		t.Errorf("after an interrupt: %v: %s", err, &serve.stderr)
	}
	log, err := os.ReadFile(filepath.Join(dir, "access.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	for who, asked := range map[string]string{"containerd": `"ns":"gapproof.dev","repository":"cni-none"`, "crane": `"repository":"gapproof.dev/cni-none"`} {
		if !bytes.Contains(log, []byte(asked)) {
			t.Errorf("the access log has no request of %s: it lacks %s:\n%s", who, asked, log)
		}
	}
}

// certificate writes a certificate for the address, with its key, as tls.crt and tls.key, and gives who trusts it.
func certificate(t *testing.T, dir string, ip net.IP) *x509.CertPool {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "a site's registry"}, IPAddresses: []net.IP{ip},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{"tls.crt": {Type: "CERTIFICATE", Bytes: der}, "tls.key": {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(parsed)
	return pool
}
