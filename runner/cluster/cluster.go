package cluster

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/kind/pkg/apis/config/v1alpha4"

	"github.com/gapproof/gapproof/images"
	kindconfigs "github.com/gapproof/gapproof/kind-configs"
)

// ErrClusterExists reports that the name is in use: by a cluster that this package did not make, or by one of its own that was
// made from another lab or topology.
var ErrClusterExists = errors.New("cluster exists")

// Progress is told about every step: with took zero when it begins or has something to say, with its duration when it has ended.
// It is called from one goroutine at a time.
type Progress func(step, detail string, took time.Duration)

// Retain says what becomes of a cluster that could not be brought up.
type Retain int

const (
	// RetainNothing removes what was made. It is the default.
	RetainNothing Retain = iota
	// RetainOnFailure leaves everything in place, to be looked at and then removed by Down. It holds for a cancelled Up too.
	RetainOnFailure
)

// Options say which cluster to bring up. LabDir, Lock and Executable are required.
type Options struct {
	// Name is the cluster's name, at most 30 of a-z, 0-9 and '-'. Empty means DefaultName.
	Name string
	// Topology is a name among kindconfigs.Names. Empty means kindconfigs.Default.
	Topology string
	// LabDir is the lab directory that Lock describes.
	LabDir string
	Lock   *images.Lock
	// StateDir is where clusters keep their files. Empty means DefaultStateDir.
	StateDir string
	// Executable is a statically linked gapproof that accepts MirrorCommand; it is what runs in the mirror's container.
	Executable string
	// Install makes the pod network. It is called once the API server answers and may return before nodes are Ready; an error
	// fails the step. It is not called for a cluster that is found complete. Nil means that no pod network is made: Up then ends
	// when the nodes have registered, as they cannot become Ready.
	Install func(context.Context, *Cluster) error
	// CNI is what Install makes, by name. It is recorded, and a cluster with another one is not the cluster that is asked for.
	CNI string
	// Close seals the network described by the cluster's Seal. It is called once the network is there and before anything is attached to it;
	// an error fails the step. Nil means that the network is not sealed.
	Close func(context.Context, *Cluster) error
	// Unseal undoes what Close did for a cluster of that name. It is called before a sealed network is removed, one of an earlier attempt
	// too, and finds nothing to undo where Close had not been called. Required with Close.
	Unseal Unseal
	Retain Retain
	// Log receives what kind and the steps have to say. Nil means none.
	Log *slog.Logger
	// Progress may be nil.
	Progress Progress
}

// Unseal opens the network of the cluster with this name again, as its network is about to be removed.
type Unseal func(ctx context.Context, cluster string) error

// Origin says whether Up made a cluster.
type Origin int

// Origins of a cluster. The zero value is unknown.
const (
	OriginUnknown Origin = iota
	// Made: this Up created the cluster.
	Made
	// Found: the cluster was complete and healthy, and nothing was changed.
	Found
)

// Node is one node of a cluster.
type Node struct {
	// Name is the name of the node in Kubernetes and of its container in the engine.
	Name string `json:"name"`
	// Role is kind's: "control-plane" or "worker".
	Role string `json:"role"`
	// Address is the node's IPv4 address on the cluster's network, which it has on an IPv6-only cluster too, where Kubernetes does not know it.
	// Address6 is its IPv6 one where the topology has IPv6.
	Address  netip.Addr `json:"address"`
	Address6 netip.Addr `json:"address6,omitzero"`
}

// Cluster is one cluster that is up.
type Cluster struct {
	Name     string `json:"name"`
	Topology string `json:"topology"`
	// CNI is the name of the pod network; empty where none was installed.
	CNI string `json:"cni,omitempty"`
	// Kubeconfig is the path of a kubeconfig for the cluster's administrator. The user's own kubeconfig is never written to.
	Kubeconfig string `json:"kubeconfig"`
	// Nodes are sorted by name.
	Nodes []Node `json:"nodes"`
	// Network is the engine's name of the cluster's network, to which outside hosts can be attached, and Subnet its IPv4 range.
	Network string       `json:"network"`
	Subnet  netip.Prefix `json:"subnet"`
	// PodSubnets are the ranges pods get addresses from.
	PodSubnets []netip.Prefix `json:"podSubnets"`
	// Mirror is where the nodes pull from. It answers on this host too.
	Mirror netip.AddrPort `json:"mirror"`
	// Images are what its mirror serves: the lock's when the cluster was made. The lab may have been built anew since.
	Images []images.Image `json:"images"`
	// LockSHA256 is the digest of the lock.json that it was made from, in hexadecimal. Empty in what earlier builds recorded.
	LockSHA256 string `json:"lockSHA256,omitempty"`
	// AccessLog is the path of the mirror's access log, which mirror.ReadAccessLog reads.
	AccessLog string `json:"accessLog"`
	// Seal is nil for a cluster whose network is not sealed.
	Seal   *Seal  `json:"seal,omitempty"`
	Origin Origin `json:"-"`
}

// RESTConfig is the client configuration for the cluster's administrator.
func (c *Cluster) RESTConfig() (*rest.Config, error) {
	config, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("reading the kubeconfig of cluster %s: %w", c.Name, err)
	}
	return config, nil
}

// StepError is a step that failed.
type StepError struct {
	// Step is its name, as Progress was told.
	Step string
	// Logs is the directory with the logs that were collected, empty when there was nothing to collect from.
	Logs string
	Err  error
}

// Error names the step.
func (e *StepError) Error() string { return e.Step + ": " + e.Err.Error() }

// Unwrap returns the reason.
func (e *StepError) Unwrap() error { return e.Err }

const (
	// kindLimit bounds kind: 26 s were measured on 2 cores with warm caches, minutes on hosts that swap.
	kindLimit = 10 * time.Minute
	// cleanupLimit bounds the removal after a failure, which the caller's context may no longer allow for.
	cleanupLimit = time.Minute
)

// Up brings a cluster up, or finds it complete and healthy and returns quickly. What is left of an earlier attempt, or is no
// longer healthy, is removed and made anew. On failure logs are collected and everything is removed, unless o.Retain says
// otherwise; when ctx is cancelled nothing is left either, and the error matches ctx's.
//
// The error is a [*StepError], and matches [ErrClusterExists], [ErrName], [ErrEngine], [ErrNotStatic], [ErrNotImage],
// [images.ErrNotLocked] or [kindconfigs.ErrUnknown] where that is the reason.
func Up(ctx context.Context, o Options) (*Cluster, error) {
	u, err := newUp(o, newEngine())
	if err != nil {
		return nil, fmt.Errorf("bringing up cluster %q: %w", o.Name, err)
	}
	release, err := lockState(ctx, u.o.StateDir, func() { u.progress("state locked", "waiting for another gapproof to finish", 0) })
	if err != nil {
		return nil, fmt.Errorf("bringing up cluster %q: %w", u.o.Name, err)
	}
	defer func() { _ = release() }()
	if err := u.walk(ctx); err != nil {
		return nil, fmt.Errorf("bringing up cluster %q: %w", u.o.Name, err)
	}
	return u.cluster, nil
}

// up is one Up under way.
type up struct {
	o      Options
	engine engine
	files  files

	topology *v1alpha4.Cluster
	lock     string // digest of the lock
	entry    images.Image
	image    v1.Image
	tag      string // the node image's name in the engine
	made     bool   // something may have been made that must be removed on failure
	cluster  *Cluster
}

func newUp(o Options, e engine) (*up, error) {
	if o.Name == "" {
		o.Name = DefaultName
	}
	if o.Topology == "" {
		o.Topology = kindconfigs.Default
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.StateDir == "" {
		dir, err := DefaultStateDir()
		if err != nil {
			return nil, err
		}
		o.StateDir = dir
	}
	dir, err := filepath.Abs(o.StateDir)
	if err != nil {
		return nil, fmt.Errorf("finding the state directory: %w", err)
	}
	o.StateDir = dir
	if err := checkName(o.Name); err != nil {
		return nil, err
	}
	if o.Lock == nil || o.LabDir == "" || o.Executable == "" {
		return nil, errors.New("reading the options: LabDir, Lock and Executable are required")
	}
	if o.Close != nil && o.Unseal == nil {
		return nil, errors.New("reading the options: Close requires Unseal")
	}
	return &up{o: o, engine: e, files: filesOf(dir, o.Name)}, nil
}

func (u *up) progress(step, detail string, took time.Duration) {
	if u.o.Progress != nil {
		u.o.Progress(step, detail, took)
	}
}

// step is one thing that Up does. The detail it returns says what came of it.
type step struct {
	name string
	do   func(*up, context.Context) (detail string, err error)
}

// steps are walked in order. Each leaves u as the next one needs it.
func steps() []step {
	return []step{
		{"lab checked", (*up).checkLab},
		{"engine checked", (*up).checkEngine},
		{"leftovers removed", (*up).findOrClear},
		{"network, mirror and node image", (*up).prepare},
		{"kind nodes created", (*up).createNodes},
		{"outside names refused", (*up).closeDNS},
		{"pod network installed", (*up).install},
		{"nodes ready", (*up).awaitNodes},
		{"cluster recorded", (*up).record},
	}
}

// walk runs the steps until one fails or the cluster is there.
func (u *up) walk(ctx context.Context) error {
	for _, s := range steps() {
		if u.cluster != nil && u.cluster.Origin == Found {
			return nil
		}
		u.progress(s.name, "", 0)
		start := time.Now()
		detail, err := s.do(u, ctx)
		if err == nil && ctx.Err() != nil {
			err = ended(ctx) // a step that ended well all the same must not be followed by the next
		}
		if err != nil {
			return u.fail(ctx, s.name, err)
		}
		u.progress(s.name, detail, time.Since(start))
	}
	return nil
}

// fail collects logs, removes what was made, and makes the error of step.
func (u *up) fail(ctx context.Context, step string, err error) error {
	failed := &StepError{Step: step, Err: err}
	if !u.made {
		return failed
	}
	cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupLimit)
	defer cancel()
	var faults []error
	finish := func() {}
	if ctx.Err() == nil { // who presses Ctrl-C does not wait for logs
		u.progress(step, "collecting logs", 0)
		failed.Logs, finish, err = u.collectLogs(cleanup)
		faults = append(faults, err)
	}
	if u.o.Retain == RetainNothing {
		u.progress(step, "removing what was made", 0)
		_, err := remove(cleanup, u.engine, u.o.Name, u.files, u.o.Unseal)
		faults = append(faults, err)
	}
	finish()
	if err := errors.Join(faults...); err != nil {
		return errors.Join(failed, fmt.Errorf("cleaning up: %w", err))
	}
	return failed
}

func (u *up) checkLab(context.Context) (string, error) {
	if err := u.o.Lock.Validate(); err != nil {
		return "", fmt.Errorf("checking the lock: %w", err)
	}
	var err error
	if u.lock, err = lockDigest(u.o.Lock); err != nil {
		return "", err
	}
	if u.topology, err = kindconfigs.Load(u.o.Topology); err != nil {
		return "", err
	}
	if u.entry, u.image, err = nodeImage(u.o.LabDir, u.o.Lock); err != nil {
		return "", err
	}
	return fmt.Sprintf("%d images locked, topology %s", len(u.o.Lock.Images), u.o.Topology), nil
}

func (u *up) checkEngine(ctx context.Context) (string, error) {
	version, err := u.engine.check(ctx)
	if err != nil {
		return "", err
	}
	return "engine " + version, nil
}

// findOrClear looks for the cluster: a healthy one is taken as it is, the remains of one are removed.
func (u *up) findOrClear(ctx context.Context) (string, error) {
	own, foreign, err := u.engine.find(ctx, u.o.Name)
	if err != nil {
		return "", err
	}
	if len(foreign) > 0 {
		return "", fmt.Errorf("looking for the cluster: %s has its name but was not made by gapproof: %w", foreign[0], ErrClusterExists)
	}
	r, err := readRecord(u.files.record())
	if err != nil && !errors.Is(err, errNoRecord) {
		return "", err
	}
	reason := "an earlier attempt had left it half-made"
	if r != nil {
		reason = "it was not healthy"
		unhealthy := u.engine.healthy(ctx, own, r)
		if ctx.Err() != nil {
			return "", ended(ctx)
		}
		if unhealthy == nil {
			if r.Lock != u.lock || r.Topology != u.o.Topology || r.PodNetwork != (u.o.Install != nil) || r.Cluster.CNI != u.o.CNI ||
				(r.Cluster.Seal != nil) != (u.o.Close != nil) {
				sealed := ""
				if r.Cluster.Seal != nil {
					sealed = ", sealed,"
				}
				return "", fmt.Errorf("looking for the cluster: it is up%s with topology %s, CNI %q from lab %s, which is not what was asked for: %w",
					sealed, r.Topology, r.Cluster.CNI, r.LabDir, ErrClusterExists)
			}
			u.cluster = r.Cluster
			u.cluster.Origin = Found
			return "the cluster is up already", nil
		}
		reason += ": " + unhealthy.Error()
	} else if own.empty() {
		return "none", nil
	}
	removed, err := remove(ctx, u.engine, u.o.Name, u.files, u.o.Unseal)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("removed %d (%s)", len(removed), reason), nil
}

// prepare makes what the nodes need. The node image is loaded beside the rest, as it takes longest the first time.
func (u *up) prepare(ctx context.Context) (string, error) {
	if err := os.MkdirAll(u.files.dir, dirMode); err != nil {
		return "", fmt.Errorf("making the cluster's state: %w", err)
	}
	podSubnets, err := kindconfigs.PodSubnets(u.topology)
	if err != nil {
		return "", err
	}
	lock, err := u.o.Lock.Encode()
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(lock)
	u.made = true
	u.cluster = &Cluster{
		Name: u.o.Name, Topology: u.o.Topology, CNI: u.o.CNI, Kubeconfig: u.files.kubeconfig(), Network: objectName(u.o.Name),
		PodSubnets: podSubnets, Images: u.o.Lock.Images, LockSHA256: hex.EncodeToString(sum[:]), AccessLog: u.files.accessLog(), Origin: Made,
	}
	var loaded string
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		u.tag, loaded, err = u.engine.loadLocked(ctx, nodeRepository, u.entry, u.image)
		return err
	})
	g.Go(func() error {
		services, err := kindconfigs.ServiceSubnets(u.topology)
		if err != nil {
			return err
		}
		var labels []string
		if u.o.Close != nil {
			labels = append(labels, sealedLabel+"=true")
		}
		subnet, err := u.engine.createNetwork(ctx, u.o.Name, u.topology.Networking.IPFamily, slices.Concat(podSubnets, services), labels...)
		if err != nil {
			return err
		}
		u.cluster.Subnet = subnet
		u.cluster.Mirror = netip.AddrPortFrom(hostAddress(subnet, mirrorHost), mirrorPort)
		if u.o.Close != nil {
			if err := u.seal(ctx); err != nil {
				return err
			}
		}
		if err := u.files.writeHosts(u.cluster.Mirror); err != nil {
			return err
		}
		image, err := u.engine.loadMirrorImage(ctx, u.o.Executable)
		if err != nil {
			return err
		}
		if s := u.cluster.Seal; s != nil {
			if err := u.engine.startSink(ctx, u.o.Name, image, u.files, s, nodeNames(u.topology, u.o.Name)); err != nil {
				return err
			}
		}
		return u.engine.startMirror(ctx, u.o.Name, image, u.o.LabDir, u.files, u.cluster.Mirror)
	})
	if err := g.Wait(); err != nil {
		return "", err
	}
	sealed := ""
	if u.cluster.Seal != nil {
		sealed = fmt.Sprintf("network sealed, sink on %s, ", u.cluster.Seal.Sink)
	}
	return fmt.Sprintf("%smirror on %s, node image %s", sealed, u.cluster.Mirror, loaded), nil
}

func (u *up) createNodes(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, kindLimit, fmt.Errorf("kind was not done within %v", kindLimit))
	defer cancel()
	l := kindLogger{log: u.o.Log, notice: func(line string) { u.progress("kind nodes created", line, 0) }}
	if err := u.engine.createNodes(ctx, u.o.Name, u.tag, kindConfig(u.topology, u.files, u.cluster.Seal), u.files, l); err != nil {
		return "", err
	}
	nodes, err := u.engine.nodes(ctx, u.o.Name)
	if err != nil {
		return "", err
	}
	u.cluster.Nodes = nodes
	return fmt.Sprintf("%d nodes", len(nodes)), nil
}

func (u *up) install(ctx context.Context) (string, error) {
	if u.o.Install == nil {
		return "not asked for", nil
	}
	return "", u.o.Install(ctx, u.cluster)
}

func (u *up) record(context.Context) (string, error) {
	lab, err := filepath.Abs(u.o.LabDir)
	if err != nil {
		return "", fmt.Errorf("finding the lab directory: %w", err)
	}
	r := &record{
		Version: recordVersion, Name: u.o.Name, Topology: u.o.Topology, Lock: u.lock, LabDir: lab, Platform: u.o.Lock.Platform,
		Created: time.Now().UTC(), PodNetwork: u.o.Install != nil, Cluster: u.cluster,
	}
	return u.files.record(), r.write(u.files.record())
}

// nodes lists the nodes' names, roles and addresses.
func (e engine) nodes(ctx context.Context, name string) ([]Node, error) {
	own, _, err := e.find(ctx, name)
	if err != nil {
		return nil, err
	}
	if len(own.nodes) == 0 {
		return nil, nil
	}
	format := `{{.Name}} {{index .Config.Labels "io.x-k8s.kind.role"}} {{with index .NetworkSettings.Networks "` + objectName(name) + `"}}{{.IPAddress}} {{.GlobalIPv6Address}}{{end}}`
	args := []string{"container", "inspect", "--format", format}
	for _, c := range own.nodes {
		args = append(args, c.id)
	}
	lines, err := e.lines(ctx, args...)
	if err != nil {
		return nil, fmt.Errorf("inspecting the nodes: %w", err)
	}
	var out []Node
	for _, line := range lines {
		f := strings.Fields(line)
		if len(f) != 3 && len(f) != 4 {
			return nil, fmt.Errorf("inspecting the nodes: docker printed %q, want a name, a role and one or two addresses", line)
		}
		node := Node{Name: strings.TrimPrefix(f[0], "/"), Role: f[1]}
		if node.Address, err = netip.ParseAddr(f[2]); err != nil {
			return nil, fmt.Errorf("inspecting node %s: %w", f[0], err)
		}
		if len(f) == 4 {
			if node.Address6, err = netip.ParseAddr(f[3]); err != nil {
				return nil, fmt.Errorf("inspecting node %s: %w", f[0], err)
			}
		}
		out = append(out, node)
	}
	sort.Slice(out, func(a, b int) bool { return out[a].Name < out[b].Name })
	return out, nil
}
