package differential

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestQuotesStandInTheSourcesOfTheAPI(t *testing.T) {
	for _, d := range Differences() {
		t.Run(d.ID, func(t *testing.T) {
			if d.Source == "" {
				if d.ID != "self-traffic" || d.Reference != conceptPage { // on which the API's modules are silent
					t.Error("the difference quotes no file of the API's modules")
				}
				return
			}
			pkg, name := filepath.Split(d.Source)
			dir, err := exec.Command("go", "list", "-f", "{{.Dir}}", strings.TrimSuffix(pkg, "/")).Output()
			if err != nil {
				t.Fatalf("finding %s: %v", pkg, err)
			}
			content, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), name))
			if err != nil {
				t.Fatal(err)
			}
			words := strings.Fields(strings.ReplaceAll(string(content), "//", " "))
			if !strings.Contains(strings.Join(words, " "), d.API) {
				t.Errorf("%s has no %q", d.Source, d.API)
			}
		})
	}
}
