// Command none is the node agent of a pod network that enforces nothing: the one on which the instrument tests itself.
//
// On each node it writes a CNI configuration of the reference plugins (ptp, which routes, with host-local addresses out of the node's own
// podCIDRs) and keeps one route per podCIDR of every other node, through that node's address. It watches nodes and does no more:
// NetworkPolicies are accepted by the API server and read by nobody.
//
// ptp and not bridge, because pods of one bridge answer one another below the routing layer, where the answer of a Service's backend is
// only translated back on kernels with br_netfilter. The trap: routes reach other nodes without encapsulation, so all nodes must share a
// subnet, as kind's do.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

const (
	// nodeVariable is filled from the downward API.
	nodeVariable = "NODE_NAME"
	// confDir is where containerd looks for networks; the first file by name is used.
	confDir = "/etc/cni/net.d"
	// confName is our configuration's file.
	confName = "10-gapproof-none.conflist"
	// again is how often routes are set even when no node has changed: something else may have removed one, or a command failed.
	again = 10 * time.Second
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "none:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	own := os.Getenv(nodeVariable)
	if own == "" {
		return fmt.Errorf("reading %s: it is empty; the manifest fills it from spec.nodeName", nodeVariable)
	}
	config, err := rest.InClusterConfig()
	if err != nil {
		return fmt.Errorf("reading the pod's API server configuration: %w", err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("making a client: %w", err)
	}
	factory := informers.NewSharedInformerFactory(client, 0)
	nodes := factory.Core().V1().Nodes()
	changed := make(chan struct{}, 1)
	_, err = nodes.Informer().AddEventHandler(cache.ResourceEventHandlerDetailedFuncs{
		AddFunc:    func(any, bool) { wake(changed) },
		UpdateFunc: func(any, any) { wake(changed) },
		DeleteFunc: func(any) { wake(changed) },
	})
	if err != nil {
		return fmt.Errorf("watching nodes: %w", err)
	}
	factory.StartWithContext(ctx)
	defer factory.Shutdown()
	return keep(ctx, own, nodes.Lister(), changed)
}

// wake leaves one signal; a second before it is taken says nothing new.
func wake(changed chan<- struct{}) {
	select {
	case changed <- struct{}{}:
	default:
	}
}

// keep makes the node as the network wants it after every change and every so often, until ctx ends.
func keep(ctx context.Context, own string, nodes corelisters.NodeLister, changed <-chan struct{}) error {
	log := slog.New(slog.NewJSONHandler(os.Stderr, nil))
	ticker := time.NewTicker(again)
	defer ticker.Stop()
	var set network
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-ticker.C:
		}
		all, err := nodes.List(labels.Everything())
		if err != nil {
			return fmt.Errorf("listing nodes: %w", err)
		}
		want, err := networkOf(own, all)
		if err == nil {
			err = errors.Join(want.writeConfiguration(confDir), want.route(ctx, set.routes))
		}
		if err != nil {
			log.Warn("network not complete", "node", own, "err", err) // the next turn tries again
			continue
		}
		if !slices.Equal(want.routes, set.routes) {
			log.Info("network set", "node", own, "subnets", fmt.Sprint(want.subnets), "routes", fmt.Sprint(want.routes))
		}
		set = want
	}
}

// network is what one node needs.
type network struct {
	subnets []netip.Prefix // the node's own, addresses come from them
	routes  []route        // to the other nodes' pods, sorted
}

// route is one line of the routing table.
type route struct {
	to  netip.Prefix
	via netip.Addr
}

// networkOf is the network of the node called own. A node without a podCIDR yet, or without an address of its family, has no route yet.
func networkOf(own string, nodes []*corev1.Node) (network, error) {
	var n network
	for _, node := range nodes {
		for _, text := range node.Spec.PodCIDRs {
			subnet, err := netip.ParsePrefix(text)
			if err != nil {
				return n, fmt.Errorf("reading spec.podCIDRs of node %s: %w", node.Name, err)
			}
			if node.Name == own {
				n.subnets = append(n.subnets, subnet)
			} else if via := internal(node, subnet.Addr().Is4()); via.IsValid() {
				n.routes = append(n.routes, route{subnet, via})
			}
		}
	}
	if len(n.subnets) == 0 {
		return n, fmt.Errorf("reading spec.podCIDRs of node %s: there is none yet", own)
	}
	slices.SortFunc(n.routes, func(a, b route) int { return strings.Compare(a.to.String(), b.to.String()) })
	return n, nil
}

// internal is the node's first internal address of the family; invalid when it has none.
func internal(node *corev1.Node, four bool) netip.Addr {
	for _, a := range node.Status.Addresses {
		if a.Type != corev1.NodeInternalIP {
			continue
		}
		if address, err := netip.ParseAddr(a.Address); err == nil && address.Is4() == four {
			return address
		}
	}
	return netip.Addr{}
}

// configuration is the CNI configuration list (https://github.com/containernetworking/cni/blob/main/SPEC.md, and the pages of the
// plugins ptp and host-local).
func (n network) configuration() ([]byte, error) {
	type subnet struct {
		Subnet string `json:"subnet"`
	}
	type destination struct {
		Dst string `json:"dst"`
	}
	var ranges [][]subnet
	var routes []destination
	for _, s := range n.subnets {
		ranges = append(ranges, []subnet{{s.String()}})
		everything := "0.0.0.0/0"
		if s.Addr().Is6() {
			everything = "::/0"
		}
		routes = append(routes, destination{everything})
	}
	text, err := json.MarshalIndent(map[string]any{
		"cniVersion": "1.0.0",
		"name":       "gapproof-none",
		"plugins": []any{map[string]any{
			"type":   "ptp",
			"ipMasq": false, // a source must be seen by its own address
			"ipam":   map[string]any{"type": "host-local", "ranges": ranges, "routes": routes},
		}},
	}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encoding the CNI configuration: %w", err)
	}
	return append(text, '\n'), nil
}

// writeConfiguration writes the configuration where it is not there already. It is renamed into place: containerd watches the folder.
func (n network) writeConfiguration(dir string) error {
	text, err := n.configuration()
	if err != nil {
		return err
	}
	path := filepath.Join(dir, confName)
	if have, err := os.ReadFile(path); err == nil && string(have) == string(text) {
		return nil
	}
	part := filepath.Join(dir, "."+confName+".part")
	if err := os.WriteFile(part, text, 0o644); err != nil {
		return fmt.Errorf("writing the CNI configuration: %w", err)
	}
	if err := os.Rename(part, path); err != nil {
		return fmt.Errorf("writing the CNI configuration: %w", err)
	}
	return nil
}

// route sets every route and removes those of before that are no more wanted.
func (n network) route(ctx context.Context, before []route) error {
	var faults []error
	for _, r := range n.routes {
		faults = append(faults, ip(ctx, "route", "replace", r.to.String(), "via", r.via.String()))
	}
	for _, r := range before {
		if !slices.ContainsFunc(n.routes, func(w route) bool { return w.to == r.to }) {
			faults = append(faults, ip(ctx, "route", "del", r.to.String(), "via", r.via.String()))
		}
	}
	return errors.Join(faults...)
}

// ip runs the program of iproute2, which is in the image.
func ip(ctx context.Context, args ...string) error {
	if out, err := exec.CommandContext(ctx, "ip", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("running ip %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
