package ocifront

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/gapproof/gapproof/runner/host/capability"
)

// limits is what this host can give a container's process.
type limits struct {
	bounding capability.Set
	// hardLimit gives the host's hard limit of the kind that an OCI rlimit names, "RLIMIT_NOFILE". known is false for a kind this
	// build does not know; such an rlimit is left alone. It is nil where hard limits may be raised.
	hardLimit func(kind string) (hard uint64, known bool)
	// oomScoreAdj gives the score to use in place of the wanted one. It is nil where any score may be set.
	oomScoreAdj func(wanted int) int
}

// filterSpec lowers the process of a whole runtime specification (config.json). changed is false when the specification asks
// for nothing the host cannot give; filtered is then the input itself.
func filterSpec(spec []byte, host limits) (filtered []byte, changed bool, err error) {
	members, err := object(spec, "runtime specification")
	if err != nil {
		return nil, false, err
	}
	process, found := members["process"]
	if !found || isNull(process) {
		return spec, false, nil
	}
	process, changed, err = filterProcess(process, host)
	if err != nil || !changed {
		return spec, false, err
	}
	members["process"] = process
	filtered, err = encode(members)
	return filtered, err == nil, err
}

// filterProcess lowers one process specification: the file of exec's --process, or the member "process" of a runtime
// specification. Members it does not lower are carried as raw JSON.
func filterProcess(process []byte, host limits) (filtered []byte, changed bool, err error) {
	members, err := object(process, "process")
	if err != nil {
		return nil, false, err
	}
	for _, lower := range []struct {
		member string
		with   func(json.RawMessage, limits) (json.RawMessage, bool, error)
	}{
		{"capabilities", filterCapabilities},
		{"rlimits", filterRlimits},
		{"oomScoreAdj", filterOOMScoreAdj},
	} {
		value, found := members[lower.member]
		if !found || isNull(value) {
			continue
		}
		lowered, altered, err := lower.with(value, host)
		if err != nil {
			return nil, false, err
		}
		if altered {
			members[lower.member] = lowered
			changed = true
		}
	}
	if !changed {
		return process, false, nil
	}
	filtered, err = encode(members)
	return filtered, err == nil, err
}

// filterCapabilities removes from each of the five sets what the bounding set lacks.
func filterCapabilities(raw json.RawMessage, host limits) (json.RawMessage, bool, error) {
	members, err := object(raw, "process.capabilities")
	if err != nil {
		return nil, false, err
	}
	var typed specs.LinuxCapabilities
	if err := json.Unmarshal(raw, &typed); err != nil {
		return nil, false, fmt.Errorf("decoding process.capabilities: %w", err)
	}
	changed := false
	for _, set := range []struct {
		member string
		names  []string
	}{
		{"bounding", typed.Bounding}, {"effective", typed.Effective}, {"inheritable", typed.Inheritable},
		{"permitted", typed.Permitted}, {"ambient", typed.Ambient},
	} {
		kept := make([]string, 0, len(set.names))
		for _, name := range set.names {
			if host.bounding.Has(strings.ToUpper(name)) {
				kept = append(kept, name)
			}
		}
		if len(kept) == len(set.names) {
			continue
		}
		if members[set.member], err = encode(kept); err != nil {
			return nil, false, err
		}
		changed = true
	}
	if !changed {
		return raw, false, nil
	}
	lowered, err := encode(members)
	return lowered, err == nil, err
}

// filterRlimits lowers hard limits above the host's, and with them the soft limits that would then stand above the hard one.
func filterRlimits(raw json.RawMessage, host limits) (json.RawMessage, bool, error) {
	if host.hardLimit == nil {
		return raw, false, nil
	}
	var entries []json.RawMessage
	if err := json.Unmarshal(raw, &entries); err != nil {
		return nil, false, fmt.Errorf("decoding process.rlimits: %w", err)
	}
	changed := false
	for i, entry := range entries {
		var typed specs.POSIXRlimit
		if err := json.Unmarshal(entry, &typed); err != nil {
			return nil, false, fmt.Errorf("decoding process.rlimits[%d]: %w", i, err)
		}
		hard, known := host.hardLimit(typed.Type)
		if !known || typed.Hard <= hard {
			continue
		}
		members, err := object(entry, fmt.Sprintf("process.rlimits[%d]", i))
		if err != nil {
			return nil, false, err
		}
		if members["hard"], err = encode(hard); err != nil {
			return nil, false, err
		}
		if members["soft"], err = encode(min(typed.Soft, hard)); err != nil {
			return nil, false, err
		}
		if entries[i], err = encode(members); err != nil {
			return nil, false, err
		}
		changed = true
	}
	if !changed {
		return raw, false, nil
	}
	lowered, err := encode(entries)
	return lowered, err == nil, err
}

// filterOOMScoreAdj raises a score that the kernel would refuse to the lowest it accepts.
func filterOOMScoreAdj(raw json.RawMessage, host limits) (json.RawMessage, bool, error) {
	if host.oomScoreAdj == nil {
		return raw, false, nil
	}
	var wanted int
	if err := json.Unmarshal(raw, &wanted); err != nil {
		return nil, false, fmt.Errorf("decoding process.oomScoreAdj: %w", err)
	}
	possible := host.oomScoreAdj(wanted)
	if possible == wanted {
		return raw, false, nil
	}
	lowered, err := encode(possible)
	return lowered, err == nil, err
}

// object splits a JSON object into its members without decoding them.
func object(raw []byte, what string) (map[string]json.RawMessage, error) {
	if isNull(raw) {
		return nil, fmt.Errorf("decoding %s: want a JSON object, got null", what)
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(raw, &members); err != nil {
		return nil, fmt.Errorf("decoding %s: %w", what, err)
	}
	return members, nil
}

func isNull(raw []byte) bool { return bytes.Equal(bytes.TrimSpace(raw), []byte("null")) }

// encode writes JSON without escaping <, > and &, so that strings keep the bytes they came with.
func encode(value any) (json.RawMessage, error) {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		return nil, fmt.Errorf("encoding the filtered specification: %w", err)
	}
	return bytes.TrimRight(text.Bytes(), "\n"), nil
}
