package leaktest

import (
	"net"
	"strings"
	"testing"
)

func TestSurplusNamesAGoroutineAndADescriptor(t *testing.T) {
	before := open()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		l.Accept()
	}()
	leaked := strings.Join(surplus(before, open()), "\n")
	l.Close()
	<-ended
	for _, want := range []string{"TestSurplusNamesAGoroutineAndADescriptor", "socket:["} {
		if !strings.Contains(leaked, want) {
			t.Errorf("want %q among what is open, got:\n%s", want, leaked)
		}
	}
}

func TestCheckPassesWhereAllIsClosed(t *testing.T) {
	Check(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
}
