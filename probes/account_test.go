package probes

import (
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestAccountAddsUpTheRequestsOfOneAttempt(t *testing.T) {
	left := Sighting{Packet: Request, Point: Left, Pod: "a", Count: 1}
	reached := Sighting{Packet: Request, Point: Reached, Pod: "b", Count: 1}
	drop := func(pod, reason string) Sighting {
		return Sighting{Packet: Request, Point: Dropped, Pod: pod, Reason: reason, Count: 1}
	}
	local := drop("a", "NETFILTER_DROP")
	local.Local = true
	for _, tt := range []struct {
		name string
		in   []Sighting
		want Accounting
	}{
		{"nothing seen", nil, Accounting{}},
		{"arrived", []Sighting{left, reached}, Accounting{Sent: 1, Arrived: 1}},
		{"dropped before it left", []Sighting{local}, Accounting{Sent: 1, Dropped: 1}},
		{"dropped on the node", []Sighting{left, drop("", "NETFILTER_DROP")}, Accounting{Sent: 1, Dropped: 1}},
		{"dropped by a filter inside the destination", []Sighting{left, reached, drop("b", "NETFILTER_DROP")}, Accounting{Sent: 1, Dropped: 1}},
		{"given up by the destination's sockets", []Sighting{left, reached, drop("b", "NO_SOCKET")}, Accounting{Sent: 1, Arrived: 1}},
		{"dropped inside the destination for no reason", []Sighting{left, reached, drop("b", "")}, Accounting{Sent: 1, Unaccounted: 1}},
		{"vanished", []Sighting{left}, Accounting{Sent: 1, Unaccounted: 1}},
		{"a copy was dropped", []Sighting{left, reached, drop("", "NOT_SPECIFIED")}, Accounting{Sent: 1, Arrived: 1}},
		{"freed on the way for a reason that is not specified", []Sighting{left, drop("b", "NOT_SPECIFIED")}, Accounting{Sent: 1, Unaccounted: 1}},
		{"so freed by an unwitnessed source's node", []Sighting{drop("", "NOT_SPECIFIED")}, Accounting{Sent: 1, Unaccounted: 1}},
		{"source not witnessed", []Sighting{drop("", "TC_INGRESS")}, Accounting{Sent: 1, Dropped: 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, Account(tt.in)); diff != "" {
				t.Errorf("accounting (-want +got):\n%s", diff)
			}
		})
	}
}

func TestTheAccountAlwaysBalances(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	pods := []string{"", "a", "b"}
	reasons := []string{"", "NETFILTER_DROP", "NO_SOCKET", "XDP", "TCP_RESET", "NOT_SPECIFIED"}
	for range 20000 {
		var in []Sighting
		for range r.IntN(8) {
			in = append(in, Sighting{
				Packet: Packet(1 + r.IntN(4)), Point: Point(1 + r.IntN(3)), Count: uint64(1 + r.IntN(3)),
				Pod: pods[r.IntN(len(pods))], Reason: reasons[r.IntN(len(reasons))], Local: r.IntN(2) == 0,
			})
		}
		if a := Account(in); a.Sent != a.Arrived+a.Dropped+a.Unaccounted || a.Unaccounted > a.Sent {
			t.Fatalf("%+v of %+v", a, in)
		}
	}
}
