package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"time"
)

// encrypted refuses plain HTTP but with the loopback interface. The library itself would speak it with private addresses and names too.
type encrypted struct{ http.RoundTripper }

func (e encrypted) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "https" && !loopback(r.URL.Hostname()) {
		return nil, fmt.Errorf("asking %s: %w", r.URL.Host, ErrPlainHTTP)
	}
	return e.RoundTripper.RoundTrip(r)
}

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.IsLoopback()
}

// resuming goes on where a body was cut: it asks for the rest by range (RFC 9110, section 14). It ends a request for which nothing has come for
// as long as the client waits.
type resuming struct {
	http.RoundTripper
	client *Client
}

func (t resuming) RoundTrip(r *http.Request) (*http.Response, error) {
	answer, err := t.once(r)
	if err != nil || r.Method != http.MethodGet || answer.StatusCode != http.StatusOK || answer.ContentLength <= 0 {
		return answer, err
	}
	answer.Body = &resumed{ReadCloser: answer.Body, transport: t, request: r, size: answer.ContentLength}
	return answer, nil
}

// once makes one request; its context ends when nothing comes.
func (t resuming) once(r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(r.Context())
	timer := time.AfterFunc(t.client.stall, func() { cancel(errStalled) })
	stop := func() {
		timer.Stop()
		cancel(nil)
	}
	answer, err := t.RoundTripper.RoundTrip(r.WithContext(ctx))
	if err != nil {
		defer stop()
		return nil, stalled(ctx, err)
	}
	answer.Body = &progressing{ReadCloser: answer.Body, ctx: ctx, timer: timer, stall: t.client.stall, stop: stop}
	return answer, nil
}

// stalled says of the error of a request whether it was ended for nothing had come.
func stalled(ctx context.Context, err error) error {
	if errors.Is(context.Cause(ctx), errStalled) {
		return fmt.Errorf("%w: %w", errStalled, err)
	}
	return err
}

// progressing puts off a timer with every read.
type progressing struct {
	io.ReadCloser
	ctx   context.Context
	timer *time.Timer
	stall time.Duration
	stop  func()
}

func (p *progressing) Read(b []byte) (int, error) {
	n, err := p.ReadCloser.Read(b)
	if err == nil {
		p.timer.Reset(p.stall)
		return n, nil
	}
	p.timer.Stop()
	if errors.Is(err, io.EOF) {
		return n, err
	}
	return n, stalled(p.ctx, err)
}

func (p *progressing) Close() error {
	defer p.stop()
	return p.ReadCloser.Close()
}

// resumed is the body of an answer and of those that carry on with it.
type resumed struct {
	io.ReadCloser // of the last answer
	transport     resuming
	request       *http.Request
	at, size      int64 // bytes
	cut           error // what the last read met
	failed        int   // times in a row without a byte
}

func (b *resumed) Read(p []byte) (int, error) {
	for {
		if b.cut != nil {
			if err := b.resume(); err != nil {
				return 0, err
			}
		}
		n, err := b.ReadCloser.Read(p)
		b.at += int64(n)
		if n > 0 {
			b.failed = 0
		}
		if err == nil || errors.Is(err, io.EOF) {
			return n, err
		}
		b.cut = err
		if n > 0 {
			return n, nil
		}
	}
}

// resume asks for what is missing. It gives up, with what cut the body, after as many failures in a row as other requests have, and at once
// where the answer is no such range; [Client.Blob] then begins anew.
func (b *resumed) resume() error {
	ctx, c := b.request.Context(), b.transport.client
	for {
		if b.failed++; b.failed >= tries || ctx.Err() != nil || b.at >= b.size {
			return b.cut
		}
		wait := c.wait << (b.failed - 1)
		c.log.Warn("going on where it was cut", "host", b.request.URL.Host, "path", b.request.URL.Path, "at", b.at, "of", b.size, "wait", wait, "err", b.cut)
		if err := pause(ctx, wait); err != nil {
			return b.cut
		}
		r := b.request.Clone(ctx)
		r.Header.Set("Range", fmt.Sprintf("bytes=%d-", b.at))
		answer, err := b.transport.once(r)
		switch {
		case err != nil:
			b.cut = err
			continue
		case answer.StatusCode == http.StatusPartialContent && answer.Header.Get("Content-Range") == fmt.Sprintf("bytes %d-%d/%d", b.at, b.size-1, b.size):
			_ = b.ReadCloser.Close() // of a body that was cut
			b.ReadCloser, b.cut = answer.Body, nil
			return nil
		}
		_ = answer.Body.Close()
		if answer.StatusCode != http.StatusTooManyRequests && answer.StatusCode < http.StatusInternalServerError {
			return fmt.Errorf("the rest was asked for and %s came: %w", answer.Status, b.cut)
		}
		b.cut = fmt.Errorf("asking for the rest: %s", answer.Status)
	}
}
