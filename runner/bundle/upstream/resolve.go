package upstream

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"
)

// askedAtOnce bounds the tags that are asked for at the same time: registries limit the requests of one address.
const askedAtOnce = 4

// Errors of what an image is.
var (
	// ErrNotIndex reports a manifest that is not an image index: the lock pins indexes.
	ErrNotIndex = errors.New("not an image index")
	// ErrPlatform reports an index without an image for the platform.
	ErrPlatform = errors.New("no image for the platform")
)

// Answer is what the tag of an image means at its registry now.
type Answer struct {
	Image Image
	// Digest is that of the index. It is empty where Err says that there is none.
	Digest string
	// Err says why the tag cannot be used, or could not be asked for.
	Err error
}

// State compares an answer with the list.
type State int

const (
	// StateUnknown is the zero State; no answer has it.
	StateUnknown State = iota
	// StateSame means that the tag stands for the digest of the list.
	StateSame
	// StateNew means that the list has no digest, and the tag stands for a usable one.
	StateNew
	// StateDrifted means that the tag does not stand for the digest of the list any more: for another, or for nothing that can be used.
	StateDrifted
	// StateUnasked means that the registry gave no answer of use; nothing is known.
	StateUnasked
)

// State compares the answer with the list. A tag without a digest in the list has not drifted, whatever it stands for.
func (a Answer) State() State {
	answered := a.Err == nil || errors.Is(a.Err, ErrGone) || errors.Is(a.Err, ErrNotIndex) || errors.Is(a.Err, ErrPlatform)
	switch {
	case a.Image.Digest == "" && a.Err == nil:
		return StateNew
	case !answered, a.Image.Digest == "":
		return StateUnasked
	case a.Err == nil && a.Digest == a.Image.Digest:
		return StateSame
	}
	return StateDrifted
}

// Resolve asks what the tags of the images mean, for a platform such as "linux/amd64". Every image has its answer, in their order.
func (c *Client) Resolve(ctx context.Context, images []Image, platform string) []Answer {
	answers := make([]Answer, len(images))
	var g errgroup.Group
	g.SetLimit(askedAtOnce)
	for n, i := range images {
		g.Go(func() error {
			answers[n] = Answer{Image: i}
			answers[n].Digest, answers[n].Err = c.resolve(ctx, i, platform)
			return nil // one that fails does not end the others
		})
	}
	_ = g.Wait()
	return answers
}

func (c *Client) resolve(ctx context.Context, i Image, platform string) (string, error) {
	ref, err := name.NewTag(c.place(i.Name) + ":" + i.Tag)
	if err != nil {
		return "", fmt.Errorf("naming %s: %w", i.Tagged(), err)
	}
	d, err := c.manifest(ctx, ref)
	if err != nil {
		return "", err
	}
	if _, _, err := ReadIndex(d.Manifest, platform); err != nil {
		return "", fmt.Errorf("reading %s: %w", ref.Name(), err)
	}
	return d.Digest.String(), nil // of the bytes that came, whatever a header says
}

// ReadIndex decodes an image index and finds its image for a platform such as "linux/amd64". The error matches [ErrNotIndex] or
// [ErrPlatform].
func ReadIndex(raw []byte, platform string) (*v1.IndexManifest, v1.Descriptor, error) {
	index, err := v1.ParseIndexManifest(bytes.NewReader(raw))
	if err != nil {
		return nil, v1.Descriptor{}, fmt.Errorf("decoding the index: %w", err)
	}
	// An index may leave its media type out; a manifest then has no list.
	if index.MediaType != "" && !index.MediaType.IsIndex() || index.MediaType == "" && index.Manifests == nil {
		return nil, v1.Descriptor{}, fmt.Errorf("its media type is %q: %w", index.MediaType, ErrNotIndex)
	}
	want, err := v1.ParsePlatform(platform)
	if err != nil {
		return nil, v1.Descriptor{}, fmt.Errorf("reading the platform %q: %w", platform, err)
	}
	var have []string
	for _, d := range index.Manifests {
		if d.Platform == nil {
			continue
		}
		if d.MediaType.IsImage() && d.Platform.Satisfies(*want) {
			return index, d, nil
		}
		have = append(have, d.Platform.String())
	}
	return nil, v1.Descriptor{}, fmt.Errorf("%s is not among %q: %w", platform, have, ErrPlatform)
}
