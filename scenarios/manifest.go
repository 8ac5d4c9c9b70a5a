package scenarios

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/agnivade/levenshtein"
	"go.yaml.in/yaml/v3"
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/gapproof/gapproof/scenarios/kustomize"
)

// manifest is one object as kubectl would apply it, whoever wrote or rendered it.
type manifest struct {
	file             string
	node             *yaml.Node
	apiVersion, kind string
	namespace, name  string
	// rendered says that file is a kustomization, in which the object has no line.
	rendered bool
	// template is what a Source comment of Helm names.
	template string
	// taken says that the object became a part of the scenario, or was told to be left out of it.
	taken bool
}

func (m *manifest) line() int {
	if m.rendered {
		return 0
	}
	return m.node.Line
}

// String is "Deployment shop/web".
func (m *manifest) String() string {
	if m.namespace == "" {
		return m.kind + " " + m.name
	}
	return m.kind + " " + m.namespace + "/" + m.name
}

func (m *manifest) document(to *sink) *document {
	d := newDocument(m.file, m.node, to)
	if m.rendered {
		d.rendered = m.String()
	}
	return d
}

// manifestReader reads manifests for one scenario. The same file or directory is read once and gives the same objects again.
type manifestReader struct {
	tree tree
	sink *sink
	used map[string]struct{}
	read map[string][]*manifest
	// order lists what was read first to last, for counting.
	order []*manifest
	// rendered are the kustomizations, by display name of their directory.
	rendered  map[string][]*manifest
	omissions []Omission
	strangers strangers
	// aside are the faults of documents of the file in hand that are no objects: whether they count shows at its end.
	aside []Fault
	input io.Reader // may be nil
}

// strangers says what documents are that are no objects of the API: faults where manifests are asked for; in files of their own, of no interest
// among others, such as the values of a chart.
type strangers uint8

const (
	refused strangers = iota
	passedOver
)

func newManifestReader(l *loader) *manifestReader {
	return &manifestReader{tree: l.tree, sink: &l.sink, used: l.used, read: map[string][]*manifest{}, rendered: map[string][]*manifest{}, input: l.input}
}

const (
	// standardInput is the path that stands for it, as in kubectl, and inputName what places call it.
	standardInput = "-"
	inputName     = "<stdin>"
)

// path is the objects of a file or directory, or of standard input. complain records what is wrong with the path itself; what is wrong inside is told where it is.
func (r *manifestReader) path(name string, complain func(hint, format string, args ...any)) []*manifest {
	if name == standardInput && r.input != nil {
		return r.standardInput()
	}
	directory, err := isDirectory(r.tree, name)
	if err != nil {
		complain(relativeHint, "reading %s: %s", name, reason(err))
		return nil
	}
	if !directory {
		if base := path.Base(filepath.ToSlash(name)); kustomize.IsFileName(base) {
			return r.kustomization(strings.TrimSuffix(strings.TrimSuffix(name, base), string(filepath.Separator)))
		}
		return r.file(name)
	}
	if r.kustomizationFile(name) != "" {
		return r.kustomization(name)
	}
	files, err := filesBelow(r.tree, name, isManifest)
	if err != nil {
		complain(relativeHint, "reading %s: %s", name, reason(err))
		return nil
	}
	if len(files) == 0 {
		complain("manifests end in .yaml, .yml or .json", "%s holds no manifest", name)
	}
	var out []*manifest
	for _, f := range files {
		out = append(out, r.file(f)...)
	}
	return out
}

func (r *manifestReader) standardInput() []*manifest {
	if out, again := r.read[inputName]; again {
		return out
	}
	content, err := readAll(r.input)
	if err != nil {
		r.sink.add(Fault{File: inputName, Message: reason(err)})
		return nil
	}
	return r.content(inputName, content)
}

// file is the objects of a YAML file.
func (r *manifestReader) file(name string) []*manifest {
	if out, again := r.read[name]; again {
		return out
	}
	r.used[name] = struct{}{}
	content, err := read(r.tree, name)
	if err != nil {
		r.sink.add(Fault{File: name, Message: reason(err)})
		return nil
	}
	return r.content(name, content)
}

// content is the objects of YAML or JSON, under the name of its file.
func (r *manifestReader) content(name string, content []byte) []*manifest {
	sources := sourceComments(content)
	var out []*manifest
	r.aside = nil
	for _, node := range parse(name, content, r.sink) {
		for _, m := range r.unpack(name, node, manifest{}, 0) {
			m.template = sources.at(m.node.Line)
			out = append(out, m)
		}
	}
	if len(out) > 0 || r.strangers == refused {
		for _, f := range r.aside {
			r.sink.add(f)
		}
	}
	r.read[name] = out
	r.order = append(r.order, out...)
	return out
}

// unpack is the object of a document, or those of a list of them; outer is the list that the node is an item of.
func (r *manifestReader) unpack(file string, node *yaml.Node, outer manifest, level int) []*manifest {
	if node.Kind == yaml.AliasNode {
		node = node.Alias
	}
	m := manifest{file: file, node: node, apiVersion: topLevel(node, "apiVersion"), kind: topLevel(node, "kind"), rendered: outer.rendered}
	if item := strings.TrimSuffix(outer.kind, listKind); m.kind == "" && item != "" { // the API server leaves it out in lists of one kind
		m.kind, m.apiVersion = item, outer.apiVersion
	}
	if m.kind == "" || node.Kind != yaml.MappingNode {
		f := Fault{
			File: file, Line: m.line(), Field: "kind", Message: "is missing, so that this is no object of the API",
			Hint: "name files of manifests, or a directory of nothing else",
		}
		if key := miswritten(node, "kind"); key != "" {
			f.Hint = fmt.Sprintf("did you mean \"kind\" by %q?", key)
			r.sink.add(f)
		} else {
			r.aside = append(r.aside, f)
		}
		return nil
	}
	if meant := m.misspelt(); meant != "" {
		r.sink.add(Fault{
			File: file, Line: m.line(), Field: "kind", Value: m.kind, Message: m.kind + " of " + cmp.Or(m.apiVersion, "no apiVersion") + " is no kind of the API",
			Hint: "write kind: " + meant,
		})
		return nil
	}
	items := value(node, "items")
	if !strings.HasSuffix(m.kind, listKind) || items == nil || items.Kind != yaml.SequenceNode {
		metadata := value(node, "metadata")
		if metadata != nil {
			m.namespace, m.name = topLevel(metadata, "namespace"), topLevel(metadata, "name")
		}
		return []*manifest{&m}
	}
	if level == maxLevels {
		r.sink.add(Fault{File: file, Line: m.line(), Field: "items", Message: "lists are nested more than " + strconv.Itoa(maxLevels) + " deep"})
		return nil
	}
	var out []*manifest
	for _, each := range items.Content {
		out = append(out, r.unpack(file, each, m, level+1)...)
	}
	return out
}

// miswritten is the key that a mapping has in the place of another, in letters of another case; or "".
func miswritten(n *yaml.Node, key string) string {
	if n.Kind != yaml.MappingNode {
		return ""
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if k := n.Content[i].Value; k != key && strings.EqualFold(k, key) {
			return k
		}
	}
	return ""
}

// misspelt is the kind of a policy that was probably meant by one of nearly its name; or "". Passed over, such a policy would be missing from
// every verdict.
func (m *manifest) misspelt() string {
	if m.role() != bystander || m.foreign() {
		return ""
	}
	const plural = 3 // edits from NetworkPolicy to NetworkPolicies
	for _, kind := range []string{policyKind, clusterPolicyKind} {
		if levenshtein.ComputeDistance(strings.ToLower(m.kind), strings.ToLower(kind)) <= plural {
			return kind
		}
	}
	return ""
}

// value is what a mapping has for a key, or nil.
func value(n *yaml.Node, key string) *yaml.Node {
	if n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			if n.Content[i+1].Kind == yaml.AliasNode {
				return n.Content[i+1].Alias
			}
			return n.Content[i+1]
		}
	}
	return nil
}

// kustomizationFile is the name within the rooted tree, or "".
func (r *manifestReader) kustomizationFile(directory string) string {
	fsys, inner, err := r.tree.rooted(directory)
	if err != nil {
		return ""
	}
	return kustomize.File(fsys, inner)
}

// kustomization renders a directory.
func (r *manifestReader) kustomization(directory string) []*manifest {
	if out, again := r.rendered[directory]; again {
		return out
	}
	fsys, root, err := r.tree.rooted(directory)
	if err != nil {
		r.sink.add(Fault{File: directory, Message: reason(err)})
		return nil
	}
	// shown is a file's name as the caller would write it.
	shown := func(inner string) string {
		relative, err := filepath.Rel(filepath.FromSlash(root), filepath.FromSlash(inner))
		if err != nil {
			return inner
		}
		return r.tree.join(directory, relative)
	}
	file := shown(kustomize.File(fsys, root))
	r.used[file] = struct{}{}
	built, err := kustomize.Build(fsys, root)
	var refusals kustomize.Refusals
	switch {
	case errors.As(err, &refusals):
		for _, one := range refusals {
			r.sink.add(Fault{File: shown(one.File), Field: one.Field, Value: one.Value, Message: one.Message, Hint: one.Hint})
		}
		return nil
	case err != nil:
		r.sink.add(Fault{File: file, Message: strings.ReplaceAll(strings.ReplaceAll(err.Error(), "\n", " "), "/"+root, directory)})
		return nil
	}
	for _, f := range built.Files {
		r.used[shown(f)] = struct{}{}
	}
	var out []*manifest
	for _, node := range parse(file, built.YAML, r.sink) {
		out = append(out, r.unpack(file, node, manifest{rendered: true}, 0)...)
	}
	r.rendered[directory] = out
	r.order = append(r.order, out...)
	return out
}

// omit records what is left out of an object that is then accounted for.
func (r *manifestReader) omit(m *manifest, format string, args ...any) {
	m.taken = true
	r.omissions = append(r.omissions, Omission{File: m.file, Line: m.line(), Object: m.String(), Reason: fmt.Sprintf(format, args...)})
}

// foreignPolicies are API groups whose policies decide about packets, and that no verdict here takes into account.
func foreignPolicies() []string {
	return []string{
		"policy.networking.k8s.io", "cilium.io", "crd.projectcalico.org", "projectcalico.org", "crd.antrea.io", "security.istio.io",
		"policy.linkerd.io",
	}
}

// foreign tells whether the object is a policy of a kind that no verdict here takes into account.
func (m *manifest) foreign() bool {
	if m.role() != bystander {
		return false
	}
	group, _, _ := strings.Cut(m.apiVersion, "/")
	return slices.Contains(foreignPolicies(), group) && strings.HasSuffix(m.kind, "Policy") || group != "" && strings.HasSuffix(m.kind, policyKind)
}

// account tells what no part of the scenario took: what is left out in order of files and lines, and the rest counted by kind.
func (r *manifestReader) account() (omissions []Omission, ignored map[string]int) {
	for _, m := range r.order {
		if m.taken {
			continue
		}
		if m.foreign() {
			r.omit(m, "decides about packets too, and no verdict takes it into account")
			continue
		}
		if ignored == nil {
			ignored = map[string]int{}
		}
		ignored[m.kind]++
	}
	slices.SortStableFunc(r.omissions, func(a, b Omission) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line))
	})
	return r.omissions, ignored
}

// sources are the Source comments of a file that Helm rendered, by line.
type sources []struct {
	line     int
	template string
}

// sourceComments finds them: https://helm.sh/docs/helm/helm_template/ writes "# Source: CHART/templates/FILE" before each document.
func sourceComments(content []byte) sources {
	const mark = "# Source: "
	var out sources
	line := 0
	for text := range strings.Lines(string(content)) {
		line++
		if template, is := strings.CutPrefix(text, mark); is {
			out = append(out, struct {
				line     int
				template string
			}{line, strings.TrimSpace(template)})
		} else if strings.HasPrefix(text, "---") && len(out) > 0 && out[len(out)-1].template != "" {
			out = append(out, struct {
				line     int
				template string
			}{line: line})
		}
	}
	return out
}

// at is the template of the object at a line: the last one named before it in its document.
func (s sources) at(line int) string {
	template := ""
	for _, each := range s {
		if each.line >= line {
			break
		}
		template = each.template
	}
	return template
}

func (m *manifest) lines() Lines {
	if m.rendered {
		return nil
	}
	return linesOf(m.file, m.node)
}

// role is what an object is to a world and its policies.
type role uint8

const (
	bystander role = iota // nothing that a policy sees
	aNamespace
	aWorkload
	aService
	aPolicy
	aClusterPolicy
)

// role tells what the object is. A NetworkPolicy is one of whatever version: a wrong one is a fault. CNIs have kinds of the same name.
func (m *manifest) role() role {
	group, _, versioned := strings.Cut(m.apiVersion, "/")
	if !versioned {
		group = ""
	}
	switch group + "/" + m.kind {
	case "/Namespace":
		return aNamespace
	case "/Service":
		return aService
	case "/Pod", "/ReplicationController", "apps/Deployment", "apps/ReplicaSet", "apps/StatefulSet", "apps/DaemonSet", "batch/Job", "batch/CronJob":
		return aWorkload
	case "networking.k8s.io/" + policyKind, "extensions/" + policyKind, "/" + policyKind:
		return aPolicy
	case clusterPolicyGroup + "/" + clusterPolicyKind:
		return aClusterPolicy
	default:
		return bystander
	}
}

const namespaceHint = "write it, or write defaultNamespace beside the path"

// policiesOf gathers the policies of policies.manifests.
func (r *manifestReader) policiesOf(doc *document, p *Policies) gathered {
	var out gathered
	taken := map[*manifest]struct{}{}
	for i, relative := range p.Manifests {
		at := item("policies.manifests", i)
		name := r.tree.beside(doc.file, relative)
		for _, m := range r.path(name, func(hint, format string, args ...any) { doc.fault(at, relative, hint, format, args...) }) {
			policy := m.role() == aPolicy || m.role() == aClusterPolicy
			if _, twice := taken[m]; twice || !policy {
				continue
			}
			taken[m], m.taken = struct{}{}, true
			if m.role() == aClusterPolicy {
				out.cluster = append(out.cluster, r.clusterPolicy(m))
				continue
			}
			if ns := cmp.Or(m.namespace, p.DefaultNamespace); slices.Contains(reserved(), ns) {
				r.omit(m, "namespace %s belongs to the cluster, so nothing is put there", ns)
				continue
			}
			out.network = append(out.network, r.policy(m, p.DefaultNamespace))
		}
	}
	return out
}

func (r *manifestReader) policy(m *manifest, defaultNamespace string) located {
	doc := m.document(r.sink)
	var p networkingv1.NetworkPolicy
	doc.decode(m.node, "", &p)
	checkType(doc, "", m.apiVersion, policyAPIVersion)
	if p.Namespace == "" {
		p.Namespace = defaultNamespace
	}
	if p.Namespace == "" && p.Name != "" {
		doc.undecodable("metadata.namespace", doc.at("metadata"), nil, namespaceHint, "%s names no namespace", m)
	}
	return located{Policy: Policy{Spec: p, File: m.file, Line: m.line(), Template: m.template, Lines: m.lines()}, document: doc}
}
