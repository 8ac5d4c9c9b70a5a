package host

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gapproof/gapproof/runner/host/ocifront"
)

func TestRegisterRuntime(t *testing.T) {
	const path = "/state/bin/gapproof-oci"
	const registered = `{"default-runtime":"gapproof-oci","runtimes":{"gapproof-oci":{"path":"/state/bin/gapproof-oci"}}}`
	tests := []struct {
		name, config, want string // an empty want means unchanged
	}{
		{"no file at all", ``, registered},
		{"an empty object", `{}`, registered},
		{"null runtimes", `{"runtimes":null}`, registered},
		{"the stock runtime named on purpose", `{"default-runtime":"runc"}`, registered},
		{"registered already", registered, ``},
		{"registered at another path", strings.ReplaceAll(registered, "/state", "/old"), registered},
		{"registered, but not the default", `{"runtimes":{"gapproof-oci":{"path":"/state/bin/gapproof-oci"}}}`, registered},
		{"everything else is kept",
			`{"log-opts":{"max-size":"1<m"},"max-concurrent-downloads":12345678901234567890,"runtimes":{"crun":{"path":"/c","runtimeArgs":["-x"]}}}`,
			`{"default-runtime":"gapproof-oci","log-opts":{"max-size":"1<m"},"max-concurrent-downloads":12345678901234567890,"runtimes":{"crun":{"path":"/c","runtimeArgs":["-x"]},"gapproof-oci":{"path":"/state/bin/gapproof-oci"}}}`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, changed, err := registerRuntime([]byte(test.config), path)
			if err != nil {
				t.Fatal(err)
			}
			if want := test.want != ""; changed != want {
				t.Errorf("changed: want %v, got %v", want, changed)
			}
			want := test.want
			if want == "" {
				want = test.config
			}
			if diff := cmp.Diff(decode(t, []byte(want)), decode(t, got)); diff != "" {
				t.Errorf("configuration (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRegisterRuntimeRefuses(t *testing.T) {
	tests := []struct {
		name, config, want string
		sentinel           error
	}{
		{"a default runtime that somebody chose", `{"default-runtime":"nvidia"}`, `default-runtime is "nvidia"`, ErrRuntimeTaken},
		{"what is no JSON", `{`, "decoding", nil},
		{"what is no object", `null`, "want a JSON object, got null", nil},
		{"a default runtime that is no text", `{"default-runtime":1}`, "decoding default-runtime", nil},
		{"runtimes that are a list", `{"runtimes":[]}`, "decoding runtimes", nil},
		{"our runtime as a text", `{"runtimes":{"gapproof-oci":"x"}}`, "decoding runtimes.gapproof-oci", nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, changed, err := registerRuntime([]byte(test.config), "/p")
			if err == nil || changed || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("want an error with %q and no change, got %v, %v", test.want, err, changed)
			}
			if test.sentinel != nil && !errors.Is(err, test.sentinel) {
				t.Errorf("want %v, got %v", test.sentinel, err)
			}
		})
	}
}

// FuzzRegisterRuntime holds that registering is final and keeps every key that is not ours.
func FuzzRegisterRuntime(f *testing.F) {
	f.Add([]byte(`{"runtimes":{"crun":{"path":"/c"}},"debug":true}`))
	f.Add([]byte(`{"default-runtime":"runc","Default-Runtime":"x"}`))
	f.Fuzz(func(t *testing.T, config []byte) {
		merged, changed, err := registerRuntime(config, "/p")
		if err != nil || !changed {
			return
		}
		if _, again, err := registerRuntime(merged, "/p"); again || err != nil {
			t.Fatalf("registering again: changed %v, %v", again, err)
		}
		if diff := cmp.Diff(foreign(decode(t, config)), foreign(decode(t, merged))); diff != "" {
			t.Fatalf("keys of others (-before +after):\n%s", diff)
		}
	})
}

// foreign is the configuration without what registerRuntime may change.
func foreign(config map[string]any) map[string]any {
	delete(config, "default-runtime")
	runtimes, _ := config["runtimes"].(map[string]any)
	delete(runtimes, ocifront.Name)
	if len(runtimes) == 0 {
		delete(config, "runtimes")
	}
	return config
}

func decode(t *testing.T, text []byte) map[string]any {
	t.Helper()
	members := map[string]any{}
	if strings.TrimSpace(string(text)) == "" {
		return members
	}
	decoder := json.NewDecoder(strings.NewReader(string(text)))
	decoder.UseNumber()
	if err := decoder.Decode(&members); err != nil {
		t.Fatal(err)
	}
	return members
}

func TestBackUpNeverOverwritesAnotherBackup(t *testing.T) {
	path := filepath.Join(t.TempDir(), "daemon.json")
	var got []string
	for _, content := range []string{"one", "two", "one", "two", "three"} {
		backup, err := backUp(path, []byte(content))
		if err != nil {
			t.Fatal(err)
		}
		kept, err := os.ReadFile(backup)
		if err != nil || string(kept) != content {
			t.Errorf("%s: want %q, got %q, %v", backup, content, kept, err)
		}
		got = append(got, strings.TrimPrefix(backup, path+".before-gapproof"))
	}
	if diff := cmp.Diff([]string{"", ".1", "", ".1", ".2"}, got); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
}
