// Package wire is the payload that sources and listeners exchange: one line each way, the same in a TCP stream and a UDP datagram.
//
// A source sends "gapproof/1 TOKEN\n"; a listener answers "gapproof/1 TOKEN IDENTITY\n", where TOKEN is 32 lower-case
// hexadecimal digits and IDENTITY says who answers. The token in the answer ties it to its attempt, so that a late datagram of another
// attempt is never taken for a reply.
//
// The trap: lines come from anything that can reach a port, so both parsers refuse whatever they would not have written.
package wire

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/gapproof/gapproof/probes"
)

// MaxIdentity is the longest identity: a namespace name, a slash and a pod name, of 63 and 253 characters by the API's rules.
const MaxIdentity = 63 + 1 + 253

// MaxLine is the longest line either way, with its line end. A longer one is not ours, and is not read further.
const MaxLine = len(magic) + tokenLen + 1 + MaxIdentity + 1

const (
	magic    = "gapproof/1 "
	tokenLen = 2 * len(probes.Token{})
)

// ErrForeign is a line that this package did not write.
var ErrForeign = errors.New("not a line of a gapproof probe")

// AppendRequest appends the source's line for the token.
func AppendRequest(b []byte, t probes.Token) []byte {
	return append(appendHead(b, t), '\n')
}

// AppendReply appends the listener's line for the token; the identity has passed [CheckIdentity].
func AppendReply(b []byte, t probes.Token, identity string) []byte {
	b = append(appendHead(b, t), ' ')
	return append(append(b, identity...), '\n')
}

func appendHead(b []byte, t probes.Token) []byte {
	return append(append(b, magic...), t.String()...)
}

// ParseRequest reads a source's line, with its line end. Anything else is [ErrForeign].
func ParseRequest(line []byte) (probes.Token, error) {
	t, rest, err := parseHead(line)
	if err != nil || len(rest) != 0 {
		return probes.Token{}, fmt.Errorf("reading a request: %w", ErrForeign)
	}
	return t, nil
}

// ParseReply reads a listener's line, with its line end. Anything else is [ErrForeign].
func ParseReply(line []byte) (probes.Token, string, error) {
	t, rest, err := parseHead(line)
	if err != nil {
		return probes.Token{}, "", fmt.Errorf("reading a reply: %w", err)
	}
	identity, ok := bytes.CutPrefix(rest, []byte{' '})
	if !ok || CheckIdentity(string(identity)) != nil {
		return probes.Token{}, "", fmt.Errorf("reading a reply: %w", ErrForeign)
	}
	return t, string(identity), nil
}

// parseHead is the token of a line and what follows it before the line end.
func parseHead(line []byte) (t probes.Token, rest []byte, err error) {
	body, ended := bytes.CutSuffix(line, []byte{'\n'})
	body, ours := bytes.CutPrefix(body, []byte(magic))
	if !ended || !ours || len(line) > MaxLine || len(body) < tokenLen {
		return t, nil, ErrForeign
	}
	digits := body[:tokenLen]
	if t.UnmarshalText(digits) != nil || t.String() != string(digits) { // String is lower case, as was written
		return t, nil, ErrForeign
	}
	return t, body[tokenLen:], nil
}

// CheckIdentity says what keeps s from being an identity: it has 1 to [MaxIdentity] visible ASCII characters, no space among them.
func CheckIdentity(s string) error {
	if s == "" || len(s) > MaxIdentity {
		return fmt.Errorf("identity: %d characters, want 1 to %d", len(s), MaxIdentity)
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return fmt.Errorf("identity: byte %#x at %d is not a visible ASCII character", s[i], i)
		}
	}
	return nil
}
