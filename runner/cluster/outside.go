package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gapproof/gapproof/images"
	"github.com/gapproof/gapproof/runner/internal/kube"
)

// OutsideOptions say which host to start beside a cluster. All but Listen are required.
type OutsideOptions struct {
	// Cluster is the name of a cluster that is up, and StateDir where it keeps its files. Empty means DefaultName and DefaultStateDir.
	Cluster, StateDir string
	// Run is the run's identifier, Name the host's: DNS labels both. A run's hosts differ in name.
	Run, Name string
	// Identity is what the host's listeners answer with.
	Identity string
	// Listen are the listeners, such as "TCP/80,UDP/81". Empty for none.
	Listen string
	// Addresses are those that the host stands for, which the nodes lead to it. Empty for its own on the cluster's network alone. Those of
	// families that pods have not are left out.
	Addresses []netip.Addr
	// Token is the bearer token of the host's agent.
	Token string
}

// OutsideHost is a host outside the cluster: a container on the cluster's network that runs the locked probe image, with no capability
// and no port on the engine's host. The caller closes it.
type OutsideHost struct {
	engine       engine
	record       *record
	cluster, run string
	container    string
	// folder holds its token.
	folder string
	// own are its addresses on the cluster's network, addresses those that pods reach it by; standsFor are the latter where they are not its own.
	own, addresses, standsFor []netip.Addr
	// carrying is the streams' context; stop ends it once the container is gone.
	carrying context.Context
	stop     context.CancelFunc
	streams  sync.WaitGroup
}

// outsideCommand is the probe's command that joins its standard input and output to the agent on its loopback.
const outsideCommand = "connect"

const (
	// outsideLimit is how long a container of one static binary may take to run.
	outsideLimit = 20 * time.Second
	// outsideInterval is short because a run waits behind it.
	outsideInterval = 50 * time.Millisecond
	// tokenName is the token's file in the host's folder and in the container's.
	tokenName, tokenDir = "token", "/run/gapproof"
)

// knows tells whether pods have addresses of a's family, so that one of them could send to it. The network of an IPv6-only cluster has IPv4 too.
// Without known pod subnets every family may be theirs.
func (c *Cluster) knows(a netip.Addr) bool {
	return len(c.PodSubnets) == 0 || slices.ContainsFunc(c.PodSubnets, func(p netip.Prefix) bool { return p.Addr().Is4() == a.Is4() })
}

// StartOutside starts a host and returns when it has its addresses. The error matches [ErrNotUp] for a cluster that is not up and
// [images.ErrNotLocked] where the lab has no probe image. When it fails nothing stays.
func StartOutside(ctx context.Context, o OutsideOptions) (*OutsideHost, error) {
	return startOutside(ctx, o, newEngine())
}

func startOutside(ctx context.Context, o OutsideOptions, e engine) (_ *OutsideHost, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("starting outside host %s: %w", o.Name, err)
		}
	}()
	if o.Cluster == "" {
		o.Cluster = DefaultName
	}
	if o.StateDir == "" {
		if o.StateDir, err = DefaultStateDir(); err != nil {
			return nil, err
		}
	}
	f := filesOf(o.StateDir, o.Cluster)
	r, err := readRecord(f.record())
	if errors.Is(err, errNoRecord) {
		return nil, fmt.Errorf("finding cluster %q: %w", o.Cluster, ErrNotUp)
	}
	if err != nil {
		return nil, err
	}
	h := &OutsideHost{engine: e, record: r, cluster: o.Cluster, run: o.Run, container: outsidePrefix(o.Cluster) + o.Run + "-" + o.Name, folder: f.outside(o.Run, o.Name)}
	for _, a := range o.Addresses {
		taken := slices.Concat(r.Cluster.PodSubnets, []netip.Prefix{r.Cluster.Subnet})
		if i := slices.IndexFunc(taken, func(p netip.Prefix) bool { return p.Contains(a) }); i >= 0 {
			return nil, fmt.Errorf("standing for %s, which is in the cluster's %s: %w", a, taken[i], ErrAddressTaken)
		}
		if r.Cluster.knows(a) {
			h.standsFor = append(h.standsFor, a)
		}
	}
	h.carrying, h.stop = context.WithCancel(context.WithoutCancel(ctx))
	defer func() {
		if err != nil {
			h.stop()
		}
	}()
	image, err := h.engine.loadOf(ctx, r, images.ProbeImage, probeRepository)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, h.Close(context.WithoutCancel(ctx)))
		}
	}()
	if err := os.MkdirAll(h.folder, dirMode); err != nil {
		return nil, fmt.Errorf("making its folder: %w", err)
	}
	if err := os.WriteFile(filepath.Join(h.folder, tokenName), []byte(o.Token), fileMode); err != nil {
		return nil, fmt.Errorf("writing its token: %w", err)
	}
	if err := h.start(ctx, o, image); err != nil {
		return nil, err
	}
	if err := h.leadNodes(ctx); err != nil {
		return nil, err
	}
	return h, nil
}

// loadOf makes sure that the engine has the cluster's own image of that name.
func (e engine) loadOf(ctx context.Context, r *record, name, repository string) (string, error) {
	i := slices.IndexFunc(r.Cluster.Images, func(i images.Image) bool { return i.Name == name })
	if i < 0 {
		return "", fmt.Errorf("looking for %s among the cluster's images: %w", name, images.ErrNotLocked)
	}
	entry := r.Cluster.Images[i]
	image, err := layoutImage(images.LayoutDir(r.LabDir), entry.Digest, r.Platform)
	if err != nil {
		return "", fmt.Errorf("opening %s: %w", entry.Reference(), err)
	}
	tag, _, err := e.loadLocked(ctx, repository, entry, image)
	return tag, err
}

// start runs the container, as the caller's user so that its token can stay unreadable to everybody else.
func (h *OutsideHost) start(ctx context.Context, o OutsideOptions, image string) error {
	args := []string{"run", "--detach", "--pull", "never"}
	if s := h.record.Cluster.Seal; s != nil { // the engine's resolver passes names on that it does not know
		args = append(args, "--dns", s.Sink.Addr().String())
	}
	err := h.engine.create(ctx, append(args,
		"--name", h.container, "--label", Label+"="+o.Cluster, "--label", kube.RunLabel+"="+o.Run,
		"--label", standsForLabel+"="+joined(h.standsFor, ","), "--network", objectName(o.Cluster),
		"--user", fmt.Sprintf("%d:%d", os.Getuid(), os.Getgid()), "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--read-only",
		"--sysctl", "net.ipv4.ip_unprivileged_port_start=0", "--sysctl", fmt.Sprintf("net.ipv4.ping_group_range=%d %d", os.Getgid(), os.Getgid()),
		"--mount", "type=bind,readonly,source="+h.folder+",target="+tokenDir,
		image, "--identity="+o.Identity, "--listen="+o.Listen, "--token-file="+tokenDir+"/"+tokenName)...)
	if err != nil {
		return err
	}
	format := `{{.State.Status}} {{with index .NetworkSettings.Networks "` + objectName(o.Cluster) + `"}}{{.IPAddress}} {{.GlobalIPv6Address}}{{end}}`
	_, err = kube.Poll(ctx, "the outside host", outsideInterval, outsideLimit, func(ctx context.Context) (bool, string, error) {
		out, err := h.engine.docker(ctx, nil, "container", "inspect", "--format", format, h.container)
		if err != nil {
			return false, "", fmt.Errorf("inspecting its container: %w", err)
		}
		words := strings.Fields(string(out))
		switch {
		case len(words) == 0 || words[0] == "created":
			return false, "its container has not started", nil
		case words[0] != "running":
			return false, "", errors.Join(fmt.Errorf("its container is %s", words[0]), h.engine.lastWords(ctx, h.container))
		}
		h.own = nil
		for _, w := range words[1:] {
			a, err := netip.ParseAddr(w)
			if err != nil {
				return false, "", fmt.Errorf("reading its address: %w", err)
			}
			if h.record.Cluster.knows(a) {
				h.own = append(h.own, a)
			}
		}
		return len(h.own) > 0, "it has no address", nil
	})
	h.addresses = h.own
	if len(o.Addresses) > 0 {
		h.addresses = h.standsFor
	}
	return err
}

// Addresses are those that pods reach the host by, of the families that pods have: IPv4, then IPv6.
func (h *OutsideHost) Addresses() []netip.Addr { return h.addresses }

// Route makes packets to each of the addresses go by the node's address beside it; what an earlier call said of an address is replaced. The
// host itself has no right to change its routes: a container of the node image, which has the tool, does it in the host's network namespace
// and ends.
func (h *OutsideHost) Route(ctx context.Context, by map[netip.Addr]netip.Addr) error {
	if len(by) == 0 {
		return nil
	}
	image, err := h.engine.loadOf(ctx, h.record, images.NodeImage, nodeRepository)
	if err != nil {
		return fmt.Errorf("routing from %s: %w", h.container, err)
	}
	var batch strings.Builder
	for _, a := range h.standsFor {
		fmt.Fprintf(&batch, "address replace %s dev eth0%s\n", whole(a), map[bool]string{true: " nodad"}[a.Is6()])
	}
	for _, to := range slices.SortedFunc(maps.Keys(by), netip.Addr.Compare) {
		fmt.Fprintf(&batch, "route replace %s via %s\n", whole(to), by[to])
	}
	_, err = h.engine.docker(ctx, strings.NewReader(batch.String()), "run", "--rm", "--interactive", "--pull", "never",
		"--name", h.container+"-routes", "--label", Label+"="+h.cluster, "--label", kube.RunLabel+"="+h.run,
		"--network", "container:"+h.container, "--cap-drop", "ALL", "--cap-add", "NET_ADMIN", "--security-opt", "no-new-privileges", "--read-only",
		"--entrypoint", "ip", image, "-batch", "-")
	if err != nil {
		return fmt.Errorf("routing from %s: %w", h.container, err)
	}
	return nil
}

// Dial opens a stream to the host's agent through the engine, as no network reaches the container's loopback.
func (h *OutsideHost) Dial(ctx context.Context) (net.Conn, error) {
	if ctx.Err() != nil {
		return nil, fmt.Errorf("dialling %s: %w", h.container, ended(ctx))
	}
	near, far := net.Pipe()
	h.streams.Go(func() {
		defer far.Close()
		// The stream outlives the call that opened it. When the near end closes, the command's input ends, then the agent's side, then
		// the command: killing it instead would leave its process in the container. Why it ended is of no use to the near end.
		_ = h.engine.run(h.carrying, call{args: []string{"exec", "--interactive", h.container, probePath, outsideCommand}, in: far, out: far, err: io.Discard})
	})
	return near, nil
}

// Close removes the container, its token and the nodes' routes to it, and waits for the streams, which end with it.
func (h *OutsideHost) Close(ctx context.Context) error {
	var routes []string
	if len(h.own) > 0 { // else it led nobody, and others' routes are not its to remove
		routes = leading(h.standsFor, h.own)
	}
	err := h.engine.forgetRoutes(ctx, h.cluster, routes)
	_, e := h.engine.removeContainers(ctx, []container{{id: h.container, name: h.container}})
	err = errors.Join(err, e)
	h.stop()
	h.streams.Wait()
	if e := os.RemoveAll(h.folder); e != nil {
		err = errors.Join(err, fmt.Errorf("removing its token: %w", e))
	}
	if err != nil {
		return fmt.Errorf("removing outside host %s: %w", h.container, err)
	}
	return nil
}

// CleanOutside removes the outside hosts of a run that was killed, or of every run when run is empty, and returns the names of their
// containers.
func CleanOutside(ctx context.Context, stateDir, cluster, run string) ([]string, error) {
	if stateDir == "" {
		dir, err := DefaultStateDir()
		if err != nil {
			return nil, err
		}
		stateDir = dir
	}
	return cleanOutside(ctx, filesOf(stateDir, cluster), cluster, run, newEngine())
}

func cleanOutside(ctx context.Context, f files, cluster, run string, e engine) ([]string, error) {
	own, _, err := e.find(ctx, cluster)
	if err != nil {
		return nil, fmt.Errorf("looking for outside hosts: %w", err)
	}
	hosts := slices.DeleteFunc(own.outside, func(c container) bool {
		return run != "" && !strings.HasPrefix(c.name, outsidePrefix(cluster)+run+"-")
	})
	var routes []string
	for _, c := range hosts {
		to, err := e.routesTo(ctx, c)
		if err != nil {
			return nil, fmt.Errorf("removing outside hosts: %w", err)
		}
		routes = append(routes, to...)
	}
	if err := e.forgetRoutes(ctx, cluster, routes); err != nil {
		return nil, fmt.Errorf("removing outside hosts: %w", err)
	}
	removed, err := e.removeContainers(ctx, hosts)
	if err == nil {
		err = os.RemoveAll(f.outside(run, ""))
	}
	if err != nil {
		return removed, fmt.Errorf("removing outside hosts: %w", err)
	}
	return removed, nil
}

// outsidePrefix begins the names of a cluster's outside hosts; the run and the host's name follow.
func outsidePrefix(cluster string) string { return objectName(cluster) + "-outside-" }
