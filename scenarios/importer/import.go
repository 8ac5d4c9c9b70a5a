package importer

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/yaml"

	"github.com/gapproof/gapproof/scenarios"
)

// Import is what a file of another tool comes to.
type Import struct {
	// Scenarios are as a person would have written them: without the defaults that loading fills. Policies are as the file has them: whether an
	// API server takes them is found out by loading.
	Scenarios []*scenarios.Scenario
	// Omissions are in the order of lines.
	Omissions []scenarios.Omission
}

// File is one file to be written.
type File struct {
	// Name is the file's name without a directory, which must be the scenario's for it to load.
	Name    string
	Content []byte
}

// Files are the scenarios as YAML, in their order.
func (i *Import) Files() ([]File, error) {
	out := make([]File, len(i.Scenarios))
	for n, s := range i.Scenarios {
		content, err := yaml.Marshal(s)
		if err != nil {
			return nil, fmt.Errorf("writing scenario %s: %w", s.Metadata.Name, err)
		}
		out[n] = File{Name: s.Metadata.Name + ".yaml", Content: content}
	}
	return out, nil
}

// notes gathers omissions and faults of one file.
type notes struct {
	file      string
	lines     scenarios.Lines
	omissions []scenarios.Omission
	faults    scenarios.Faults
}

func (n *notes) omit(field, object, format string, args ...any) {
	n.omissions = append(n.omissions, scenarios.Omission{File: n.file, Line: n.lines.At(field).Line, Object: object, Reason: fmt.Sprintf(format, args...)})
}

func (n *notes) fault(field, value, hint, format string, args ...any) {
	n.faults = append(n.faults, scenarios.Fault{File: n.file, Line: n.lines.At(field).Line, Field: field, Value: value, Message: fmt.Sprintf(format, args...), Hint: hint})
}

// result is the import, unless there are faults.
func (n *notes) result(list []*scenarios.Scenario) (*Import, error) {
	if len(n.faults) > 0 {
		slices.SortStableFunc(n.faults, func(a, b scenarios.Fault) int { return cmp.Compare(a.Line, b.Line) })
		return nil, n.faults
	}
	slices.SortStableFunc(n.omissions, func(a, b scenarios.Omission) int { return cmp.Compare(a.Line, b.Line) })
	return &Import{Scenarios: list, Omissions: n.omissions}, nil
}

// scenario is an empty one with a name made from text.
func scenario(text, title string) *scenarios.Scenario {
	s := &scenarios.Scenario{Metadata: scenarios.Metadata{Name: slug(text), Title: title}}
	s.APIVersion, s.Kind = scenarios.APIVersion, scenarios.Kind
	return s
}

var notInName = regexp.MustCompile(`[^a-z0-9]+`)

// slug is what of a text fits into a DNS label.
func slug(text string) string {
	name := strings.Trim(notInName.ReplaceAllString(strings.ToLower(text), "-"), "-")
	if len(name) > validation.DNS1123LabelMaxLength {
		name = strings.TrimRight(name[:validation.DNS1123LabelMaxLength], "-")
	}
	return cmp.Or(name, "imported")
}

func isLabel(name string) bool { return len(validation.IsDNS1123Label(name)) == 0 }
