package cni

import (
	"slices"
	"strings"
	"sync"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	clienttesting "k8s.io/client-go/testing"
)

// The order matters: a DaemonSet ahead of its definitions starts pods that crash, and their back-off costs more than the wait.
func TestWorkloadsAreAppliedOnceTheDefinitionsAreServed(t *testing.T) {
	objects, err := decodeManifest([]byte(manifest + `---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: things.example.org}
`))
	if err != nil {
		t.Fatal(err)
	}
	mapper := meta.NewDefaultRESTMapper(nil)
	mapper.Add(schema.GroupVersionKind{Version: "v1", Kind: "ConfigMap"}, meta.RESTScopeNamespace)
	mapper.Add(schema.GroupVersionKind{Group: "apps", Version: "v1", Kind: "DaemonSet"}, meta.RESTScopeNamespace)
	mapper.Add(schema.GroupVersionKind{Group: "apiextensions.k8s.io", Version: "v1", Kind: "CustomResourceDefinition"}, meta.RESTScopeRoot)
	client := dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(),
		map[schema.GroupVersionResource]string{definitionResource(): "CustomResourceDefinitionList"})
	var mu sync.Mutex
	var seen []string
	lists := 0
	client.PrependReactor("patch", "*", func(a clienttesting.Action) (bool, runtime.Object, error) {
		mu.Lock()
		defer mu.Unlock()
		p := a.(clienttesting.PatchAction)
		seen = append(seen, "apply "+p.GetNamespace()+"/"+p.GetName())
		return true, &unstructured.Unstructured{Object: map[string]any{}}, nil
	})
	client.PrependReactor("list", "customresourcedefinitions", func(clienttesting.Action) (bool, runtime.Object, error) {
		mu.Lock()
		defer mu.Unlock()
		lists++
		status := "False"
		if lists > 1 {
			status = "True"
		}
		seen = append(seen, "list "+status)
		d := unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": map[string]any{"name": "things.example.org"},
			"status": map[string]any{"conditions": []any{map[string]any{"type": "Established", "status": status}}},
		}}
		list := &unstructured.UnstructuredList{Items: []unstructured.Unstructured{d}}
		list.SetAPIVersion("apiextensions.k8s.io/v1")
		list.SetKind("CustomResourceDefinitionList")
		return true, list, nil
	})
	a := &applier{client: client, mapper: mapper}
	if err := a.applyAll(t.Context(), objects); err != nil {
		t.Fatal(err)
	}
	slices.Sort(seen[:2]) // these two go side by side
	want := "apply /things.example.org, apply kube-system/settings, list False, list True, apply kube-system/agent"
	if got := strings.Join(seen, ", "); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestAnObjectOfAnUnknownKindIsNamed(t *testing.T) {
	objects, err := decodeManifest([]byte("{apiVersion: example.org/v1, kind: Thing, metadata: {name: x}}"))
	if err != nil {
		t.Fatal(err)
	}
	a := &applier{client: dynamicfake.NewSimpleDynamicClient(runtime.NewScheme()), mapper: meta.NewDefaultRESTMapper(nil)}
	if err := a.applyAll(t.Context(), objects); err == nil || !strings.Contains(err.Error(), "Thing x") {
		t.Errorf("got %v, want the object named", err)
	}
}
