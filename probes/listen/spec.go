package listen

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/gapproof/gapproof/probes"
)

// Spec names one listener.
type Spec struct {
	// Protocol is TCP, UDP or SCTP.
	Protocol probes.Protocol
	// Port is the port to bind; zero, which [ParseSpecs] refuses, leaves it to the kernel.
	Port uint16
}

// String is the spec as [ParseSpecs] reads it, such as "TCP/80".
func (s Spec) String() string { return fmt.Sprintf("%s/%d", s.Protocol, s.Port) }

// ParseSpecs reads a comma-separated list such as "TCP/80,UDP/81"; the empty text is the empty list. It reports every fault at once,
// each with its text; a listener named twice is one of them.
func ParseSpecs(text string) ([]Spec, error) {
	if text == "" {
		return nil, nil
	}
	var specs []Spec
	var faults []error
	seen := make(map[Spec]bool)
	for field := range strings.SplitSeq(text, ",") {
		s, err := parseSpec(field)
		if err == nil && seen[s] {
			err = errors.New("is named twice")
		}
		if err != nil {
			faults = append(faults, fmt.Errorf("listener %q: %w", field, err))
			continue
		}
		seen[s] = true
		specs = append(specs, s)
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	return specs, nil
}

func parseSpec(field string) (Spec, error) {
	name, number, ok := strings.Cut(field, "/")
	if !ok {
		return Spec{}, errors.New("want PROTOCOL/PORT")
	}
	var s Spec
	if err := s.Protocol.UnmarshalText([]byte(name)); err != nil || (s.Protocol != probes.TCP && s.Protocol != probes.UDP && s.Protocol != probes.SCTP) {
		return Spec{}, fmt.Errorf("protocol %q is not one of TCP, UDP, SCTP", name)
	}
	port, err := strconv.ParseUint(number, 10, 16)
	if err != nil || port == 0 || strconv.FormatUint(port, 10) != number {
		return Spec{}, fmt.Errorf("port %q is not a number from 1 to 65535", number)
	}
	s.Port = uint16(port)
	return s, nil
}
