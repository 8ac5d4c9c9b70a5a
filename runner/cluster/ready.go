package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/gapproof/gapproof/runner/internal/kube"
)

const (
	// nodesLimit is how long nodes may take from an installed pod network to Ready: two seconds were measured, so a minute means
	// that something is wrong which its logs will tell.
	nodesLimit = time.Minute
	// nodesInterval is short as one request costs the API server nothing to speak of.
	nodesInterval = 250 * time.Millisecond
	// healthLimit bounds the look at a cluster that may not be there any more.
	healthLimit = 10 * time.Second
)

// awaitNodes waits until every node has registered and, where a pod network was installed, is Ready.
func (u *up) awaitNodes(ctx context.Context) (string, error) {
	config, err := u.cluster.RESTConfig()
	if err != nil {
		return "", err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return "", fmt.Errorf("making a client for cluster %s: %w", u.o.Name, err)
	}
	what := "the nodes to register"
	if u.o.Install != nil {
		what = "the nodes to be Ready"
	}
	_, err = kube.Poll(ctx, what, nodesInterval, nodesLimit, func(ctx context.Context) (bool, string, error) {
		list, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err != nil {
			return false, err.Error(), nil // an API server under load may refuse one request
		}
		if missing := nodesMissing(list.Items, u.cluster.Nodes, u.o.Install != nil); missing != nil {
			return false, missing.Error(), nil
		}
		return true, "", nil
	})
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%d nodes", len(u.cluster.Nodes)), nil
}

// nodesMissing says which of the wanted nodes are not there, or not Ready where ready is asked for; nil when none.
func nodesMissing(have []corev1.Node, want []Node, ready bool) error {
	reason := map[string]string{}
	for _, n := range have {
		why := "has no Ready condition"
		for _, c := range n.Status.Conditions {
			if c.Type == corev1.NodeReady {
				why = fmt.Sprintf("is not Ready: %s: %s", c.Reason, c.Message)
				if c.Status == corev1.ConditionTrue {
					why = ""
				}
			}
		}
		reason[n.Name] = why
	}
	var all []string
	for _, n := range want {
		why, registered := reason[n.Name]
		switch {
		case !registered:
			all = append(all, n.Name+" has not registered")
		case ready && why != "":
			all = append(all, n.Name+" "+why)
		}
	}
	if len(all) == 0 {
		return nil
	}
	sort.Strings(all)
	return errors.New(strings.Join(all, "; "))
}

// healthy says what keeps the recorded cluster from being used as it is; nil when nothing does.
func (e engine) healthy(ctx context.Context, own belongings, r *record) error {
	c := r.Cluster
	ctx, cancel := context.WithTimeout(ctx, healthLimit)
	defer cancel()
	if len(own.nodes) != len(c.Nodes) {
		return fmt.Errorf("%d of %d node containers are there", len(own.nodes), len(c.Nodes))
	}
	if len(own.helpers) == 0 {
		return errors.New("the mirror's container is gone")
	}
	if c.Seal != nil && !slices.ContainsFunc(own.helpers, func(k container) bool { return k.name == sinkName(c.Name) }) {
		return errors.New("the sink's container is gone")
	}
	for _, k := range append(own.nodes, own.helpers...) {
		if k.state != "running" {
			return fmt.Errorf("container %s is %s", k.name, k.state)
		}
		// An engine that comes back starts the containers too, with whatever an unclean end left in them: nodes call themselves Ready
		// then, while pods are not started any more.
		started, err := e.started(ctx, k.id)
		if err != nil {
			return err
		}
		if started.After(r.Created) {
			return fmt.Errorf("container %s was started again at %s", k.name, started.UTC().Format(time.RFC3339))
		}
	}
	if err := mirrorAnswers(ctx, c.Mirror); err != nil {
		return err
	}
	config, err := c.RESTConfig()
	if err != nil {
		return err
	}
	config.Timeout = healthLimit
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("making a client: %w", err)
	}
	list, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("listing nodes: %w", err)
	}
	return nodesMissing(list.Items, c.Nodes, r.PodNetwork)
}

// started is when the container's process was last started.
func (e engine) started(ctx context.Context, id string) (time.Time, error) {
	text, err := e.docker(ctx, nil, "container", "inspect", "--format", "{{.State.StartedAt}}", id)
	if err != nil {
		return time.Time{}, fmt.Errorf("asking when container %s was started: %w", id, err)
	}
	at, err := time.Parse(time.RFC3339Nano, strings.TrimSpace(string(text)))
	if err != nil {
		return time.Time{}, fmt.Errorf("asking when container %s was started: %w", id, err)
	}
	return at, nil
}
