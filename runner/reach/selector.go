package reach

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// requirement is one condition of a label selector; matchLabels entries become In with one value.
type requirement struct {
	key    string
	op     metav1.LabelSelectorOperator
	values []string
}

// selector is the conjunction of its requirements. The empty selector matches everything.
type selector []requirement

// compileSelector checks and orders a selector: matchLabels by key, then matchExpressions as written.
func compileSelector(field string, s metav1.LabelSelector) (selector, []Fault) {
	var (
		out  selector
		errs []Fault
	)
	for _, key := range slices.Sorted(maps.Keys(s.MatchLabels)) {
		out = append(out, requirement{key, metav1.LabelSelectorOpIn, []string{s.MatchLabels[key]}})
	}
	for i, e := range s.MatchExpressions {
		at := fmt.Sprintf("%s.matchExpressions[%d]", field, i)
		if e.Key == "" {
			errs = append(errs, Fault{Field: at + ".key", Message: "is empty"})
		}
		switch e.Operator {
		case metav1.LabelSelectorOpIn, metav1.LabelSelectorOpNotIn:
			if len(e.Values) == 0 {
				errs = append(errs, Fault{Field: at + ".values", Message: fmt.Sprintf("operator %s wants at least one value", e.Operator)})
			}
		case metav1.LabelSelectorOpExists, metav1.LabelSelectorOpDoesNotExist:
			if len(e.Values) != 0 {
				errs = append(errs, Fault{Field: at + ".values", Message: fmt.Sprintf("operator %s takes no value, has %q", e.Operator, e.Values)})
			}
		default:
			errs = append(errs, Fault{Field: at + ".operator", Message: fmt.Sprintf("%q is not one of In, NotIn, Exists, DoesNotExist", e.Operator)})
		}
		out = append(out, requirement{e.Key, e.Operator, slices.Clone(e.Values)})
	}
	return out, errs
}

func (r requirement) matches(labels map[string]string) bool {
	value, present := labels[r.key]
	switch r.op {
	case metav1.LabelSelectorOpIn:
		return present && slices.Contains(r.values, value)
	case metav1.LabelSelectorOpNotIn: // an object without the key matches, too
		return !present || !slices.Contains(r.values, value)
	case metav1.LabelSelectorOpExists:
		return present
	case metav1.LabelSelectorOpDoesNotExist:
		return !present
	default:
		return false
	}
}

// String is the requirement in the words of `kubectl get -l`.
func (r requirement) String() string {
	switch r.op {
	case metav1.LabelSelectorOpIn:
		if len(r.values) == 1 {
			return r.key + "=" + r.values[0]
		}
		return r.key + " in (" + strings.Join(r.values, ",") + ")"
	case metav1.LabelSelectorOpNotIn:
		return r.key + " notin (" + strings.Join(r.values, ",") + ")"
	case metav1.LabelSelectorOpExists:
		return r.key
	default:
		return "!" + r.key
	}
}

func (s selector) matches(labels map[string]string) bool {
	for _, r := range s {
		if !r.matches(labels) {
			return false
		}
	}
	return true
}

// key is the same for equal selectors only, whatever characters they hold.
func (s selector) key() string { return fmt.Sprintf("%q", []requirement(s)) }

// String is the selector in the words of `kubectl get -l`, and "{}" when it is empty.
func (s selector) String() string {
	if len(s) == 0 {
		return "{}"
	}
	parts := make([]string, len(s))
	for i, r := range s {
		parts[i] = r.String()
	}
	return strings.Join(parts, ",")
}

// lack says what the labels of who (such as "pod" or "namespace") miss, every requirement of it, and which share of the requirements they meet.
func (s selector) lack(who string, labels map[string]string) (reason string, met closeness) {
	if len(s) == 0 {
		return "", 1
	}
	var wants, has []string
	for _, r := range s {
		if r.matches(labels) {
			continue
		}
		wants = append(wants, r.String())
		have := "no " + r.key
		if value, present := labels[r.key]; present {
			have = r.key + "=" + value
		}
		if !slices.Contains(has, have) { // two requirements may be about one key
			has = append(has, have)
		}
	}
	return fmt.Sprintf("wants %s, %s has %s", strings.Join(wants, " and "), who, strings.Join(has, " and ")), closeness(len(s)-len(wants)) / closeness(len(s))
}
