package ocifront

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/gapproof/gapproof/runner/host/capability"
)

// fewer is a host without CAP_SYS_RESOURCE (bit 24) with at most 1000 open files and no score below -10.
func fewer() limits {
	return limits{
		bounding: capability.Set(0x1ffffffffff &^ (1 << 24)),
		hardLimit: func(kind string) (uint64, bool) {
			return 1000, kind == "RLIMIT_NOFILE"
		},
		oomScoreAdj: func(wanted int) int { return max(wanted, -10) },
	}
}

// full is a host that lacks nothing.
func full() limits { return limits{bounding: 0x1ffffffffff} }

func TestFilterSpec(t *testing.T) {
	tests := []struct {
		name, spec string
		host       limits
		want       string // empty: unchanged
	}{
		{"all five sets lose what the host lacks",
			`{"process":{"capabilities":{"bounding":["CAP_CHOWN","CAP_SYS_RESOURCE"],"effective":["CAP_SYS_RESOURCE"],"inheritable":["CAP_SYS_RESOURCE","CAP_KILL"],"permitted":["CAP_SYS_RESOURCE"],"ambient":["CAP_SYS_RESOURCE"]}}}`, fewer(),
			`{"process":{"capabilities":{"ambient":[],"bounding":["CAP_CHOWN"],"effective":[],"inheritable":["CAP_KILL"],"permitted":[]}}}`},
		{"a full host changes nothing", `{"process":{"capabilities":{"bounding":["CAP_SYS_RESOURCE"]},"rlimits":[{"type":"RLIMIT_NOFILE","hard":5000,"soft":5000}],"oomScoreAdj":-999}}`, full(), ""},
		{"a specification that asks for nothing missing keeps its bytes", ` {"process" : {"capabilities" : {"bounding":[ "CAP_CHOWN" ]}}} `, fewer(), ""},
		{"a hard limit above the host's is lowered and the soft one with it", `{"process":{"rlimits":[{"type":"RLIMIT_NOFILE","hard":5000,"soft":4000}]}}`, fewer(),
			`{"process":{"rlimits":[{"hard":1000,"soft":1000,"type":"RLIMIT_NOFILE"}]}}`},
		{"a soft limit below the host's hard one stays", `{"process":{"rlimits":[{"type":"RLIMIT_NOFILE","hard":5000,"soft":40}]}}`, fewer(),
			`{"process":{"rlimits":[{"hard":1000,"soft":40,"type":"RLIMIT_NOFILE"}]}}`},
		{"an unlimited limit is the largest number", `{"process":{"rlimits":[{"type":"RLIMIT_NOFILE","hard":18446744073709551615,"soft":1}]}}`, fewer(),
			`{"process":{"rlimits":[{"hard":1000,"soft":1,"type":"RLIMIT_NOFILE"}]}}`},
		{"limits of an unknown kind and limits that fit stay", `{"process":{"rlimits":[{"type":"RLIMIT_NOFILE","hard":1000,"soft":1000},{"type":"RLIMIT_NEW","hard":5000,"soft":1}]}}`, fewer(), ""},
		{"a score that the kernel refuses becomes the lowest possible", `{"process":{"oomScoreAdj":-500}}`, fewer(), `{"process":{"oomScoreAdj":-10}}`},
		{"a score that the kernel accepts stays", `{"process":{"oomScoreAdj":-5}}`, fewer(), ""},
		{"members nobody knows are kept as they are",
			`{"future":{"a":[1,2.50,"<&>"]},"process":{"new":1e3,"args":["<b>"],"capabilities":{"bounding":["CAP_SYS_RESOURCE"],"later":["x"]},"rlimits":[{"type":"RLIMIT_NOFILE","hard":2000,"soft":1,"why":"<"}]}}`, fewer(),
			`{"future":{"a":[1,2.50,"<&>"]},"process":{"args":["<b>"],"capabilities":{"bounding":[],"later":["x"]},"new":1e3,"rlimits":[{"hard":1000,"soft":1,"type":"RLIMIT_NOFILE","why":"<"}]}}`},
		{"a specification without a process is left alone", `{"ociVersion":"1.0.0"}`, fewer(), ""},
		{"null in place of a process and its members is left alone", `{"process":{"capabilities":null,"rlimits":null,"oomScoreAdj":null}}`, fewer(), ""},
		{"a null process is left alone", `{"process":null}`, fewer(), ""},
		{"a capability that nobody knows is removed, as no kernel can give it", `{"process":{"capabilities":{"bounding":["CAP_FROM_THE_FUTURE"]}}}`, fewer(), `{"process":{"capabilities":{"bounding":[]}}}`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, changed, err := filterSpec([]byte(test.spec), test.host)
			if err != nil {
				t.Fatal(err)
			}
			want := test.want
			if want == "" {
				want = test.spec
			}
			if diff := cmp.Diff(want, string(got)); diff != "" {
				t.Errorf("specification (-want +got):\n%s", diff)
			}
			if wantChanged := test.want != ""; changed != wantChanged {
				t.Errorf("changed: want %v, got %v", wantChanged, changed)
			}
		})
	}
}

func TestFilterSpecRefusesWhatItCannotRead(t *testing.T) {
	tests := []struct{ name, spec, want string }{
		{"not JSON", `{"process":`, "decoding runtime specification"},
		{"nothing", ``, "decoding runtime specification"},
		{"null", `null`, "want a JSON object, got null"},
		{"an array", `[]`, "decoding runtime specification"},
		{"a process that is no object", `{"process":[]}`, "decoding process"},
		{"capabilities that are a list", `{"process":{"capabilities":["CAP_KILL"]}}`, "decoding process.capabilities"},
		{"a set that is no list", `{"process":{"capabilities":{"bounding":"CAP_KILL"}}}`, "decoding process.capabilities"},
		{"rlimits that are no list", `{"process":{"rlimits":{}}}`, "decoding process.rlimits"},
		{"one rlimit that is a number", `{"process":{"rlimits":[1]}}`, "decoding process.rlimits[0]"},
		{"a negative rlimit", `{"process":{"rlimits":[{"type":"RLIMIT_NOFILE","hard":-1}]}}`, "decoding process.rlimits[0]"},
		{"a score that is text", `{"process":{"oomScoreAdj":"low"}}`, "decoding process.oomScoreAdj"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, changed, err := filterSpec([]byte(test.spec), fewer())
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error: want it to contain %q, got %v", test.want, err)
			}
			if changed {
				t.Error("changed although refused")
			}
		})
	}
}

// FuzzFilterSpec holds what must be true of any input: a refusal changes nothing; a result is JSON; it asks for nothing the host lacks;
// filtering it again does nothing; and everything outside the three members is as it was.
func FuzzFilterSpec(f *testing.F) {
	f.Add([]byte(`{"process":{"capabilities":{"bounding":["CAP_SYS_RESOURCE","CAP_KILL"]},"rlimits":[{"type":"RLIMIT_NOFILE","hard":2000,"soft":1}],"oomScoreAdj":-50},"x":1}`))
	f.Add([]byte(`{"process":{"rlimits":[null,{}]}}`))
	f.Add([]byte(`{"process":{"capabilities":{"bounding":[null]}}}`))
	f.Add([]byte(`{"Process":{},"process":{"oomScoreAdj":-11,"OOMSCOREADJ":3}}`))
	f.Fuzz(func(t *testing.T, spec []byte) {
		before := string(spec)
		got, changed, err := filterSpec(spec, fewer())
		if string(spec) != before {
			t.Fatal("the input was written to")
		}
		if err != nil {
			return
		}
		if !changed {
			if string(got) != before {
				t.Fatalf("unchanged, but other bytes: %q", got)
			}
			return
		}
		if again, changed, err := filterSpec(got, fewer()); err != nil || changed {
			t.Fatalf("filtering again: changed %v, %v: %q", changed, err, again)
		}
		if diff := cmp.Diff(rest(t, spec), rest(t, got)); diff != "" {
			t.Fatalf("members that are none of ours (-before +after):\n%s", diff)
		}
		var typed struct {
			Process struct {
				Capabilities *specs.LinuxCapabilities `json:"capabilities"`
			} `json:"process"`
		}
		if err := json.Unmarshal(got, &typed); err != nil {
			t.Fatal(err)
		}
	})
}

// rest decodes a specification without what the filter may change.
func rest(t *testing.T, spec []byte) map[string]any {
	t.Helper()
	var members map[string]any
	decoder := json.NewDecoder(strings.NewReader(string(spec)))
	decoder.UseNumber()
	if err := decoder.Decode(&members); err != nil {
		t.Fatal(err)
	}
	process, ok := members["process"].(map[string]any)
	if !ok {
		t.Fatalf("process is %T", members["process"])
	}
	for _, member := range []string{"capabilities", "rlimits", "oomScoreAdj"} {
		delete(process, member)
	}
	return members
}
