package reach

import (
	"net/url"
	"slices"
	"strings"
	"testing"
)

func TestNotesAreCompleteAndInOrder(t *testing.T) {
	notes := Notes()
	if !slices.IsSortedFunc(notes, func(a, b Note) int { return strings.Compare(a.ID, b.ID) }) {
		t.Error("want the notes by ID")
	}
	for _, n := range notes {
		if n.ID == "" || n.About == "" || n.Open == "" || n.Taken == "" {
			t.Errorf("%q: a field is empty: %+v", n.ID, n)
		}
		if u, err := url.Parse(n.Reference); err != nil || u.Scheme != "https" || u.Host == "" {
			t.Errorf("%s: %q is no address", n.ID, n.Reference)
		}
	}
}

func TestEveryNoteIsCarriedBySomeDecisionAndNoOther(t *testing.T) {
	g := generator{newRandom(t)}
	carried := map[string]bool{}
	const worlds = 150
	for range worlds {
		w := g.world()
		e := mustCompile(t, w, g.policies(), g.clusterPolicies()...)
		everyQuery(w, func(_, _ Pod, q Query) {
			for _, n := range mustDecide(t, e, q).Notes {
				carried[n] = true
			}
		})
	}
	domain := mustCompile(t, threeByThree(), nil, mustClusterPolicy(t, "a", `{tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{action: Accept, to: [{domainNames: [example.org]}]}]}`))
	for _, n := range mustDecide(t, domain, parseQuery(t, "x/a > 192.0.2.1 TCP/80")).Notes {
		carried[n] = true
	}
	// Two policies of one priority that disagree are too rare to be left to chance.
	equal := mustCompile(t, threeByThree(), nil,
		mustClusterPolicy(t, "a", `{tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{action: Accept, from: [{namespaces: {}}]}]}`),
		mustClusterPolicy(t, "b", `{tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {}}]}]}`))
	for _, n := range mustDecide(t, equal, parseQuery(t, "x/a > y/b TCP/80")).Notes {
		carried[n] = true
	}
	echo, err := mustCompile(t, threeByThree(), nil).DecideEcho(Endpoint{Namespace: "x", Pod: "a"}, Endpoint{Namespace: "y", Pod: "b"})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range echo.Notes {
		carried[n] = true
	}
	for _, n := range Notes() {
		if want := n.About == AboutConnection; carried[n.ID] != want {
			t.Errorf("%s is about a %s: carried by a decision: want %t, got %t", n.ID, n.About, want, carried[n.ID])
		}
		delete(carried, n.ID)
	}
	for id := range carried {
		t.Errorf("decisions carry %s, which Notes does not describe", id)
	}
}
