package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
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

It prints the hosts.toml that makes it the only registry of a containerd (/etc/containerd/certs.d/_default/hosts.toml). On an address
that other machines reach it asks for a certificate, because a tag is only as true as the connection that resolved it.

It serves until it is interrupted. Exit codes: 0 interrupted, 2 usage, 4 the lab or the address cannot be used.`,
		Example: `  gapproof bundle load lab.tar --key release.pub
  gapproof bundle serve --listen 10.0.0.5:5000 --tls-cert mirror.crt --tls-key mirror.key --access-log access.jsonl --metrics 127.0.0.1:9090`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return a.serve(c.Context(), o) },
	}
	c.Flags().StringVar(&o.lab, "lab", "", "lab directory (default: the one below the cache directory)")
	c.Flags().StringVar(&o.listen, "listen", "127.0.0.1:5000", "address and port to answer on")
	c.Flags().StringVar(&o.cert, "tls-cert", "", "PEM file with the certificate and its chain")
	c.Flags().StringVar(&o.key, "tls-key", "", "PEM file with the certificate's key")
	c.Flags().BoolVar(&o.plain, "plain-http", false, "answer without TLS on an address that other machines reach")
	c.Flags().StringVar(&o.access, "access-log", "", "append one JSON line per request to this file (default: none is kept)")
	c.Flags().StringVar(&o.metrics, "metrics", "", "address and port of a second listener with Prometheus metrics at /metrics (default: none)")
	return c
}

// check finds every fault of the flags at once; nothing is opened before. The certificate is nil where there is none.
func (o serveOptions) check() (*tls.Certificate, error) {
	var faults []error
	host, _, err := net.SplitHostPort(o.listen)
	if err != nil {
		faults = append(faults, fmt.Errorf("--listen: %w", err))
	}
	if o.metrics != "" {
		if _, _, err := net.SplitHostPort(o.metrics); err != nil {
			faults = append(faults, fmt.Errorf("--metrics: %w", err))
		}
	}
	var cert *tls.Certificate
	switch {
	case (o.cert == "") != (o.key == ""):
		faults = append(faults, errors.New("--tls-cert and --tls-key: one is of no use without the other"))
	case o.cert != "" && o.plain:
		faults = append(faults, errors.New("--plain-http: there is a certificate, so it would not be used"))
	case o.cert != "":
		pair, err := tls.LoadX509KeyPair(o.cert, o.key)
		if err != nil {
			faults = append(faults, fmt.Errorf("--tls-cert %s: %w", o.cert, err))
		}
		cert = &pair
	case err == nil && !o.plain && !isLoopback(host):
		faults = append(faults, fmt.Errorf("--listen: other machines reach %s, so --tls-cert and --tls-key are needed, or --plain-http", o.listen))
	}
	if err := errors.Join(faults...); err != nil {
		return nil, hinted{usageError{err}, "gapproof bundle serve --help"}
	}
	return cert, nil
}

// isLoopback tells of the host part of an address; a name other than localhost may lead anywhere.
func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func (a *app) serve(ctx context.Context, o serveOptions) error {
	cert, err := o.check()
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
	scheme := "http"
	if cert != nil {
		scheme = "https"
		listener = tls.NewListener(listener, &tls.Config{Certificates: []tls.Certificate{*cert}, MinVersion: tls.VersionTLS12})
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
	fmt.Fprint(a.out, hostsTOML(scheme+"://"+listener.Addr().String()))
	g.Go(func() error { return m.Serve(ctx, listener) })
	return g.Wait()
}

// hostsTOML makes the server the only registry of a containerd: as `server` it has no fallback
// (https://github.com/containerd/containerd/blob/main/docs/hosts.md).
func hostsTOML(server string) string {
	return strings.Join([]string{
		"# /etc/containerd/certs.d/_default/hosts.toml",
		`server = "` + server + `"`,
		`[host."` + server + `"]`,
		`  capabilities = ["pull", "resolve"]`,
		"",
	}, "\n")
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
