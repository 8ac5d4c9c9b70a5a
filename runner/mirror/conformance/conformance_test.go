package conformance

import (
	"math/rand"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"

	"github.com/gapproof/gapproof/images"
	"github.com/gapproof/gapproof/runner/mirror"
)

const (
	// suite is the program of the specification's authors; go.mod pins it as a tool.
	suite = "github.com/opencontainers/distribution-spec/conformance"
	// seed makes the random image the same in every run.
	seed       = 20261125
	repository = "conformance.example/pull"
	tag        = "v1"
)

// pulls are the suite's parts that a read-only registry gives occasion to.
var pulls = []string{
	"Ping", "Blob get", "Blob head", "Manifest get by digest", "Manifest get by tag", "Manifest head by digest", "Manifest head by tag",
}

// lab is a lab directory with one image; the strings are what it can be asked for by digest.
func lab(t *testing.T) (dir string, lock *images.Lock, manifests, blobs []string) {
	t.Helper()
	dir = t.TempDir()
	path, err := layout.Write(images.LayoutDir(dir), empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	image, err := random.Image(4096, 2, random.WithSource(rand.NewSource(seed)))
	if err != nil {
		t.Fatal(err)
	}
	index := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{
		Add: image, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}},
	})
	if err := path.AppendIndex(index); err != nil {
		t.Fatal(err)
	}
	digest := func(of interface{ Digest() (v1.Hash, error) }) string {
		t.Helper()
		h, err := of.Digest()
		if err != nil {
			t.Fatal(err)
		}
		return h.String()
	}
	config, err := image.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	layers, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	blobs = []string{config.String()}
	for _, l := range layers {
		blobs = append(blobs, digest(l))
	}
	lock = &images.Lock{Version: images.LockVersion, Platform: "linux/amd64", Images: []images.Image{
		{Name: repository, Tag: tag, Digest: digest(index)},
	}}
	return dir, lock, []string{digest(index), digest(image)}, blobs
}

func TestTheMirrorPassesTheSpecificationsPullCategory(t *testing.T) {
	dir, lock, manifests, blobs := lab(t)
	m, err := mirror.New(dir, lock, mirror.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	server := httptest.NewServer(m)
	defer server.Close()

	program := filepath.Join(t.TempDir(), "conformance")
	if out, err := exec.Command("go", "build", "-o", program, suite).CombinedOutput(); err != nil {
		t.Fatalf("building the suite: %v\n%s", err, out)
	}
	results := t.TempDir()
	c := exec.Command(program)
	c.Dir = results
	c.Env = append(os.Environ(),
		"OCI_REGISTRY="+strings.TrimPrefix(server.URL, "http://"), "OCI_TLS=disabled", "OCI_REPO1="+repository, "OCI_RESULTS_DIR="+results,
		"OCI_API_PUSH=false", "OCI_API_BLOBS_DELETE=false", "OCI_API_MANIFESTS_DELETE=false", "OCI_API_TAGS_DELETE=false",
		// Optional in the specification, and no part of its category of pulls: the mirror lists nothing.
		"OCI_API_TAGS_LIST=false", "OCI_API_REFERRER=false",
		"OCI_RO_DATA_TAGS="+tag, "OCI_RO_DATA_MANIFESTS="+strings.Join(manifests, " "), "OCI_RO_DATA_BLOBS="+strings.Join(blobs, " "),
	)
	// Its exit code cannot be used: after its report, a suite that may not push looks up a piece of data that it never made, and crashes
	// (ReportResultsYAML). So the report is what counts.
	out, err := c.Output()
	t.Logf("%v\n%s", err, out)
	said := map[string]string{}
	for _, line := range regexp.MustCompile(`(?m)^ *(.+?)\.*: +(\S+)$`).FindAllStringSubmatch(string(out), -1) {
		said[line[1]] = line[2]
	}
	if got := said["OCI Conformance Result"]; got != "Pass" {
		t.Errorf("the suite's result is %q, want Pass", got)
	}
	for _, part := range pulls {
		if got := said[part]; got != "Pass" {
			t.Errorf("%s: %q, want Pass", part, got)
		}
	}
}
