package probes

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func good() Attempt {
	return Attempt{
		ID: "a", Protocol: TCP, Destination: netip.MustParseAddrPort("10.0.0.1:80"), Token: Token{1}, Deadline: time.Second,
	}
}

func TestValidateNamesEveryFault(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*Attempt)
		want   []string
	}{
		{"a good attempt has none", func(*Attempt) {}, nil},
		{"the zero attempt has all", func(a *Attempt) { *a = Attempt{} }, []string{"id:", "protocol:", "deadline:"}},
		{"TCP needs a port", func(a *Attempt) { a.Destination = netip.MustParseAddrPort("10.0.0.1:0") }, []string{"destination: TCP"}},
		{"ICMP needs no port", func(a *Attempt) { a.Protocol, a.Destination = ICMP, netip.MustParseAddrPort("10.0.0.1:0") }, nil},
		{"ICMP needs an address", func(a *Attempt) { a.Protocol, a.Destination = ICMP, netip.AddrPort{} }, []string{"destination: ICMP"}},
		{"DNS needs a name", func(a *Attempt) { a.Protocol = DNS }, []string{"name:"}},
		{"an authority knows a server by its name", func(a *Attempt) { a.Name, a.Authority = "a.example", "PEM" }, nil},
		{"an authority needs a name", func(a *Attempt) { a.Authority = "PEM" }, []string{"authority: is for TCP"}},
		{"an authority is for TCP", func(a *Attempt) { a.Protocol, a.Name, a.Authority = UDP, "a.example", "PEM" }, []string{"authority: is for TCP"}},
		{"an authority is bounded", func(a *Attempt) { a.Name, a.Authority = "a.example", strings.Repeat("x", MaxAuthority+1) }, []string{"authority: has 3073 bytes"}},
		{"the deadline is bounded", func(a *Attempt) { a.Deadline = MaxDeadline + 1 }, []string{"deadline:"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := good()
			tt.change(&a)
			err := a.Validate()
			if (err == nil) != (len(tt.want) == 0) {
				t.Fatalf("want faults %q, got %v", tt.want, err)
			}
			if err == nil {
				return
			}
			lines := strings.Split(err.Error(), "\n")
			if len(lines) != len(tt.want) {
				t.Errorf("want %d faults, got %q", len(tt.want), lines)
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("want a fault %q, got %q", want, lines)
				}
			}
		})
	}
}

func TestVocabularyKeepsItsJSON(t *testing.T) {
	lookup := good()
	lookup.Protocol, lookup.Destination, lookup.Name, lookup.Family = DNS, netip.AddrPort{}, "a.example", IPv6
	for _, tt := range []struct {
		name  string
		value any
		want  string
	}{
		{"an attempt", good(),
			`{"id":"a","protocol":"TCP","destination":"10.0.0.1:80","token":"01000000000000000000000000000000","deadline":1000000000}`},
		{"a lookup", lookup,
			`{"id":"a","protocol":"DNS","name":"a.example","family":"IPv6","token":"01000000000000000000000000000000","deadline":1000000000}`},
		{"an outcome", Outcome{AttemptID: "a", Kind: Unreachable, Rejecter: netip.MustParseAddr("10.0.0.9"), Errno: "EHOSTUNREACH"},
			`{"attemptID":"a","kind":"unreachable","rejecter":"10.0.0.9","errno":"EHOSTUNREACH","started":"0001-01-01T00:00:00Z","took":0}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := json.Marshal(tt.value)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, string(got)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestEnumsReadWhatTheyWriteAndNothingElse(t *testing.T) {
	for n := range len(protocolNames) {
		text, err := Protocol(n).MarshalText()
		var got Protocol
		if err != nil || got.UnmarshalText(text) != nil || got != Protocol(n) {
			t.Errorf("protocol %d: wrote %q (%v), read %d", n, text, err, got)
		}
	}
	for n := range len(outcomeNames) {
		text, err := OutcomeKind(n).MarshalText()
		var got OutcomeKind
		if err != nil || got.UnmarshalText(text) != nil || got != OutcomeKind(n) {
			t.Errorf("outcome kind %d: wrote %q (%v), read %d", n, text, err, got)
		}
	}
	if text, err := OutcomeKind(99).MarshalText(); err == nil {
		t.Errorf("a kind without a name was written as %q", text)
	}
	if err := new(Protocol).UnmarshalText([]byte("tcp")); err == nil {
		t.Error(`"tcp" was read: the API writes TCP`)
	}
	if want, got := "invalid(99)", Family(99).String(); want != got {
		t.Errorf("want %q, got %q", want, got)
	}
}

func FuzzToken(f *testing.F) {
	f.Add([]byte(NewToken().String()))
	f.Fuzz(func(t *testing.T, text []byte) {
		var token Token
		if token.UnmarshalText(text) == nil && !strings.EqualFold(token.String(), string(text)) {
			t.Errorf("%q was read as %s", text, token)
		}
	})
}
