package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

const (
	// tries bounds how often one thing is asked for. With firstWait and its doubling the last try is made some 15 s after the first failed,
	// which outlasts the restart of a proxy and the usual limits of requests per second.
	tries     = 5
	firstWait = time.Second
	// stalledAfter ends a request for which nothing has come: a registry that fetches a large blob itself first needs its time.
	stalledAfter = 2 * time.Minute
	// maxManifest bounds a manifest: the distribution specification has registries refuse larger ones (section "Pushing Manifests").
	maxManifest = 4 << 20
)

// Errors of what registries answer.
var (
	// ErrGone reports that the registry knows no such image, tag or blob, or does not say that it does.
	ErrGone = errors.New("the registry has no such thing")
	// ErrSize reports a blob that is not as large as its manifest says.
	ErrSize = errors.New("content is not of its size")
	// ErrPlainHTTP reports that plain HTTP would be spoken with another host than this one.
	ErrPlainHTTP = errors.New("plain HTTP is for loopback alone")
	// errStalled ends a request for which nothing came.
	errStalled = errors.New("nothing came for too long")
)

// Options of a client.
type Options struct {
	// Mirrors are those of a [List].
	Mirrors map[string]string
	// Log is told of every try that failed and is made again. Nil means nowhere.
	Log *slog.Logger
	// Wait is how long to wait before the second try; it doubles from there. Zero means one second.
	Wait time.Duration
}

// Client asks registries. It may be used concurrently.
type Client struct {
	puller  *remote.Puller
	mirrors map[string]string
	log     *slog.Logger
	wait    time.Duration
	stall   time.Duration // stalledAfter, but in tests
}

// NewClient makes a client; it asks nobody yet.
func NewClient(o Options) (*Client, error) {
	c := &Client{mirrors: o.Mirrors, log: o.Log, wait: o.Wait, stall: stalledAfter}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	if c.wait == 0 {
		c.wait = firstWait
	}
	var err error
	c.puller, err = remote.NewPuller(
		remote.WithAuthFromKeychain(authn.DefaultKeychain),
		remote.WithTransport(resuming{encrypted{remote.DefaultTransport}, c}),
		// One kind of retry, the one here: the library's does not begin again where a body was cut.
		remote.WithRetryBackoff(remote.Backoff{Steps: 1}),
	)
	if err != nil {
		return nil, fmt.Errorf("making the client of registries: %w", err)
	}
	return c, nil
}

// Manifest fetches the manifest with this digest from the repository of an image, such as "registry.k8s.io/etcd", whole and verified.
func (c *Client) Manifest(ctx context.Context, repository, digest string) ([]byte, error) {
	ref, err := c.byDigest(repository, digest)
	if err != nil {
		return nil, err
	}
	d, err := c.manifest(ctx, ref)
	if err != nil {
		return nil, err
	}
	return d.Manifest, nil
}

func (c *Client) manifest(ctx context.Context, ref name.Reference) (*remote.Descriptor, error) {
	var got *remote.Descriptor
	err := c.again(ctx, "fetching the manifest "+ref.Name(), func() (err error) {
		got, err = c.puller.Get(ctx, ref) // compares with a digest that is asked for
		if err == nil && len(got.Manifest) > maxManifest {
			return fmt.Errorf("it has %d bytes, more than %d: %w", len(got.Manifest), maxManifest, ErrSize)
		}
		return err
	})
	return got, err
}

// Blob fetches the blob with this digest and size in bytes. Where it is cut it goes on, if the registry answers ranges, and begins anew
// otherwise. Each try gives the content to a call of to, from its beginning; a try counts when to has returned nil and the content was what the
// digest and the size say, and it is not before that to be believed.
func (c *Client) Blob(ctx context.Context, repository, digest string, size int64, to func(io.Reader) error) error {
	ref, err := c.byDigest(repository, digest)
	if err != nil {
		return err
	}
	return c.again(ctx, "fetching the blob "+ref.Name(), func() error {
		layer, err := c.puller.Layer(ctx, ref)
		if err != nil {
			return err
		}
		body, err := layer.Compressed() // fails at its end where the content is not what the digest says
		if err != nil {
			return err
		}
		defer body.Close()
		r := &counted{from: io.LimitReader(body, size+1)} // one more than it may have, to see its end
		if err := to(r); err != nil {
			if r.err == nil || errors.Is(r.err, io.EOF) {
				return permanentError{err} // not the registry's fault, such as a full disk
			}
			return err
		}
		if _, err := io.Copy(io.Discard, r); err != nil { // what to may have left: the digest is compared at the end
			return err
		}
		if r.n != size {
			return fmt.Errorf("%d bytes came, its manifest says %d: %w", r.n, size, ErrSize)
		}
		return nil
	})
}

// counted counts what is read and remembers how reading ended.
type counted struct {
	from io.Reader
	n    int64
	err  error
}

func (r *counted) Read(p []byte) (int, error) {
	n, err := r.from.Read(p)
	r.n += int64(n)
	if err != nil {
		r.err = err
	}
	return n, err
}

// place is where an image's repository is asked for: its own registry, or the mirror in its place.
func (c *Client) place(repository string) string {
	host, path, _ := strings.Cut(repository, "/")
	if mirror, ok := c.mirrors[host]; ok {
		return mirror + "/" + path
	}
	return repository
}

func (c *Client) byDigest(repository, digest string) (name.Digest, error) {
	ref, err := name.NewDigest(c.place(repository) + "@" + digest)
	if err != nil {
		return name.Digest{}, fmt.Errorf("naming %s at %s: %w", digest, c.place(repository), err)
	}
	return ref, nil
}

// permanentError is not tried again.
type permanentError struct{ error }

func (e permanentError) Unwrap() error { return e.error }

// again makes a try, and further ones while they fail of what may pass.
func (c *Client) again(ctx context.Context, what string, try func() error) error {
	wait := c.wait
	for n := 1; ; n++ {
		err := try()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%s: %w", what, errors.Join(ctx.Err(), context.Cause(ctx)))
		}
		if permanent(err) {
			return fmt.Errorf("%s: %w", what, told(err))
		}
		if n == tries {
			return fmt.Errorf("%s, %d tries: %w", what, n, err)
		}
		c.log.Warn("trying again", "fetching", strings.TrimPrefix(what, "fetching "), "try", n, "wait", wait, "err", err)
		_ = pause(ctx, wait) // the next try says what ended it
		wait *= 2
	}
}

// pause waits for about this long, apart from others that failed at the same moment, or until the context ends.
func pause(ctx context.Context, wait time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(wait + rand.N(wait/4+1)):
		return nil
	}
}

// permanent tells whether asking again is of no use: a definite answer, a name or certificate that does not exist, a fault of ours.
func permanent(err error) bool {
	var answer *transport.Error
	if errors.As(err, &answer) {
		switch answer.StatusCode {
		case http.StatusRequestTimeout, http.StatusTooManyRequests:
			return false
		}
		return answer.StatusCode < http.StatusInternalServerError
	}
	var ours permanentError
	var dns *net.DNSError
	var certificate *tls.CertificateVerificationError
	return errors.As(err, &ours) || errors.Is(err, ErrPlainHTTP) || errors.Is(err, ErrSize) ||
		errors.As(err, &dns) && dns.IsNotFound || errors.As(err, &certificate)
}

// told adds what a definite answer means.
func told(err error) error {
	var answer *transport.Error
	if errors.As(err, &answer) && answer.StatusCode == http.StatusNotFound {
		return fmt.Errorf("%w: %w", err, ErrGone)
	}
	return err
}
