package sbom

import (
	"bytes"
	"fmt"
	"path"
	"runtime/debug"
	"slices"
	"strings"

	cdx "github.com/CycloneDX/cyclonedx-go"
	packageurl "github.com/package-url/packageurl-go"
)

// specification is the version of CycloneDX that documents follow: not the newest, because what reads them is often older.
const specification = cdx.SpecVersion1_6

// Subject is what a document is about: an image, or a single program where Digest is empty.
type Subject struct {
	// Name is the repository with its registry host, or the program's name.
	Name string
	// Version is the tag, or the program's version.
	Version string
	// Digest is the image's, "sha256:" and 64 hexadecimal digits.
	Digest string
	// Architecture is the image's, such as "amd64".
	Architecture string
}

// Document is the inventory as CycloneDX in JSON, ending with a line end.
func (inv *Inventory) Document(s Subject) ([]byte, error) {
	subject := s.component()
	d := document{components: map[string]cdx.Component{}, needs: map[string][]string{}}
	for _, b := range inv.Binaries {
		d.binary(subject.BOMRef, b)
	}
	for _, p := range inv.Packages {
		d.debian(subject.BOMRef, p, inv.Distribution)
	}
	bom := cdx.NewBOM()
	bom.Metadata = &cdx.Metadata{Component: &subject}
	bom.Components = &[]cdx.Component{}
	for _, ref := range sortedKeys(d.components) {
		*bom.Components = append(*bom.Components, d.components[ref])
	}
	bom.Dependencies = &[]cdx.Dependency{}
	for _, ref := range sortedKeys(d.needs) {
		needs := slices.Compact(slices.Sorted(slices.Values(d.needs[ref])))
		*bom.Dependencies = append(*bom.Dependencies, cdx.Dependency{Ref: ref, Dependencies: &needs})
	}
	if len(inv.Unread) > 0 {
		bom.Compositions = &[]cdx.Composition{{Aggregate: cdx.CompositionAggregateIncomplete, Assemblies: &[]cdx.BOMReference{cdx.BOMReference(subject.BOMRef)}}}
		bom.Metadata.Properties = properties("unread", strings.Join(inv.Unread, " "))
	}
	var b bytes.Buffer
	if err := cdx.NewBOMEncoder(&b, cdx.BOMFileFormatJSON).SetPretty(true).SetEscapeHTML(false).EncodeVersion(bom, specification); err != nil {
		return nil, fmt.Errorf("encoding the bill of materials of %s: %w", s.Name, err)
	}
	return b.Bytes(), nil
}

// component is the subject as CycloneDX has it. Its package URL is that of the type oci
// (https://github.com/package-url/purl-spec, types-doc/oci-definition.md).
func (s Subject) component() cdx.Component {
	if s.Digest == "" {
		return cdx.Component{BOMRef: "program:" + s.Name, Type: cdx.ComponentTypeApplication, Name: s.Name, Version: s.Version}
	}
	c := cdx.Component{Type: cdx.ComponentTypeContainer, Name: s.Name, Version: s.Version}
	c.PackageURL = purl(packageurl.TypeOCI, "", path.Base(s.Name), s.Digest, map[string]string{
		"arch": s.Architecture, "repository_url": s.Name, "tag": s.Version,
	})
	c.Hashes = &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: strings.TrimPrefix(s.Digest, "sha256:")}}
	c.BOMRef = c.PackageURL
	return c
}

// document gathers components by reference and what needs what.
type document struct {
	components map[string]cdx.Component
	needs      map[string][]string
}

// binary adds a program, and every module that is linked into it.
func (d *document) binary(owner string, b Binary) {
	c := cdx.Component{
		BOMRef: "file:" + b.Path, Type: cdx.ComponentTypeApplication, Name: path.Base(b.Path),
		Hashes: &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: b.SHA256}},
		Properties: properties("path", b.Path, "package", b.Info.Path, "goVersion", b.Info.GoVersion,
			"goTags", setting(b.Info, "-tags"), "goArch", setting(b.Info, "GOARCH"), "cgo", setting(b.Info, "CGO_ENABLED")),
	}
	d.components[c.BOMRef] = c
	d.needs[owner] = append(d.needs[owner], c.BOMRef)
	// The standard library has no module of its own in build information; its package URL is the one that vulnerability databases use.
	d.module(c.BOMRef, &debug.Module{Path: "stdlib", Version: strings.TrimPrefix(b.Info.GoVersion, "go")})
	if b.Info.Main.Path != "" {
		d.module(c.BOMRef, &b.Info.Main)
	}
	for _, m := range b.Info.Deps {
		d.module(c.BOMRef, m)
	}
}

// module adds a module as it was linked: its replacement where it was replaced.
func (d *document) module(owner string, m *debug.Module) {
	replaced := ""
	if m.Replace != nil {
		replaced, m = m.Path+" "+m.Version, m.Replace
	}
	version := m.Version
	if version == "(devel)" { // a module built in its own folder has no version
		version = ""
	}
	namespace, name := path.Split(m.Path)
	url := purl(packageurl.TypeGolang, strings.TrimSuffix(namespace, "/"), name, version, nil)
	d.components[url] = cdx.Component{
		BOMRef: url, Type: cdx.ComponentTypeLibrary, Name: m.Path, Version: version, PackageURL: url,
		Properties: properties("goSum", m.Sum, "replaces", replaced),
	}
	d.needs[owner] = append(d.needs[owner], url)
}

// debian adds a package.
func (d *document) debian(owner string, p Package, from Distribution) {
	if from.ID == "" {
		from.ID = "debian"
	}
	url := purl(packageurl.TypeDebian, from.ID, p.Name, p.Version, map[string]string{"arch": p.Architecture, "distro": from.Codename})
	d.components[url] = cdx.Component{
		BOMRef: url, Type: cdx.ComponentTypeLibrary, Name: p.Name, Version: p.Version, PackageURL: url, Properties: properties("source", p.Source),
	}
	d.needs[owner] = append(d.needs[owner], url)
}

// purl makes a package URL; qualifiers without a value are left out.
func purl(kind, namespace, name, version string, qualifiers map[string]string) string {
	var q packageurl.Qualifiers
	for _, key := range sortedKeys(qualifiers) {
		if qualifiers[key] != "" {
			q = append(q, packageurl.Qualifier{Key: key, Value: qualifiers[key]})
		}
	}
	url := packageurl.NewPackageURL(kind, namespace, name, version, q, "")
	_ = url.Normalize() // it complains of what a type lacks, such as a namespace; the URL names what there is
	return url.ToString()
}

// properties are the pairs of a name and a value whose value is not empty; nil for none.
func properties(pairs ...string) *[]cdx.Property {
	var all []cdx.Property
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			all = append(all, cdx.Property{Name: "gapproof:" + pairs[i], Value: pairs[i+1]})
		}
	}
	if all == nil {
		return nil
	}
	return &all
}

func setting(info *debug.BuildInfo, key string) string {
	for _, s := range info.Settings {
		if s.Key == key {
			return s.Value
		}
	}
	return ""
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
