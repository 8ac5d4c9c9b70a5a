package lint

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/gapproof/gapproof/runner/manifest"
)

func isEmpty(s *metav1.LabelSelector) bool {
	return s == nil || len(s.MatchLabels) == 0 && len(s.MatchExpressions) == 0
}

// compiled is the selector; of one that the engine took, so that it has no fault.
func compiled(s *metav1.LabelSelector) labels.Selector {
	out, err := metav1.LabelSelectorAsSelector(s)
	if err != nil { // stricter about the form of values than the engine: such a value is on no object
		return labels.Nothing()
	}
	return out
}

// text is the selector in the words of `kubectl get -l`.
func text(s *metav1.LabelSelector) string {
	if isEmpty(s) {
		return "{}"
	}
	return metav1.FormatLabelSelector(s)
}

// matching are those of the pods that the selector matches.
func (c *checker) matching(pods []int, s metav1.LabelSelector) []int {
	selector := compiled(&s)
	var out []int
	for _, i := range pods {
		if selector.Matches(labels.Set(c.set.World.Pods[i].Labels)) {
			out = append(out, i)
		}
	}
	return out
}

func (c *checker) matchingNamespaces(s *metav1.LabelSelector) []string {
	selector := compiled(s)
	var out []string
	for _, name := range slices.Sorted(maps.Keys(c.namespaces)) {
		if selector.Matches(c.namespaces[name]) {
			out = append(out, name)
		}
	}
	return out
}

func (c *checker) podLabels(pods []int) []labels.Set {
	out := make([]labels.Set, len(pods))
	for i, n := range pods {
		out[i] = c.set.World.Pods[n].Labels
	}
	return out
}

func (c *checker) namespaceLabels() []labels.Set {
	var out []labels.Set
	for _, name := range slices.Sorted(maps.Keys(c.namespaces)) {
		out = append(out, c.namespaces[name])
	}
	return out
}

// values are what objects have under a key, sorted.
func values(of []labels.Set, key string) []string {
	var out []string
	for _, l := range of {
		if v, ok := l[key]; ok {
			out = append(out, v)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func keys(of []labels.Set) []string {
	var out []string
	for _, l := range of {
		out = slices.AppendSeq(out, maps.Keys(l))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// few is a list in words, cut where it gets long.
func few(names []string) string {
	const most = 5
	if len(names) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return strings.Join(names, ", ")
}

// inUse says which values the first key of the selector has that is in use at all; "" when none is.
func inUse(of []labels.Set, s *metav1.LabelSelector, who string) string {
	for _, w := range wanted(s) {
		if have := values(of, w.key); len(have) > 0 {
			pairs := make([]string, len(have))
			for i, v := range have {
				pairs[i] = w.key + "=" + v
			}
			return who + " " + few(pairs)
		}
	}
	if all := keys(of); len(all) > 0 {
		return who + " the labels " + few(all)
	}
	return ""
}

// want is one label that a selector speaks of.
type want struct {
	field string // below the selector
	key   string
	value string
	any   bool // only the key is spoken of
}

func wanted(s *metav1.LabelSelector) []want {
	var out []want
	for _, k := range slices.Sorted(maps.Keys(s.MatchLabels)) {
		out = append(out, want{field: ".matchLabels." + k, key: k, value: s.MatchLabels[k]})
	}
	for i, e := range s.MatchExpressions {
		at := fmt.Sprintf(".matchExpressions[%d]", i)
		if len(e.Values) == 0 {
			out = append(out, want{field: at + ".key", key: e.Key, any: true})
		}
		for j, v := range e.Values {
			out = append(out, want{field: fmt.Sprintf("%s.values[%d]", at, j), key: e.Key, value: v})
		}
	}
	return out
}

// typos finds labels that nothing has, where something has nearly the same, and tells whether it found one.
func (c *checker) typos(p *manifest.Policy, field string, s metav1.LabelSelector, of []labels.Set, who string, matches bool) bool {
	severity := severityOf(labelTypo)
	if matches {
		severity = Warning // the rest of the selector does its work
	}
	found := false
	for _, w := range wanted(&s) {
		have := values(of, w.key)
		var message, near string
		switch {
		case len(have) == 0:
			if near = nearestKey(w.key, keys(of)); near != "" {
				message = fmt.Sprintf("no %s has the label %s", who, w.key)
				if v := values(of, near); !w.any && slices.Contains(v, w.value) {
					near += "=" + w.value
				}
			}
		case !w.any && !slices.Contains(have, w.value):
			if near = nearest(w.value, have); near != "" {
				message = fmt.Sprintf("no %s has %s=%s", who, w.key, w.value)
				near = w.key + "=" + near
			}
		}
		if near == "" {
			continue
		}
		found = true
		c.addAs(severity, p, labelTypo, field+w.field, message, "did you mean "+near+"?")
	}
	return found
}

// maxTypos is how many letters apart two words may be for one to be suggested for the other. Short words must be nearer: v1 is not v2.
const maxTypos = 2

// lettersPerTypo is how many letters of a word make up for one typo.
const lettersPerTypo = 3

// nearest is the candidate most like word, or "" when none is. Of equals the first.
func nearest(word string, candidates []string) string {
	return nearestWithin(word, candidates, min(maxTypos, len(word)/lettersPerTypo))
}

// nearestKey is nearest for the keys of labels, which differ by more than a letter even where they are short.
func nearestKey(word string, candidates []string) string {
	return nearestWithin(word, candidates, max(1, min(maxTypos, len(word)/lettersPerTypo)))
}

func nearestWithin(word string, candidates []string, most int) string {
	best, bestTypos := "", most+1
	for _, c := range candidates {
		if strings.EqualFold(word, c) {
			return c
		}
		if typos := distance(word, c); typos < bestTypos {
			best, bestTypos = c, typos
		}
	}
	return best
}

// distance is the number of letters to insert, remove, exchange or swap with their neighbour between a and b (optimal string alignment).
func distance(a, b string) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := range len(a) {
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			row[j+1] = min(last[j]+cost, last[j+1]+1, row[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
