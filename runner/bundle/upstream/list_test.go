package upstream

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var zeros = "sha256:" + strings.Repeat("0", 64)

var ones = "sha256:" + strings.Repeat("1", 64)

const head = "apiVersion: gapproof.dev/v1alpha1\nkind: Upstream\n"

func decode(t testing.TB, raw string) *List {
	t.Helper()
	l, err := Decode([]byte(raw), "upstream.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestEveryFaultIsToldWithItsLineAndField(t *testing.T) {
	one := "images:\n  - {name: a.test/a, tag: v1, digest: unresolved, taken: never}\n"
	for name, tc := range map[string]struct{ raw, want string }{
		"nothing": {"", "upstream.yaml:1: apiVersion: is \"\", must be \"gapproof.dev/v1alpha1\"\n" +
			"upstream.yaml:1: kind: is \"\", must be \"Upstream\"\nupstream.yaml:1: images: none given"},
		"another kind":       {"apiVersion: gapproof.dev/v1alpha1\nkind: Scenario\n" + one, `upstream.yaml:2: kind: is "Scenario", must be "Upstream"`},
		"an unknown field":   {head + one + "image: []\n", "upstream.yaml:5: field image not found"},
		"a field twice":      {head + one + "kind: Upstream\n", `upstream.yaml:5: mapping key "kind" already defined at line 2`},
		"a value of no use":  {head + "images: 3\n", "upstream.yaml:3: cannot unmarshal int `3`"},
		"no YAML":            {"a: [\n", "reading upstream.yaml: yaml: line "},
		"a second document":  {head + one + "---\n{}\n", "reading upstream.yaml: there is more behind the list"},
		"a name and no host": {head + "images:\n- {name: etcd, tag: v1, digest: unresolved, taken: never}\n", `upstream.yaml:4: images[0].name: "etcd" is not a repository with its registry host`},
		"no tag":             {head + "images:\n- {name: a.test/a, digest: unresolved, taken: never}\n", `upstream.yaml:4: images[0].tag: "" is not a tag`},
		"images merged in":   {head + "<<: {" + strings.TrimSuffix(strings.Replace(one, "\n  - ", " [", 1), "\n") + "]}\n", "upstream.yaml:1: images: must be written out, not merged in"},
		"no digest": {head + "images:\n- name: a.test/a\n  tag: v1\n  digest:\n  taken: never\n",
			`upstream.yaml:6: images[0].digest: "" is neither sha256 and 64 hexadecimal digits nor "unresolved"`},
		"a short digest": {head + "images:\n- {name: a.test/a, tag: v1, digest: sha256:00, taken: 2026-11-26}\n",
			`upstream.yaml:4: images[0].digest: "sha256:00" is neither`},
		"a digest and no day": {head + "images:\n- {name: a.test/a, tag: v1, digest: '" + zeros + "', taken: never}\n",
			`upstream.yaml:4: images[0].taken: "never" is not the day`},
		"a day and no digest": {head + "images:\n- {name: a.test/a, tag: v1, digest: unresolved, taken: 2026-11-26}\n",
			`upstream.yaml:4: images[0].taken: "2026-11-26" must be "never" while the digest is unresolved`},
		"an image twice": {head + one + "  - {name: a.test/a, tag: v1, digest: unresolved, taken: never}\n",
			"upstream.yaml:5: images[1]: a.test/a:v1 is at line 4 already"},
		"a mirror of nobody": {head + one + "mirrors: {b.test: c.test}\n", `upstream.yaml:5: mirrors.b.test: no image of upstream.yaml is at "b.test", there are a.test`},
		"a mirror with a scheme": {head + one + "mirrors:\n  a.test: http://c.test\n",
			`upstream.yaml:6: mirrors.a.test: "http://c.test" is not a registry such as proxy.example.org:5000/k8s`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Decode([]byte(tc.raw), "upstream.yaml")
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("want an error with\n%s\ngot\n%v", tc.want, err)
			}
		})
	}
	_, err := Decode([]byte(head+"images:\n- {name: etcd, tag: '!', digest: no, taken: no}\n- {name: etcd, tag: '!', digest: no, taken: no}\n"), "f")
	if n := strings.Count(err.Error(), "\n") + 1; n != 9 {
		t.Errorf("want nine faults at once, got %d:\n%v", n, err)
	}
}

const commented = `# Head: ü.
apiVersion: gapproof.dev/v1alpha1
kind: Upstream
mirrors: {}

images:
  # The first.

  - name: a.test/a # ü
    tag: v1
    digest: unresolved   # not yet
    taken: never
  - {name: a.test/b, taken: "never", digest: "unresolved", tag: v1} # on one line
  - {name: a.test/d, digest: unresolved, taken: never, tag: v1}
  - name: a.test/c
    tag: v1
    digest: 'ZEROS'
    taken: 2026-01-02 # kept
# Foot.
`

func TestOnlyDigestsAndDaysAreRewritten(t *testing.T) {
	raw := strings.Replace(commented, "ZEROS", zeros, 1)
	l := decode(t, raw)
	all := map[string]string{"a.test/a:v1": ones, "a.test/b:v1": ones, "a.test/d:v1": ones, "a.test/c:v1": zeros}
	out, err := l.Rewritten(all, "2026-11-26")
	if err != nil {
		t.Fatal(err)
	}
	want := strings.NewReplacer(
		"digest: unresolved   #", "digest: "+ones+"   #", "taken: never\n", "taken: 2026-11-26\n",
		`taken: "never", digest: "unresolved"`, "taken: 2026-11-26, digest: "+ones,
		"digest: unresolved, taken: never", "digest: "+ones+", taken: 2026-11-26",
	).Replace(raw)
	if d := cmp.Diff(want, string(out)); d != "" {
		t.Errorf("file (-want +got):\n%s", d)
	}
	again := decode(t, string(out))
	if i := again.Images[1]; i.Digest != ones || i.Taken != "2026-11-26" {
		t.Errorf("the second image is %+v", i)
	}
	if _, err := l.Rewritten(all, "today"); err == nil {
		t.Error("a day that the list itself would refuse: want an error")
	}
	same, err := again.Rewritten(all, "2027-01-01")
	if err != nil || string(same) != string(out) {
		t.Errorf("nothing changed, yet it was rewritten: %v\n%s", err, cmp.Diff(string(out), string(same)))
	}
}

func TestAListThatCannotBeRewrittenIsToldSo(t *testing.T) {
	for name, images := range map[string]string{
		"one digest for two": "- {name: a.test/a, tag: v1, digest: &d unresolved, taken: never}\n- {name: a.test/b, tag: v1, digest: *d, taken: never}\n",
		"merged":             "- &a {name: a.test/a, tag: v1, digest: unresolved, taken: never}\n- {<<: *a, name: a.test/b}\n",
		"over two lines":     "- {name: a.test/a, tag: v1, digest: \"unre\\\n    solved\", taken: never}\n- {name: a.test/b, tag: v1, digest: unresolved, taken: never}\n",
	} {
		t.Run(name, func(t *testing.T) {
			l := decode(t, head+"images:\n"+images)
			if out, err := l.Rewritten(map[string]string{"a.test/a:v1": zeros, "a.test/b:v1": ones}, "2026-11-26"); err == nil || !strings.HasPrefix(err.Error(), "rewriting upstream.yaml: ") {
				t.Errorf("want an error, got %v and\n%s", err, out)
			}
		})
	}
}

func TestAnImageIsNamedWithOrWithoutItsTag(t *testing.T) {
	l := decode(t, strings.Replace(commented, "ZEROS", zeros, 1))
	for _, tc := range []struct{ names, want string }{
		{"", "a.test/a:v1 a.test/b:v1 a.test/d:v1 a.test/c:v1"}, {"a.test/c a.test/b:v1", "a.test/b:v1 a.test/c:v1"},
	} {
		named, err := l.Named(strings.Fields(tc.names))
		var got []string
		for _, i := range named {
			got = append(got, i.Tagged())
		}
		if err != nil || strings.Join(got, " ") != tc.want {
			t.Errorf("%q: want %s, got %s, %v", tc.names, tc.want, got, err)
		}
	}
	_, err := l.Named([]string{"a.test/a:v2", "a.test/a", "a"})
	if want := "upstream.yaml lists no image \"a.test/a:v2\"\nupstream.yaml lists no image \"a\""; err == nil || err.Error() != want {
		t.Errorf("want %s, got %v", want, err)
	}
	part, err := l.Rewritten(map[string]string{"a.test/b:v1": ones}, "2026-11-26")
	if err != nil || strings.Count(string(part), ones) != 1 || strings.Count(string(part), "unresolved") != 2 {
		t.Errorf("one image rewritten: %v\n%s", err, part)
	}
}

func TestEveryUnresolvedImageIsNamedAtOnce(t *testing.T) {
	l := decode(t, strings.Replace(commented, "ZEROS", zeros, 1))
	var open *UnresolvedError
	if err := l.Resolved(l.Images); !errors.As(err, &open) {
		t.Fatalf("want an UnresolvedError, got %v", err)
	}
	if d := cmp.Diff([]string{"a.test/a:v1", "a.test/b:v1", "a.test/d:v1"}, open.Images); d != "" {
		t.Errorf("images (-want +got):\n%s", d)
	}
	if err := l.Resolved(l.Images[3:]); err != nil {
		t.Errorf("all have digests: %v", err)
	}
}

func TestMirrorsOfTheCommandLineOutrankTheFiles(t *testing.T) {
	l := decode(t, head+"images:\n- {name: a.test/a, tag: v1, digest: unresolved, taken: never}\n- {name: b.test/b, tag: v1, digest: unresolved, taken: never}\n"+
		"mirrors: {a.test: c.test/x, b.test: '[::1]:5000'}\n")
	got, err := l.Mirrored([]string{"a.test=127.0.0.1:1/y"})
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(map[string]string{"a.test": "127.0.0.1:1/y", "b.test": "[::1]:5000"}, got); d != "" {
		t.Errorf("mirrors (-want +got):\n%s", d)
	}
	_, err = l.Mirrored([]string{"c.test", "d.test=e.test", "a.test=http://e.test"})
	for _, want := range []string{`"c.test" is not HOST=MIRROR`, `no image of upstream.yaml is at "d.test", there are a.test, b.test`, `"http://e.test" is not a registry`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want an error with %q, got %v", want, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(commented)
	f.Add(head + "images:\n- &a {name: a.test/a, tag: v1, digest: unresolved, taken: never}\n- *a\n")
	f.Fuzz(func(t *testing.T, raw string) {
		l, err := Decode([]byte(raw), "f")
		if err != nil {
			return
		}
		digests := map[string]string{}
		for _, i := range l.Images {
			digests[i.Tagged()] = ones
		}
		out, err := l.Rewritten(digests, "2026-11-26")
		if err != nil {
			return
		}
		again, err := Decode(out, "f")
		if err != nil || len(again.Images) != len(l.Images) || again.Resolved(again.Images) != nil {
			t.Errorf("rewritten it is not the same list: %v\n%s", err, out)
		}
	})
}
