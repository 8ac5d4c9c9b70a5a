package probes

import (
	"fmt"
	"slices"
	"strings"
)

// enumName is names[n], or a visible placeholder for a number no name stands for.
func enumName(names []string, n int) string {
	if n < 0 || n >= len(names) {
		return fmt.Sprintf("invalid(%d)", n)
	}
	return names[n]
}

// marshalEnum is the text form of names[n]; kind names the type in the error.
func marshalEnum(kind string, names []string, n int) ([]byte, error) {
	if n < 0 || n >= len(names) {
		return nil, fmt.Errorf("writing a %s: %d has no name", kind, n)
	}
	return []byte(names[n]), nil
}

// unmarshalEnum is the index of the text b in names; kind names the type in the error.
func unmarshalEnum(kind string, names []string, b []byte) (int, error) {
	n := slices.Index(names, string(b))
	if n < 0 {
		return 0, fmt.Errorf("reading a %s: %q is not one of %s", kind, b, strings.Join(names, ", "))
	}
	return n, nil
}
