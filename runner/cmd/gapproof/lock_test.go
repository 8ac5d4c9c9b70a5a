package main

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/gapproof/gapproof/images"
	"github.com/gapproof/gapproof/runner/bundle"
	"github.com/gapproof/gapproof/runner/internal/registrytest"
	"github.com/gapproof/gapproof/runner/mirror"
)

// TestUpstreamScripts runs the scripts that need a registry. Their images folder may name it as $REGISTRY; "push TAGGED [PLATFORM]" gives
// a tag to something new, "refuse [REPOSITORY]" has the registry refuse what is asked of it.
func TestUpstreamScripts(t *testing.T) {
	type key struct{}
	registryOf := func(ts *testscript.TestScript) *registrytest.Registry {
		return ts.Value(key{}).(*registrytest.Registry)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/upstream",
		Setup: func(e *testscript.Env) error {
			u := registrytest.New(e.Defer)
			e.Values[key{}] = u
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("XDG_CACHE_HOME", e.WorkDir+"/cache")
			e.Setenv("XDG_STATE_HOME", e.WorkDir+"/state")
			e.Setenv("REGISTRY", u.Host)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits,
			"push": func(ts *testscript.TestScript, _ bool, args []string) {
				_, err := registryOf(ts).Push(args[0], append(args, bundle.Platform())[1:2])
				ts.Check(err)
			},
			"refuse": func(ts *testscript.TestScript, _ bool, args []string) {
				registryOf(ts).SpoilWith(func(w http.ResponseWriter, r *http.Request, _ int) bool {
					refused := len(args) > 0 && strings.HasPrefix(r.URL.Path, "/v2/"+args[0]+"/")
					if refused {
						w.WriteHeader(http.StatusForbidden)
					}
					return refused
				})
			},
		},
	})
}

func TestAMirrorServesAPulledImageAsItsRegistryDid(t *testing.T) {
	u := registrytest.New(t.Cleanup)
	if _, err := u.Push("one:v1", []string{bundle.Platform()}); err != nil {
		t.Fatal(err)
	}
	dir, cache := t.TempDir(), t.TempDir()
	for name, content := range map[string]string{
		"upstream.yaml": "apiVersion: gapproof.dev/v1alpha1\nkind: Upstream\nmirrors: {example.test: '" + u.Host + "'}\n" +
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
	for _, from := range []string{u.Host + "/one:v1", mirrored + ":v1", mirrored + "@" + lock.Images[0].Digest} {
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
