package evidence

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// maxDifferences bounds what is told of one file: a person reads the first few, and one edit at the root can differ everywhere.
const maxDifferences = 50

// contrast walks a stored and a derived JSON value side by side and names every place where they differ, with the attempt it is about.
type contrast struct {
	v    *verifier
	file string
	// lines are those of the stored document, by path.
	lines map[string]int
	// root is the derived document, where the attempts of a plan are named.
	root  any
	found int
}

func (c *contrast) value(path, attempt string, stored, derived any) {
	if c.found >= maxDifferences {
		return
	}
	switch is := stored.(type) {
	case map[string]any:
		if should, ok := derived.(map[string]any); ok {
			c.object(path, attemptOf(should, attempt), is, should)
			return
		}
	case []any:
		if should, ok := derived.([]any); ok {
			c.list(path, attempt, is, should)
			return
		}
	default:
		if stored == derived { // strings, numbers, booleans and null are comparable
			return
		}
	}
	c.add(path, attempt, fmt.Sprintf("stored %s, derived %s", short(stored), short(derived)))
}

func (c *contrast) object(path, attempt string, stored, derived map[string]any) {
	keys := maps.Clone(stored)
	maps.Copy(keys, derived)
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		below := strings.TrimPrefix(path+"."+key, ".")
		is, isThere := stored[key]
		should, shouldBe := derived[key]
		switch {
		case !isThere:
			c.add(below, attempt, "is missing, derived "+short(should))
		case !shouldBe:
			c.add(below, attempt, "stored "+short(is)+", derived nothing")
		default:
			c.value(below, attempt, is, should)
		}
	}
}

func (c *contrast) list(path, attempt string, stored, derived []any) {
	if len(stored) != len(derived) {
		c.add(path, attempt, fmt.Sprintf("stored %d items, derived %d", len(stored), len(derived)))
	}
	for i := range min(len(stored), len(derived)) {
		of := attempt
		if strings.HasSuffix(path, ".promises") { // in a plan, by the place in the list
			of = c.planned(i)
		}
		c.value(fmt.Sprintf("%s[%d]", path, i), of, stored[i], derived[i])
	}
}

func (c *contrast) add(path, attempt, what string) {
	if c.found++; c.found <= maxDifferences {
		c.v.add(c.file, c.line(path), attempt, "%s: %s", path, what)
	}
}

// line is where the value of that path is written, or what would hold it, where it is missing.
func (c *contrast) line(path string) int {
	for {
		if n, ok := c.lines[path]; ok {
			return n
		}
		path = path[:max(strings.LastIndexAny(path, ".["), 0)]
	}
}

// planned is the ID of the n-th attempt of a plan.
func (c *contrast) planned(n int) string {
	root, _ := c.root.(map[string]any)
	list, _ := root["attempts"].([]any)
	if n >= len(list) {
		return ""
	}
	of, _ := list[n].(map[string]any)
	return attemptOf(of, "")
}

// attemptOf is the attempt that an object is about, outer where it does not say: a judgement, a planned attempt or a gap.
func attemptOf(object map[string]any, outer string) string {
	if a, ok := object["attempt"].(map[string]any); ok {
		object = a
	}
	for _, key := range []string{"id", "attemptID"} {
		if id, ok := object[key].(string); ok && (key == "attemptID" || object["source"] != nil) {
			return id
		}
	}
	return outer
}

// shortest keeps one difference on a line or two.
const shortest = 160

func short(v any) string {
	words := fmt.Sprintf("%v", v)
	if s, ok := v.(string); ok {
		words = fmt.Sprintf("%q", s)
	}
	if len(words) > shortest {
		words = strings.ToValidUTF8(words[:shortest], "") + "…"
	}
	return words
}

// logAttempt finds the attempt in a line of logfmt.
var logAttempt = regexp.MustCompile(` attempt=(?:"([^"]*)"|(\S+))`)

func attemptOfLine(line []byte) string {
	m := logAttempt.FindSubmatch(line)
	if m == nil {
		return ""
	}
	return string(m[1]) + string(m[2])
}
