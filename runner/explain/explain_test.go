package explain_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gapproof/gapproof/runner/explain"
	"github.com/gapproof/gapproof/runner/manifest"
	"github.com/gapproof/gapproof/runner/reach"
	"github.com/gapproof/gapproof/scenarios"
)

var update = flag.Bool("update", false, "write the golden files anew")

func load(t testing.TB) (*manifest.Set, *reach.Engine) {
	t.Helper()
	manifests, err := scenarios.ReadManifestsFS(os.DirFS("testdata"), []string{"shop.yaml"}, scenarios.ManifestOptions{DefaultNamespace: "shop"})
	if err != nil {
		t.Fatal(err)
	}
	objects, err := manifests.Objects(nil)
	if err != nil {
		t.Fatal(err)
	}
	set := manifest.Of(objects)
	engine, err := reach.Compile(set.World, set.Bare())
	if err != nil {
		t.Fatal(err)
	}
	return set, engine
}

func ask(t testing.TB, question string) (*explain.Report, error) {
	t.Helper()
	set, engine := load(t)
	words := strings.Fields(question)
	source, err := explain.ParseSource(words[0])
	if err != nil {
		t.Fatal(err)
	}
	destination, err := explain.ParseDestination(words[1])
	if err != nil {
		t.Fatal(err)
	}
	port, err := explain.ParsePort(words[2])
	if err != nil {
		t.Fatal(err)
	}
	return explain.Ask(engine, set, source, destination, port, explain.Options{})
}

func TestAnswersNameTheFieldAndItsLine(t *testing.T) {
	for name, question := range map[string]string{
		"allowed-by-a-rule":            "shop/web shop/db 5432",
		"denied-by-a-label":            "shop/wbe shop/db 5432",
		"denied-by-a-port":             "shop/web shop/db 5433",
		"denied-without-any-rule":      "shop/db shop/web 8080",
		"allowed-because-not-isolated": "shop/web shop/wbe 80",
		"from-outside-by-ip-block":     "203.0.113.7 shop/web TCP/8080",
		"from-outside-taken-out":       "203.0.113.200 shop/web TCP/8080",
		"within-one-pod":               "shop/db shop/db 5432",
		"to-each-backend":              "shop/wbe service:shop/all TCP/80",
		"from-the-host":                "shop/host shop/db 5432",
	} {
		t.Run(name, func(t *testing.T) {
			report, err := ask(t, question)
			if err != nil {
				t.Fatal(err)
			}
			var got bytes.Buffer
			if err := explain.WriteText(&got, report); err != nil {
				t.Fatal(err)
			}
			golden := filepath.Join("testdata", name+".txt")
			if *update {
				if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got.String()); diff != "" {
				t.Errorf("answer to %s (-want +got):\n%s", question, diff)
			}
		})
	}
}

func TestJSONReadsBackAsTheReport(t *testing.T) {
	report, err := ask(t, "shop/wbe service:shop/all 80")
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := explain.WriteJSON(&b, report); err != nil {
		t.Fatal(err)
	}
	var back explain.Report
	if err := json.Unmarshal(b.Bytes(), &back); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(*report, back); diff != "" {
		t.Errorf("report (-want +got):\n%s", diff)
	}
	if len(back.Answers) != 2 || back.Verdict != reach.Deny {
		t.Errorf("want deny from two answers, got %s from %d", back.Verdict, len(back.Answers))
	}
}

func TestQuestionsWithoutAnAnswerSayWhatIsThere(t *testing.T) {
	for name, tc := range map[string]struct {
		question string
		is       error
		want     string
	}{
		"an unknown pod":                   {"shop/wb shop/db 5432", reach.ErrUnknownPod, "finding pod shop/wb"},
		"an unknown Service":               {"shop/web service:shop/none 80", explain.ErrUnknown, "finding service shop/none"},
		"a port the Service lacks":         {"shop/web service:shop/all 81", explain.ErrUnknown, "TCP/81, the Service has TCP/80"},
		"a Service that nothing is behind": {"shop/web service:shop/empty 80", explain.ErrNoBackend, "service:shop/empty"},
		"a target port that no pod has":    {"shop/web service:shop/misnamed 80", explain.ErrNoBackend, "service:shop/misnamed"},
		"two ends outside of the cluster":  {"203.0.113.1 203.0.113.2 80", nil, "neither end is a pod"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ask(t, tc.question)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("want an error with %q, got %v", tc.want, err)
			}
			if tc.is != nil && !errors.Is(err, tc.is) {
				t.Errorf("want %v in %v", tc.is, err)
			}
		})
	}
	_, err := ask(t, "shop/wb shop/db 5432")
	var unknown *explain.UnknownPodError
	if !errors.As(err, &unknown) || unknown.Hint() != "there are shop/db, shop/host, shop/wbe, shop/web" {
		t.Errorf("want a hint with the pods of shop, got %v", unknown)
	}
}

func TestTargetsAndPortsThatAreNoneAreRefused(t *testing.T) {
	for _, s := range []string{"", "web", "a/b/c", "/web", "shop/", "service:shop/web", "1.2.3"} {
		if got, err := explain.ParseSource(s); err == nil {
			t.Errorf("source %q: want an error, got %+v", s, got)
		}
	}
	for _, s := range []string{"", "web", "service:", "service:web", "service:a/b/c"} {
		if got, err := explain.ParseDestination(s); err == nil {
			t.Errorf("destination %q: want an error, got %+v", s, got)
		}
	}
	for _, s := range []string{"", "0", "65536", "TCP/", "ICMP/1", "TCP/80/90", "-1", "http"} {
		if got, err := explain.ParsePort(s); err == nil {
			t.Errorf("port %q: want an error, got %+v", s, got)
		}
	}
	for in, want := range map[string]string{"80": "TCP/80", "udp/53": "UDP/53", "SCTP/65535": "SCTP/65535"} {
		if got, err := explain.ParsePort(in); err != nil || got.String() != want {
			t.Errorf("port %q: want %s, got %s, %v", in, want, got, err)
		}
	}
	if got, err := explain.ParseSource("::ffff:10.0.0.1"); err != nil || got.String() != "10.0.0.1" {
		t.Errorf("a mapped address: want 10.0.0.1, got %s, %v", got, err)
	}
}
