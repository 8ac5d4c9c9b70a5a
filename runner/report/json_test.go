package report_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/runner/compare"
	"github.com/gapproof/gapproof/runner/report"
)

// checker holds values against the part of JSON Schema that schema.json uses, and remembers which properties it met.
type checker struct {
	root map[string]any
	met  map[string]bool
	t    *testing.T
}

func (c checker) check(schema map[string]any, value any, at, where string) {
	c.t.Helper()
	if ref, ok := schema["$ref"].(string); ok {
		name := strings.TrimPrefix(ref, "#/$defs/")
		c.check(c.root["$defs"].(map[string]any)[name].(map[string]any), value, at, name)
		return
	}
	for key := range schema {
		if !slices.Contains([]string{"$schema", "$id", "$defs", "title", "description", "type", "enum", "const", "properties", "required",
			"additionalProperties", "items", "minimum", "maximum", "pattern", "format"}, key) {
			c.t.Errorf("%s: the schema uses %s, which this test does not know", at, key)
		}
	}
	if want, ok := schema["const"]; ok && want != value {
		c.t.Errorf("%s: %v, want %v", at, value, want)
	}
	if enum, ok := schema["enum"].([]any); ok && !slices.Contains(enum, value) {
		c.t.Errorf("%s: %v is not one of %v", at, value, enum)
	}
	if !c.typed(schema["type"], value) {
		c.t.Errorf("%s: %T is not %v", at, value, schema["type"])
		return
	}
	switch v := value.(type) {
	case float64:
		if low, ok := schema["minimum"].(float64); ok && v < low {
			c.t.Errorf("%s: %v is below %v", at, v, low)
		}
		if high, ok := schema["maximum"].(float64); ok && v > high {
			c.t.Errorf("%s: %v is above %v", at, v, high)
		}
	case string:
		if p, ok := schema["pattern"].(string); ok && !regexp.MustCompile(p).MatchString(v) {
			c.t.Errorf("%s: %q does not match %s", at, v, p)
		}
	case []any:
		for i, item := range v {
			c.check(schema["items"].(map[string]any), item, fmt.Sprintf("%s[%d]", at, i), where)
		}
	case map[string]any:
		c.object(schema, v, at, where)
	}
}

func (c checker) object(schema, v map[string]any, at, where string) {
	c.t.Helper()
	if each, ok := schema["additionalProperties"].(map[string]any); ok { // a map: any key, one form of value
		for name, member := range v {
			c.check(each, member, at+"."+name, where)
		}
		return
	}
	properties := schema["properties"].(map[string]any)
	if schema["additionalProperties"] != false {
		c.t.Errorf("%s: the schema lets any member pass", at)
	}
	for name, member := range v {
		sub, ok := properties[name].(map[string]any)
		if !ok {
			c.t.Errorf("%s.%s: is not in the schema", at, name)
			continue
		}
		c.met[where+"."+name] = true
		c.check(sub, member, at+"."+name, where+"."+name)
	}
	for _, name := range schema["required"].([]any) {
		if _, ok := v[name.(string)]; !ok {
			c.t.Errorf("%s.%s: is required and missing", at, name)
		}
	}
}

func (checker) typed(want, value any) bool {
	if list, ok := want.([]any); ok {
		return slices.ContainsFunc(list, func(w any) bool { return checker{}.typed(w, value) })
	}
	switch v := value.(type) {
	case nil:
		return want == "null"
	case string:
		return want == "string" || want == nil
	case bool:
		return want == "boolean"
	case float64:
		return want == "number" || want == "integer" && v == float64(int64(v))
	case []any:
		return want == "array"
	case map[string]any:
		return want == "object"
	default:
		return false
	}
}

// declared lists every property of the schema as "definition.property".
func declared(schema map[string]any, where string) []string {
	var list []string
	properties, _ := schema["properties"].(map[string]any)
	for name, sub := range properties {
		list = append(list, where+"."+name)
		list = append(list, declared(sub.(map[string]any), where+"."+name)...)
	}
	return list
}

// full is a report in which every member of every type is set somewhere.
func full(t *testing.T) *report.Report {
	t.Helper()
	r := failing(t)
	j := &r.Scenarios[1].Steps[0].Judgements[0]
	j.Promise.Backends = []string{"x/a"}
	j.Promise.Skip = "no reason"
	j.Attempt.Family, j.Attempt.Lacking = probes.IPv6, "the cluster gave x/a no IPv6 address"
	j.Facts.Attempt.SourcePort = 40000
	j.Facts.Outcome.Local = netip.MustParseAddrPort("198.18.0.1:40000")
	j.Facts.Outcome.Remote = netip.MustParseAddrPort("198.18.0.2:80")
	j.Facts.Outcome.Errno = "ECONNREFUSED"
	j.Facts.Outcome.ReplyFrom, j.Facts.Outcome.Socket = netip.MustParseAddr("198.18.0.2"), probes.RawSocket
	j.Facts.Outcome.Rejecter = netip.MustParseAddr("198.18.0.2")
	j.Facts.Attempt.Family = probes.IPv6
	j.Facts.Level = probes.Full
	j.Facts.Sightings = []probes.Sighting{{
		AttemptID: j.Attempt.ID, Packet: probes.ICMPError, Point: probes.Dropped, Count: 2, After: 1500, Node: "lab-worker", Pod: "x/a",
		Interface: "eth0", Reason: "NETFILTER_DROP", Peer: netip.MustParseAddrPort("198.18.0.2:80"), Code: 13,
	}}
	j.Observed.Drop = compare.Drop{Reason: "NETFILTER_DROP", Direction: "egress", Node: "lab-worker", Pod: "x/a", Interface: "eth0"}
	r.Explain(&report.Baseline{Seen: "Some CNI v1", Differences: []report.Difference{
		aDifference(compare.Hole, func(d *report.Difference) { d.Scenario, d.Attempts = "missing-selector", []string{theOne} }),
		aDifference(compare.Hole, func(d *report.Difference) { d.Scenario, d.Step, d.Attempts = "default-deny", "policies", []string{"*"} }),
		aDifference(compare.Break, func(d *report.Difference) { d.Note = "icmp" }),
		aDifference(compare.Hole, func(d *report.Difference) {
			d.Beside, d.Attempts, d.Evidence = "hairpin", []string{"*:UDP/*"}, compare.Delivered
		}),
	}})
	j.Facts.Control = probes.Control{SourceFault: "gone", DestinationFault: "gone", Baseline: probes.TimedOut, BaselineFault: "timed out", Instead: "others", WitnessFault: "lost"}
	return r
}

func TestTheSchemaDescribesTheJSON(t *testing.T) {
	var schema map[string]any
	if err := json.Unmarshal(report.Schema(), &schema); err != nil {
		t.Fatal(err)
	}
	met := map[string]bool{}
	for name, r := range map[string]*report.Report{"full": full(t), "passing": passing(t), "skipping": skipping(t), "tiered": tiered(t), "governed": governed(t), "leaking": withSeal(passing(t), leaking(t)), "corroborated": corroborated(t),
		"without Hubble": unread(t), "empty": {Level: "unwitnessed"}} {
		t.Run(name, func(t *testing.T) {
			var value any
			if err := json.Unmarshal(render(t, r, report.JSON, report.Options{}), &value); err != nil {
				t.Fatal(err)
			}
			checker{root: schema, met: met, t: t}.check(schema, value, "$", "root")
		})
	}
	all := declared(schema, "root")
	for name, def := range schema["$defs"].(map[string]any) {
		all = append(all, declared(def.(map[string]any), name)...)
	}
	for _, p := range all {
		if !met[p] {
			t.Errorf("%s is in the schema and in no report", p)
		}
	}
}

func TestJSONReadsBackAsTheReportItWas(t *testing.T) {
	want := full(t)
	first := render(t, want, report.JSON, report.Options{})
	got, err := report.ReadJSON(bytes.NewReader(first))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(first), string(render(t, got, report.JSON, report.Options{}))); diff != "" {
		t.Errorf("JSON (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(string(render(t, want, report.Table, report.Options{})), string(render(t, got, report.Table, report.Options{}))); diff != "" {
		t.Errorf("the table of what was read (-want +got):\n%s", diff)
	}
}

func TestWhatIsNoReportIsNotRead(t *testing.T) {
	for name, text := range map[string]string{
		"nothing":              ``,
		"another kind":         `{"apiVersion":"gapproof.dev/v1alpha1","kind":"Scenario"}`,
		"another version":      `{"apiVersion":"gapproof.dev/v2","kind":"Report"}`,
		"an unknown member":    `{"apiVersion":"gapproof.dev/v1alpha1","kind":"Report","colour":"red"}`,
		"a verdict that is no": `{"apiVersion":"gapproof.dev/v1alpha1","kind":"Report","scenarios":[{"steps":[{"judgements":[{"result":"green"}]}]}]}`,
	} {
		if _, err := report.ReadJSON(strings.NewReader(text)); err == nil {
			t.Errorf("%s was read", name)
		}
	}
}

func FuzzReadJSON(f *testing.F) {
	f.Add([]byte(`{"apiVersion":"gapproof.dev/v1alpha1","kind":"Report","run":"a","scenarios":[{"name":"s","steps":[{"judgements":[{"result":"fail","class":"hole"}]}]}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := report.ReadJSON(bytes.NewReader(b))
		if err != nil {
			return
		}
		// Whatever can be read can be shown, and nothing in it steers a terminal.
		for _, format := range report.Formats() {
			text := render(t, r, format, report.Options{})
			if format == report.Table && bytes.ContainsRune(text, '\x1b') {
				t.Errorf("an escape sequence got through:\n%q", text)
			}
		}
	})
}
