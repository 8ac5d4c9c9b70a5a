package hubble_test

import (
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/runner/hubble"
)

// tupleFrom is the tuple of the flows here, from another port.
func tupleFrom(port uint16) hubble.Tuple {
	return hubble.Tuple{Protocol: probes.TCP, Source: netip.AddrPortFrom(onTheWay.Source.Addr(), port), Destination: onTheWay.Destination, From: start, Until: start.Add(time.Minute)}
}

func from(port uint16, f hubble.Flow) hubble.Flow {
	f.Source = netip.AddrPortFrom(f.Source.Addr(), port)
	return f
}

func TestFlowsAreKeptThatCameBeforeAndAfterTheirTuple(t *testing.T) {
	l := hubble.NewLog()
	later := denied
	later.Time = start.Add(time.Second)
	l.Add(onTheWay)
	l.Add(from(12001, onTheWay)) // another's
	n := l.Expect(tupleFrom(12000))
	l.Add(later)
	l.Add(denied) // the same once more, and earlier
	other := l.Expect(tupleFrom(12002))
	want := []hubble.Flow{onTheWay, denied}
	want[1].Count = 2
	if diff := cmp.Diff(fmt.Sprintf("%+v", want), fmt.Sprintf("%+v", l.Flows(n))); diff != "" {
		t.Errorf("flows (-want +got):\n%s", diff)
	}
	if got := l.Flows(other); len(got) != 0 {
		t.Errorf("flows of nobody: %v", got)
	}
}

func TestAPortThatIsUsedAgainHasItsOwnFlows(t *testing.T) {
	l := hubble.NewLog()
	first := l.Expect(tupleFrom(12000))
	l.Add(onTheWay)
	again := tupleFrom(12000)
	again.From, again.Until = start.Add(2*time.Minute), start.Add(3*time.Minute)
	second := l.Expect(again)
	late := denied
	late.Time = again.From
	l.Add(late)
	if a, b := l.Flows(first), l.Flows(second); len(a) != 1 || a[0].Verdict != hubble.Forwarded || len(b) != 1 || b[0].Verdict != hubble.Dropped {
		t.Errorf("flows of the first %v, of the second %v", a, b)
	}
}

func TestMemoryIsBounded(t *testing.T) {
	l := hubble.NewLog()
	for n := range 3 << 16 {
		l.Add(from(uint16(n), onTheWay))
	}
	newest := l.Expect(tupleFrom(1<<16 - 1))
	if got := l.Flows(newest); len(got) != 1 {
		t.Errorf("%d flows of the newest, want 1: those of ports used before are gone", len(got))
	}
	n := l.Expect(tupleFrom(12000))
	for i := range 100 {
		f := onTheWay
		f.Node = fmt.Sprint("node-", i)
		l.Add(f)
	}
	if got := len(l.Flows(n)); got != 16 || l.Forgotten() != 100+1-16 {
		t.Errorf("%d unlike flows are kept and %d forgotten, want 16 and 85", got, l.Forgotten())
	}
}

func TestAFloodOfOtherFlowsEndsTheWaitForATuple(t *testing.T) {
	l := hubble.NewLog()
	l.Add(onTheWay)
	other := from(1, onTheWay)
	for range 1 << 16 {
		l.Add(other)
	}
	if got := l.Flows(l.Expect(tupleFrom(12000))); len(got) != 0 {
		t.Errorf("%v was kept behind more flows than fit", got)
	}
}

func TestALogIsUsedFromManySides(t *testing.T) {
	l := hubble.NewLog()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for n := range 1000 {
				l.Add(from(uint16(12000+n), onTheWay))
				l.Flows(l.Expect(tupleFrom(uint16(12000 + n))))
			}
		})
	}
	wg.Wait()
}
