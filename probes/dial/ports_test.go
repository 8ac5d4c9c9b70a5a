package dial

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestPortsRestBeforeTheyAreUsedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPorts(Options{FirstPort: 100, LastPort: 103, Avoid: []uint16{102, 4370}, FlowMemory: time.Minute})
		seen := make(map[uint16]bool)
		for range 3 {
			port, err := p.take()
			if err != nil || port < 100 || port > 103 || port == 102 || seen[port] {
				t.Fatalf("want a port from 100 to 103, not 102, not one of %v; got %d, %v", seen, port, err)
			}
			seen[port] = true
		}
		if _, err := p.take(); !errors.Is(err, errPortsSpent) {
			t.Fatalf("with all in use: want %v, got %v", errPortsSpent, err)
		}
		time.Sleep(time.Second)
		p.release(101)
		time.Sleep(time.Minute - 1)
		if _, err := p.take(); !errors.Is(err, errPortsSpent) {
			t.Errorf("a moment before the port has rested: want %v, got %v", errPortsSpent, err)
		}
		time.Sleep(time.Nanosecond)
		if port, err := p.take(); err != nil || port != 101 {
			t.Errorf("when it has rested: want 101, got %d, %v", port, err)
		}
	})
}

func TestPortsGoRoundTheWholeRange(t *testing.T) {
	p := newPorts(Options{FirstPort: 100, LastPort: 119, FlowMemory: 1})
	last := make(map[uint16]int)
	for n := range 100 {
		port, err := p.take()
		if err != nil {
			t.Fatal(err)
		}
		if before, ok := last[port]; ok && n-before < 20 {
			t.Fatalf("port %d came back after %d others, want 20", port, n-before)
		}
		last[port] = n
		p.release(port)
	}
}

func TestAPortAskedForByNumberIsTakenOnce(t *testing.T) {
	p := newPorts(Options{FirstPort: 100, LastPort: 101, FlowMemory: time.Minute})
	if err := p.claim(100); err != nil {
		t.Fatal(err)
	}
	if err := p.claim(100); err == nil {
		t.Error("it was taken twice")
	}
	if port, err := p.take(); err != nil || port != 101 {
		t.Errorf("the allocator: want 101, got %d, %v", port, err)
	}
	p.release(100)
	if err := p.claim(100); err != nil {
		t.Errorf("asked for again after its release: %v", err)
	}
	if err := p.claim(7); err != nil {
		t.Errorf("outside the range: %v", err)
	}
}

func TestAnEmptyRangeIsRefused(t *testing.T) {
	if _, err := New(Options{FirstPort: 2, LastPort: 1}); err == nil {
		t.Error("want an error")
	}
}
