package cni

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"

	"github.com/gapproof/gapproof/images"
	"github.com/gapproof/gapproof/runner/internal/kube"
)

// FieldManager is the owner of applied fields, as the API server records it.
const FieldManager = "gapproof"

const (
	// applyAtOnce bounds the requests under way: enough to keep a fresh API server on two cores busy.
	applyAtOnce = 8
	// establishLimit is how long the API server may take to serve the CRDs; a second is usual.
	establishLimit = 30 * time.Second
	// establishInterval is short because the CNI waits behind it.
	establishInterval = 200 * time.Millisecond
)

// Options are what [Install] and [Ready] can do without.
type Options struct {
	// PodSubnets are the pod address ranges of the cluster. Empty leaves them to the CNI's own discovery.
	PodSubnets []netip.Prefix
	// Limit bounds the wait of Ready. Zero means three minutes.
	Limit time.Duration
	// Log may be nil.
	Log *slog.Logger
	// Progress is told what is waited for, whenever that changes. It may be nil.
	Progress func(detail string)
}

// defaultLimit is what a cold cluster on two cores needs (35 s measured), five times over.
const defaultLimit = 3 * time.Minute

func (o *Options) complete() {
	if o.Limit == 0 {
		o.Limit = defaultLimit
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
}

// Install applies the profile to the cluster and waits until it is ready. Nothing is applied when the manifest or an image is not
// as the lock says ([ErrManifest], [images.ErrNotLocked]); when something cannot become ready the error is a [*NotReadyError].
// Applying is server-side and repeatable: on a cluster that has the profile it changes nothing.
func Install(ctx context.Context, config *rest.Config, p Profile, labDir string, lock *images.Lock, o Options) error {
	o.complete()
	objects, err := Render(p, labDir, lock, o.PodSubnets)
	if err != nil {
		return fmt.Errorf("installing CNI %s: %w", p.Name, err)
	}
	config = rest.CopyConfig(config)
	config.QPS = -1 // bounded by applyAtOnce; the client's own limit would spread fifty small requests over ten seconds
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("installing CNI %s: making a client: %w", p.Name, err)
	}
	dyn, err := dynamic.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("installing CNI %s: making a client: %w", p.Name, err)
	}
	if p.APIServer != nil {
		endpoint, err := apiServerEndpoint(ctx, client)
		if err != nil {
			return fmt.Errorf("installing CNI %s: %w", p.Name, err)
		}
		objects = append(objects, endpointConfigMap(*p.APIServer, endpoint))
	}
	a := &applier{client: dyn, mapper: mapper(client.Discovery())}
	o.Progress(fmt.Sprintf("applying %d objects", len(objects)))
	if err := a.applyAll(ctx, objects); err != nil {
		return fmt.Errorf("installing CNI %s: %w", p.Name, err)
	}
	if err := Ready(ctx, client, p, o); err != nil {
		return fmt.Errorf("installing CNI %s: %w", p.Name, err)
	}
	return nil
}

// apiServerEndpoint is the address at which the API server says it serves, the first where there are several.
func apiServerEndpoint(ctx context.Context, client kubernetes.Interface) (netip.AddrPort, error) {
	published, err := client.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault).List(ctx, metav1.ListOptions{
		LabelSelector: discoveryv1.LabelServiceName + "=kubernetes",
	})
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("reading the API server's endpoints: %w", err)
	}
	for _, s := range published.Items {
		if len(s.Endpoints) == 0 || len(s.Endpoints[0].Addresses) == 0 || len(s.Ports) == 0 || s.Ports[0].Port == nil {
			continue
		}
		address, err := netip.ParseAddr(s.Endpoints[0].Addresses[0])
		if err != nil {
			return netip.AddrPort{}, fmt.Errorf("reading the API server's endpoints: %w", err)
		}
		return netip.AddrPortFrom(address, uint16(*s.Ports[0].Port)), nil
	}
	return netip.AddrPort{}, errors.New("reading the API server's endpoints: it has published none")
}

// endpointConfigMap tells pods that load it as their environment where the API server is.
func endpointConfigMap(t Target, endpoint netip.AddrPort) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": t.APIVersion, "kind": t.Kind,
		"metadata": map[string]any{"namespace": t.Namespace, "name": t.Name},
		"data": map[string]any{
			"KUBERNETES_SERVICE_HOST": endpoint.Addr().String(),
			"KUBERNETES_SERVICE_PORT": strconv.Itoa(int(endpoint.Port())),
		},
	}}
}

func mapper(d discovery.DiscoveryInterface) meta.RESTMapper {
	return restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(d))
}

// applier applies objects to one cluster.
type applier struct {
	client dynamic.Interface
	mapper meta.RESTMapper
}

// applyAll applies definitions and everything that pods need first, then, once the API server serves the definitions, the
// workloads: their pods would otherwise start only to fail and be backed off.
func (a *applier) applyAll(ctx context.Context, objects []*unstructured.Unstructured) error {
	var first, workloads []*unstructured.Unstructured
	var definitions []string
	for _, u := range objects {
		switch {
		case u.GroupVersionKind().GroupKind() == schema.GroupKind{Group: "apiextensions.k8s.io", Kind: "CustomResourceDefinition"}:
			definitions = append(definitions, u.GetName())
			first = append(first, u)
		case u.GroupVersionKind().Group == "apps":
			workloads = append(workloads, u)
		default:
			first = append(first, u)
		}
	}
	if err := a.applyEach(ctx, first); err != nil {
		return err
	}
	if err := a.established(ctx, definitions); err != nil {
		return err
	}
	return a.applyEach(ctx, workloads)
}

func (a *applier) applyEach(ctx context.Context, objects []*unstructured.Unstructured) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(applyAtOnce)
	for _, u := range objects {
		g.Go(func() error {
			gvk := u.GroupVersionKind()
			m, err := a.mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
			if err != nil {
				return fmt.Errorf("finding the resource of %s: %w", targetOf(u), err)
			}
			var r dynamic.ResourceInterface = a.client.Resource(m.Resource)
			if m.Scope.Name() == meta.RESTScopeNameNamespace {
				r = a.client.Resource(m.Resource).Namespace(u.GetNamespace())
			}
			if _, err := r.Apply(ctx, u.GetName(), u, metav1.ApplyOptions{FieldManager: FieldManager, Force: true}); err != nil {
				return fmt.Errorf("applying %s: %w", targetOf(u), err)
			}
			return nil
		})
	}
	return g.Wait()
}

// definitionResource is read through the dynamic client, which spares the module that has its Go type.
func definitionResource() schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
}

// established waits until the API server serves every definition.
func (a *applier) established(ctx context.Context, names []string) error {
	if len(names) == 0 {
		return nil
	}
	_, err := kube.Poll(ctx, "the CNI's CustomResourceDefinitions", establishInterval, establishLimit, func(ctx context.Context) (bool, string, error) {
		list, err := a.client.Resource(definitionResource()).List(ctx, metav1.ListOptions{})
		if err != nil {
			return false, err.Error(), nil // an API server under load may refuse one request
		}
		served := map[string]bool{}
		for i := range list.Items {
			served[list.Items[i].GetName()] = hasCondition(&list.Items[i], "Established")
		}
		missing := slices.DeleteFunc(slices.Clone(names), func(n string) bool { return served[n] })
		return len(missing) == 0, "not served: " + strings.Join(missing, ", "), nil
	})
	return err
}

func hasCondition(u *unstructured.Unstructured, kind string) bool {
	conditions, _, _ := unstructured.NestedSlice(u.Object, "status", "conditions")
	for _, c := range conditions {
		if m, ok := c.(map[string]any); ok && m["type"] == kind && m["status"] == string(metav1.ConditionTrue) {
			return true
		}
	}
	return false
}
