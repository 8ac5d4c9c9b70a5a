package compare

import (
	"fmt"
	"slices"
	"strings"
)

var (
	evidenceNames = [...]string{"unknown", "delivered", "oneWay", "noListener", "rejected", "dropped", "silent", "wrongResponder", "lost", "unaccounted", "missing"}
	resultNames   = [...]string{"unknown", "pass", "fail", "inconclusive", "skipped", "known"}
	classNames    = [...]string{"none", "hole", "break"}
)

// String is the evidence's name as reports print it.
func (e Evidence) String() string { return enumName(evidenceNames[:], uint8(e)) }

// MarshalText writes the name.
func (e Evidence) MarshalText() ([]byte, error) {
	return marshalEnum("kind of evidence", evidenceNames[:], uint8(e))
}

// UnmarshalText reads the name; anything else is an error.
func (e *Evidence) UnmarshalText(b []byte) error {
	n, err := unmarshalEnum("kind of evidence", evidenceNames[:], b)
	*e = Evidence(n)
	return err
}

// String is the result's name as reports print it.
func (r Result) String() string { return enumName(resultNames[:], uint8(r)) }

// MarshalText writes the name.
func (r Result) MarshalText() ([]byte, error) {
	return marshalEnum("result", resultNames[:], uint8(r))
}

// UnmarshalText reads the name; anything else is an error.
func (r *Result) UnmarshalText(b []byte) error {
	n, err := unmarshalEnum("result", resultNames[:], b)
	*r = Result(n)
	return err
}

// String is the class's name as reports print it.
func (c Class) String() string { return enumName(classNames[:], uint8(c)) }

// MarshalText writes the name.
func (c Class) MarshalText() ([]byte, error) { return marshalEnum("class", classNames[:], uint8(c)) }

// UnmarshalText reads the name; anything else is an error.
func (c *Class) UnmarshalText(b []byte) error {
	n, err := unmarshalEnum("class", classNames[:], b)
	*c = Class(n)
	return err
}

func enumName(names []string, n uint8) string {
	if int(n) >= len(names) {
		return fmt.Sprintf("invalid(%d)", n)
	}
	return names[n]
}

func marshalEnum(kind string, names []string, n uint8) ([]byte, error) {
	if int(n) >= len(names) {
		return nil, fmt.Errorf("writing a %s: %d has no name", kind, n)
	}
	return []byte(names[n]), nil
}

func unmarshalEnum(kind string, names []string, b []byte) (int, error) {
	n := slices.Index(names, string(b))
	if n < 0 {
		return 0, fmt.Errorf("reading a %s: %q is not one of %s", kind, b, strings.Join(names, ", "))
	}
	return n, nil
}
