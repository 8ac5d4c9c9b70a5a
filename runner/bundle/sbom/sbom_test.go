package sbom

import (
	"archive/tar"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/google/go-cmp/cmp"
)

const status = "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nSource: glibc\nVersion: 2.36-9+deb12u10\n" +
	"Description: a library\n Version: not this one\n\n" +
	"Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n\n" +
	"Package: tzdata\nStatus: install ok installed\nArchitecture: all\nVersion: 2024a-0+deb12u1\n"

// program is the path of a real program of this repository, built with the modules that its go.mod pins.
func program(t *testing.T) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "gapproof-witness")
	if text, err := exec.CommandContext(t.Context(), "go", "build", "-o", out, "../../../probes/cmd/gapproof-witness").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return out
}

// rootFS is a file system in a tar.
func rootFS(t *testing.T, files map[string][]byte) *bytes.Buffer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range sortedKeys(files) {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(files[name]))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(files[name]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &b
}

func inventory(t *testing.T, files map[string][]byte) *Inventory {
	t.Helper()
	spool, err := os.Create(filepath.Join(t.TempDir(), "spool"))
	if err != nil {
		t.Fatal(err)
	}
	defer spool.Close()
	inv, err := Read(t.Context(), rootFS(t, files), spool)
	if err != nil {
		t.Fatal(err)
	}
	return inv
}

// components are a document's, "name version" to package URL.
func components(t *testing.T, raw []byte) map[string]string {
	t.Helper()
	var bom cdx.BOM
	if err := cdx.NewBOMDecoder(bytes.NewReader(raw), cdx.BOMFileFormatJSON).Decode(&bom); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, c := range *bom.Components {
		got[strings.TrimSpace(c.Name+" "+c.Version)] = c.PackageURL
	}
	return got
}

var subject = Subject{Name: "example.org/a", Version: "v1", Digest: "sha256:" + strings.Repeat("a", 64), Architecture: "amd64"}

func TestEveryModuleOfABuiltProgramIsListed(t *testing.T) {
	path := program(t)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := inventory(t, map[string][]byte{"./usr/bin/witness": data, "usr/bin/script": []byte("#!/bin/sh\n"), "empty": nil}).Document(subject)
	if err != nil {
		t.Fatal(err)
	}
	got := components(t, raw)
	// The go command is the other witness of what was linked.
	listed, err := exec.CommandContext(t.Context(), "go", "version", "-m", path).Output()
	if err != nil {
		t.Fatal(err)
	}
	modules := 0
	for line := range strings.Lines(string(listed)) {
		f := strings.Fields(line)
		if len(f) < 3 || f[0] != "dep" {
			continue
		}
		modules++
		want := "pkg:golang/" + strings.ToLower(f[1]) + "@" + strings.ReplaceAll(f[2], "+", "%2B")
		if url := got[f[1]+" "+f[2]]; url != want {
			t.Errorf("%s %s: want %s, got %q", f[1], f[2], want, url)
		}
	}
	if modules == 0 {
		t.Fatalf("the program has no modules:\n%s", listed)
	}
	if _, ok := got["witness"]; !ok {
		t.Error("the program itself is not listed")
	}
	if _, ok := got["script"]; ok {
		t.Error("a script is listed as a program")
	}
}

func TestEveryInstalledPackageIsListed(t *testing.T) {
	raw, err := inventory(t, map[string][]byte{
		dpkgStatus: []byte(status), usrRelease: []byte("ID=debian\nVERSION_CODENAME=bookworm\n"),
		dpkgFolder + "/base": []byte("Package: base-files\nVersion: 12\nArchitecture: amd64\n"), dpkgFolder + "/base.md5sums": []byte("Package: no\n"),
	}).Document(subject)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"base-files 12":          "pkg:deb/debian/base-files@12?arch=amd64&distro=bookworm",
		"libc6 2.36-9+deb12u10":  "pkg:deb/debian/libc6@2.36-9%2Bdeb12u10?arch=amd64&distro=bookworm",
		"tzdata 2024a-0+deb12u1": "pkg:deb/debian/tzdata@2024a-0%2Bdeb12u1?arch=all&distro=bookworm",
	}
	if diff := cmp.Diff(want, components(t, raw)); diff != "" {
		t.Errorf("components (-want +got):\n%s", diff)
	}
}

func TestADocumentHasNoSerialAndNoTime(t *testing.T) {
	files := map[string][]byte{dpkgStatus: []byte(status), "lib/apk/db/installed": []byte("P:musl\n")}
	first, err := inventory(t, files).Document(subject)
	if err != nil {
		t.Fatal(err)
	}
	second, err := inventory(t, files).Document(subject)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first, second) {
		t.Error("two documents of one image differ")
	}
	for _, no := range []string{"serialNumber", "timestamp"} {
		if bytes.Contains(first, []byte(no)) {
			t.Errorf("the document has a %s", no)
		}
	}
	for _, want := range []string{`"aggregate": "incomplete"`, "/lib/apk/db/installed", "pkg:oci/a@sha256"} {
		if !bytes.Contains(first, []byte(want)) {
			t.Errorf("the document lacks %s:\n%s", want, first)
		}
	}
}
