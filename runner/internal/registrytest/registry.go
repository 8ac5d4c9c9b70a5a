// Package registrytest is a registry on the loopback, for tests, that writes down what it is asked for and whose answers can be spoilt.
package registrytest

import (
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// Spoil answers in the registry's place, or returns false; n is how often the same was asked before.
type Spoil func(w http.ResponseWriter, r *http.Request, n int) bool

// Registry keeps in memory what is pushed to it. It is safe for concurrent use.
type Registry struct {
	Host string // 127.0.0.1:PORT, plain HTTP

	mu    sync.Mutex
	asked []string
	spoil Spoil
}

// New starts a registry, which whenDone is told how to stop: t.Cleanup does for a test.
func New(whenDone func(func())) *Registry {
	r := &Registry{}
	within := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if spoil, n := r.note(req); spoil == nil || !spoil(w, req, n) {
			within.ServeHTTP(w, req)
		}
	}))
	whenDone(s.Close)
	r.Host = strings.TrimPrefix(s.URL, "http://")
	return r
}

// note writes a request down and returns what may spoil its answer, and how often the same was asked before.
func (r *Registry) note(req *http.Request) (Spoil, int) {
	what := req.Method + " " + req.URL.Path
	r.mu.Lock()
	defer r.mu.Unlock()
	n := count(r.asked, what)
	r.asked = append(r.asked, what)
	return r.spoil, n
}

func count(all []string, one string) (n int) {
	for _, s := range all {
		if s == one {
			n++
		}
	}
	return n
}

// SpoilWith sets what spoils the answers from now on, nothing where it is nil, and forgets what was asked.
func (r *Registry) SpoilWith(spoil Spoil) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.spoil, r.asked = spoil, nil
}

// Asked lists the requests since the last SpoilWith, in their order, such as "GET /v2/one/manifests/v1".
func (r *Registry) Asked() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.asked)
}

// Times is how often a request was made since the last SpoilWith.
func (r *Registry) Times(what string) int { return count(r.Asked(), what) }

// Push makes an index with an image for each platform, of two layers of random content and those given, and gives it a tag such as "one:v1".
func (r *Registry) Push(tagged string, platforms []string, layers ...v1.Layer) (v1.ImageIndex, error) {
	ref, err := name.ParseReference(r.Host + "/" + tagged)
	if err != nil {
		return nil, err
	}
	var index v1.ImageIndex = empty.Index
	for _, p := range platforms {
		platform, err := v1.ParsePlatform(p)
		if err != nil {
			return nil, err
		}
		image, err := imageFor(platform, layers)
		if err != nil {
			return nil, err
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{Platform: platform}})
	}
	return index, remote.WriteIndex(ref, index)
}

// imageFor is an image whose configuration says what it is for, as every builder's does.
func imageFor(platform *v1.Platform, layers []v1.Layer) (v1.Image, error) {
	image, err := random.Image(3000, 2)
	if err != nil {
		return nil, err
	}
	if image, err = mutate.AppendLayers(image, layers...); err != nil {
		return nil, err
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = platform.OS, platform.Architecture
	return mutate.ConfigFile(image, config)
}
