package sbom

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"debug/buildinfo"
	"debug/elf"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path"
	"runtime/debug"
	"slices"
	"strings"
)

// Inventory is what was found in one image. Binaries are sorted by path, Packages by name and architecture.
type Inventory struct {
	Binaries []Binary  `json:"binaries"`
	Packages []Package `json:"packages"`
	// Distribution is the ID and VERSION_CODENAME of os-release, such as "debian" and "bookworm"; both are empty where there is none.
	Distribution Distribution `json:"distribution,omitzero"`
	// Unread are package databases that are there and that this package does not read.
	Unread []string `json:"unread,omitempty"`
}

// Binary is one Go program.
type Binary struct {
	// Path is absolute.
	Path string `json:"path"`
	// SHA256 is the lower-case hexadecimal digest of the file.
	SHA256 string           `json:"sha256"`
	Info   *debug.BuildInfo `json:"info"`
}

// Package is one installed Debian package.
type Package struct {
	Name         string `json:"name"`
	Version      string `json:"version"`
	Architecture string `json:"architecture,omitempty"`
	// Source is the source package where it has another name, and its version where that differs, as dpkg writes it.
	Source string `json:"source,omitempty"`
}

// Distribution names the release that packages belong to.
type Distribution struct {
	ID       string `json:"id"`
	Codename string `json:"codename"`
}

// Spool holds one file of the image at a time, because build information is not at a file's beginning. An *os.File is one.
type Spool interface {
	io.ReaderAt
	io.WriterAt
	Truncate(size int64) error
}

// Where dpkg keeps its lists: one file on Debian, one file per package in images that were put together without dpkg.
const (
	dpkgStatus  = "var/lib/dpkg/status"
	dpkgFolder  = "var/lib/dpkg/status.d"
	etcRelease  = "etc/os-release"
	usrRelease  = "usr/lib/os-release"
	goSection   = ".go.buildinfo"
	listLimit   = 64 << 20 // a full desktop's status file has some five MiB
	elfMagicLen = len(elf.ELFMAG)
)

// unread are the package databases that this package knows of and does not read.
var unread = []string{"lib/apk/db/installed", "usr/lib/sysimage/rpm", "var/lib/rpm"}

// Read reads the tar of a whole file system, without layers. It stops when ctx is done.
func Read(ctx context.Context, root io.Reader, spool Spool) (*Inventory, error) {
	inv := &Inventory{Binaries: []Binary{}, Packages: []Package{}}
	r := tar.NewReader(reader{ctx, root})
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("reading the file system: %w", err)
		}
		name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
		inv.note(name)
		if h.Typeflag != tar.TypeReg {
			continue
		}
		if err := inv.add(name, r, spool); err != nil {
			return nil, fmt.Errorf("reading /%s: %w", name, err)
		}
	}
	slices.SortFunc(inv.Binaries, func(a, b Binary) int { return strings.Compare(a.Path, b.Path) })
	slices.SortFunc(inv.Packages, func(a, b Package) int {
		return strings.Compare(a.Name+" "+a.Architecture+" "+a.Version, b.Name+" "+b.Architecture+" "+b.Version)
	})
	inv.Packages = slices.Compact(inv.Packages)
	slices.Sort(inv.Unread)
	return inv, nil
}

// note remembers a package database that is not read.
func (inv *Inventory) note(name string) {
	for _, u := range unread {
		if (name == u || strings.HasPrefix(name, u+"/")) && !slices.Contains(inv.Unread, "/"+u) {
			inv.Unread = append(inv.Unread, "/"+u)
		}
	}
}

// add takes from one regular file what it says.
func (inv *Inventory) add(name string, content io.Reader, spool Spool) error {
	switch {
	case name == dpkgStatus, path.Dir(name) == dpkgFolder && path.Ext(name) != ".md5sums":
		data, err := readList(content)
		inv.Packages = append(inv.Packages, ParseStatus(data)...)
		return err
	case name == etcRelease, name == usrRelease:
		data, err := readList(content)
		inv.Distribution = parseRelease(data)
		return err
	}
	buffered := bufio.NewReader(content)
	if magic, err := buffered.Peek(elfMagicLen); err != nil || string(magic) != elf.ELFMAG {
		return nil // an error is the end of a short file, or met again by the tar reader
	}
	if err := spool.Truncate(0); err != nil {
		return err
	}
	h := sha256.New()
	if _, err := io.Copy(io.MultiWriter(io.NewOffsetWriter(spool, 0), h), buffered); err != nil {
		return err
	}
	info, err := buildInfo(spool)
	if err != nil || info == nil {
		return err
	}
	inv.Binaries = append(inv.Binaries, Binary{Path: "/" + name, SHA256: hex.EncodeToString(h.Sum(nil)), Info: info})
	return nil
}

// buildInfo is what the Go linker left in an ELF file, nil in a file of another linker.
func buildInfo(r io.ReaderAt) (*debug.BuildInfo, error) {
	f, err := elf.NewFile(r)
	if err != nil || f.Section(goSection) == nil {
		return nil, nil // a broken ELF file is no Go program, and none of what is listed here
	}
	info, err := buildinfo.Read(r)
	if err != nil {
		return nil, fmt.Errorf("reading its build information: %w", err)
	}
	return info, nil
}

func readList(r io.Reader) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, listLimit+1))
	if err == nil && len(data) > listLimit {
		err = fmt.Errorf("it has more than %d bytes", listLimit)
	}
	return data, err
}

// ParseStatus reads the installed packages out of dpkg's status file (deb822, dpkg-query(1)).
func ParseStatus(status []byte) []Package {
	var all []Package
	for paragraph := range bytes.SplitSeq(status, []byte("\n\n")) {
		var p Package
		installed := true
		for line := range strings.Lines(string(paragraph)) {
			key, value, ok := strings.Cut(strings.TrimRight(line, "\n"), ": ")
			if !ok || strings.HasPrefix(line, " ") {
				continue
			}
			switch key {
			case "Package":
				p.Name = value
			case "Version":
				p.Version = value
			case "Architecture":
				p.Architecture = value
			case "Source":
				p.Source = value
			case "Status":
				installed = strings.HasSuffix(value, " installed")
			}
		}
		if p.Name != "" && installed {
			all = append(all, p)
		}
	}
	return all
}

// parseRelease reads os-release(5).
func parseRelease(data []byte) Distribution {
	var d Distribution
	for line := range strings.Lines(string(data)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch value = strings.Trim(value, `"'`); key {
		case "ID":
			d.ID = value
		case "VERSION_CODENAME":
			d.Codename = value
		}
	}
	return d
}

// reader ends a long read when its context does.
type reader struct {
	ctx context.Context
	r   io.Reader
}

func (r reader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.r.Read(p)
}
