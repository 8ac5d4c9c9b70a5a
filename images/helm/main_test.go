package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// renderSmall renders the chart in testdata with values, and more arguments where a test wants to spoil something.
func renderSmall(t testing.TB, values string, more ...string) (string, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "values.yaml")
	if err := os.WriteFile(file, []byte(values), 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	err := run(append([]string{
		"-chart", "testdata/chart", "-values", file, "-name", "lab", "-namespace", "kube-system", "-kube-version", "v1.37.2",
		"-definitions", "testdata/definitions",
	}, more...), &out)
	return out.String(), err
}

func TestDefinitionsGoAheadOfTheChartsObjects(t *testing.T) {
	want, err := os.ReadFile("testdata/want.yaml")
	if err != nil {
		t.Fatal(err)
	}
	got, err := renderSmall(t, "greeting: good day")
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

func TestADefinitionMayBeNamedByItself(t *testing.T) {
	got, err := renderSmall(t, "", "-definitions", "testdata/definitions/first.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(got, "first.example.test"); n != 2 {
		t.Errorf("the definition is there %d times, want 2: once of the folder, once of the file", n)
	}
}

func TestRenderRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		values string
		more   []string
		want   string
	}{
		"a chart that makes up a password":      {"password: made up", nil, "something else each time, first at \"stringData: {password:"},
		"values that are no YAML":               {"{", nil, "reading values"},
		"a version that the chart cannot serve": {"", []string{"-kube-version", "v1.29.0"}, "the chart wants Kubernetes >= 1.30.0-0, not v1.29.0"},
		"a version that is none":                {"", []string{"-kube-version", "newest"}, `version of Kubernetes "newest"`},
		"a chart that is not there":             {"", []string{"-chart", "testdata/none"}, "loading the chart"},
		"a folder without definitions":          {"", []string{"-definitions", "testdata/chart/templates/none"}, "there is no .yaml file"},
		"values that are not there":             {"", []string{"-values", "testdata/none.yaml"}, "no such file"},
		"arguments that nobody reads":           {"", []string{"more"}, `unexpected arguments ["more"]`},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := renderSmall(t, c.values, c.more...)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("want an error with %q, got %v", c.want, err)
			}
			if got != "" {
				t.Errorf("something was printed all the same:\n%s", got)
			}
		})
	}
}
