package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gapproof/gapproof/runner/bundle/signed"
	"github.com/gapproof/gapproof/runner/evidence"
	"github.com/gapproof/gapproof/runner/report"
	"github.com/gapproof/gapproof/runner/seal"
)

// lockText stands for a lab's lock.json.
const lockText = "{\n  \"version\": 1\n}\n"

// proven is what putting a seal to the proof finds, with its facts edited.
func proven(t *testing.T, edit func(*seal.Facts)) *sealReport {
	t.Helper()
	spec, err := seal.New("dev", seal.Network{
		Bridge: "br-lab", Gateway: netip.MustParseAddr("172.30.0.1"), Subnet: netip.MustParsePrefix("172.30.0.0/24"),
		Mirror: netip.MustParseAddrPort("172.30.0.2:5000"), Sink: netip.MustParseAddrPort("172.30.0.3:53"), API: 6443,
	}, nil, rand.New(rand.NewPCG(1, 2)))
	if err != nil {
		t.Fatal(err)
	}
	f := seal.Facts{
		Sources: []seal.Expected{{From: "node w", Kind: seal.NodeSource}, {From: "pod x/a", Kind: seal.PodSource}},
		Images:  5, After: seal.Reading{Packets: map[seal.Counter]uint64{}},
	}
	for _, s := range f.Sources {
		for counter, n := range spec.Sends(s.Kind) {
			f.Canaries = append(f.Canaries, seal.Canary{From: s.From, Counter: counter, Sent: n, Counted: n})
			f.After.Packets[counter] += n
		}
		f.Names = append(f.Names, seal.Name{From: s.From, Name: "canary.invalid", Asked: spec.Sink, Answer: seal.AnswerNoName, Recorded: 1})
	}
	edit(&f)
	sum := sha256.Sum256([]byte(lockText))
	r := &sealReport{Cluster: "dev", Time: time.Date(2026, 3, 4, 10, 11, 12, 0, time.UTC), Version: "v0.1.0", Spec: spec, lock: hex.EncodeToString(sum[:])}
	r.judge(f)
	return r
}

func asFound(*seal.Facts) {}
func leaky(f *seal.Facts) { f.After.Packets[seal.BeyondForward4] = 2 }
func doubtful(f *seal.Facts) {
	f.Rules = []string{"chain gate is gone"}
}

// person is somebody's key, with its files.
type person struct {
	key             *signed.PrivateKey
	private, public []byte
}

// people are two, made once: a passphrase costs half a second and more under the race detector.
var people = sync.OnceValue(func() (made [2]person) {
	for i := range made {
		k, err := signed.GenerateKey([]signed.Algorithm{signed.ECDSAP256, signed.Ed25519}[i])
		if err != nil {
			panic(err)
		}
		private, err1 := k.PEM([]byte("secret"))
		public, err2 := k.Public().PEM()
		if err := errors.Join(err1, err2); err != nil {
			panic(err)
		}
		made[i] = person{k, private, public}
	}
	return made
})

// workbench is a folder with keys of two people and a lock.
type workbench struct {
	dir  string
	keys [2]*signed.PrivateKey
}

func newWorkbench(t *testing.T) *workbench {
	t.Helper()
	w := &workbench{dir: t.TempDir()}
	for i, name := range []string{"a", "b"} {
		p := people()[i]
		w.put(t, name+".key", p.private)
		w.put(t, name+".pub", p.public)
		w.keys[i] = p.key
	}
	w.put(t, "lock.json", []byte(lockText))
	w.put(t, "policy.yaml", []byte("apiVersion: gapproof.dev/v1alpha1\nkind: TrustPolicy\nthreshold: 2\nkeys:\n"+
		"- {name: a, publicKey: "+quoted(t, w.get(t, "a.pub"))+"}\n- {name: b, publicKey: "+quoted(t, w.get(t, "b.pub"))+"}\n"))
	return w
}

// quoted is text as a JSON string, which YAML takes.
func quoted(t *testing.T, text []byte) string {
	t.Helper()
	raw, err := json.Marshal(string(text))
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func (w *workbench) path(name string) string { return filepath.Join(w.dir, name) }

func (w *workbench) put(t *testing.T, name string, content []byte) {
	t.Helper()
	if err := os.WriteFile(w.path(name), content, 0o600); err != nil {
		t.Fatal(err)
	}
}

func (w *workbench) get(t *testing.T, name string) []byte {
	t.Helper()
	raw, err := os.ReadFile(w.path(name))
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// state writes a statement of the proof, signed by the first key.
func (w *workbench) state(t *testing.T, r *sealReport) {
	t.Helper()
	s := &signer{w.path("seal.json"), w.keys[:1]}
	if err := s.write(&bytes.Buffer{}, r, "", ""); err != nil {
		t.Fatal(err)
	}
}

// gapproof runs the program in the folder's words: "@name" is a file of it.
func (w *workbench) gapproof(t *testing.T, args ...string) (code int, out, errs string) {
	t.Helper()
	full := []string{"--cache-dir", w.path("cache"), "--state-dir", w.path("state")}
	for _, arg := range args {
		if name, is := strings.CutPrefix(arg, "@"); is {
			arg = w.path(name)
		}
		full = append(full, arg)
	}
	var o, e bytes.Buffer
	code = run(t.Context(), full, streams{&o, &e})
	return code, o.String(), e.String()
}

func TestAStatementOfASealVerifies(t *testing.T) {
	for _, tt := range []struct {
		name string
		edit func(*seal.Facts)
		args []string
		code int
		says []string // on stdout, or on stderr where it is refused
	}{
		{"sealed", asFound, []string{"--key", "@a.pub"}, 0, []string{"SEALED  cluster dev", "VERIFIED: signed by", "v0.1.0 on 2026-03-04T10:11:12Z", "lock.json  sha256:"}},
		{"of the lock", asFound, []string{"--key", "@a.pub", "--subject", "@lock.json"}, 0, []string{"SEALED"}},
		{"by any of two keys", asFound, []string{"--key", "@b.pub", "--key", "@a.pub"}, 0, []string{"SEALED"}},
		{"as JSON", asFound, []string{"--key", "@a.pub", "-o", "json"}, 0, []string{`"predicateType": "https://gapproof.dev/seal/v1"`}},
		{"leaked", leaky, []string{"--key", "@a.pub"}, 1, []string{"LEAKED", "leak: 2 packets got past", "VERIFIED"}},
		{"not proven", doubtful, []string{"--key", "@a.pub"}, 3, []string{"SEAL_NOT_PROVEN", "doubt: chain gate is gone", "VERIFIED"}},
		{"of a stranger", asFound, []string{"--key", "@b.pub"}, 1, []string{"REFUSED", "is not trusted"}},
		{"not proven and of a stranger", doubtful, []string{"--key", "@b.pub"}, 1, []string{"REFUSED"}},
		{"of one where two are needed", asFound, []string{"--trust", "@policy.yaml"}, 1, []string{"REFUSED", "1 of 2 needed"}},
		{"of another lock", asFound, []string{"--key", "@a.pub", "--subject", "@policy.yaml"}, 1, []string{"REFUSED: the statement is not about"}},
		{"not proven and of another lock", doubtful, []string{"--key", "@a.pub", "--subject", "@policy.yaml"}, 1, []string{"REFUSED"}},
		{"without a key", asFound, nil, 2, []string{"one of --key and --trust is needed"}},
		{"with key and policy", asFound, []string{"--key", "@a.pub", "--trust", "@policy.yaml"}, 2, []string{"do not go together"}},
		{"of a file that is not there", asFound, []string{"--key", "@a.pub", "--subject", "@none"}, 2, []string{"--subject"}},
		{"in no known form", asFound, []string{"--key", "@a.pub", "-o", "yaml"}, 2, []string{"table, json"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorkbench(t)
			w.state(t, proven(t, tt.edit))
			code, out, errs := w.gapproof(t, append([]string{"seal", "verify", "@seal.json"}, tt.args...)...)
			if code != tt.code {
				t.Errorf("exit code %d, want %d: %s", code, tt.code, errs)
			}
			said := out
			if strings.Contains(errs, "REFUSED") || code == 2 {
				if said = errs; out != "" {
					t.Errorf("what is refused was printed: %s", out)
				}
			}
			for _, want := range tt.says {
				if !strings.Contains(said, want) {
					t.Errorf("it does not say %q:\n%s", want, said)
				}
			}
		})
	}
}

func TestSeveralPeopleSignAStatement(t *testing.T) {
	t.Setenv(passphraseVariable, "secret")
	w := newWorkbench(t)
	w.state(t, proven(t, asFound))
	if code, _, errs := w.gapproof(t, "seal", "sign", "@seal.json", "--key", "@b.key"); code != 0 || !strings.Contains(errs, "statement of SEALED signed by 1 more") {
		t.Fatalf("exit code %d: %s", code, errs)
	}
	if code, out, errs := w.gapproof(t, "seal", "verify", "@seal.json", "--trust", "@policy.yaml"); code != 0 || !strings.Contains(out, "signed by a and b") {
		t.Errorf("exit code %d: %s%s", code, out, errs)
	}
	if code, _, errs := w.gapproof(t, "seal", "sign", "@seal.json", "--key", "@b.key"); code == 0 || !strings.Contains(errs, "has signed already") {
		t.Errorf("one key signed twice: exit code %d: %s", code, errs)
	}
	t.Setenv(passphraseVariable, "wrong")
	if code, _, errs := w.gapproof(t, "seal", "sign", "@seal.json", "--key", "@a.key"); code != 2 || !strings.Contains(errs, "passphrase is missing or wrong") {
		t.Errorf("a wrong passphrase: exit code %d: %s", code, errs)
	}
}

func TestAStatementOfSomethingElseIsNoSeal(t *testing.T) {
	t.Setenv(passphraseVariable, "secret")
	w := newWorkbench(t)
	for name, payload := range map[string]string{
		"a bundle's":           `{"_type":"https://in-toto.io/Statement/v1","subject":[],"predicateType":"https://gapproof.dev/bundle/v1","predicate":{}}`,
		"a provenance":         `{"_type":"https://in-toto.io/Statement/v1","subject":[],"predicateType":"https://slsa.dev/provenance/v1","predicate":{}}`,
		"a leak called sealed": strings.Replace(string(statementOf(t, proven(t, leaky))), `"LEAKED"`, `"SEALED"`, 1),
	} {
		raw, err := signed.Sign([]byte(payload), w.keys[:1])
		if err != nil {
			t.Fatal(err)
		}
		w.put(t, "seal.json", raw)
		if code, out, errs := w.gapproof(t, "seal", "verify", "@seal.json", "--key", "@a.pub"); code != 1 || !strings.Contains(errs, "REFUSED") || out != "" {
			t.Errorf("%s, well signed: exit code %d: %s%s", name, code, out, errs)
		}
		if code, _, errs := w.gapproof(t, "seal", "sign", "@seal.json", "--key", "@b.key"); code != 1 || !bytes.Equal(w.get(t, "seal.json"), raw) {
			t.Errorf("%s got a signature: exit code %d: %s", name, code, errs)
		}
	}
}

func statementOf(t *testing.T, r *sealReport) []byte {
	t.Helper()
	st, err := r.Proof.Statement(r.Spec, seal.About{Lock: r.lock, Time: r.Time})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := st.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// TestAnEditedStatementIsRefused is the whole command's; that no byte at all can be another is shown beside the signing.
func TestAnEditedStatementIsRefused(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	w := newWorkbench(t)
	w.state(t, proven(t, doubtful))
	good := w.get(t, "seal.json")
	const edits = 200
	for range edits {
		raw := bytes.Clone(good)
		at := r.IntN(len(raw))
		raw[at] ^= 1 << r.IntN(8)
		w.put(t, "seal.json", raw)
		if code, out, _ := w.gapproof(t, "seal", "verify", "@seal.json", "--key", "@a.pub"); code != 1 || out != "" {
			t.Errorf("byte %d from %q to %q: exit code %d\n%s", at, good[at], raw[at], code, out)
		}
	}
}

func TestAKeyOrAStatementAloneIsAUsageErrorBeforeAnythingIsDone(t *testing.T) {
	t.Setenv(passphraseVariable, "secret")
	w := newWorkbench(t)
	for name, tt := range map[string]struct {
		args []string
		says string
	}{
		"no key":            {[]string{"--statement", "@s"}, "each needs the other"},
		"no file":           {[]string{"--key", "@a.key"}, "each needs the other"},
		"no folder":         {[]string{"--key", "@a.key", "--statement", "@none/s"}, "--statement: "},
		"a file as folder":  {[]string{"--key", "@a.key", "--statement", "@a.key/s"}, "--statement: "},
		"a public key":      {[]string{"--key", "@a.pub", "--statement", "@s"}, "--key"},
		"no such key":       {[]string{"--key", "@none", "--statement", "@s"}, "--key"},
		"a seal that is of": {[]string{"--seal", "off", "--key", "@a.key", "--statement", "@s"}, "no proof to be signed"},
	} {
		for _, command := range [][]string{{"run", "catalogue:podSelector"}, {"seal", "check"}} {
			if tt.args[0] == "--seal" && command[0] == "seal" {
				continue
			}
			if code, _, errs := w.gapproof(t, append(command, tt.args...)...); code != 2 || !strings.Contains(errs, tt.says) {
				t.Errorf("%v with %s: exit code %d: %s", command, name, code, errs)
			}
		}
	}
}

// TestARunOnASealedLabIsConcluded is about what a run leaves behind: evidence that verifies, a report, and a statement about both.
func TestARunOnASealedLabIsConcluded(t *testing.T) {
	w := newWorkbench(t)
	for name, tt := range map[string]struct {
		edit func(*seal.Facts)
		code int
	}{"sealed": {asFound, 0}, "leaked": {leaky, 1}, "not proven": {func(f *seal.Facts) { *f = seal.Facts{Unchecked: "the run ended before: interrupted"} }, 3}} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "evidence")
			writer, err := evidence.New(dir, evidence.Options{})
			if err != nil {
				t.Fatal(err)
			}
			var errs bytes.Buffer
			a := &app{streams: streams{&bytes.Buffer{}, &errs}}
			rep := &report.Report{Run: "k7x2q", Level: "unwitnessed"}
			written := false
			err = a.conclude(rep, proven(t, tt.edit), &recorder{Writer: writer}, &signer{w.path("seal.json"), w.keys[:1]}, func() error { written = true; return nil })
			if err != nil || !written {
				t.Fatalf("report written %t, %v", written, err)
			}
			if code, out, errs := w.gapproof(t, "report", "verify", dir); code != 0 || !strings.Contains(out, "and the seal's, "+string(rep.Seal.Verdict)) {
				t.Errorf("report verify: exit code %d: %s%s", code, out, errs)
			}
			code, out, e := w.gapproof(t, "seal", "verify", "@seal.json", "--key", "@a.pub", "--subject", "@lock.json", "--subject", filepath.Join(dir, "manifest.json"))
			if code != tt.code || !strings.Contains(out, "after run k7x2q") {
				t.Errorf("seal verify: exit code %d, want %d: %s%s", code, tt.code, out, e)
			}
		})
	}
}

func TestARunElsewhereTellsNothingOfASeal(t *testing.T) {
	a := &app{streams: streams{&bytes.Buffer{}, &bytes.Buffer{}}}
	rep := &report.Report{}
	if err := a.conclude(rep, nil, nil, nil, func() error { t.Error("a report of nothing was written"); return nil }); err != nil || rep.Seal != nil {
		t.Errorf("seal %v, %v", rep.Seal, err)
	}
}
