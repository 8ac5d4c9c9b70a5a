package kustomize

//lint:file-ignore SA1019 old kustomizations still use the deprecated fields, and each of them can name something remote

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"sigs.k8s.io/kustomize/api/types"
)

// errRemote is what a path is refused for.
var errRemote = errors.New("is not a local path, and nothing is fetched")

// user begins the path of a git repository reached over ssh.
var user = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9-]*@`)

// remote tells whether the library would fetch a path instead of reading it: an http or https address, or what its repository
// parser takes for one (https://github.com/kubernetes-sigs/kustomize/blob/master/api/internal/git/repospec.go). It is wider than theirs: local paths
// hold no colon.
func remote(p string) error {
	if strings.Contains(p, "\n") {
		return nil // YAML written in place
	}
	if strings.Contains(p, ":") || user.MatchString(p) || strings.HasPrefix(strings.ToLower(p), "github.com/") {
		return errRemote
	}
	return nil
}

// check reads a kustomization file as the library does, and lists what it may not ask for. It is nil when the file cannot be read.
func check(file string, content []byte) (*types.Kustomization, Refusals) {
	var k types.Kustomization
	if err := k.Unmarshal(content); err != nil {
		return nil, Refusals{{File: file, Message: strings.TrimPrefix(strings.TrimSpace(err.Error()), "invalid Kustomization: ")}}
	}
	c := checker{file: file}
	c.forbid("generators", len(k.Generators), "generators are plugins", "list what they generate in resources")
	c.forbid("transformers", len(k.Transformers), "transformers are plugins", "use patches, labels or replacements")
	c.forbid("validators", len(k.Validators), "validators are plugins", "leave them out")
	c.forbid("helmCharts", len(k.HelmCharts)+len(k.HelmChartInflationGenerator), "Helm charts are rendered by a plugin", "render the chart with helm template and list the file")
	c.paths("resources", k.Resources)
	c.paths("bases", k.Bases)
	c.paths("components", k.Components)
	c.paths("crds", k.Crds)
	c.paths("configurations", k.Configurations)
	for i, p := range k.PatchesStrategicMerge {
		c.path(fmt.Sprintf("patchesStrategicMerge[%d]", i), string(p))
	}
	for i := range k.Patches {
		c.path(fmt.Sprintf("patches[%d].path", i), k.Patches[i].Path)
	}
	for i := range k.PatchesJson6902 {
		c.path(fmt.Sprintf("patchesJson6902[%d].path", i), k.PatchesJson6902[i].Path)
	}
	for i := range k.Replacements {
		c.path(fmt.Sprintf("replacements[%d].path", i), k.Replacements[i].Path)
	}
	c.path("openapi.path", k.OpenAPI["path"])
	for i := range k.ConfigMapGenerator {
		c.sources(fmt.Sprintf("configMapGenerator[%d]", i), k.ConfigMapGenerator[i].KvPairSources)
	}
	for i := range k.SecretGenerator {
		c.sources(fmt.Sprintf("secretGenerator[%d]", i), k.SecretGenerator[i].KvPairSources)
	}
	return &k, c.refusals
}

type checker struct {
	file     string
	refusals Refusals
}

// forbid refuses a field that is written with any entry.
func (c *checker) forbid(field string, entries int, message, hint string) {
	if entries > 0 {
		c.refusals = append(c.refusals, Refusal{File: c.file, Field: field, Message: message + ", and none is run", Hint: hint})
	}
}

func (c *checker) path(field, p string) {
	if err := remote(p); err != nil {
		c.refusals = append(c.refusals, Refusal{File: c.file, Field: field, Value: p, Message: p + " " + err.Error(), Hint: "copy it beside the kustomization and name the copy"})
	}
}

func (c *checker) paths(field string, list []string) {
	for i, p := range list {
		c.path(fmt.Sprintf("%s[%d]", field, i), p)
	}
}

// sources checks the files of a ConfigMap or Secret generator, which may have a key before them: "key=path".
func (c *checker) sources(field string, s types.KvPairSources) {
	for i, f := range s.FileSources {
		if _, after, keyed := strings.Cut(f, "="); keyed {
			f = after
		}
		c.path(fmt.Sprintf("%s.files[%d]", field, i), f)
	}
	c.paths(field+".envs", s.EnvSources)
	c.path(field+".env", s.EnvSource)
}
