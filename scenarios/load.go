package scenarios

import (
	"io"
	"io/fs"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	npav1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"
)

const (
	policyAPIVersion = "networking.k8s.io/v1"
	policyKind       = "NetworkPolicy"
	policyListKind   = "NetworkPolicyList"
	listAPIVersion   = "v1"
	listKind         = "List"
)

// Load reads the scenarios of the named files and of the directories' *.yaml and *.yml files, at any depth, in name order. Below a
// directory every YAML file must be a Scenario, a World, or something that a scenario refers to; hidden files are left out.
//
// The result is ready for planning: defaults filled, shared worlds and policy files read in, everything valid. Otherwise the error is a
// Faults with all that is wrong in all of the files, and there is no result.
func Load(paths ...string) ([]*Scenario, error) {
	clean := make([]string, len(paths))
	for i, p := range paths {
		clean[i] = filepath.Clean(p)
	}
	return load(osTree{}, clean)
}

// LoadFS is Load for the files of fsys, with paths as fs.ValidPath has them; "." is all of fsys.
func LoadFS(fsys fs.FS, paths ...string) ([]*Scenario, error) {
	clean := make([]string, len(paths))
	for i, p := range paths {
		clean[i] = path.Clean(p)
	}
	return load(fsTree{fsys}, clean)
}

// loader is one call of Load.
type loader struct {
	tree tree
	sink sink
	// used are files that a scenario refers to.
	used map[string]struct{}
	// strays are files below a directory that are neither scenario nor world: faults, unless they turn out to be used.
	strays []Fault
	seen   map[string]struct{}
	named  map[string]string // scenario name → file
	// input is what the path "-" of manifests stands for; may be nil.
	input io.Reader
}

func load(t tree, paths []string) ([]*Scenario, error) {
	l := loader{tree: t, used: map[string]struct{}{}, seen: map[string]struct{}{}, named: map[string]string{}}
	var out []*Scenario
	for _, p := range paths {
		out = append(out, l.path(p)...)
	}
	for _, stray := range l.strays {
		if _, used := l.used[stray.File]; !used {
			l.sink.add(stray)
		}
	}
	if faults := l.sink.sorted(); len(faults) > 0 {
		return nil, faults
	}
	return out, nil
}

// path loads one argument.
func (l *loader) path(name string) []*Scenario {
	directory, err := isDirectory(l.tree, name)
	if err != nil {
		l.sink.add(Fault{File: name, Message: reason(err), Hint: "name a scenario file or a directory of them"})
		return nil
	}
	if !directory {
		if s := l.file(name, named); s != nil {
			return []*Scenario{s}
		}
		return nil
	}
	files, err := filesBelow(l.tree, name, isYAML)
	if err != nil {
		l.sink.add(Fault{File: name, Message: reason(err)})
		return nil
	}
	before := len(l.sink.faults)
	earlier := slices.ContainsFunc(files, func(f string) bool { _, is := l.seen[f]; return is }) // by an earlier argument
	var out []*Scenario
	for _, f := range files {
		if s := l.file(f, found); s != nil {
			out = append(out, s)
		}
	}
	if len(out) == 0 && !earlier && len(l.sink.faults) == before && len(l.strays) == 0 {
		l.sink.add(Fault{File: name, Message: "holds no scenario", Hint: "scenario files end in .yaml or .yml"})
	}
	return out
}

// origin is how a file came to be loaded.
type origin uint8

const (
	named origin = iota // the caller named it: it must be a scenario
	found               // it lies below a directory: it may also be a World, or something a scenario refers to
)

func (l *loader) misfit(how origin, f Fault) {
	if how == found {
		l.strays = append(l.strays, f)
		return
	}
	l.sink.add(f)
}

// file loads one file; nil when it is no scenario. A World file is checked even when no scenario uses it.
func (l *loader) file(name string, how origin) *Scenario {
	if _, twice := l.seen[name]; twice {
		return nil
	}
	l.seen[name] = struct{}{}
	content, err := read(l.tree, name)
	if err != nil {
		l.sink.add(Fault{File: name, Message: reason(err)})
		return nil
	}
	documents := parse(name, content, &l.sink)
	if len(documents) == 0 {
		if !l.sink.has(name) {
			l.misfit(how, Fault{File: name, Message: "holds no document", Hint: "a scenario begins with apiVersion: " + APIVersion})
		}
		return nil
	}
	switch kind := topLevel(documents[0], "kind"); {
	case kind == Kind:
		if len(documents) > 1 {
			l.sink.add(Fault{File: name, Line: documents[1].Line, Message: "holds more than one document", Hint: "one scenario per file"})
		}
		return l.scenario(name, documents[0])
	case kind == WorldKind && how == found:
		l.world(name, documents)
		return nil
	default:
		l.misfit(how, misfitOf(name, documents[0], kind))
		return nil
	}
}

// has tells whether a file already has a fault.
func (s *sink) has(file string) bool {
	for i := range s.faults {
		if s.faults[i].File == file {
			return true
		}
	}
	return false
}

func misfitOf(name string, node *yaml.Node, kind string) Fault {
	f := Fault{File: name, Line: node.Line, Field: "kind", Value: kind, Hint: "write kind: " + Kind}
	switch {
	case node.Kind != yaml.MappingNode:
		f.Field, f.Message = "", "wants a mapping, has "+describe(node)
		f.Hint = "a scenario begins with apiVersion: " + APIVersion
	case kind == "":
		f.Message = "is missing"
	case slices.Contains([]string{policyKind, policyListKind, clusterPolicyKind, clusterPolicyListKind, listKind}, kind):
		f.Message, f.Hint = kind+" is not a "+Kind, "name the file in policies.files of a scenario"
	case kind == WorldKind:
		f.Message, f.Hint = "World is not a Scenario", "name the file in world.file of a scenario"
	default:
		f.Message = kind + " is not a " + Kind
	}
	if line := lineOf(node, "kind"); line > 0 {
		f.Line = line
	}
	return f
}

// topLevel is the scalar value of a key of the document, or "".
func topLevel(n *yaml.Node, key string) string {
	if n.Kind != yaml.MappingNode {
		return ""
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key && n.Content[i+1].Kind == yaml.ScalarNode {
			return n.Content[i+1].Value
		}
	}
	return ""
}

func lineOf(n *yaml.Node, key string) int {
	if n.Kind != yaml.MappingNode {
		return 0
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i].Line
		}
	}
	return 0
}

func (l *loader) scenario(name string, node *yaml.Node) *Scenario {
	doc := newDocument(name, node, &l.sink)
	s := &Scenario{File: name}
	doc.decode(node, "", s)
	checkType(doc, "", s.APIVersion, APIVersion)
	doc.checkName(name, "metadata.name", s.Metadata.Name)
	if other, taken := l.named[s.Metadata.Name]; taken && s.Metadata.Name != "" {
		doc.fault("metadata.name", s.Metadata.Name, "", "%s is the name of %s too", s.Metadata.Name, other)
	} else {
		l.named[s.Metadata.Name] = name
	}
	return l.complete(doc, s)
}

// complete reads in whatever a decoded scenario refers to, fills its defaults and checks it.
func (l *loader) complete(doc *document, s *Scenario) *Scenario {
	manifests := newManifestReader(l)
	all := l.policies(doc, s)
	all.add(manifests.policiesOf(doc, &s.Policies))
	c := checker{document: doc, scenario: s, policies: all.network, cluster: all.cluster}
	for _, p := range c.policies {
		s.Policies.Loaded = append(s.Policies.Loaded, p.Policy)
	}
	for _, p := range c.cluster {
		s.Policies.LoadedCluster = append(s.Policies.LoadedCluster, p.ClusterPolicy)
	}
	c.replacing = make([]gathered, len(s.Steps))
	for i := range s.Steps {
		step := &s.Steps[i]
		c.replacing[i] = gathered{
			network: doc.inline(step.Replace, item("steps", i)+".replace"),
			cluster: doc.inlineCluster(step.ReplaceCluster, item("steps", i)+".replaceCluster"),
		}
		for _, p := range c.replacing[i].network {
			step.Replacing = append(step.Replacing, p.Policy)
		}
		for _, p := range c.replacing[i].cluster {
			step.ReplacingCluster = append(step.ReplacingCluster, p.ClusterPolicy)
		}
	}
	worldRead := true
	s.Places = doc.places("world", s.World)
	switch {
	case s.World.File != "":
		worldRead = l.sharedWorld(doc, s)
	case len(s.World.From) > 0:
		worldRead = l.derivedWorld(doc, s, manifests)
	default:
		s.World.setDefaults()
		checkWorld(doc, "world", s.World)
	}
	s.Omissions, s.Ignored = manifests.account()
	setDefaults(s)
	if worldRead && len(s.World.Namespaces) > 0 { // else every name would be unknown, which helps nobody
		c.check()
	}
	return s
}

// sharedWorld puts the world of the named file in place, and tells whether there was one.
func (l *loader) sharedWorld(doc *document, s *Scenario) bool {
	if s.World.Namespaces != nil || s.World.Services != nil || s.World.From != nil || !s.World.Reach.empty() {
		doc.fault("world", nil, "write the world out, or name a file", "file goes with neither namespaces nor services nor from nor reach")
	}
	name := l.tree.beside(doc.file, s.World.File)
	l.used[name] = struct{}{}
	content, err := read(l.tree, name)
	if err != nil {
		doc.fault("world.file", s.World.File, "the path is relative to the scenario file", "reading %s: %s", name, reason(err))
		return false
	}
	documents := parse(name, content, &l.sink)
	if len(documents) == 0 {
		if !l.sink.has(name) {
			doc.fault("world.file", s.World.File, "", "%s holds no document", name)
		}
		return false
	}
	if kind := topLevel(documents[0], "kind"); kind != WorldKind {
		doc.fault("world.file", s.World.File, "a world begins with kind: "+WorldKind, "%s is not a %s but %q", name, WorldKind, kind)
		return false
	}
	s.World, s.Places = l.world(name, documents)
	s.WorldFile = name
	return true
}

// derivedWorld puts a world made from manifests, and what is written beside them, in place, and tells whether it could be made.
func (l *loader) derivedWorld(doc *document, s *Scenario, manifests *manifestReader) bool {
	before := len(l.sink.faults)
	var list []*manifest
	for i, relative := range s.World.From {
		at := item("world.from", i)
		name := l.tree.beside(doc.file, relative)
		list = append(list, manifests.path(name, func(hint, format string, args ...any) { doc.fault(at, relative, hint, format, args...) })...)
	}
	derived, places := worldFrom(manifests, s.World.DefaultNamespace, list)
	if len(l.sink.faults) > before {
		return false // half a world would only bring more faults
	}
	if len(derived.Namespaces) == 0 {
		doc.fault("world.from", nil, "name files with Deployments, Pods and the like", "the manifests have no workload")
		return false
	}
	s.World.From, s.World.DefaultNamespace = nil, ""
	maps.Copy(s.Places, places)
	s.World = merged(derived, s.World)
	s.World.setDefaults()
	checkWorld(doc, "world", s.World)
	return true
}

// merged is a derived world with what is written on top: pods and Services are added, labels of namespaces win.
func merged(derived, written World) World {
	for _, ns := range written.Namespaces {
		i := slices.IndexFunc(derived.Namespaces, func(d Namespace) bool { return d.Name == ns.Name })
		if i < 0 {
			derived.Namespaces = append(derived.Namespaces, ns)
			continue
		}
		into := &derived.Namespaces[i]
		into.Pods = append(into.Pods, ns.Pods...)
		if len(ns.Labels) > 0 {
			labels := maps.Clone(into.Labels)
			if labels == nil {
				labels = map[string]string{}
			}
			maps.Copy(labels, ns.Labels)
			into.Labels = labels
		}
	}
	derived.Services = append(derived.Services, written.Services...)
	derived.Reach = written.Reach
	return derived
}

// world reads and checks a World file. Scenarios that share it get values of their own, and the same faults, which are told once.
func (l *loader) world(name string, documents []*yaml.Node) (World, map[string]Place) {
	node := documents[0]
	doc := newDocument(name, node, &l.sink)
	var file WorldFile
	doc.decode(node, "", &file)
	checkType(doc, "", file.APIVersion, APIVersion)
	if len(documents) > 1 {
		l.sink.add(Fault{File: name, Line: documents[1].Line, Message: "holds more than one document", Hint: "one world per file"})
	}
	doc.checkName(name, "metadata.name", file.Metadata.Name)
	world := World{Namespaces: file.Namespaces, Services: file.Services, Reach: file.Reach}
	world.setDefaults()
	checkWorld(doc, "", world)
	return world, doc.places("", world)
}

// places are where the namespaces and pods of a world are written that is in the document at a field.
func (d *document) places(at string, w World) map[string]Place {
	out := map[string]Place{}
	for i, ns := range w.Namespaces {
		at := item(child(at, "namespaces"), i)
		out[ns.Name] = Place{File: d.file, Line: d.at(at)}
		for j, p := range ns.Pods {
			out[ns.Name+"/"+p.Name] = Place{File: d.file, Line: d.at(item(at+".pods", j))}
		}
	}
	return out
}

func checkType(doc *document, prefix, apiVersion, want string) {
	field := child(prefix, "apiVersion")
	switch apiVersion {
	case want:
	case "":
		doc.fault(field, nil, "write apiVersion: "+want, "is missing")
	default:
		doc.fault(field, apiVersion, "write apiVersion: "+want, "%s is not %s", apiVersion, want)
	}
}

// located is a policy and where its faults belong.
type located struct {
	Policy
	document *document
	path     *field.Path // nil: the policy is the whole document
}

// gathered are policies of both kinds, each in the order in which they are written.
type gathered struct {
	network []located
	cluster []locatedCluster
}

func (g *gathered) add(more gathered) {
	g.network = append(g.network, more.network...)
	g.cluster = append(g.cluster, more.cluster...)
}

const relativeHint = "paths are relative to the scenario file"

// policies gathers the inline policies and those of the files.
func (l *loader) policies(doc *document, s *Scenario) gathered {
	out := gathered{network: doc.inline(s.Policies.Inline, "policies.inline"), cluster: doc.inlineCluster(s.Policies.Cluster, "policies.cluster")}
	for i, relative := range s.Policies.Files {
		at := item("policies.files", i)
		name := l.tree.beside(doc.file, relative)
		files := []string{name}
		directory, err := isDirectory(l.tree, name)
		if err == nil && directory {
			files, err = filesBelow(l.tree, name, isYAML)
		}
		if err != nil {
			doc.fault(at, relative, relativeHint, "reading %s: %s", name, reason(err))
			continue
		}
		if len(files) == 0 {
			doc.fault(at, relative, "policy files end in .yaml or .yml", "%s holds no policy file", name)
		}
		for _, f := range files {
			out.add(l.policyFile(doc, at, f))
		}
	}
	return out
}

// policyFile reads the policies of one file; at is the field of the scenario that led to it.
func (l *loader) policyFile(doc *document, at, name string) gathered {
	l.used[name] = struct{}{}
	content, err := read(l.tree, name)
	if err != nil {
		doc.fault(at, name, relativeHint, "reading %s: %s", name, reason(err))
		return gathered{}
	}
	documents := parse(name, content, &l.sink)
	if len(documents) == 0 && !l.sink.has(name) {
		doc.fault(at, name, "", "%s holds no %s", name, policyKind)
	}
	var out gathered
	for _, node := range documents {
		out.add(l.policyDocument(name, node))
	}
	return out
}

// policyDocument reads one document of a policy file: a policy of either kind, or a list of them as kubectl prints it.
func (l *loader) policyDocument(file string, node *yaml.Node) gathered {
	doc := newDocument(file, node, &l.sink)
	switch kind := topLevel(node, "kind"); kind {
	case policyKind:
		var p networkingv1.NetworkPolicy
		doc.decode(node, "", &p)
		checkType(doc, "", p.APIVersion, policyAPIVersion)
		return gathered{network: []located{{Policy: Policy{Spec: p, File: file, Line: node.Line, Lines: linesOf(file, node)}, document: doc}}}
	case clusterPolicyKind:
		var p npav1alpha2.ClusterNetworkPolicy
		doc.decode(node, "", &p)
		checkType(doc, "", p.APIVersion, clusterPolicyAPIVersion)
		p.Status = npav1alpha2.ClusterNetworkPolicyStatus{}
		return gathered{cluster: []locatedCluster{{ClusterPolicy: ClusterPolicy{Spec: p, File: file, Line: node.Line, Lines: linesOf(file, node)}, document: doc}}}
	case listKind:
		return doc.list(node)
	case policyListKind:
		var list networkingv1.NetworkPolicyList
		doc.decode(node, "", &list)
		checkType(doc, "", list.APIVersion, policyAPIVersion)
		return gathered{network: doc.inline(list.Items, "items")}
	case clusterPolicyListKind:
		var list npav1alpha2.ClusterNetworkPolicyList
		doc.decode(node, "", &list)
		checkType(doc, "", list.APIVersion, clusterPolicyAPIVersion)
		return gathered{cluster: doc.statusless(doc.inlineCluster(list.Items, "items"))}
	default:
		f := misfitOf(file, node, kind)
		f.Hint = "policies.files wants " + policyKind + " of " + policyAPIVersion + " and " + clusterPolicyKind + " of " + clusterPolicyAPIVersion
		if kind != "" {
			f.Message = kind + " is no policy that is known here"
		}
		l.sink.add(f)
		return gathered{}
	}
}

// inline gives the policies of a list their origins. They need not say what they are, but if they do it must be right.
func (d *document) inline(list []networkingv1.NetworkPolicy, at string) []located {
	out := make([]located, 0, len(list))
	for i, p := range list {
		each := item(at, i)
		if p.APIVersion != "" {
			checkType(d, each, p.APIVersion, policyAPIVersion)
		}
		if p.Kind != "" && p.Kind != policyKind {
			d.fault(child(each, "kind"), p.Kind, "write kind: "+policyKind, "%s is not a %s", p.Kind, policyKind)
		}
		out = append(out, located{Policy: Policy{Spec: p, File: d.file, Line: d.at(each), Lines: linesOf(d.file, nodeAt(d.node, each))}, document: d, path: field.NewPath(at).Index(i)})
	}
	return out
}

// fileStem is the file name without directories and ending, on any operating system.
func fileStem(file string) string {
	base := path.Base(filepath.ToSlash(file))
	return strings.TrimSuffix(base, path.Ext(base))
}
