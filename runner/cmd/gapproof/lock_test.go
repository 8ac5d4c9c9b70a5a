package main

import (
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/gapproof/gapproof/images"
	"github.com/gapproof/gapproof/runner/bundle"
	"github.com/gapproof/gapproof/runner/mirror"
)

// upstreamRegistry is a registry on loopback that scripts push to and that refuses, when told to, what is asked of one repository.
type upstreamRegistry struct {
	host string

	mu      sync.Mutex
	refused string
}

func newUpstreamRegistry(closeWhenDone func(func())) *upstreamRegistry {
	u := &upstreamRegistry{}
	within := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u.mu.Lock()
		refused := u.refused != "" && strings.HasPrefix(r.URL.Path, "/v2/"+u.refused+"/")
		u.mu.Unlock()
		if refused {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		within.ServeHTTP(w, r)
	}))
	closeWhenDone(s.Close)
	u.host = strings.TrimPrefix(s.URL, "http://")
	return u
}

func (u *upstreamRegistry) refuse(repository string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.refused = repository
}

// push gives the tag to a new index with an image of random content for the platform.
func (u *upstreamRegistry) push(tagged, platform string) error {
	image, err := random.Image(1024, 2)
	if err != nil {
		return err
	}
	p, err := v1.ParsePlatform(platform)
	if err != nil {
		return err
	}
	config, err := image.ConfigFile()
	if err != nil {
		return err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = p.OS, p.Architecture
	if image, err = mutate.ConfigFile(image, config); err != nil {
		return err
	}
	ref, err := name.ParseReference(u.host + "/" + tagged)
	if err != nil {
		return err
	}
	return remote.WriteIndex(ref, mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{Platform: p}}))
}

// TestUpstreamScripts runs the scripts that need a registry. Their images folder may name it as $REGISTRY; "push TAGGED [PLATFORM]" gives
// a tag to something new, "refuse [REPOSITORY]" has the registry refuse what is asked of it.
func TestUpstreamScripts(t *testing.T) {
	type key struct{}
	registryOf := func(ts *testscript.TestScript) *upstreamRegistry { return ts.Value(key{}).(*upstreamRegistry) }
	testscript.Run(t, testscript.Params{
		Dir: "testdata/upstream",
		Setup: func(e *testscript.Env) error {
			u := newUpstreamRegistry(e.Defer)
			e.Values[key{}] = u
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("XDG_CACHE_HOME", e.WorkDir+"/cache")
			e.Setenv("XDG_STATE_HOME", e.WorkDir+"/state")
			e.Setenv("REGISTRY", u.host)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits,
			"push": func(ts *testscript.TestScript, _ bool, args []string) {
				ts.Check(registryOf(ts).push(args[0], append(args, bundle.Platform())[1]))
			},
			"refuse": func(ts *testscript.TestScript, _ bool, args []string) {
				registryOf(ts).refuse(strings.Join(args, ""))
			},
		},
	})
}

func TestAMirrorServesAPulledImageAsItsRegistryDid(t *testing.T) {
	u := newUpstreamRegistry(t.Cleanup)
	if err := u.push("one:v1", bundle.Platform()); err != nil {
		t.Fatal(err)
	}
	dir, cache := t.TempDir(), t.TempDir()
	for name, content := range map[string]string{
		"upstream.yaml": "apiVersion: gapproof.dev/v1alpha1\nkind: Upstream\nmirrors: {example.test: '" + u.host + "'}\n" +
			"images:\n- {name: example.test/one, tag: v1, digest: unresolved, taken: never}\n",
		"one/component.yaml": "profile: calico\nimages: [{name: example.test/one, tag: v1, contents: [{text: built, to: /built}]}]\n",
	} {
		p := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, []byte(content), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{{"bundle", "lock", "--images", dir}, {"bundle", "create", "--source", "upstream", "--cni", "calico", "--images", dir, "--cache-dir", cache}} {
		var said strings.Builder
		if code := run(t.Context(), args, streams{out: &said, err: &said}); code != exitPass {
			t.Fatalf("%q: exit code %d\n%s", args, code, &said)
		}
	}
	lab := filepath.Join(cache, "lab")
	lock, err := images.ReadLock(lab)
	if err != nil {
		t.Fatal(err)
	}
	m, err := mirror.New(lab, lock, mirror.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(m)
	t.Cleanup(s.Close)
	var digests []v1.Hash
	mirrored := strings.TrimPrefix(s.URL, "http://") + "/example.test/one"
	for _, from := range []string{u.host + "/one:v1", mirrored + ":v1", mirrored + "@" + lock.Images[0].Digest} {
		ref, err := name.ParseReference(from)
		if err != nil {
			t.Fatal(err)
		}
		index, err := remote.Index(ref)
		if err != nil {
			t.Fatal(err)
		}
		if err := validate.Index(index); err != nil {
			t.Errorf("pulling %s: %v", from, err)
		}
		h, err := index.Digest()
		if err != nil {
			t.Fatal(err)
		}
		digests = append(digests, h)
	}
	if digests[0] != digests[1] || digests[1] != digests[2] {
		t.Errorf("registry and mirror serve %v", digests)
	}
}
