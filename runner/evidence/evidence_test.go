package evidence_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	npav1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/runner/compare"
	"github.com/gapproof/gapproof/runner/evidence"
	"github.com/gapproof/gapproof/runner/hubble"
	"github.com/gapproof/gapproof/runner/plan"
	"github.com/gapproof/gapproof/runner/reach"
	"github.com/gapproof/gapproof/runner/report"
	"github.com/gapproof/gapproof/runner/seal"
	"github.com/gapproof/gapproof/scenarios"
	"github.com/gapproof/gapproof/scenarios/catalogue"
)

// world has a Service with a lookup, policies of both kinds, one without defaults, a step that replaces it, one that relabels and one that makes a
// pod again.
const world = `
apiVersion: gapproof.dev/v1alpha1
kind: Scenario
metadata: {name: two-ends, title: only x/a reaches the database, controls: [pci-dss-4.0/1.3.1]}
world:
  namespaces:
  - {name: x, labels: {team: x}, pods: [{name: a, labels: {app: a}}, {name: c, labels: {app: c}}]}
  - {name: "y", pods: [{name: b, labels: {app: b}, ports: [{port: 5432, name: db}, {port: 53, protocol: UDP}]}]}
  services:
  - {name: db, namespace: "y", selector: {app: b}, ports: [{port: 5432}], lookup: true}
policies:
  inline:
  - metadata: {name: db, namespace: "y"}
    spec: {podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: x}}, podSelector: {matchLabels: {app: a}}}], ports: [{port: db}]}]}
  cluster:
  - metadata: {name: passing}
    spec: {tier: Admin, priority: 7, subject: {namespaces: {matchLabels: {team: x}}}, egress: [{action: Pass, to: [{namespaces: {}}]}]}
steps:
- name: applied
  apply: ["*"]
  expect: {deny: [{from: [x/c], to: [y/b]}], allow: [{from: [x/a], to: [y/b], ports: [TCP/5432]}]}
- name: replaced
  replace:
  - metadata: {name: db, namespace: "y"}
    spec: {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0}}]}]}
- name: relabelled
  relabel: [{pod: x/c, labels: {app: null, tier: front}}]
- name: again
  restart: [x/a]
`

var started = time.Date(2026, 3, 4, 10, 11, 12, 0, time.UTC)

func scenario(tb testing.TB, text string) *scenarios.Scenario {
	tb.Helper()
	list, err := scenarios.LoadFS(fstest.MapFS{"two-ends.yaml": {Data: []byte(text)}}, "two-ends.yaml")
	if err != nil {
		tb.Fatal(err)
	}
	return list[0]
}

// observe is what a cluster that follows the policies would have shown of one attempt, with a witness; some are different on purpose.
func observe(a plan.Planned, n int, verdict reach.Verdict, base *probes.Observation, round int) probes.Observation {
	o := probes.Observation{
		Attempt: probes.Attempt{ID: a.ID, Protocol: a.Protocol, Destination: a.Address, Name: a.Name, Token: probes.Token{byte(n), byte(round), 7}, Deadline: time.Second, SourcePort: 40000},
		Outcome: probes.Outcome{AttemptID: a.ID, Started: started.Add(time.Duration(n) * time.Millisecond), Took: 900 * time.Microsecond, Local: netip.MustParseAddrPort("198.18.0.9:40000"), Remote: a.Address},
	}
	if a.Kind == plan.Lookup {
		o.Attempt.Family = a.Family
	}
	if base != nil {
		o.Control = probes.Control{Baseline: base.Outcome.Kind, BaselineFault: base.Control.BaselineFault}
	}
	switch {
	case verdict == reach.Deny && n%2 == 0:
		o.Outcome = probes.Outcome{}
		o.Level = probes.Full
		o.Sightings = []probes.Sighting{
			{AttemptID: a.ID, Packet: probes.Request, Point: probes.Left, Count: 1, Node: "n1", Pod: a.Source, Interface: "eth0"},
			{AttemptID: a.ID, Packet: probes.Request, Point: probes.Dropped, Count: 1, After: 1500, Node: "n2", Interface: "cali1", Reason: "NETFILTER_DROP", Peer: netip.MustParseAddrPort("198.18.0.3:5432")},
		}
	case verdict == reach.Deny:
		o.Outcome.Kind, o.Outcome.Took = probes.TimedOut, time.Second
	case a.Kind == plan.Lookup:
		o.Outcome.Kind, o.Outcome.Addresses = probes.Replied, a.Answers
	case a.Protocol == probes.ICMP:
		o.Outcome.Kind, o.Outcome.ReplyFrom = probes.Replied, a.Address.Addr()
	default:
		o.Outcome.Kind, o.Outcome.Responder = probes.Replied, a.Responders[0]
		o.Arrivals = []probes.Arrival{{Token: o.Attempt.Token, Protocol: a.Protocol, Source: o.Outcome.Local, Destination: a.Address, Listener: a.Responders[0], At: started, Count: 1}}
	}
	return o
}

// record is a whole run written to a directory, with a hole, a flapping attempt, a lost one, a gap and a baseline that failed.
func record(tb testing.TB, dir string) string {
	tb.Helper()
	w, err := evidence.New(dir, evidence.Options{Replay: []string{"--cluster", "my lab"}})
	if err != nil {
		tb.Fatal(err)
	}
	must := func(err error) {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
	}
	s := scenario(tb, world)
	facts, err := plan.Offline(s)
	must(err)
	p, err := plan.Build(s, facts)
	must(err)
	var base []probes.Observation
	for i, a := range p.Attempts {
		o := observe(a, i, reach.Allow, nil, 0)
		if a.ID == "x/c>y/b:UDP/53" {
			o.Outcome = probes.Outcome{AttemptID: a.ID, Kind: probes.TimedOut, Started: started}
			o.Arrivals = nil
		}
		o.Control.BaselineFault = compare.BaselineFault(o, a)
		base = append(base, o)
	}
	must(w.Planned(p, facts, base))
	rep := &report.Report{Run: "ab12", Started: started, Took: 9 * time.Second, Level: "full", Versions: report.Versions{
		Gapproof: "v0.2.0", Kubernetes: "v1.37.2", CNI: "calico v3.28.5", Kernel: "6.18", Images: []string{"lab.invalid/probe@sha256:aa"}, Nodes: []string{"n1", "n2"},
	}}
	sc := report.Scenario{Name: p.Name, Title: s.Metadata.Title, File: s.File, Took: 8 * time.Second}
	ground := compare.NewGround(base)
	for n := range p.Steps {
		if pods := p.Remade(n); len(pods) > 0 {
			facts = moved(facts, pods)
			p, err = p.Renew(n, facts)
			must(err)
			ground.Remake(p.Attempts, pods)
		}
		st := p.Steps[n]
		var held evidence.Held
		for _, policy := range st.Policies {
			held.Policies = append(held.Policies, asStored(policy.Spec))
		}
		for _, policy := range st.ClusterPolicies {
			held.Cluster = append(held.Cluster, clusterAsStored(tb, policy.Spec))
		}
		must(w.Accepted(p, n, facts, held))
		var rounds []compare.Round
		for k := range 3 {
			r := compare.Round{After: time.Duration(k+1) * 250 * time.Millisecond}
			for i, a := range p.Attempts {
				verdict := st.Promises[i].Derived.Verdict
				switch {
				case a.ID == "x/c>y/b:TCP/5432" && n == 0:
					verdict = reach.Allow // a hole
				case a.ID == "x/a>y/b:UDP/53" && k == 0:
					verdict = reach.Allow // a gap in the first step
				}
				o := observe(a, i, verdict, &ground.Base[i], 10*n+k+1)
				if a.ID == "y/b>x/a:TCP/80" && k == 2 { // flapping: a deny in the last round only
					o.Outcome = probes.Outcome{AttemptID: a.ID, Kind: probes.TimedOut, Took: time.Second, Started: started}
					o.Arrivals = nil
				}
				if a.ID == "y/b>x/c:TCP/80" {
					o = observe(a, 0, reach.Deny, &ground.Base[i], 10*n+k+1)
					o.Sightings[1].Reason = "IP_RPFILTER"
				}
				r.Observations = append(r.Observations, o)
			}
			rounds = append(rounds, r)
		}
		ground.Hold(compare.Backends(p.Attempts, st.Promises), st.Promises, rounds)
		out := report.Step{Name: st.Name, Enforced: 120 * time.Millisecond, Confirm: 3 * time.Second, Rounds: len(rounds)}
		out.Judgements, out.Gaps = compare.JudgeRounds(p.Attempts, st.Promises, rounds, out.Confirm)
		for i := range out.Judgements {
			if j := &out.Judgements[i]; j.Result != compare.Pass {
				j.Replay = compare.Replay(s.File, j.Attempt.ID, "--cluster", "my lab")
			}
		}
		must(w.Observed(out, rounds))
		out.Took = 2 * time.Second
		sc.Steps = append(sc.Steps, out)
	}
	rep.Scenarios = append(rep.Scenarios, sc)
	spec, found := sealFacts(tb)
	must(w.Sealed(spec, found))
	rep.Seal = report.NewSeal(spec.Judge(found))
	corroborate(tb, w, rep, facts)
	digest, err := w.Close(rep)
	must(err)
	if got := rep.Summary(); got.Holes == 0 || got.Inconclusive < 3 || got.Pass == 0 || len(sc.Steps[0].Gaps) == 0 {
		tb.Fatalf("the run has too little in it: %+v, gaps %v", got, sc.Steps[0].Gaps)
	}
	return digest
}

// corroborate has Hubble seen every attempt end as it was observed, but for a hole that it saw dropped, and one attempt that it missed. Facts are
// those since the last step.
func corroborate(tb testing.TB, w *evidence.Writer, rep *report.Report, facts plan.Facts) {
	tb.Helper()
	reading := hubble.Reading{Sources: []hubble.Source{
		{Name: "kube-system/cilium-a", Node: "n1", Read: true, Version: "1.20.2", Flows: 40},
		{Name: "kube-system/cilium-b", Node: "n2", Read: true, Lost: 3, Flows: 9, Fault: "it ended the stream of flows"},
	}, Forgotten: 1}
	flows := func(i, k, n int) ([]hubble.Flow, string) {
		j := rep.Scenarios[i].Steps[k].Judgements[n]
		now := facts
		if k < len(rep.Scenarios[i].Steps)-1 {
			now = plan.Facts{Pods: maps.Clone(facts.Pods), Services: facts.Services, Resolver: facts.Resolver}
			now.Pods["x/a"] = plan.PodFacts{IP: netip.MustParseAddr("198.18.0.1"), Node: "n1"}
		}
		t, why := hubble.TupleOf(now, j.Current(), j.Facts)
		if why != "" || n == 3 {
			return nil, why
		}
		at := j.Facts.Outcome.Started
		if at.IsZero() {
			at = started
		}
		out := []hubble.Flow{{Time: at, Node: "n1", Verdict: hubble.Forwarded, Point: "TO_OVERLAY", Direction: "EGRESS", Protocol: t.Protocol, Source: t.Source, Destination: t.Destination, Count: 1}}
		end := out[0]
		end.Time, end.Node = at.Add(time.Millisecond), "n2"
		if j.Observed.Verdict == reach.Deny || k == 0 && j.Class == compare.Hole {
			end.Verdict, end.Point, end.Direction, end.DropReason = hubble.Dropped, "", "INGRESS", "POLICY_DENIED"
		} else {
			end.Point, end.Count = "TO_ENDPOINT", 2
		}
		return append(out, end), ""
	}
	rep.Corroborate(reading, flows)
	if h := rep.Hubble; h.Agree == 0 || h.Silent == 0 || h.Contradicts == 0 {
		tb.Fatalf("Hubble has too little to say: %+v", h)
	}
	err := w.Corroborated(rep, func(i, k, n int) []hubble.Flow {
		list, _ := flows(i, k, n)
		return list
	})
	if err != nil {
		tb.Fatal(err)
	}
}

// sealFacts are those of a sealed network of one node and one pod, which somebody tried to leave. Not every map in them has one order.
func sealFacts(tb testing.TB) (seal.Spec, seal.Facts) {
	tb.Helper()
	spec, err := seal.New("dev", seal.Network{
		Bridge: "br-lab", Gateway: netip.MustParseAddr("172.30.0.1"), Subnet: netip.MustParsePrefix("172.30.0.0/24"),
		Mirror: netip.MustParseAddrPort("172.30.0.2:5000"), Sink: netip.MustParseAddrPort("172.30.0.3:53"), API: 6443,
	}, nil, rand.New(rand.NewPCG(1, 2)))
	if err != nil {
		tb.Fatal(err)
	}
	tried := seal.Tried{Source: netip.MustParseAddr("198.18.0.9"), Destination: netip.MustParseAddr("203.0.113.7"), Protocol: seal.TCP, Port: 443, Packets: 1, From: "pod x/a"}
	f := seal.Facts{
		Sources: []seal.Expected{{From: "node n1", Kind: seal.NodeSource}, {From: "pod kube-system/metrics", Kind: seal.PodSource}},
		Began:   &seal.Reading{Packets: map[seal.Counter]uint64{seal.AllowedAPI: 7}, Tried: []seal.Tried{tried}},
		Last:    seal.Reading{Packets: map[seal.Counter]uint64{seal.AllowedAPI: 5}}, Images: 14,
		Before: seal.Reading{Packets: map[seal.Counter]uint64{seal.AllowedAPI: 9}}, After: seal.Reading{Packets: map[seal.Counter]uint64{seal.AllowedAPI: 12}},
	}
	tried.Packets = 4
	f.After.Tried = []seal.Tried{tried}
	for _, s := range f.Sources {
		sends := spec.Sends(s.Kind)
		for _, counter := range slices.Sorted(maps.Keys(sends)) {
			f.Canaries = append(f.Canaries, seal.Canary{From: s.From, Counter: counter, Sent: sends[counter], Counted: sends[counter]})
			f.After.Packets[counter] += sends[counter]
		}
		f.Names = append(f.Names, seal.Name{From: s.From, Name: "canary.invalid", Asked: spec.Sink, Answer: seal.AnswerNoName, Recorded: 1})
	}
	return spec, f
}

// asStored is a policy as the API server of these versions returns it: defaults filled in, the run's label and managed fields added.
func asStored(p networkingv1.NetworkPolicy) networkingv1.NetworkPolicy {
	p = *p.DeepCopy()
	p.APIVersion, p.Kind = "networking.k8s.io/v1", "NetworkPolicy"
	p.UID, p.ResourceVersion = types.UID("7f3c"), "1234"
	p.CreationTimestamp = metav1.NewTime(started)
	p.Labels = map[string]string{"gapproof.dev/run": "ab12"}
	p.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "gapproof", Operation: "Update", APIVersion: "networking.k8s.io/v1", FieldsType: "FieldsV1",
		FieldsV1: metav1.NewFieldsV1(`{"f:spec":{}}`)}}
	if len(p.Spec.PolicyTypes) == 0 {
		p.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
	}
	tcp := corev1.ProtocolTCP
	for i := range p.Spec.Ingress {
		for k := range p.Spec.Ingress[i].Ports {
			p.Spec.Ingress[i].Ports[k].Protocol = &tcp
		}
	}
	return p
}

// clusterAsStored is the same of a ClusterNetworkPolicy, which comes through a client without types.
func clusterAsStored(tb testing.TB, p npav1alpha2.ClusterNetworkPolicy) unstructured.Unstructured {
	tb.Helper()
	p = *p.DeepCopy()
	p.APIVersion, p.Kind = "policy.networking.k8s.io/v1alpha2", "ClusterNetworkPolicy"
	p.UID, p.ResourceVersion, p.Generation = types.UID("8a4d"), "1240", 1
	p.Labels = map[string]string{"gapproof.dev/run": "ab12"}
	object, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&p)
	if err != nil {
		tb.Fatal(err)
	}
	return unstructured.Unstructured{Object: object}
}

// moved are f with a new address and another node for the pods.
func moved(f plan.Facts, pods []string) plan.Facts {
	f.Pods = maps.Clone(f.Pods)
	for i, pod := range pods {
		facts := f.Pods[pod]
		facts.IP, facts.Node = netip.AddrFrom4([4]byte{198, 19, 200, byte(i + 1)}), "n2"
		f.Pods[pod] = facts
	}
	return f
}

func files(tb testing.TB, dir string) fstest.MapFS {
	tb.Helper()
	all := fstest.MapFS{}
	err := fs.WalkDir(os.DirFS(dir), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(filepath.Join(dir, name))
		all[name] = &fstest.MapFile{Data: b}
		return err
	})
	if err != nil {
		tb.Fatal(err)
	}
	return all
}

func written(tb testing.TB) fstest.MapFS {
	tb.Helper()
	dir := tb.TempDir()
	record(tb, dir)
	return files(tb, dir)
}

func verify(t *testing.T, dir fs.FS) []evidence.Difference {
	t.Helper()
	v, err := evidence.Verify(dir)
	if err != nil {
		t.Fatal(err)
	}
	return v.Differences
}

func TestWhatARunWroteVerifies(t *testing.T) {
	dir := t.TempDir()
	digest := record(t, dir)
	v, err := evidence.Verify(os.DirFS(dir))
	if err != nil {
		t.Fatal(err)
	}
	if len(v.Differences) > 0 {
		t.Errorf("differences: %v", v.Differences)
	}
	if v.Digest != digest || v.Scenarios != 1 || v.Judgements == 0 || v.Files != 17 || v.Seal != seal.Sealed || v.WrittenBy != "v0.2.0" {
		t.Errorf("got %+v, want the digest %s of 17 files", v, digest)
	}
}

func TestTheSameRunGivesTheSameBytes(t *testing.T) {
	one, two := written(t), written(t)
	for name := range one {
		if diff := cmp.Diff(string(one[name].Data), string(two[name].Data)); diff != "" {
			t.Errorf("%s (-one +two):\n%s", name, diff)
		}
	}
}

func TestTheReportIsMadeAgainFromTheRawFilesAlone(t *testing.T) {
	all := written(t)
	stored, err := evidence.ReadReport(all)
	if err != nil {
		t.Fatal(err)
	}
	for _, derived := range []string{"report.json", "notes.json", "manifest.json", "scenarios/001-two-ends/plan.json", "scenarios/001-two-ends/plan-004.json",
		"scenarios/001-two-ends/attempts.log"} {
		if _, ok := all[derived]; !ok {
			t.Errorf("there is no %s", derived)
		}
		delete(all, derived)
	}
	got, err := evidence.Rebuild(all)
	if err != nil {
		t.Fatal(err)
	}
	text := func(r *report.Report) string {
		var b bytes.Buffer
		if err := report.RenderJSON(&b, r, report.Options{}); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	if diff := cmp.Diff(text(stored), text(got)); diff != "" {
		t.Errorf("the report (-stored +rebuilt):\n%s", diff)
	}
}

func TestTheLogHoldsEveryRoundOfWhatDidNotPass(t *testing.T) {
	log := string(written(t)["scenarios/001-two-ends/attempts.log"].Data)
	for _, want := range []string{
		"attempt=x/c>y/b:TCP/5432 round=1", "attempt=x/c>y/b:TCP/5432 round=3", "attempt=y/b>x/c:TCP/80 result=inconclusive", "reason=IP_RPFILTER",
		"verdict still changed after ",
	} {
		if !strings.Contains(log, want) {
			t.Errorf("the log lacks %q", want)
		}
	}
	if strings.Contains(log, "result=pass") || strings.Contains(log, "time=") {
		t.Error("the log holds what passed, or the moment of writing")
	}
}

func TestANewManifestOfTheSameFilesVerifies(t *testing.T) {
	if got := verify(t, resealed(written(t))); len(got) > 0 {
		t.Errorf("differences: %v", got)
	}
}

func TestADirectoryThatHoldsSomethingIsNotUsed(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "notes.txt"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := evidence.New(dir, evidence.Options{}); !errors.Is(err, evidence.ErrNotEmpty) {
		t.Errorf("got %v, want ErrNotEmpty", err)
	}
}

// resealed is the files with a manifest made anew, as somebody would do who edits one of them and knows the format.
func resealed(all fstest.MapFS) fstest.MapFS {
	m := evidence.Manifest{APIVersion: evidence.APIVersion, Kind: evidence.ManifestKind}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if name != "manifest.json" {
			sum := sha256.Sum256(all[name].Data)
			m.Files = append(m.Files, evidence.File{Name: name, Size: int64(len(all[name].Data)), SHA256: hex.EncodeToString(sum[:])})
		}
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(m); err != nil {
		panic(err)
	}
	all = maps.Clone(all)
	all["manifest.json"] = &fstest.MapFile{Data: b.Bytes()}
	return all
}

func with(all fstest.MapFS, name string, content []byte) fstest.MapFS {
	all = maps.Clone(all)
	all[name] = &fstest.MapFile{Data: content}
	return all
}

// wholeFile are the words of differences that no line can be named for.
var wholeFile = regexp.MustCompile(`^has \d+ bytes|^is missing|^is not listed|^belongs to|the API server did not hold it$`)

func TestEditsAreNamed(t *testing.T) {
	const dir = "scenarios/001-two-ends/"
	all := written(t)
	replace := func(name, old, new string) fstest.MapFS {
		b := bytes.Replace(all[name].Data, []byte(old), []byte(new), 1)
		if bytes.Equal(b, all[name].Data) {
			t.Fatalf("%s holds no %q", name, old)
		}
		return with(all, name, b)
	}
	without := func(name string) fstest.MapFS {
		c := maps.Clone(all)
		delete(c, name)
		return c
	}
	for _, tt := range []struct {
		name string
		dir  fstest.MapFS
		want string // beginning of one of the differences
		says string // part of the same
	}{
		{"one byte of a raw file", replace(dir+"observations.jsonl", `"took":900000`, `"took":900001`), dir + "observations.jsonl: has ", "SHA-256"},
		{"a file that is gone", without(dir + "policies.jsonl"), dir + "policies.jsonl: is missing", ""},
		{"a derived file that is gone, and the manifest says so", resealed(without(dir + "attempts.log")), dir + "attempts.log: is missing", ""},
		{"a raw file that is gone, and the manifest says so", resealed(without(dir + "steps.jsonl")), dir + "steps.jsonl: is missing", ""},
		{"a file that nobody listed", with(all, "more.json", []byte("{}")), "more.json: is not listed", ""},
		{"a file that is listed and belongs to nothing", resealed(with(all, "more.json", []byte("{}"))), "more.json: belongs to no scenario", ""},
		{"a manifest that is gone", without("manifest.json"), "manifest.json: is missing", ""},
		{"a hole made a break", resealed(replace("report.json", `"class": "hole"`, `"class": "break"`)), "report.json: x/c>y/b:TCP/5432: scenarios[0].steps[0].judgements[", `].class: stored "break", derived "hole"`},
		{"an intent that was never written", resealed(replace(dir+"plan.json", `"intended": "deny"`, `"intended": "allow"`)), dir + "plan.json: x/c>y/b:TCP/5432: steps[0].promises[", `].intended: stored "allow", derived "deny"`},
		{"a line of the log", resealed(replace(dir+"attempts.log", "IP_RPFILTER", "NETFILTER_DROP")), dir + "attempts.log: y/b>x/c:TCP/80: stored ", "IP_RPFILTER"},
		{"a policy that the API server did not hold", resealed(replace(dir+"policies.jsonl", `"matchLabels":{"app":"a"}`, `"matchLabels":{"app":"c"}`)), dir + `policies.jsonl: step "applied": policy y/db: the API server held`, ""},
		{"a ClusterNetworkPolicy that the API server did not hold", resealed(replace(dir+"clusterpolicies.jsonl", `"action":"Pass"`, `"action":"Deny"`)), dir + `clusterpolicies.jsonl: step "applied": policy passing: the API server held`, ""},
		{"a ClusterNetworkPolicy that is there twice", resealed(with(all, dir+"clusterpolicies.jsonl", bytes.Repeat(all[dir+"clusterpolicies.jsonl"].Data, 2))), dir + `clusterpolicies.jsonl: step "applied": policy passing is there twice`, ""},
		{"an address that a step gave", resealed(replace(dir+"facts-004.json", "198.19.200.1", "198.19.200.9")), dir + "observations.jsonl: y/b>x/a:TCP/80: attempt: sent", "198.19.200.9"},
		{"the facts of a step that are gone, and the manifest says so", resealed(without(dir + "facts-004.json")), dir + "facts-004.json: is missing", ""},
		{"the plan of a step", resealed(replace(dir+"plan-004.json", `"address": "198.19.200.1:80"`, `"address": "198.18.0.1:80"`)), dir + "plan-004.json: x/a>x/a:TCP/80: attempts[0].address", "198.19.200.1:80"},
		{"facts of a step that changed no pod", resealed(with(all, dir+"facts-001.json", all[dir+"facts.json"].Data)), dir + "facts-001.json: belongs to no scenario", ""},
		{"a drop that was another", resealed(replace(dir+"observations.jsonl", `IP_RPFILTER`, `NETFILTER_DROP`)), dir + "attempts.log: y/b>x/c:TCP/80", ""},
		{"a baseline that had failed", resealed(replace(dir+"baseline.jsonl", `"kind":"timedOut"`, `"kind":"replied"`)), dir + "baseline.jsonl: x/c>y/b:UDP/53: baselineFault", ""},
		{"a label of the world", resealed(replace(dir+"scenario.json", `"app": "a"`, `"app": "z"`)), dir + "plan.json: ", "derived"},
		{"another kernel", resealed(replace("run.json", `"kernel": "6.18"`, `"kernel": "5.4"`)), "report.json: versions.kernel: stored", ""},
		{"a canary that was not counted", resealed(replace("seal.json", `"counted": 1`, `"counted": 0`)), "report.json: seal.verdict: stored", `derived "SEAL_NOT_PROVEN"`},
		{"a packet that got past the gate", resealed(replace("seal.json", `"after": {
      "packets": {`, `"after": {
      "packets": {
        "beyond-forward-ipv6": 1,`)), "report.json: seal.verdict: stored", `derived "LEAKED"`},
		{"a seal that was not found so", resealed(replace("report.json", `"verdict": "SEALED"`, `"verdict": "LEAKED"`)), "report.json: seal.verdict: stored", `derived "SEALED"`},
		{"who tried to leave", resealed(replace("report.json", `"from": "pod x/a"`, `"from": "pod x/c"`)), "report.json: seal.tried[0].from: stored", `derived "pod x/a"`},
		{"the seal's facts that are gone, and the manifest says so", resealed(without("seal.json")), "report.json: seal", ""},
		{"a drop that Hubble did not see", resealed(replace("hubble.jsonl", `"verdict":"DROPPED","dropReason":"POLICY_DENIED"`, `"verdict":"FORWARDED","point":"TO_ENDPOINT"`)), "report.json: ", ".hubble["},
		{"a flow from another port", resealed(replace("hubble.jsonl", `:40000","destination"`, `:40001","destination"`)), "hubble.jsonl: ", "the flow is not of the attempt: it is TCP from"},
		{"a flow that is there twice", resealed(with(all, "hubble.jsonl", bytes.Join(slices.Insert(bytes.SplitAfter(all["hubble.jsonl"].Data, []byte("\n")), 1,
			bytes.SplitAfter(all["hubble.jsonl"].Data, []byte("\n"))[0]), nil))), "hubble.jsonl: ", "count: is no count of flows that are alike"},
		{"a flow long before its attempt", resealed(replace("hubble.jsonl", `"time":"2026-03-04T10:11`, `"time":"2026-03-04T10:01`)), "hubble.jsonl: ", "it was seen at 2026-03-04T10:01"},
		{"what Hubble said", resealed(replace("report.json", `"word": "contradicts"`, `"word": "agree"`)), "report.json: x/c>y/b:TCP/5432: scenarios[0].steps[0].hubble[", `derived "contradicts"`},
		{"events that Hubble lost", resealed(replace("hubble.json", `"lost": 3`, `"lost": 4`)), "report.json: ", "derived"},
		{"Hubble's flows that are gone, and the manifest says so", resealed(without("hubble.jsonl")), "hubble.jsonl: is missing", ""},
		{"all of Hubble that is gone, and the manifest says so", resealed(without("hubble.json")), "hubble.jsonl: belongs to no scenario", ""},
		{"another rule of the gate", resealed(replace("seal.json", `"sink": "172.30.0.3:53"`, `"sink": "172.30.0.3:053"`)), "seal.json: says something", ""},
		{"a member that is there twice", resealed(replace("run.json", `"run": "ab12",`, `"run": "zz", "run": "ab12",`)), "run.json: says something", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := verify(t, tt.dir)
			if !slices.ContainsFunc(got, func(d evidence.Difference) bool {
				whole := d
				whole.Line = 0
				return strings.HasPrefix(whole.String(), tt.want) && strings.Contains(whole.String(), tt.says) && (d.Line > 0) == !wholeFile.MatchString(d.What)
			}) {
				t.Errorf("none begins with %q and says %q, on a line or of a whole file:\n%v", tt.want, tt.says, got)
			}
		})
	}
}

func TestWhatCannotBeReadNamesFileAndLine(t *testing.T) {
	const dir = "scenarios/001-two-ends/"
	all := written(t)
	for _, tt := range []struct {
		name, file string
		edit       func([]byte) []byte
		line       int
		says       string
	}{
		{"a brace too few", dir + "observations.jsonl", func(b []byte) []byte {
			lines := bytes.SplitAfter(b, []byte("\n"))
			lines[2] = append(bytes.TrimSuffix(lines[2], []byte("}\n")), '\n')
			return bytes.Join(lines, nil)
		}, 3, "unexpected EOF"},
		{"a last line without its end", dir + "steps.jsonl", func(b []byte) []byte { return b[:len(b)-1] }, 4, "does not end"},
		{"a member that nobody knows", "run.json", func(b []byte) []byte { return bytes.Replace(b, []byte(`"run": `), []byte(`"ran": `), 1) }, 4, `unknown field "ran"`},
		{"a word that is no number", "run.json", func(b []byte) []byte {
			return regexp.MustCompile(`"took": \d+`).ReplaceAll(b, []byte(`"took": "long"`))
		}, 1 + bytes.Count(all["run.json"].Data[:bytes.Index(all["run.json"].Data, []byte(`"took"`))], []byte("\n")), "cannot unmarshal"},
		{"a verdict that Hubble has not", "hubble.jsonl", func(b []byte) []byte {
			return bytes.Replace(b, []byte(`"FORWARDED","point":"TO_OVERLAY"`), []byte(`"FORWARDEX","point":"TO_OVERLAY"`), 1)
		}, 1, `"FORWARDEX" is not one of`},
		{"two lines that changed places", dir + "observations.jsonl", func(b []byte) []byte {
			lines := bytes.SplitAfter(b, []byte("\n"))
			lines[0], lines[1] = lines[1], lines[0]
			return bytes.Join(lines, nil)
		}, 1, "want step"},
		{"another kind", "manifest.json", func(b []byte) []byte { return bytes.Replace(b, []byte("EvidenceManifest"), []byte("Scenario"), 1) }, 1, "want"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			edited := with(all, tt.file, tt.edit(slices.Clone(all[tt.file].Data)))
			if tt.file != "manifest.json" {
				edited = resealed(edited)
			}
			_, err := evidence.Verify(edited)
			var format *evidence.FormatError
			if !errors.As(err, &format) || format.File != tt.file || !strings.Contains(err.Error(), tt.says) {
				t.Fatalf("got %v, want a fault of %s that says %q", err, tt.file, tt.says)
			}
			if !strings.Contains(err.Error(), tt.file+":"+strconv.Itoa(format.Line)) || format.Line != tt.line {
				t.Errorf("line %d in %v, want %d", format.Line, err, tt.line)
			}
		})
	}
	if _, err := evidence.Verify(fstest.MapFS{}); !errors.Is(err, evidence.ErrNone) {
		t.Errorf("an empty directory: %v", err)
	}
}

// leaf is one scalar of a JSON text: its path, its value, and where it is written.
type leaf struct {
	path       string
	value      any
	start, end int64
}

// leavesOf are the scalars of a JSON text, in order, keys not among them.
func leavesOf(t *testing.T, text []byte) []leaf {
	t.Helper()
	type level struct {
		path  string
		key   string
		index int // -1 in an object
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var open []level
	var out []leaf
	wantKey := false
	here := func() string {
		if len(open) == 0 {
			return ""
		}
		if top := open[len(open)-1]; top.index < 0 {
			return top.path + "." + top.key
		} else {
			return fmt.Sprintf("%s[%d]", top.path, top.index)
		}
	}
	after := func() { // a value has ended
		if len(open) == 0 {
			return
		}
		if top := &open[len(open)-1]; top.index < 0 {
			wantKey = true
		} else {
			top.index++
			wantKey = false
		}
	}
	for {
		before := d.InputOffset()
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		switch token {
		case json.Delim('{'):
			open, wantKey = append(open, level{here(), "", -1}), true
		case json.Delim('['):
			open, wantKey = append(open, level{here(), "", 0}), false
		case json.Delim('}'), json.Delim(']'):
			open = open[:len(open)-1]
			after()
		default:
			if wantKey {
				open[len(open)-1].key, wantKey = token.(string), false
				continue
			}
			end := d.InputOffset()
			start := before + int64(len(text[before:end])-len(bytes.TrimLeft(text[before:end], " \n:,")))
			out = append(out, leaf{here(), token, start, end})
			after()
		}
	}
}

// other is a value of the same kind that is not v.
func other(r *rand.Rand, v any) any {
	switch v := v.(type) {
	case bool:
		return !v
	case json.Number:
		n, _ := v.Int64()
		return n + 1 + r.Int64N(5)
	case string:
		for _, words := range [][]string{{"allow", "deny", "unknown"}, {"pass", "fail", "inconclusive"}, {"replied", "timedOut", "refused"}, {"TCP", "UDP"}} {
			if i := slices.Index(words, v); i >= 0 {
				return words[(i+1+r.IntN(len(words)-1))%len(words)]
			}
		}
		if _, err := netip.ParseAddrPort(v); err == nil {
			return "203.0.113.9:9"
		}
		if _, err := netip.ParseAddr(v); err == nil {
			return "203.0.113.9"
		}
		if _, err := time.Parse(time.RFC3339Nano, v); err == nil {
			return "2001-02-03T04:05:06Z"
		}
		if b, err := hex.DecodeString(v); err == nil && len(b) > 0 {
			b[r.IntN(len(b))] ^= 1 << r.IntN(8)
			return hex.EncodeToString(b)
		}
		return v + "x"
	default:
		return "x"
	}
}

// mutants calls f for every scalar of every JSON file, changed.
func mutants(t *testing.T, r *rand.Rand, all fstest.MapFS, f func(name, path string, edited fstest.MapFS)) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(all)) {
		var parts [][]byte
		switch filepath.Ext(name) {
		case ".json":
			parts = [][]byte{all[name].Data}
		case ".jsonl":
			parts = bytes.SplitAfter(all[name].Data, []byte("\n"))
			parts = parts[:len(parts)-1]
		}
		for n, part := range parts {
			for _, l := range leavesOf(t, part) {
				var b bytes.Buffer
				e := json.NewEncoder(&b)
				e.SetEscapeHTML(false)
				if err := e.Encode(other(r, l.value)); err != nil {
					t.Fatal(err)
				}
				edited := slices.Clone(parts)
				edited[n] = slices.Concat(part[:l.start], bytes.TrimSuffix(b.Bytes(), []byte("\n")), part[l.end:])
				f(name, fmt.Sprintf("%d%s", n+1, l.path), with(all, name, bytes.Join(edited, nil)))
			}
		}
	}
}

// found tells whether verifying says that something is wrong.
func found(dir fs.FS) bool {
	v, err := evidence.Verify(dir)
	return err != nil || len(v.Differences) > 0
}

// indexes and lines are left out of a path to see of which kind a field is.
var indexes = regexp.MustCompile(`^\d+|\[\d+\]`)

// oneOfEachKind calls f with one mutant of every kind of field, each chosen by r among all of its kind.
func oneOfEachKind(t *testing.T, r *rand.Rand, all fstest.MapFS, f func(name, path string, edited fstest.MapFS)) {
	t.Helper()
	type mutant struct {
		path   string
		edited fstest.MapFS
	}
	chosen, met := map[string]mutant{}, map[string]int{}
	mutants(t, r, all, func(name, path string, edited fstest.MapFS) {
		kind := name + "\x00" + indexes.ReplaceAllString(path, "")
		if met[kind]++; r.IntN(met[kind]) == 0 {
			chosen[kind] = mutant{path, edited}
		}
	})
	if len(chosen) < 200 {
		t.Errorf("only %d kinds of field were found", len(chosen))
	}
	for _, kind := range slices.Sorted(maps.Keys(chosen)) {
		if r.IntN(thinned) != 0 {
			continue
		}
		name, _, _ := strings.Cut(kind, "\x00")
		f(name, chosen[kind].path, chosen[kind].edited)
	}
}

// unjudged are the facts of a seal on which no verdict rests, as long as they only differ in what they say: which addresses were sealed, where canaries
// and names went by name, and counters that may grow between two readings.
var unjudged = regexp.MustCompile(`\.spec\.|\.packets\.(all|allowed|note|tried|link)-|\.names\[\d+\]\.(name|asked)$|\.began\.tried\[\d+\]\.from$`)

// onTheWay are what a flow may say otherwise that does not decide, and when one that does was seen.
var onTheWay = regexp.MustCompile(`\.flow\.(count|time|node|point|direction)$`)

// lineEdits are ways to change a file that do not look at what it says. Each returns nil where the file is too short for it.
var lineEdits = map[string]func(r *rand.Rand, b []byte) []byte{
	"a bit flipped": func(r *rand.Rand, b []byte) []byte {
		b = slices.Clone(b)
		b[r.IntN(len(b))] ^= 1 << r.IntN(8)
		return b
	},
	"a line removed": func(r *rand.Rand, b []byte) []byte {
		lines, n := pick(r, b)
		return bytes.Join(slices.Delete(lines, n, n+1), nil)
	},
	"a line doubled": func(r *rand.Rand, b []byte) []byte {
		lines, n := pick(r, b)
		return bytes.Join(slices.Insert(lines, n, lines[n]), nil)
	},
	"two lines exchanged": func(r *rand.Rand, b []byte) []byte {
		lines, n := pick(r, b)
		others := slices.DeleteFunc(indexesOf(lines), func(k int) bool { return bytes.Equal(lines[k], lines[n]) })
		if len(others) == 0 {
			return nil
		}
		k := others[r.IntN(len(others))]
		lines[n], lines[k] = lines[k], lines[n]
		return bytes.Join(lines, nil)
	},
	"the end cut off": func(r *rand.Rand, b []byte) []byte { return b[:r.IntN(len(b))] },
}

// pick are the lines of b, with their ends, and one of them.
func pick(r *rand.Rand, b []byte) ([][]byte, int) {
	lines := bytes.SplitAfter(bytes.TrimSuffix(b, []byte("\n")), []byte("\n"))
	lines[len(lines)-1] = append(slices.Clone(lines[len(lines)-1]), '\n')
	return lines, r.IntN(len(lines))
}

func indexesOf(lines [][]byte) []int {
	all := make([]int, len(lines))
	for i := range all {
		all[i] = i
	}
	return all
}

// TestAnEditOfEveryFileIsFound is about somebody who changes one file. Under the manifest as it was, the file is named; under one made
// anew, every derived file is found out, and of raw ones all but what the package doc names.
func TestAnEditOfEveryFileIsFound(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	all := written(t)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		for _, what := range slices.Sorted(maps.Keys(lineEdits)) {
			b := lineEdits[what](r, all[name].Data)
			if b == nil {
				continue
			}
			edited := with(all, name, b)
			v, err := evidence.Verify(edited)
			if name == "manifest.json" { // it speaks of the others, and may name them
				if err == nil && len(v.Differences) == 0 {
					t.Errorf("%s, %s: nothing was found", name, what)
				}
				continue
			}
			if !names(v, err, name) {
				t.Errorf("%s, %s: it is not named: %v, %v", name, what, v.Differences, err)
			}
			v, err = evidence.Verify(resealed(edited))
			switch base := filepath.Base(name); {
			case err != nil || len(v.Differences) > 0:
			case strings.HasPrefix(base, "facts"), base == "scenario.json": // labels and addresses that nothing asks for
			case base == "seal.json" && (what == "a bit flipped" || what == "two lines exchanged"): // addresses, or sources that sent the same
			case what == "a bit flipped" && strings.HasSuffix(base, "s.jsonl"), what == "a bit flipped" && base == "baseline.jsonl":
			case what == "a bit flipped" && base == "hubble.jsonl": // flows on their way, and times
			default:
				t.Errorf("%s, %s, the manifest made anew: nothing was found", name, what)
			}
			for _, d := range v.Differences {
				if (d.Line > 0) == wholeFile.MatchString(d.What) {
					t.Errorf("%s, %s: %q names line %d", name, what, d, d.Line)
				}
			}
		}
	}
}

// names tells whether what verifying found is about that file.
func names(v *evidence.Verification, err error, file string) bool {
	var format *evidence.FormatError
	if errors.As(err, &format) && format.File == file {
		return true
	}
	return slices.ContainsFunc(v.Differences, func(d evidence.Difference) bool { return d.File == file })
}

// TestConclusionsAreFoundEvenUnderANewManifest is about somebody who changes one field and lists the file anew. Every derived file is found
// out, and so is every raw fact that a conclusion rests on; that a raw fact on which nothing rests was changed, nobody can see.
func TestConclusionsAreFoundEvenUnderANewManifest(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	tried, missed := map[string]int{}, map[string]int{}
	oneOfEachKind(t, rand.New(rand.NewPCG(seed, 1)), written(t), func(name, path string, edited fstest.MapFS) {
		if name == "manifest.json" {
			return
		}
		base := filepath.Base(name)
		tried[base]++
		if found(resealed(edited)) {
			return
		}
		missed[base]++
		switch base {
		case "seal.json":
			if !unjudged.MatchString(path) {
				t.Errorf("%s %s was changed, the manifest made anew, and nothing was found", name, path)
			}
		case "hubble.jsonl":
			if !onTheWay.MatchString(path) {
				t.Errorf("%s %s was changed, the manifest made anew, and nothing was found", name, path)
			}
		case "baseline.jsonl", "observations.jsonl", "facts.json", "facts-004.json", "scenario.json": // what passed in an earlier round, labels that no policy asks for
		case "policies.jsonl", "clusterpolicies.jsonl":
			if !strings.Contains(path, ".metadata.") && !strings.Contains(path, ".status.") { // the API server's own additions
				t.Errorf("%s %s was changed, the manifest made anew, and nothing was found", name, path)
			}
		default:
			t.Errorf("%s %s was changed, the manifest made anew, and nothing was found", name, path)
		}
	})
	for _, base := range slices.Sorted(maps.Keys(tried)) {
		t.Logf("%-20s %4d kinds of field changed, %4d not found", base, tried[base], missed[base])
	}
}

func TestEveryShippedScenarioIsKeptWhole(t *testing.T) {
	all, err := scenarios.LoadFS(catalogue.FS, ".")
	if err != nil {
		t.Fatal(err)
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 2))
	for _, s := range all {
		if r.IntN(thinned) != 0 {
			continue
		}
		facts, err := plan.Offline(s)
		if err != nil {
			t.Fatal(err)
		}
		p, err := plan.Build(s, facts)
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		w, err := evidence.New(dir, evidence.Options{})
		if err != nil {
			t.Fatal(err)
		}
		var base []probes.Observation
		for i, a := range p.Attempts {
			base = append(base, observe(a, i, reach.Allow, nil, 0))
		}
		if err := w.Planned(p, facts, base); err != nil {
			t.Fatal(err)
		}
		r := report.Report{Scenarios: []report.Scenario{{Name: p.Name, Title: s.Metadata.Title, File: s.File, Fault: "stopped before its first step"}}}
		if _, err := w.Close(&r); err != nil {
			t.Fatal(err)
		}
		for _, d := range verify(t, os.DirFS(dir)) {
			t.Errorf("%s: %s", p.Name, d)
		}
	}
}

func TestEveryPartOfAScenarioThatItsJSONLeavesOutIsKnownHere(t *testing.T) {
	known := []string{"Scenario.File", "Scenario.WorldFile", "Scenario.Omissions", "Scenario.Ignored", "Policies.Loaded", "Step.Replacing",
		"Policies.LoadedCluster", "Step.ReplacingCluster", "Scenario.Places"} // places are for lint alone
	var got []string
	seen := map[reflect.Type]bool{}
	var walk func(reflect.Type)
	walk = func(typ reflect.Type) {
		for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice || typ.Kind() == reflect.Map {
			typ = typ.Elem()
		}
		if typ.Kind() != reflect.Struct || seen[typ] || !strings.HasSuffix(typ.PkgPath(), "gapproof/scenarios") {
			return
		}
		seen[typ] = true
		for f := range typ.NumField() {
			field := typ.Field(f)
			if field.Tag.Get("json") == "-" {
				got = append(got, typ.Name()+"."+field.Name)
				continue
			}
			walk(field.Type)
		}
	}
	walk(reflect.TypeFor[scenarios.Scenario]())
	slices.Sort(known)
	slices.Sort(got)
	if diff := cmp.Diff(known, got); diff != "" {
		t.Errorf("fields that evidence must keep by itself, or leave out for a reason (-known +there):\n%s", diff)
	}
}
