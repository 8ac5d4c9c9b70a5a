package dial

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/probes/internal/leaktest"
	"github.com/gapproof/gapproof/probes/internal/wire"
)

// serverName is what the certificates of these tests are for.
const serverName = "kubernetes.default.svc"

// authority makes a certificate that signs itself, and one that it signs for the name, which ends at the time.
func authority(t *testing.T, name string, until time.Time) (authorityPEM string, server tls.Certificate) {
	t.Helper()
	made := func(template, parent *x509.Certificate, key, signer *ecdsa.PrivateKey) []byte {
		raw, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	newKey := func() *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	root, own := newKey(), newKey()
	from := time.Now().Add(-time.Hour)
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: from, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: from, NotAfter: until, DNSNames: []string{name}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	caRaw := made(ca, ca, root, root)
	signer, err := x509.ParseCertificate(caRaw)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: caRaw})),
		tls.Certificate{Certificate: [][]byte{made(leaf, signer, own, root)}, PrivateKey: own}
}

// serving handles a connection as a TLS server with the certificate.
func serving(c tls.Certificate) func(*net.TCPConn) {
	return func(conn *net.TCPConn) {
		s := tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{c}, ClientAuth: tls.RequestClientCert}) // as API servers do
		if s.Handshake() == nil {
			_, _ = s.Read(make([]byte, 1)) // until the other end leaves
		}
	}
}

func TestATLSServerProvesWhoItIs(t *testing.T) {
	leaktest.Check(t)
	later := time.Now().Add(time.Hour)
	known, good := authority(t, serverName, later)
	_, stranger := authority(t, serverName, later)
	_, elsewhere := authority(t, "kubernetes.other.svc", later)
	expiring, expired := authority(t, serverName, time.Now().Add(-time.Minute))
	for name, tc := range map[string]struct {
		handle    func(*net.TCPConn)
		authority string
		kind      probes.OutcomeKind
		detail    string
	}{
		"it does":                     {serving(good), known, probes.Replied, ""},
		"by nobody who is known":      {serving(stranger), known, probes.Connected, "not proven to be kubernetes.default.svc"},
		"it is another":               {serving(elsewhere), known, probes.Connected, "not proven to be kubernetes.default.svc"},
		"its certificate has expired": {serving(expired), expiring, probes.Connected, "expired"},
		"it speaks something else": {func(c *net.TCPConn) {
			c.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
			c.Read(make([]byte, 1))
			c.CloseRead()
		}, known, probes.Connected, "not proven"},
		"it ends the connection":   {func(c *net.TCPConn) { c.Read(make([]byte, 8<<10)) }, known, probes.Reset, "ended the connection"},
		"it resets the connection": {func(c *net.TCPConn) { c.Read(make([]byte, 1)); c.SetLinger(0) }, known, probes.Reset, ""},
		"a listener of ours answers": {func(c *net.TCPConn) {
			c.Read(make([]byte, 1024))
			c.Write(wire.AppendReply(nil, probes.NewToken(), "x/a"))
			c.Read(make([]byte, 1024))
		}, known, probes.Connected, "not proven"},
		"the authority is no certificate": {serving(good), "PEM", probes.Error, "holds no certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			a := attempt(probes.TCP, serveTCP(t, "127.0.0.1:0", tc.handle), ample)
			a.Name, a.Authority = serverName, tc.authority
			o := newDialer(t).Do(t.Context(), a)
			if o.Kind != tc.kind || !strings.Contains(o.Detail, tc.detail) {
				t.Errorf("want %s with %q, got %s: %s", tc.kind, tc.detail, o.Kind, o.Detail)
			}
			if want := map[bool]string{true: serverName}[tc.kind == probes.Replied]; o.Responder != want {
				t.Errorf("responder %q, want %q", o.Responder, want)
			}
			if !o.Local.IsValid() || o.Remote != a.Destination {
				t.Errorf("from %s to %s, want both ends' addresses", o.Local, o.Remote)
			}
		})
	}
}

func TestATLSServerThatSaysNothingLeavesAHandshake(t *testing.T) {
	leaktest.Check(t)
	known, _ := authority(t, serverName, time.Now().Add(time.Hour))
	ended := make(chan struct{})
	to := serveTCP(t, "127.0.0.1:0", func(*net.TCPConn) { <-ended })
	t.Cleanup(func() { close(ended) })
	a := attempt(probes.TCP, to, short)
	a.Name, a.Authority = serverName, known
	if o := newDialer(t).Do(t.Context(), a); o.Kind != probes.Connected {
		t.Errorf("after the deadline: want %s, got %s: %s", probes.Connected, o.Kind, o.Detail)
	}
	a.Deadline = ample
	ctx, cancel := context.WithTimeout(t.Context(), short)
	defer cancel()
	if o := newDialer(t).Do(ctx, a); o.Kind != probes.Error || !strings.Contains(o.Detail, "cutting the attempt short") {
		t.Errorf("cut short: want %s, got %s: %s", probes.Error, o.Kind, o.Detail)
	}
}

func TestNothingButTheHandshakeIsSent(t *testing.T) {
	known, good := authority(t, serverName, time.Now().Add(time.Hour))
	var data bytes.Buffer
	done := make(chan struct{})
	a := attempt(probes.TCP, serveTCP(t, "127.0.0.1:0", func(conn *net.TCPConn) {
		defer close(done)
		s := tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{good}})
		_, _ = data.ReadFrom(s)
	}), ample)
	a.Name, a.Authority = serverName, known
	if o := newDialer(t).Do(t.Context(), a); o.Kind != probes.Replied {
		t.Fatalf("want %s, got %s: %s", probes.Replied, o.Kind, o.Detail)
	}
	<-done
	if data.Len() > 0 {
		t.Errorf("the server was sent %q", &data)
	}
}
