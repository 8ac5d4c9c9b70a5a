package reach

import "fmt"

var verdictNames = [...]string{Unknown: "unknown", Allow: "allow", Deny: "deny"}

// String is "allow", "deny" or "unknown".
func (v Verdict) String() string {
	if int(v) >= len(verdictNames) {
		return fmt.Sprintf("invalid(%d)", uint8(v))
	}
	return verdictNames[v]
}

// MarshalText writes the name. A number that no name stands for is an error.
func (v Verdict) MarshalText() ([]byte, error) {
	if int(v) >= len(verdictNames) {
		return nil, fmt.Errorf("writing a verdict: %d has no name", uint8(v))
	}
	return []byte(verdictNames[v]), nil
}

// UnmarshalText reads a name that MarshalText wrote; anything else is an error.
func (v *Verdict) UnmarshalText(b []byte) error {
	for i, name := range verdictNames {
		if name == string(b) {
			*v = Verdict(i)
			return nil
		}
	}
	return fmt.Errorf("reading a verdict: %q is not one of allow, deny, unknown", b)
}
