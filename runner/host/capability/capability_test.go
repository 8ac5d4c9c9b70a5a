package capability

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestMissingNamesWhatTheMaskLacks(t *testing.T) {
	tests := []struct {
		name string
		set  Set
		last int
		want []string
	}{
		{"a full set misses nothing", 0x1ffffffffff, 40, nil},
		{"a set without bit 24 misses CAP_SYS_RESOURCE", 0x1fffeffffff, 40, []string{"CAP_SYS_RESOURCE"}},
		{"an empty set of two misses both in order", 0, 1, []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE"}},
		{"a capability newer than the list goes by its number", 0x1ffffffffff, 41, []string{"CAP_41"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, test.set.Missing(test.last)); diff != "" {
				t.Errorf("Missing (-want +got):\n%s", diff)
			}
		})
	}
}

func TestHas(t *testing.T) {
	set := Set(1 << 24)
	for name, want := range map[string]bool{"CAP_SYS_RESOURCE": true, "CAP_CHOWN": false, "CAP_NOBODY_KNOWS": false} {
		if got := set.Has(name); got != want {
			t.Errorf("Has(%s): want %v, got %v", name, want, got)
		}
	}
}

func TestParseMask(t *testing.T) {
	tests := []struct {
		name, status string
		want         Set
		wantErr      error
	}{
		{"the field's own line is read", "Name:\tx\nCapEff:\t0000000000000001\nCapBnd:\t000001fffeffffff\n", 0x1fffeffffff, nil},
		{"a status without the field is an error", "Name:\tx\n", 0, ErrNoStatus},
		{"a mask that is no number is an error", "CapBnd:\tall\n", 0, ErrNoStatus},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := parseMask(test.status, "CapBnd")
			if !errors.Is(err, test.wantErr) {
				t.Fatalf("error: want %v, got %v", test.wantErr, err)
			}
			if got != test.want {
				t.Errorf("mask: want %x, got %x", test.want, got)
			}
		})
	}
}

func TestTheRunningProcessHasABoundingSet(t *testing.T) {
	bounding, err := Bounding()
	if err != nil {
		t.Fatal(err)
	}
	effective, err := Effective()
	if err != nil {
		t.Fatal(err)
	}
	if extra := effective &^ bounding; extra != 0 {
		t.Errorf("effective set holds %x outside the bounding set %x", extra, bounding)
	}
	last, err := Last()
	if err != nil {
		t.Fatal(err)
	}
	if last < 36 {
		t.Errorf("last capability: want at least CAP_BLOCK_SUSPEND (36), got %d", last)
	}
}
