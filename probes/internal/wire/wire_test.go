package wire

import (
	"errors"
	"strings"
	"testing"

	"github.com/gapproof/gapproof/probes"
)

var token = probes.Token{0: 0xab, 15: 1}

func TestLinesComeBackAsTheyWent(t *testing.T) {
	if got, err := ParseRequest(AppendRequest(nil, token)); err != nil || got != token {
		t.Errorf("request: want %s, got %s, %v", token, got, err)
	}
	longest := strings.Repeat("n", MaxIdentity)
	line := AppendReply(nil, token, longest)
	if len(line) != MaxLine {
		t.Errorf("longest line: want %d bytes, got %d", MaxLine, len(line))
	}
	if got, identity, err := ParseReply(line); err != nil || got != token || identity != longest {
		t.Errorf("reply: want %s and %s, got %s, %s, %v", token, longest, got, identity, err)
	}
}

func TestForeignLinesAreRefused(t *testing.T) {
	head := "gapproof/1 " + token.String()
	for name, line := range map[string]string{
		"nothing at all":               "",
		"a banner":                     "SSH-2.0-OpenSSH_9.2\r\n",
		"another version":              "gapproof/2 " + token.String() + "\n",
		"no line end":                  head,
		"a short token":                head[:len(head)-1] + "\n",
		"a token in capitals":          strings.ToUpper(head[11:]) + "\n",
		"capitals after the magic":     "gapproof/1 " + strings.ToUpper(token.String()) + "\n",
		"an empty identity":            head + " \n",
		"an identity with a space":     head + " a b\n",
		"an identity not of ASCII":     head + " é\n",
		"an identity that is too long": head + " " + strings.Repeat("n", MaxIdentity+1) + "\n",
		"two lines":                    head + "\n" + head + "\n",
		"a carriage return":            head + "\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := ParseRequest([]byte(line)); !errors.Is(err, ErrForeign) {
				t.Errorf("as a request: want %v, got %v", ErrForeign, err)
			}
			if _, _, err := ParseReply([]byte(line)); !errors.Is(err, ErrForeign) {
				t.Errorf("as a reply: want %v, got %v", ErrForeign, err)
			}
		})
	}
}

func TestARequestIsNoReplyAndAReplyNoRequest(t *testing.T) {
	if _, _, err := ParseReply(AppendRequest(nil, token)); !errors.Is(err, ErrForeign) {
		t.Errorf("a request as a reply: want %v, got %v", ErrForeign, err)
	}
	if _, err := ParseRequest(AppendReply(nil, token, "ns/pod")); !errors.Is(err, ErrForeign) {
		t.Errorf("a reply as a request: want %v, got %v", ErrForeign, err)
	}
}

// FuzzParse holds that what a parser takes is what this package would have written.
func FuzzParse(f *testing.F) {
	f.Add(AppendRequest(nil, token))
	f.Add(AppendReply(nil, token, "ns/pod"))
	f.Add([]byte("gapproof/1 \n"))
	f.Fuzz(func(t *testing.T, line []byte) {
		if got, err := ParseRequest(line); err == nil && string(AppendRequest(nil, got)) != string(line) {
			t.Errorf("took %q for a request", line)
		}
		if got, identity, err := ParseReply(line); err == nil && string(AppendReply(nil, got, identity)) != string(line) {
			t.Errorf("took %q for a reply", line)
		}
	})
}
