// Package kube is the runner's way to the API server: a loaded kubeconfig as a [Cluster], and a [Tunnel] to one pod's loopback.
//
// A Cluster carries the client-go configuration and clientset that the adapters take as parameters. A Tunnel is one
// long-lived port-forward connection; each Dial opens one more stream on it, so an agent is reached without pods/exec and
// without a path that a NetworkPolicy could cut.
//
// The trap: closing a stream half-closes it, closing the Tunnel ends every stream; a Tunnel that lost its pod never comes
// back, it must be opened anew.
package kube

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Labels and annotations of every object a run makes.
const (
	// RunLabel carries the run's identifier; clean-up selects by it.
	RunLabel = "gapproof.dev/run"
	// RoleLabel tells what the object is for: fixture, beacon or policy.
	RoleLabel = "gapproof.dev/role"
	// ManagedLabel marks everything gapproof made, whatever the run.
	ManagedLabel = "app.kubernetes.io/managed-by"
	// Manager is the value of ManagedLabel and the field manager of writes.
	Manager = "gapproof"
)

// The client-side rate limit. Applying a world writes some dozens of objects at once, which client-go's default of 5 per
// second would stretch to tens of seconds; API priority and fairness on the server still protects it.
const (
	queriesPerSecond = 100
	queryBurst       = 200
)

// connectTimeout bounds one request of the reachability check, so that an unreachable server is told within seconds.
const connectTimeout = 10 * time.Second

// ErrUnreachable reports that the API server of a kubeconfig did not answer.
var ErrUnreachable = errors.New("API server not reachable")

// ErrConfig reports a kubeconfig that could not be read or has no usable context.
var ErrConfig = errors.New("kubeconfig not usable")

// Cluster is one API server. Safe for concurrent use; nothing in it needs closing.
type Cluster struct {
	Config *rest.Config
	Client kubernetes.Interface
	// Context is the kubeconfig context in use.
	Context string
	// Version is the server's, such as "v1.37.2".
	Version string
}

// Load reads the kubeconfig at path ("" for the default rules: KUBECONFIG, then the home directory's, then in-cluster) and
// asks the server for its version. Errors match [ErrConfig] or [ErrUnreachable].
func Load(ctx context.Context, path string, contextName string) (*Cluster, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = path
	overrides := &clientcmd.ConfigOverrides{CurrentContext: contextName}
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, overrides)
	config, err := loader.ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("loading the kubeconfig %s: %w: %w", path, ErrConfig, err)
	}
	config.QPS, config.Burst = queriesPerSecond, queryBurst
	config.UserAgent = Manager
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("loading the kubeconfig %s: %w: %w", path, ErrConfig, err)
	}
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	body, err := client.Discovery().RESTClient().Get().AbsPath("/version").Do(ctx).Raw()
	if err != nil {
		return nil, fmt.Errorf("asking %s for its version: %w: %w", config.Host, ErrUnreachable, err)
	}
	version, err := parseVersion(body)
	if err != nil {
		return nil, fmt.Errorf("asking %s for its version: %w", config.Host, err)
	}
	raw, err := loader.RawConfig()
	if err != nil {
		return nil, fmt.Errorf("loading the kubeconfig %s: %w: %w", path, ErrConfig, err)
	}
	if contextName == "" {
		contextName = raw.CurrentContext
	}
	return &Cluster{Config: config, Client: client, Context: contextName, Version: version}, nil
}

// Poll asks condition every interval until it answers true, fails, or limit has passed; then the error names what was
// waited for and the last state condition reported. It returns how long it took.
func Poll(ctx context.Context, what string, interval, limit time.Duration, condition func(context.Context) (done bool, state string, err error)) (time.Duration, error) {
	started := time.Now()
	last := "nothing seen yet"
	err := wait.PollUntilContextTimeout(ctx, interval, limit, true, func(ctx context.Context) (bool, error) {
		done, state, err := condition(ctx)
		if state != "" {
			last = state
		}
		return done, err
	})
	took := time.Since(started)
	switch {
	case err == nil:
		return took, nil
	case ctx.Err() != nil:
		return took, fmt.Errorf("waiting for %s: %w", what, context.Cause(ctx))
	case wait.Interrupted(err):
		return took, fmt.Errorf("waiting for %s: not so after %s; last state: %s", what, limit, last)
	default:
		return took, fmt.Errorf("waiting for %s: %w", what, err)
	}
}

// Labels are the labels of an object of this run with this role.
func Labels(run, role string) map[string]string {
	return map[string]string{RunLabel: run, RoleLabel: role, ManagedLabel: Manager}
}

// ListRun selects everything of one run, or of every run when run is empty.
func ListRun(run string) metav1.ListOptions {
	selector := []string{ManagedLabel + "=" + Manager}
	if run == "" {
		selector = append(selector, RunLabel)
	} else {
		selector = append(selector, RunLabel+"="+run)
	}
	return metav1.ListOptions{LabelSelector: strings.Join(selector, ",")}
}
