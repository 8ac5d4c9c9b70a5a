package probes_test

import (
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gapproof/gapproof/probes"
)

func seen(packet probes.Packet, point probes.Point, pod string, count uint64) probes.Sighting {
	return probes.Sighting{AttemptID: "a", Packet: packet, Point: point, Pod: pod, Count: count, Node: "n"}
}

func TestRequestsAreAccountedFor(t *testing.T) {
	left := seen(probes.Request, probes.Left, "x/a", 2)
	for _, tt := range []struct {
		name string
		seen []probes.Sighting
		want probes.Accounting
	}{
		{"nothing was seen", nil, probes.Accounting{}},
		{"all arrived", []probes.Sighting{left, seen(probes.Request, probes.Reached, "y/b", 2)}, probes.Accounting{Sent: 2, Arrived: 2}},
		{"all were dropped on a node", []probes.Sighting{left, seen(probes.Request, probes.Dropped, "", 2)}, probes.Accounting{Sent: 2, Dropped: 2}},
		{"one of two is missing", []probes.Sighting{left, seen(probes.Request, probes.Dropped, "", 1)}, probes.Accounting{Sent: 2, Dropped: 1, Unaccounted: 1}},
		{"dropped before it left its pod", []probes.Sighting{seen(probes.Request, probes.Dropped, "x/a", 1)}, probes.Accounting{Sent: 1, Dropped: 1}},
		{"dropped inside the pod that it reached", []probes.Sighting{left, seen(probes.Request, probes.Reached, "y/b", 2), seen(probes.Request, probes.Dropped, "y/b", 1)},
			probes.Accounting{Sent: 2, Arrived: 1, Dropped: 1}},
		{"replies are not counted", []probes.Sighting{left, seen(probes.Request, probes.Reached, "y/b", 2), seen(probes.Reply, probes.Dropped, "", 7)},
			probes.Accounting{Sent: 2, Arrived: 2}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, probes.Account(tt.seen)); diff != "" {
				t.Errorf("accounting (-want +got):\n%s", diff)
			}
		})
	}
}

func TestTheAccountAlwaysAddsUp(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	pods := []string{"", "x/a", "y/b", "z/c"}
	for range 10_000 {
		var list []probes.Sighting
		for range r.IntN(7) {
			list = append(list, seen(probes.Packet(r.IntN(5)), probes.Point(r.IntN(4)), pods[r.IntN(len(pods))], uint64(r.IntN(4))))
		}
		if a := probes.Account(list); a.Sent != a.Arrived+a.Dropped+a.Unaccounted {
			t.Fatalf("%+v of %+v", a, list)
		}
	}
}
