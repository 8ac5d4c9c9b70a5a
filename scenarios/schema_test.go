package scenarios_test

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	npav1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"
	"sigs.k8s.io/yaml"

	"github.com/gapproof/gapproof/scenarios"
)

type node = map[string]any

// schemaMaker derives the schema from the Go types, with the descriptions of their doc comments.
type schemaMaker struct {
	comments    map[string]string // "Type" or "Type.Field" → comment
	definitions node
}

// constraints are what the types cannot say.
func constraints() map[string]node {
	label := node{"pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "maxLength": 63}
	return map[string]node{
		"Scenario.APIVersion":                    {"const": scenarios.APIVersion},
		"Scenario.Kind":                          {"const": scenarios.Kind},
		"WorldFile.APIVersion":                   {"const": scenarios.APIVersion},
		"WorldFile.Kind":                         {"const": scenarios.WorldKind},
		"NetworkPolicy.APIVersion":               {"const": "networking.k8s.io/v1"},
		"NetworkPolicy.Kind":                     {"const": "NetworkPolicy"},
		"Metadata.Name":                          label,
		"WorldMetadata.Name":                     label,
		"Namespace.Name":                         label,
		"Pod.Name":                               label,
		"Pod.Node":                               {"pattern": "^[a-z]?$"},
		"Service.Name":                           {"pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$", "maxLength": 63},
		"Rule.Ports":                             {"items": node{"type": "string", "pattern": "^(ICMP|(TCP|UDP|SCTP)/[1-9][0-9]{0,4})$"}},
		"NetworkPolicySpec.PolicyTypes":          {"items": node{"enum": []any{"Ingress", "Egress"}}},
		"NetworkPolicyPort.EndPort":              {"minimum": 1, "maximum": 65535},
		"ClusterNetworkPolicy.APIVersion":        {"const": "policy.networking.k8s.io/v1alpha2"},
		"ClusterNetworkPolicy.Kind":              {"const": "ClusterNetworkPolicy"},
		"ClusterNetworkPolicySpec.Tier":          {"enum": []any{"Admin", "Baseline"}},
		"ClusterNetworkPolicySpec.Priority":      {"minimum": 0, "maximum": 1000},
		"ClusterNetworkPolicyIngressRule.Action": {"enum": []any{"Accept", "Deny", "Pass"}},
		"ClusterNetworkPolicyEgressRule.Action":  {"enum": []any{"Accept", "Deny", "Pass"}},
		"ClusterNetworkPolicyPort.Number":        {"minimum": 1, "maximum": 65535},
		"ClusterNetworkPolicyPortRange.Start":    {"minimum": 1, "maximum": 65535},
		"ClusterNetworkPolicyPortRange.End":      {"minimum": 1, "maximum": 65535},
		"LabelSelectorRequirement.Operator":      {"enum": []any{"In", "NotIn", "Exists", "DoesNotExist"}},
		"Service.Type":                           {"enum": []any{"ClusterIP", "NodePort"}},
		"Service.ClusterIP":                      {"enum": []any{"None"}},
		"Move.Node":                              {"pattern": "^[a-z]$"},
		"Scale.Replicas":                         {"minimum": 0, "maximum": 1},
	}
}

// notRequired are fields whose JSON tag does not say that they may be left out.
func notRequired() []string {
	return []string{"NetworkPolicySpec.PodSelector", "Port.Protocol", "NetworkPolicy.Spec"}
}

// nameOf is the name of a type's definition. The API of ClusterNetworkPolicy has types of the same names as the language.
func nameOf(t reflect.Type) string {
	const of = "ClusterNetworkPolicy"
	if t.PkgPath() == reflect.TypeFor[npav1alpha2.ClusterNetworkPolicy]().PkgPath() && !strings.HasPrefix(t.Name(), of) {
		return of + t.Name()
	}
	return t.Name()
}

func makeSchema(t testing.TB) []byte {
	t.Helper()
	m := schemaMaker{comments: readComments(t), definitions: node{}}
	m.typeOf(reflect.TypeFor[scenarios.Scenario]())
	m.typeOf(reflect.TypeFor[scenarios.WorldFile]())
	out, err := json.MarshalIndent(node{
		"$schema": "https://json-schema.org/draft/2020-12/schema",
		"$id":     "https://gapproof.dev/schemas/v1alpha1/scenario.json",
		"title":   "gapproof scenario and world files",
		"oneOf":   []any{node{"$ref": "#/$defs/Scenario"}, node{"$ref": "#/$defs/WorldFile"}},
		"$defs":   m.definitions,
	}, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return append(out, '\n')
}

// readComments collects the doc comments of the language's types.
func readComments(t testing.TB) map[string]string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "scenario.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	text := func(g *ast.CommentGroup) string { return strings.Join(strings.Fields(g.Text()), " ") }
	for _, d := range file.Decls {
		g, isGen := d.(*ast.GenDecl)
		if !isGen || g.Tok != token.TYPE {
			continue
		}
		for _, s := range g.Specs {
			spec := s.(*ast.TypeSpec)
			out[spec.Name.Name] = text(g.Doc)
			fields, isStruct := spec.Type.(*ast.StructType)
			if !isStruct {
				continue
			}
			for _, f := range fields.Fields.List {
				for _, name := range f.Names {
					out[spec.Name.Name+"."+name.Name] = text(f.Doc)
				}
			}
		}
	}
	return out
}

func (m *schemaMaker) typeOf(t reflect.Type) node {
	switch t {
	case reflect.TypeFor[intstr.IntOrString]():
		return node{"oneOf": []any{node{"type": "integer", "minimum": 1, "maximum": 65535}, node{"type": "string", "pattern": "^[a-z0-9-]*[a-z][a-z0-9-]*$", "maxLength": 15}}}
	case reflect.TypeFor[corev1.Protocol]():
		return node{"enum": []any{"TCP", "UDP", "SCTP"}}
	case reflect.TypeFor[metav1.ObjectMeta]():
		labels := node{"type": "object", "additionalProperties": node{"type": "string"}}
		return node{"type": "object", "required": []any{"name", "namespace"}, "properties": node{"name": node{"type": "string"}, "namespace": node{"type": "string"}, "labels": labels, "annotations": labels}}
	}
	switch t.Kind() {
	case reflect.Pointer:
		inner := m.typeOf(t.Elem())
		return node{"anyOf": []any{inner, node{"type": "null"}}}
	case reflect.Slice:
		return node{"type": "array", "items": m.typeOf(t.Elem())}
	case reflect.Map:
		return node{"type": "object", "additionalProperties": m.typeOf(t.Elem())}
	case reflect.Struct:
		name := nameOf(t)
		if _, known := m.definitions[name]; !known {
			m.definitions[name] = node{} // before the fields, should they come back to the type
			m.definitions[name] = m.structOf(t)
		}
		return node{"$ref": "#/$defs/" + name}
	case reflect.Bool:
		return node{"type": "boolean"}
	case reflect.String:
		return node{"type": "string"}
	case reflect.Uint16:
		return node{"type": "integer", "minimum": 1, "maximum": 65535}
	default:
		return node{"type": "integer"}
	}
}

func (m *schemaMaker) structOf(t reflect.Type) node {
	properties, required := node{}, []any{}
	for _, f := range jsonFields(t) {
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		key := nameOf(t) + "." + f.Name
		if key == "ClusterNetworkPolicy.Status" { // the implementation's to write
			continue
		}
		property := m.typeOf(f.Type)
		if key == "ClusterNetworkPolicy.ObjectMeta" {
			delete(property["properties"].(node), "namespace")
			property["required"] = []any{"name"}
		}
		maps.Copy(property, constraints()[key])
		if comment := m.comments[key]; comment != "" {
			property["description"] = comment
		}
		properties[name] = property
		optional := strings.Contains(options, "omitempty") || strings.Contains(options, "omitzero") || slices.Contains(notRequired(), key)
		isType := (name == "kind" || name == "apiVersion") && !strings.HasSuffix(t.Name(), "NetworkPolicy")
		if !optional || isType {
			required = append(required, name)
		}
	}
	out := node{"type": "object", "additionalProperties": false, "properties": properties}
	if len(required) > 0 {
		out["required"] = required
	}
	if comment := m.comments[nameOf(t)]; comment != "" {
		out["description"] = comment
	}
	return out
}

// jsonFields are the fields that encoding/json sees: those of embedded structs without a name of their own count as the outer's.
func jsonFields(t reflect.Type) []reflect.StructField {
	var out []reflect.StructField
	for i := range t.NumField() {
		f := t.Field(i)
		switch name, _, _ := strings.Cut(f.Tag.Get("json"), ","); {
		case name == "-":
		case f.Anonymous && name == "":
			out = append(out, jsonFields(f.Type)...)
		default:
			out = append(out, f)
		}
	}
	return out
}

func TestSchemaFollowsTheGoTypes(t *testing.T) {
	golden(t, "schema.json", string(makeSchema(t)))
}

func TestSchemaIsWhatThePackagePublishes(t *testing.T) {
	want, err := os.ReadFile("schema.json")
	if err != nil {
		t.Fatal(err)
	}
	if string(want) != string(scenarios.Schema()) {
		t.Error("Schema differs from schema.json")
	}
}

// checkSchema holds a value to the part of JSON schema that schema.json uses; a keyword it does not know is an error, too.
func checkSchema(root, schema node, at string, v any) []string {
	var faults []string
	fault := func(format string, args ...any) {
		faults = append(faults, at+": "+fmt.Sprintf(format, args...))
	}
	for keyword, want := range schema {
		switch keyword {
		case "$schema", "$id", "$defs", "title", "description":
		case "$ref":
			name := strings.TrimPrefix(want.(string), "#/$defs/")
			faults = append(faults, checkSchema(root, root["$defs"].(node)[name].(node), at, v)...)
		case "oneOf", "anyOf":
			matched, told := 0, []string{}
			for _, alternative := range want.([]any) {
				inner := checkSchema(root, alternative.(node), at, v)
				if told = append(told, inner...); len(inner) == 0 {
					matched++
				}
			}
			if matched == 0 || keyword == "oneOf" && matched > 1 {
				fault("%d of %s match: %s", matched, keyword, strings.Join(told, "; "))
			}
		case "type":
			if got := jsonType(v); got != want {
				fault("want %s, got %s", want, got)
			}
		case "const":
			if v != want {
				fault("want %v, got %v", want, v)
			}
		case "enum":
			if !slices.Contains(want.([]any), v) {
				fault("%v is none of %v", v, want)
			}
		case "pattern":
			if s, is := v.(string); is && !regexp.MustCompile(want.(string)).MatchString(s) {
				fault("%q does not match %s", s, want)
			}
		case "maxLength":
			if s, is := v.(string); is && len(s) > int(want.(float64)) {
				fault("%q is too long", s)
			}
		case "minimum", "maximum":
			n, is := v.(float64)
			if limit := want.(float64); is && (keyword == "minimum" && n < limit || keyword == "maximum" && n > limit) {
				fault("%v: %s is %v", n, keyword, limit)
			}
		case "items":
			list, _ := v.([]any)
			for i, item := range list {
				faults = append(faults, checkSchema(root, want.(node), fmt.Sprintf("%s[%d]", at, i), item)...)
			}
		case "required":
			object, is := v.(node)
			for _, name := range want.([]any) {
				if _, has := object[name.(string)]; is && !has {
					fault("%s is missing", name)
				}
			}
		case "properties", "additionalProperties":
			if keyword == "properties" {
				faults = append(faults, checkProperties(root, schema, at, v)...)
			} else if schema["properties"] == nil {
				faults = append(faults, checkProperties(root, schema, at, v)...)
			}
		default:
			fault("the test does not know the keyword %s", keyword)
		}
	}
	return faults
}

func checkProperties(root, schema node, at string, v any) []string {
	object, _ := v.(node)
	properties, _ := schema["properties"].(node)
	var faults []string
	for name, value := range object {
		each := at + "." + name
		if property, known := properties[name]; known {
			faults = append(faults, checkSchema(root, property.(node), each, value)...)
			continue
		}
		switch additional := schema["additionalProperties"].(type) {
		case bool:
			faults = append(faults, each+": unknown field")
		case node:
			faults = append(faults, checkSchema(root, additional, each, value)...)
		}
	}
	return faults
}

func jsonType(v any) string {
	switch v := v.(type) {
	case nil:
		return "null"
	case bool:
		return "boolean"
	case string:
		return "string"
	case float64:
		if v == float64(int64(v)) {
			return "integer"
		}
		return "number"
	case []any:
		return "array"
	default:
		return "object"
	}
}

func checkFile(t testing.TB, name string) []string {
	t.Helper()
	content, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var root node
	if err := json.Unmarshal(scenarios.Schema(), &root); err != nil {
		t.Fatal(err)
	}
	var value any
	if err := yaml.Unmarshal(content, &value); err != nil {
		return []string{err.Error()}
	}
	return checkSchema(root, root, "", value)
}

func TestEveryShippedFileFollowsTheSchema(t *testing.T) {
	checked := 0
	for _, pattern := range []string{"catalogue/*/*.yaml", "examples/*.yaml", "testdata/good/*.yaml", "testdata/derived/*.yaml", "testdata/cluster/*.yaml"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			checked++
			if faults := checkFile(t, file); len(faults) > 0 {
				t.Errorf("%s:\n%s", file, strings.Join(faults, "\n"))
			}
		}
	}
	if checked == 0 {
		t.Error("want files to check, got none")
	}
}

func TestSchemaRefusesWhatIsWrongInShape(t *testing.T) {
	for _, name := range []string{
		"unknown-field", "unknown-field-in-a-policy", "port-70000", "wrong-types", "kind-unknown", "api-version-wrong", "name-missing",
		"name-is-no-dns-label", "node-key", "policy-types", "policy-ports", "rule-ports", "rule-without-ends", "selector-that-does-not-parse",
		"cluster-policy-spec", "cluster-policy-rules", "cluster-policy-protocols",
	} {
		if faults := checkFile(t, "testdata/bad/"+name+".yaml"); len(faults) == 0 {
			t.Errorf("%s: want the schema to refuse it", name)
		}
	}
}
