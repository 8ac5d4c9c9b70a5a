package reach

import (
	"fmt"
	"strings"
)

// Fault is one thing about a policy that the API server would refuse. [Compile] joins them; errors.As finds one.
type Fault struct {
	// File and Line are those of the policy; empty and 0 when unknown.
	File string
	Line int
	// Policy is "policy namespace/name" or "clusterNetworkPolicy name".
	Policy string
	// Field is the path inside the policy; empty for the policy as a whole.
	Field   string
	Message string
}

// Error is "file:line: policy: field: message", without what is not known.
func (f *Fault) Error() string {
	var b strings.Builder
	switch {
	case f.Line > 0:
		fmt.Fprintf(&b, "%s:%d: ", f.File, f.Line)
	case f.File != "":
		b.WriteString(f.File + ": ")
	}
	b.WriteString(f.Policy + ": ")
	if f.Field != "" {
		b.WriteString(f.Field + ": ")
	}
	b.WriteString(f.Message)
	return b.String()
}

// policyFault records a fault of the policy that is being compiled.
func (c *compiler) policyFault(policy, field, format string, args ...any) {
	c.errs = append(c.errs, &Fault{File: c.file, Line: c.line, Policy: policy, Field: field, Message: fmt.Sprintf(format, args...)})
}
