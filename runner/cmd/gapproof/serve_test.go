package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/gapproof/gapproof/images"
)

// serveSeed makes the random image the same in every run.
const serveSeed = 20261125

// smallLab is a lab directory with one image, gapproof.example/one:v1.
func smallLab(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	path, err := layout.Write(images.LayoutDir(dir), empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	image, err := random.Image(1024, 1, random.WithSource(rand.NewSource(serveSeed)))
	if err != nil {
		t.Fatal(err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config.OS, config.Architecture = "linux", "amd64"
	if image, err = mutate.ConfigFile(image, config); err != nil {
		t.Fatal(err)
	}
	index := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{
		Add: image, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}},
	})
	if err := path.AppendIndex(index); err != nil {
		t.Fatal(err)
	}
	digest, err := index.Digest()
	if err != nil {
		t.Fatal(err)
	}
	lock := fmt.Sprintf(`{"version": %d, "platform": "linux/amd64", "images": [{"name": "gapproof.example/one", "tag": "v1", "digest": %q, "size": 1, "component": "one"}]}`,
		images.LockVersion, digest)
	if err := os.WriteFile(filepath.Join(dir, "lock.json"), []byte(lock), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestBundleServeAnswersPullsScrapesAndItsInterrupt(t *testing.T) {
	access := filepath.Join(t.TempDir(), "access.jsonl")
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	says, say := io.Pipe()
	var out bytes.Buffer
	code := make(chan int, 1)
	go func() {
		code <- run(ctx, []string{"bundle", "serve", "--lab", smallLab(t), "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--access-log", access},
			streams{out: &out, err: say})
		say.Close()
	}()
	// Both addresses are on stderr before anything is answered.
	var said strings.Builder
	metrics, registry := regexp.MustCompile(`http://\S+/metrics`), regexp.MustCompile(`on http://(\S+) until`)
	buffer := make([]byte, 4096)
	for !metrics.MatchString(said.String()) || !registry.MatchString(said.String()) {
		n, err := says.Read(buffer)
		if err != nil {
			t.Fatalf("it ended with exit code %d: %s", <-code, said.String())
		}
		said.Write(buffer[:n])
	}
	go func() { _, _ = io.Copy(io.Discard, says) }()

	address := registry.FindStringSubmatch(said.String())[1]
	ref, err := name.ParseReference(address + "/gapproof.example/one:v1")
	if err != nil {
		t.Fatal(err)
	}
	index, err := remote.Index(ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(index); err != nil {
		t.Errorf("pulling: %v", err)
	}
	res, err := http.Get(metrics.FindString(said.String()))
	if err != nil {
		t.Fatal(err)
	}
	scraped, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if !regexp.MustCompile(`gapproof_mirror_requests_total\{kind="blob",result="served"\} [1-9]`).Match(scraped) {
		t.Errorf("the metrics do not count the pulled blobs:\n%s", scraped)
	}
	interrupt()
	if got := <-code; got != exitPass {
		t.Errorf("exit code %d after the interrupt, want %d", got, exitPass)
	}
	if want := `server = "http://` + address + `"`; !strings.Contains(out.String(), want) {
		t.Errorf("stdout has no %s:\n%s", want, &out)
	}
	log, err := os.ReadFile(access)
	if err != nil || !strings.Contains(string(log), `"reference":"v1"`) {
		t.Errorf("the access log has not the pull: %v\n%s", err, log)
	}
}
