package selftest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/runner/compare"
	"github.com/gapproof/gapproof/runner/internal/kube"
	"github.com/gapproof/gapproof/runner/plan"
	"github.com/gapproof/gapproof/runner/reach"
	"github.com/gapproof/gapproof/runner/report"
	"github.com/gapproof/gapproof/runner/suite"
	"github.com/gapproof/gapproof/scenarios"
)

func TestEachResultIsHeldAgainstTheEffectOfTheFault(t *testing.T) {
	type counts struct{ attempts, untold, right, falsePasses, falseFailures, findings int }
	for name, c := range map[string]struct {
		effect Effect
		result compare.Result
		reason string
		skip   string
		want   counts
	}{
		"a pass of what the fault leaves alone is right":              {effect: Unharmed, result: compare.Pass, want: counts{attempts: 1, right: 1}},
		"a pass of what cannot be told is a false pass":               {effect: Untold, result: compare.Pass, want: counts{attempts: 1, falsePasses: 1, findings: 1}},
		"a pass of what may be told by chance is right":               {effect: Doubtful, result: compare.Pass, want: counts{attempts: 1, right: 1}},
		"a pass without an effect in the table is a false pass":       {effect: EffectUnknown, result: compare.Pass, want: counts{attempts: 1, falsePasses: 1, findings: 1}},
		"a failure is false, whatever the effect":                     {effect: Untold, result: compare.Fail, want: counts{attempts: 1, falseFailures: 1, findings: 1}},
		"a failure of what the fault leaves alone is false":           {effect: Unharmed, result: compare.Fail, want: counts{attempts: 1, falseFailures: 1, findings: 1}},
		"inconclusive for the right reason is what it should be":      {effect: Untold, result: compare.Inconclusive, reason: "it is dead now", want: counts{attempts: 1, untold: 1}},
		"inconclusive for another reason is wrong":                    {effect: Untold, result: compare.Inconclusive, reason: "no idea", want: counts{attempts: 1, findings: 1}},
		"doubtful, and inconclusive for another reason, is wrong":     {effect: Doubtful, result: compare.Inconclusive, reason: "no idea", want: counts{attempts: 1, findings: 1}},
		"inconclusive where the fault has no part is wrong":           {effect: Unharmed, result: compare.Inconclusive, reason: "it is dead now", want: counts{attempts: 1, findings: 1}},
		"inconclusive without an effect in the table is wrong":        {effect: EffectUnknown, result: compare.Inconclusive, reason: "it is dead now", want: counts{attempts: 1, findings: 1}},
		"a result that no run gives is wrong":                         {effect: Untold, result: compare.ResultUnknown, reason: "it is dead now", want: counts{attempts: 1, findings: 1}},
		"what cannot be judged with a healthy cluster does not count": {effect: Untold, result: compare.Pass, skip: "no such thing here", want: counts{}},
	} {
		t.Run(name, func(t *testing.T) {
			o := Outcome{Fault: Fault{Name: "f", Effect: everything(c.effect), Reasons: []string{"is dead", "is gone"}}}
			o.judge("step", compare.Judgement{
				Attempt: plan.Planned{ID: "x/a>y/b:TCP/80"}, Promise: plan.Promise{Intended: reach.Deny, Skip: c.skip}, Result: c.result, Reason: c.reason,
			})
			got := counts{o.Attempts, o.Untold, o.Right, o.FalsePasses, o.FalseFailures, len(o.Findings)}
			if got != c.want {
				t.Errorf("got %+v, want %+v; findings: %v", got, c.want, o.Findings)
			}
		})
	}
}

func TestOnlyWhatTheFaultLeavesAloneIsTriedAgain(t *testing.T) {
	of := func(promised reach.Verdict, r compare.Result, reason string) compare.Judgement {
		return compare.Judgement{Promise: plan.Promise{Intended: promised}, Result: r, Reason: reason}
	}
	// Denies cannot be told under this fault, allows are left alone.
	f := Fault{Name: "f", Reasons: []string{"was gone"}, Effect: func(_ plan.Planned, promised reach.Verdict) Effect {
		if promised == reach.Deny {
			return Untold
		}
		return Unharmed
	}}
	for name, c := range map[string]struct {
		judgements []compare.Judgement
		want       bool
	}{
		"all is as it should be":                  {[]compare.Judgement{of(reach.Allow, compare.Pass, ""), of(reach.Deny, compare.Inconclusive, "it was gone")}, false},
		"an allow could not be told":              {[]compare.Judgement{of(reach.Allow, compare.Inconclusive, "no idea"), of(reach.Deny, compare.Inconclusive, "it was gone")}, true},
		"an allow failed":                         {[]compare.Judgement{of(reach.Allow, compare.Fail, "no idea")}, false},
		"a deny passed beside it":                 {[]compare.Judgement{of(reach.Allow, compare.Inconclusive, "no idea"), of(reach.Deny, compare.Pass, "")}, false},
		"a deny has another reason beside it":     {[]compare.Judgement{of(reach.Allow, compare.Inconclusive, "no idea"), of(reach.Deny, compare.Inconclusive, "no idea")}, true},
		"a deny has another reason, and no allow": {[]compare.Judgement{of(reach.Allow, compare.Pass, ""), of(reach.Deny, compare.Inconclusive, "no idea")}, false},
	} {
		t.Run(name, func(t *testing.T) {
			o := Outcome{Fault: f}
			o.hold(&report.Report{Scenarios: []report.Scenario{{Steps: []report.Step{{Judgements: c.judgements}}}}}, nil)
			if o.crowded != c.want {
				t.Errorf("tried again: %v, want %v; findings: %v", o.crowded, c.want, o.Findings)
			}
		})
	}
}

func TestARunThatMustEndIsHeldAgainstItsEnd(t *testing.T) {
	one := &report.Report{Scenarios: []report.Scenario{{Steps: []report.Step{{Judgements: []compare.Judgement{{
		Promise: plan.Promise{Intended: reach.Deny}, Result: compare.Inconclusive, Reason: "the API server was gone",
	}}}}}}}
	for name, c := range map[string]struct {
		ends  string
		rep   *report.Report
		ended error
		want  []string
	}{
		"it ended as it should":        {"no beacon", nil, errors.New("waiting: no beacon"), nil},
		"it went on":                   {"no beacon", one, nil, []string{"a run that went on"}},
		"it ended otherwise":           {"no beacon", nil, errors.New("out of memory"), []string{"another end"}},
		"it should go on, and did":     {"", one, nil, nil},
		"it should go on, and had not": {"", &report.Report{}, nil, []string{"none"}},
	} {
		t.Run(name, func(t *testing.T) {
			o := Outcome{Fault: Fault{Name: "f", Ends: c.ends, Effect: everything(Untold), Reasons: []string{"was gone"}}}
			o.hold(c.rep, c.ended)
			var got []string
			for _, f := range o.Findings {
				got = append(got, f.Got)
			}
			if d := cmp.Diff(c.want, got); d != "" {
				t.Errorf("findings (-want +got):\n%s", d)
			}
		})
	}
}

func TestAWitnessIsLostWhereTheFaultIsItsAndNowhereElse(t *testing.T) {
	const lost = "the witness of n was lost: gone"
	for name, c := range map[string]struct {
		witness Witness
		lost    bool
		level   probes.Level
		reason  string
		wrong   bool
	}{
		"kept, and the fault is not its":        {WitnessAuto, false, probes.Full, "", false},
		"lost, and the fault is not its":        {WitnessAuto, false, probes.Unwitnessed, lost, true},
		"lost, as it must be":                   {WitnessRequire, true, probes.Unwitnessed, lost, false},
		"lost, and the report says another":     {WitnessAuto, true, probes.Unwitnessed, "there is no witness image", true},
		"kept by a report that has lost it":     {WitnessAuto, true, probes.Full, "", true},
		"never there, so the row shows nothing": {WitnessAuto, false, probes.Unwitnessed, "there is no witness image", true},
		"none was asked for":                    {WitnessOff, false, probes.Unwitnessed, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			o := Outcome{Fault: Fault{Name: "f", Witness: c.witness, Lost: c.lost}}
			o.watched(&report.Report{Level: c.level.String(), LevelReason: c.reason})
			if got := len(o.Findings) > 0; got != c.wrong {
				t.Errorf("found %v, want something wrong: %v", o.Findings, c.wrong)
			}
		})
	}
}

func TestEveryRowTouchesSomethingAndLeavesSomethingOfItsKind(t *testing.T) {
	all, err := scenarios.LoadFS(files, "faults.yaml")
	if err != nil {
		t.Fatal(err)
	}
	facts, err := plan.Offline(all[0])
	if err != nil {
		t.Fatal(err)
	}
	p, err := plan.Build(all[0], facts)
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, f := range Table() {
		t.Run(f.Name, func(t *testing.T) {
			if names[f.Name] {
				t.Error("the name is taken")
			}
			names[f.Name] = true
			if strings.HasPrefix(f.Moment.String(), "invalid") || f.Title == "" || f.inject == nil && f.world == nil {
				t.Errorf("the row is not whole: %+v", f)
			}
			counts := map[Effect]int{}
			for i, a := range p.Attempts {
				if promise := p.Steps[0].Promises[i]; promise.Skip == "" {
					counts[f.Effect(a, promise.Verdict())]++
				}
			}
			if counts[EffectUnknown] > 0 {
				t.Errorf("%d attempts without an effect", counts[EffectUnknown])
			}
			if told := len(f.Reasons) > 0; f.Ends == "" && told != (counts[Untold] > 0) {
				t.Errorf("reasons %v for %d attempts that cannot be told", f.Reasons, counts[Untold])
			}
			if wholly := strings.HasPrefix(f.Name, "api-"); !wholly && f.Ends == "" && counts[Unharmed] == 0 {
				t.Error("nothing is left alone, so nothing shows that the rest stays right")
			}
		})
	}
}

// killing is a fault of the memory that breaks agents and writes down when.
func killing(m *memory, of map[string]bool, pods ...string) Fault {
	return Fault{
		Name: "killed", Moment: BeforeTheRound, Effect: touching(pods...), Reasons: agentGone(),
		inject: func(context.Context, *scene) (func(context.Context) error, error) {
			m.set(of, true, pods...)
			m.note("inject")
			return func(ctx context.Context) error {
				m.set(of, false, pods...)
				m.note("end")
				return ctx.Err()
			}, nil
		},
	}
}

func TestAFaultActsBetweenBaselineAndVerdictAndEndsBeforeCleanUp(t *testing.T) {
	m := newMemory()
	out, s, err := run(t.Context(), t, m, killing(m, m.dead, openPod, shutPod))
	if err != nil || s.failed() != nil {
		t.Fatal(err, s.failed())
	}
	if len(out.Findings) > 0 || out.Untold == 0 || out.Right == 0 {
		t.Errorf("outcome %+v, want the dead ends inconclusive and the others right", out)
	}
	want := []string{"up", "apply", "inject", "end", "clear", "close"}
	if d := cmp.Diff(want, m.noted()); d != "" {
		t.Errorf("order (-want +got):\n%s", d)
	}
}

func TestAFaultBeforeTheStepActsBeforeTheFirstPolicy(t *testing.T) {
	m := newMemory()
	f := killing(m, m.dead, openPod, shutPod)
	f.Moment = BeforeTheStep
	if _, s, err := run(t.Context(), t, m, f); err != nil || s.failed() != nil {
		t.Fatal(err, s.failed())
	}
	want := []string{"up", "inject", "apply", "end", "clear", "close"}
	if d := cmp.Diff(want, m.noted()); d != "" {
		t.Errorf("order (-want +got):\n%s", d)
	}
}

func TestAnInstrumentThatIsFooledIsFound(t *testing.T) {
	m := newMemory()
	f := killing(m, m.lying, sourcePod)
	out, _, err := run(t.Context(), t, m, f)
	if err != nil {
		t.Fatal(err)
	}
	if out.FalsePasses == 0 || out.FalseFailures == 0 {
		t.Errorf("outcome %+v, want the silence of an agent that calls itself healthy found as false passes and false failures", out)
	}
}

func TestAnInterruptedRunEndsTheFaultOnceAndBeforeTheWorldGoes(t *testing.T) {
	for name, fails := range map[string]error{"while it is in effect": nil, "in the middle of the injection": errors.New("half of it")} {
		t.Run(name, func(t *testing.T) {
			m := newMemory()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			f := killing(m, m.dead, openPod)
			inject := f.inject
			f.inject = func(ctx context.Context, s *scene) (func(context.Context) error, error) {
				end, _ := inject(ctx, s)
				cancel()
				return end, fails
			}
			_, s, err := run(ctx, t, m, f)
			if !errors.Is(err, context.Canceled) {
				t.Errorf("the run ended with %v, want that it was interrupted", err)
			}
			if got := s.failed(); !errors.Is(got, fails) || fails == nil && got != nil {
				t.Errorf("the fault ended with %v, want %v", got, fails) // the end's context must not have ended
			}
			want := []string{"up", "apply", "inject", "end", "clear", "close"}
			if d := cmp.Diff(want, m.noted()); d != "" {
				t.Errorf("order (-want +got):\n%s", d)
			}
		})
	}
}

func TestAFaultWhoseMomentNeverCameIsNoProof(t *testing.T) {
	m := newMemory()
	s := staged(m, killing(m, m.dead, openPod))
	s.end(t.Context())
	if err := s.begin(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := m.noted(); len(got) > 0 {
		t.Errorf("after the end of the run the fault did %v", got)
	}
	if err := s.failed(); err == nil || !strings.Contains(err.Error(), "its moment never came") {
		t.Errorf("failed: %v, want that its moment never came", err)
	}
}

// slowAgent notes how long each call may take when it arrives.
type slowAgent struct {
	suite.Agent
	mu   sync.Mutex
	left []time.Duration
}

func (a *slowAgent) Health(ctx context.Context) (probes.Health, error) {
	deadline, _ := ctx.Deadline()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.left = append(a.left, time.Until(deadline))
	return probes.Health{}, ctx.Err()
}

func TestWhatAnInjectionTakesIsHeldAgainstNoAgent(t *testing.T) {
	// The time is the real one: the calls wait for a lock, which a bubble of testing/synctest does not count as waiting.
	const limit, takes, calls = 400 * time.Millisecond, 600 * time.Millisecond, 4
	s := &stage{changed: true, scene: &scene{}, fault: Fault{Name: "slow", Moment: BeforeTheRound,
		inject: func(ctx context.Context, _ *scene) (func(context.Context) error, error) {
			select {
			case <-time.After(takes):
			case <-ctx.Done():
			}
			return nothingToEnd, ctx.Err()
		},
	}}
	inner := &slowAgent{}
	var wg sync.WaitGroup
	for i := range calls {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			if _, err := (stagedAgent{inner, fmt.Sprint(i), s}).Health(ctx); err != nil {
				t.Errorf("call %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	for _, left := range inner.left {
		if left < limit/2 {
			t.Errorf("a call had %s left of %s, want nearly all", left, limit)
		}
	}
}

func TestAnInterruptedCallDoesNotWaitForTheInjection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stage{changed: true, scene: &scene{}, fault: Fault{Name: "endless", Moment: BeforeTheRound,
			inject: func(ctx context.Context, _ *scene) (func(context.Context) error, error) {
				<-ctx.Done()
				return nothingToEnd, ctx.Err()
			},
		}}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		started := time.Now()
		if _, err := (stagedAgent{&slowAgent{}, "x/a", s}).Health(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("the call ended with %v, want that it was interrupted", err)
		}
		if took := time.Since(started); took != time.Second {
			t.Errorf("it took %s, want a second", took)
		}
	})
}

func TestWhatIsNotReadyIsNamed(t *testing.T) {
	ready := func(is corev1.ConditionStatus) []corev1.PodCondition {
		return []corev1.PodCondition{{Type: corev1.PodReady, Status: is}}
	}
	node := func(is corev1.ConditionStatus) *corev1.Node {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}, Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{
			{Type: corev1.NodeMemoryPressure, Status: corev1.ConditionTrue}, {Type: corev1.NodeReady, Status: is},
		}}}
	}
	pod := func(name string, is corev1.ConditionStatus, labels map[string]string) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: name, Labels: labels}, Status: corev1.PodStatus{Conditions: ready(is)}}
	}
	done := pod("job", corev1.ConditionFalse, nil)
	done.Status.Phase = corev1.PodSucceeded
	for name, c := range map[string]struct {
		client *fake.Clientset
		want   string
	}{
		"all is Ready, a job is done": {fake.NewClientset(node(corev1.ConditionTrue), pod("dns", corev1.ConditionTrue, nil), done), ""},
		"a node is not":               {fake.NewClientset(node(corev1.ConditionUnknown), pod("dns", corev1.ConditionTrue, nil)), "node n: not Ready"},
		"a pod is not":                {fake.NewClientset(node(corev1.ConditionTrue), pod("dns", corev1.ConditionFalse, nil)), "pod kube-system/dns: not Ready"},
		"a run's own pod is its business": {
			fake.NewClientset(node(corev1.ConditionTrue), pod("probe", corev1.ConditionFalse, map[string]string{kube.RunLabel: "r"})), "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := ailing(t.Context(), c.client)
			if err != nil || got != c.want {
				t.Errorf("ailing: %q, %v, want %q", got, err, c.want)
			}
		})
	}
}

// machines has processes that somebody left stopped.
type machines struct {
	Machines
	left []string
}

func (m machines) ContinueAll(context.Context) ([]string, error) { return m.left, nil }

func TestAProcessThatIsLeftStoppedIsAnError(t *testing.T) {
	if err := (Lab{Machines: machines{}}).stopped(t.Context()); err != nil {
		t.Error(err)
	}
	err := (Lab{Machines: machines{left: []string{"coredns (7) on node n"}}}).stopped(t.Context())
	if err == nil || !strings.Contains(err.Error(), "coredns (7) on node n") {
		t.Errorf("stopped: %v, want the process named", err)
	}
}

func TestTheProxyRefusesAndDelaysWhatPasses(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"gitVersion": "v1.2.3"}`)
	}))
	defer server.Close()
	of := &kube.Cluster{Config: &rest.Config{Host: server.URL}}
	p, err := newProxy(of)
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	through, err := p.cluster(of)
	if err != nil {
		t.Fatal(err)
	}
	ask := func() error {
		_, err := through.Client.Discovery().ServerVersion()
		return err
	}
	if err := ask(); err != nil {
		t.Errorf("forwarding: %v", err)
	}
	p.refuse()
	if err := ask(); err == nil || !strings.Contains(err.Error(), "unable to handle the request") {
		t.Errorf("refusing: %v, want what an API server's 503 is read as", err)
	}
	p.heal()
	const delay = 100 * time.Millisecond
	p.slow(delay)
	started := time.Now()
	if err := ask(); err != nil || time.Since(started) < delay {
		t.Errorf("delaying: %v after %s, want an answer after %s", err, time.Since(started), delay)
	}
	strange, err := http.Get(through.Config.Host)
	if err != nil {
		t.Fatal(err)
	}
	strange.Body.Close()
	if strange.StatusCode != http.StatusUnauthorized {
		t.Errorf("a request without the proxy's token: %s, want 401", strange.Status)
	}
}

func TestOnlyARunThatEndsForItsBeaconsIsUnlit(t *testing.T) {
	skipped := &report.Report{Scenarios: []report.Scenario{{Name: "skipped"}}}
	one := &report.Report{Scenarios: []report.Scenario{{Name: "one", Steps: []report.Step{{Judgements: make([]compare.Judgement, 1)}}}}}
	for _, test := range []struct {
		name string
		rep  *report.Report
		err  error
		want string // in the reason; empty for no finding
	}{
		{"one that ends for its beacons, after one that was skipped", skipped, errors.New("waiting for beacons: not enforced"), ""},
		{"one in which all was skipped", skipped, nil, "every scenario was skipped"},
		{"one that went on", one, nil, "beacons flipped"},
		{"one that ends for something else", nil, errors.New("no API server"), "no API server"},
		{"one that ends with results", one, errors.New("waiting for beacons: not enforced"), "it has 1 results"},
	} {
		found := unlit(test.rep, test.err)
		if got := len(found) > 0; got != (test.want != "") || got && !strings.Contains(found[0].Reason, test.want) {
			t.Errorf("%s: found %v, want %q", test.name, found, test.want)
		}
	}
}
