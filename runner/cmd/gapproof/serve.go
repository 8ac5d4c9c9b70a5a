package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/gapproof/gapproof/images"
	"github.com/gapproof/gapproof/runner/mirror"
)

// serveOptions are the flags of bundle serve.
type serveOptions struct {
	lab, listen, metrics string
	advertise            string
	cert, key            string
	plain                bool
	access               string
}

func (a *app) bundleServe() *cobra.Command {
	var o serveOptions
	c := &cobra.Command{
		Use:   "serve",
		Short: "Serve a loaded bundle's images to a site's own cluster, read-only",
		Long: `serve is a registry over a lab directory that bundle load or bundle create has made. It answers pulls of what the lock lists and nothing else:
every write is refused (405), every blob is hashed before its first byte is sent, and each request is one JSON line of the access log.

It prints the hosts.toml that makes it the only registry of a containerd (/etc/containerd/certs.d/_default/hosts.toml), with the host of
--listen or --advertise as the nodes are to call it. Listening on every address needs --advertise: which of them nodes reach is the site's to
say. On an address that other machines reach it asks for a certificate, because a tag is only as true as the connection that resolved it; one
that is not of that host, or not valid now, is refused.

It serves until it is interrupted. Exit codes: 0 interrupted, 2 usage, 4 the lab or the address cannot be used.`,
		Example: `  gapproof bundle load lab.tar --key release.pub
  gapproof bundle serve --listen 10.0.0.5:5000 --tls-cert mirror.crt --tls-key mirror.key --access-log access.jsonl --metrics 127.0.0.1:9090
  gapproof bundle serve --listen :5000 --advertise mirror.site --tls-cert mirror.crt --tls-key mirror.key > hosts.toml`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return a.serve(c.Context(), o) },
	}
	c.Flags().StringVar(&o.lab, "lab", "", "lab directory (default: the one below the cache directory)")
	c.Flags().StringVar(&o.listen, "listen", "127.0.0.1:5000", "address and port to answer on")
	c.Flags().StringVar(&o.advertise, "advertise", "", "name or address, without a port, by which nodes reach this host (default: the host of --listen)")
	c.Flags().StringVar(&o.cert, "tls-cert", "", "PEM file with the certificate and its chain")
	c.Flags().StringVar(&o.key, "tls-key", "", "PEM file with the certificate's key")
	c.Flags().BoolVar(&o.plain, "plain-http", false, "answer without TLS on an address that other machines reach")
	c.Flags().StringVar(&o.access, "access-log", "", "append one JSON line per request to this file (default: none is kept)")
	c.Flags().StringVar(&o.metrics, "metrics", "", "address and port of a second listener with Prometheus metrics at /metrics (default: none)")
	return c
}

// checked is what the flags give.
type checked struct {
	// host is what nodes are told to call this host.
	host string
	// cert is nil where there is none.
	cert *tls.Certificate
}

// check finds every fault of the flags at once; nothing is opened before. now is when the certificate must be valid.
func (o serveOptions) check(now time.Time) (checked, error) {
	var faults []error
	hint := "gapproof bundle serve --help"
	c := checked{host: o.advertise}
	listens, _, err := net.SplitHostPort(o.listen)
	if err != nil {
		faults = append(faults, fmt.Errorf("--listen: %w", err))
	}
	switch {
	case o.advertise != "" && !isHost(o.advertise):
		faults = append(faults, fmt.Errorf("--advertise: %q is no name or address of one host, without a port", o.advertise))
	case o.advertise == "" && err == nil && !isHost(listens):
		faults = append(faults, fmt.Errorf("--listen: %s does not say how nodes call this host, so --advertise is needed", o.listen))
		hint = "gapproof bundle serve --advertise HOST --listen " + o.listen
	case o.advertise == "":
		c.host = listens
	}
	if o.metrics != "" {
		if _, _, err := net.SplitHostPort(o.metrics); err != nil {
			faults = append(faults, fmt.Errorf("--metrics: %w", err))
		}
	}
	switch {
	case (o.cert == "") != (o.key == ""):
		faults = append(faults, errors.New("--tls-cert and --tls-key: one is of no use without the other"))
	case o.cert != "" && o.plain:
		faults = append(faults, errors.New("--plain-http: there is a certificate, so it would not be used"))
	case o.cert != "":
		pair, err := tls.LoadX509KeyPair(o.cert, o.key)
		if err != nil {
			faults = append(faults, fmt.Errorf("--tls-cert %s: %w", o.cert, err))
			break
		}
		c.cert = &pair
		if now.Before(pair.Leaf.NotBefore) || now.After(pair.Leaf.NotAfter) {
			faults = append(faults, fmt.Errorf("--tls-cert %s: it is valid from %s to %s, and it is %s", o.cert,
				pair.Leaf.NotBefore.UTC().Format(time.RFC3339), pair.Leaf.NotAfter.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339)))
		}
		if !isHost(c.host) {
			break // that is told already
		}
		if err := pair.Leaf.VerifyHostname(c.host); err != nil {
			faults = append(faults, fmt.Errorf("--tls-cert %s: nodes would refuse it: %w", o.cert, err))
			if names := certified(pair.Leaf); len(names) > 0 {
				hint = "gapproof bundle serve --advertise " + names[0] + " --listen " + o.listen
			}
		}
	case err == nil && !o.plain && !isLoopback(listens):
		faults = append(faults, fmt.Errorf("--listen: other machines reach %s, so --tls-cert and --tls-key are needed, or --plain-http", o.listen))
	}
	if err := errors.Join(faults...); err != nil {
		return checked{}, hinted{usageError{err}, hint}
	}
	return c, nil
}

// hostForm is a name that a certificate or a resolver can have (RFC 1123, section 2.1), and nothing that ends a string in TOML.
var hostForm = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9.-]{0,251}[a-zA-Z0-9])?$`)

// isHost tells whether others can call a host so: by an address that is one host's, without a zone that means something on that host alone, or by a
// name.
func isHost(host string) bool {
	if ip, err := netip.ParseAddr(host); err == nil {
		return !ip.IsUnspecified() && !ip.IsMulticast() && ip.Zone() == ""
	}
	return hostForm.MatchString(host)
}

// certified are the names and addresses that a certificate is of and that stand for one host.
func certified(leaf *x509.Certificate) []string {
	var out []string
	for _, name := range leaf.DNSNames {
		if isHost(name) {
			out = append(out, name)
		}
	}
	for _, ip := range leaf.IPAddresses {
		out = append(out, ip.String())
	}
	return out
}

// isLoopback tells of the host part of an address; a name other than localhost may lead anywhere.
func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func (a *app) serve(ctx context.Context, o serveOptions) error {
	checked, err := o.check(time.Now())
	if err != nil {
		return err
	}
	if o.lab == "" {
		o.lab = a.labDir()
	}
	lock, err := images.ReadLock(o.lab)
	if err != nil {
		return hinted{usageError{err}, "gapproof bundle load FILE --key PUBLIC"}
	}
	options := mirror.Options{Log: a.log}
	if o.access != "" {
		access, err := openAccessLog(o.access)
		if err != nil {
			return usageError{fmt.Errorf("--access-log: %w", err)}
		}
		defer access.Close()
		options.AccessLog = access
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	options.Metrics = registry
	m, err := mirror.New(o.lab, lock, options)
	if err != nil {
		return err
	}
	defer m.Close()

	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", o.listen)
	if err != nil {
		return fmt.Errorf("--listen: %w", err)
	}
	_, port, err := net.SplitHostPort(listener.Addr().String()) // the one of --listen may be 0, or have a name
	if err != nil {
		return errors.Join(fmt.Errorf("--listen: %w", err), listener.Close())
	}
	scheme := "http"
	if checked.cert != nil {
		scheme = "https"
		listener = tls.NewListener(listener, &tls.Config{Certificates: []tls.Certificate{*checked.cert}, MinVersion: tls.VersionTLS12})
	}
	g, ctx := errgroup.WithContext(ctx)
	if o.metrics != "" {
		metrics, err := (&net.ListenConfig{}).Listen(ctx, "tcp", o.metrics)
		if err != nil {
			return errors.Join(fmt.Errorf("--metrics: %w", err), listener.Close())
		}
		fmt.Fprintf(a.err, "metrics on http://%s/metrics\n", metrics.Addr())
		g.Go(func() error { return serveMetrics(ctx, metrics, registry) })
	}
	fmt.Fprintf(a.err, "serving %d images of %s on %s://%s until interrupted\n", len(lock.Images), o.lab, scheme, listener.Addr())
	fmt.Fprint(a.out, hostsTOML(net.JoinHostPort(checked.host, port), checked.cert))
	g.Go(func() error { return m.Serve(ctx, listener) })
	return g.Wait()
}

// hostsTOML makes the server the only registry of a containerd: as `server` it has no fallback, and what is said of it stands beside it, not below a
// host of its own, which would be another registry that is asked before (https://github.com/containerd/containerd/blob/main/docs/hosts.md).
func hostsTOML(address string, cert *tls.Certificate) string {
	scheme, authority := "http", []string{}
	if cert != nil {
		scheme = "https"
		which := fmt.Sprintf("that of the authority that issued the server's, %q", cert.Leaf.Issuer.String())
		if bytes.Equal(cert.Leaf.RawIssuer, cert.Leaf.RawSubject) {
			which = "the one of --tls-cert, which is its own authority"
		}
		authority = []string{
			"# A path beside this file. Copy there the certificate that nodes are to trust: " + which + ".",
			`ca = "ca.crt"`,
		}
	}
	return strings.Join(slices.Concat([]string{
		"# /etc/containerd/certs.d/_default/hosts.toml",
		`server = "` + scheme + "://" + address + `"`,
		`capabilities = ["pull", "resolve"]`,
	}, authority, []string{""}), "\n")
}

// openAccessLog opens the log for appending; it is evidence, so what is in it stays.
func openAccessLog(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
}

// metricsLimit bounds how long a scraper may take to ask, and a scrape under way to end at the end.
const metricsLimit = 5 * time.Second

// serveMetrics answers scrapes until ctx ends.
func serveMetrics(ctx context.Context, l net.Listener, from prometheus.Gatherer) error {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(from, promhttp.HandlerOpts{}))
	server := &http.Server{Handler: mux, ReadHeaderTimeout: metricsLimit}
	stopped := make(chan error, 1)
	go func() { stopped <- server.Serve(l) }()
	select {
	case err := <-stopped:
		return fmt.Errorf("serving metrics: %w", err)
	case <-ctx.Done():
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), metricsLimit)
	defer cancel()
	err := server.Shutdown(end)
	<-stopped
	return err
}
