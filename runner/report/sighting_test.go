package report_test

import (
	"strings"
	"testing"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/runner/plan"
	"github.com/gapproof/gapproof/runner/report"
)

func TestEveryFormatTellsWhereTheKernelDroppedIt(t *testing.T) {
	r := header()
	s, _ := judged(t, deny, "catalogue/default-deny.yaml", func(a plan.Planned, _ plan.Promise, o *probes.Observation) {
		reason := map[string]string{"x/a>y/b:TCP/80": "TC_INGRESS", "y/b>x/a:TCP/80": "IP_RPFILTER"}[a.ID]
		if reason == "" {
			return
		}
		o.Outcome, o.Arrivals, o.Level = probes.Outcome{AttemptID: a.ID}, nil, probes.Full
		o.Sightings = []probes.Sighting{
			{AttemptID: a.ID, Packet: probes.Request, Point: probes.Left, Count: 1, Node: "lab-worker", Pod: a.Source},
			{AttemptID: a.ID, Packet: probes.Request, Point: probes.Dropped, Count: 1, Node: "lab-worker2", Interface: "lxc12", Reason: reason},
		}
	})
	r.Scenarios = []report.Scenario{s}
	for format, want := range map[report.Format][]string{
		report.Table:    {"deny, dropped: the kernel dropped the request: TC_INGRESS on node lab-worker2 at lxc12", "IP_RPFILTER on node lab-worker2 at lxc12 (ingress), which is no policy's doing"},
		report.JUnit:    {"deny, dropped: the kernel dropped the request: TC_INGRESS", "unknown, lost: the kernel dropped the request: IP_RPFILTER", "requests  1 sent, 0 arrived, 1 dropped, 0 unaccounted (full)"},
		report.Markdown: {`deny, dropped: the kernel dropped the request: TC\_INGRESS`, `IP\_RPFILTER`},
		report.JSON:     {`"evidence": "dropped"`, `"evidence": "lost"`, `"reason": "TC_INGRESS"`, `"level": "full"`},
	} {
		// Lines are wrapped for people; a sentence is the same in one line.
		text := strings.Join(strings.Fields(string(render(t, &r, format, report.Options{}))), " ")
		for _, w := range want {
			if !strings.Contains(text, strings.Join(strings.Fields(w), " ")) {
				t.Errorf("%s lacks %q:\n%s", format, w, text)
			}
		}
	}
}
