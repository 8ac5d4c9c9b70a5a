package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/gapproof/gapproof/runner/cluster"
	"github.com/gapproof/gapproof/runner/seal"
	"github.com/gapproof/gapproof/runner/seal/gate"
	"github.com/gapproof/gapproof/runner/seal/sink"
)

func (a *app) seal() *cobra.Command {
	c := &cobra.Command{Use: "seal", Short: "Prove that nothing leaves a lab that was brought up with --sealed, and verify such proofs"}
	c.AddCommand(a.sealCheck(), a.sealVerify(), a.sealSign())
	group(c)
	return c
}

// sealCheckOptions are the flags of seal check.
type sealCheckOptions struct {
	cluster, output string
	statement       statementOptions
}

func (a *app) sealCheck() *cobra.Command {
	var o sealCheckOptions
	c := &cobra.Command{
		Use:   "check",
		Short: "Send canaries out of a sealed lab and count them at its gate",
		Long: `check sends canaries from every node and from a pod (TCP, UDP, ICMP, IPv6, to this host, and a name), each to be counted exactly at the gate
and to be seen nowhere else, compares the gate's rules and counters with what they must be, looks for masquerading, and holds the images on
every node against the lock.

SEALED: all of that was so. LEAKED: something left, or came in. SEAL_NOT_PROVEN: nothing was seen to leak, but what should have seen it was
not shown to look. It changes nothing but the gate's counters, and needs root. Two checks at once count each other's canaries.

--statement also writes what was found as an in-toto statement in a DSSE envelope, signed by every --key (made with gapproof bundle key; a
passphrase is taken from ` + passphraseVariable + ` or asked for). It is about the lock.json that the lab was made from; gapproof seal verify reads it.

Exit codes: 0 SEALED, 1 LEAKED, 2 usage, 3 SEAL_NOT_PROVEN, 4 the cluster or this host could not be asked,
and no leak was seen.`,
		Example: `  gapproof up --sealed
  gapproof seal check
  gapproof seal check --cluster ci -o json > seal.json
  gapproof seal check --statement seal.dsse.json --key release.key`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return a.checkSeal(c.Context(), o) },
	}
	c.Flags().StringVar(&o.cluster, "cluster", defaultCluster, "name of the cluster")
	c.Flags().StringVarP(&o.output, "output", "o", "table", "table or json")
	o.statement.flags(c)
	return c
}

// sealReport is what seal check prints.
type sealReport struct {
	Cluster string    `json:"cluster"`
	Time    time.Time `json:"time"`
	Version string    `json:"version"`
	Spec    seal.Spec `json:"spec"`
	// Tried is what was dropped and is no canary: since the run began, or else since the check before this one.
	Tried []seal.Tried `json:"tried"`
	seal.Proof
	// lock is the digest of the lock that the cluster was made from.
	lock string
}

func newSealReport(c *cluster.Cluster) sealReport {
	return sealReport{Cluster: c.Name, Time: time.Now().UTC(), Version: version, lock: c.LockSHA256}
}

func (r *sealReport) judge(f seal.Facts) {
	r.Proof = r.Spec.Judge(f)
	r.Tried = append([]seal.Tried{}, r.Proof.Tried()...)
}

func (a *app) checkSeal(ctx context.Context, o sealCheckOptions) error {
	if !slices.Contains([]string{"table", "json"}, o.output) {
		return hinted{usageError{fmt.Errorf("--output: %q is not one of table, json", o.output)}, "gapproof seal check --help"}
	}
	signs, err := a.signer(o.statement)
	if err != nil {
		return err
	}
	c, err := cluster.Find(a.clustersDir(), o.cluster)
	if errors.Is(err, cluster.ErrNotUp) {
		return hinted{usageError{err}, "gapproof up --sealed --cluster " + o.cluster}
	}
	if err != nil {
		return clusterError(err)
	}
	if c.Seal == nil {
		return hinted{usageError{fmt.Errorf("checking the seal of cluster %s: it was brought up without --sealed", c.Name)},
			"gapproof up --sealed --replace --cluster " + c.Name}
	}
	if err := signs.checkLock(c); err != nil {
		return err
	}
	if err := gate.Check(); err != nil {
		return hinted{usageError{fmt.Errorf("checking the seal of cluster %s: %w", c.Name, err)}, "sudo gapproof seal check --cluster " + c.Name}
	}
	end := a.waiting("sending canaries from every node of cluster " + c.Name)
	r, err := proveSeal(ctx, c, nil, newAddresses())
	end()
	if err != nil && r.Verdict != seal.Leaked { // a leak that was seen outranks what could not be
		return fmt.Errorf("checking the seal of cluster %s: %w", c.Name, err)
	}
	if o.output == "json" {
		e := json.NewEncoder(a.out)
		e.SetIndent("", "  ")
		err = e.Encode(r)
	} else {
		err = writeSeal(a.out, r)
	}
	if err != nil {
		return fmt.Errorf("printing the proof: %w", err)
	}
	if err := signs.write(a.err, &r, "", ""); err != nil {
		return err
	}
	return sealExit(r.Verdict)
}

// Names of the files in the seal's folder: what is sealed, and the reading that the last check ended with.
const specFile, lastFile = "spec.json", "last.json"

// closeGate seals the network of a cluster that is being made.
func closeGate(_ context.Context, c *cluster.Cluster) error {
	s := c.Seal
	spec, err := seal.New(c.Name, seal.Network{
		Bridge: s.Bridge, Gateway: s.Gateway, Subnet: c.Subnet, Subnet6: s.Subnet6, Gateway6: s.Gateway6, Mirror: c.Mirror, Sink: s.Sink, API: s.API,
		Pods: c.PodSubnets,
	}, s.Taken, rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())))
	if err != nil {
		return err
	}
	if err := writeJSON(filepath.Join(s.Dir, specFile), spec); err != nil {
		return err
	}
	return gate.Close(spec)
}

// unseal opens the network of a cluster that is being removed.
func unseal(_ context.Context, name string) error {
	_, err := gate.Open(name)
	return err
}

// sealWhole refuses a cluster that was found with a gate that is no longer the one that was closed.
func sealWhole(c *cluster.Cluster) error {
	var spec seal.Spec
	if err := readJSON(filepath.Join(c.Seal.Dir, specFile), &spec); err != nil {
		return err
	}
	_, faults, err := gate.Read(spec)
	if err != nil {
		return err
	}
	if len(faults) > 0 {
		return hinted{fmt.Errorf("cluster %s is up, and its seal is broken: %s", c.Name, strings.Join(faults, "; ")), "gapproof down --cluster " + c.Name}
	}
	return nil
}

// proveSeal gathers the facts of a cluster's seal and judges them. began is the reading that the run began with which the proof is of, nil for
// none; pods are those that are known already. Beside an error, of something that could not be asked, the report is of all the rest, in which a
// leak may show; only without the gate's description it has no verdict.
func proveSeal(ctx context.Context, c *cluster.Cluster, began *seal.Reading, pods *addresses) (sealReport, error) {
	r := newSealReport(c)
	if err := readJSON(filepath.Join(c.Seal.Dir, specFile), &r.Spec); err != nil {
		return r, err
	}
	f := seal.Facts{Began: began}
	var errs []error
	asked := func(err error) bool {
		if err != nil {
			f.Unknown, errs = append(f.Unknown, err.Error()), append(errs, err)
		}
		return err == nil
	}
	last := filepath.Join(c.Seal.Dir, lastFile)
	if err := readJSON(last, &f.Last); !errors.Is(err, fs.ErrNotExist) {
		asked(err)
	}
	sources, unknown, err := sealSources(ctx, c, pods)
	asked(err)
	f.Unknown = append(f.Unknown, unknown...)
	for _, s := range sources {
		f.Sources = append(f.Sources, seal.Expected{From: s.Name, Kind: s.Kind})
	}
	f.Before, _, err = gate.Read(r.Spec)
	asked(err)
	f.Canaries, err = gate.Canaries(ctx, r.Spec, sources)
	asked(err)
	f.Names, err = sealNames(ctx, c, sources)
	asked(err)
	f.Masquerades, err = gate.Masquerades(ctx, r.Spec, c.PodSubnets)
	asked(err)
	f.Foreign, f.Images, err = foreignImages(ctx, c)
	asked(err)
	f.After, f.Rules, err = gate.Read(r.Spec)
	if asked(err) {
		nameTried(f.After.Tried, c, pods)
		asked(writeJSON(last, f.After.Over(f.Last)))
	}
	r.judge(f)
	return r, errors.Join(errs...)
}

// sealSources are every node and a pod. What is missing among them is told in words, as what a proof does not know. All pods are added to known.
func sealSources(ctx context.Context, c *cluster.Cluster, known *addresses) (sources []gate.Source, unknown []string, err error) {
	pids, err := cluster.Processes(ctx, c)
	if err != nil {
		return nil, nil, err
	}
	for _, n := range c.Nodes {
		resolver, err := gate.Resolver(pids[n.Name])
		if err != nil {
			return nil, nil, fmt.Errorf("node %s: %w", n.Name, err)
		}
		sources = append(sources, gate.Source{Name: "node " + n.Name, Kind: seal.NodeSource, PID: pids[n.Name], Address: n.Address, Resolver: resolver})
	}
	config, err := c.RESTConfig()
	if err != nil {
		return nil, nil, err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, nil, fmt.Errorf("making a client for cluster %s: %w", c.Name, err)
	}
	pods, err := client.CoreV1().Pods(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, nil, fmt.Errorf("listing pods: %w", err)
	}
	for i := range pods.Items {
		known.add(&pods.Items[i])
	}
	system := slices.DeleteFunc(pods.Items, func(p corev1.Pod) bool { return p.Namespace != metav1.NamespaceSystem })
	service, err := client.CoreV1().Services(metav1.NamespaceSystem).Get(ctx, "kube-dns", metav1.GetOptions{})
	if err != nil {
		return nil, nil, fmt.Errorf("looking for the cluster's resolver: %w", err)
	}
	resolver, err := netip.ParseAddr(service.Spec.ClusterIP)
	if err != nil {
		return nil, nil, fmt.Errorf("reading the address of the cluster's resolver: %w", err)
	}
	pod, address, ok := canaryPod(system)
	if !ok {
		return sources, []string{"no pod with a network of its own runs in " + metav1.NamespaceSystem + ", so none could send canaries"}, nil
	}
	pid, err := gate.PodProcess(string(pod.UID))
	if err != nil {
		return nil, nil, err
	}
	return append(sources, gate.Source{
		Name: "pod " + pod.Namespace + "/" + pod.Name, Kind: seal.PodSource, PID: pid, Address: address, Resolver: netip.AddrPortFrom(resolver, c.Seal.Sink.Port()),
	}), nil, nil
}

// canaryPod chooses the pod that sends canaries: one that runs and has a network of its own, before others one that is not the resolver itself.
func canaryPod(pods []corev1.Pod) (chosen corev1.Pod, address netip.Addr, ok bool) {
	for _, p := range pods {
		a, err := netip.ParseAddr(p.Status.PodIP)
		if err != nil || p.Spec.HostNetwork || p.Status.Phase != corev1.PodRunning || p.DeletionTimestamp != nil {
			continue
		}
		if !ok || chosen.Labels["k8s-app"] == "kube-dns" {
			chosen, address, ok = p, a, true
		}
	}
	return chosen, address, ok
}

// sealNames has every source ask for a name of its own and counts what the sink recorded.
func sealNames(ctx context.Context, c *cluster.Cluster, sources []gate.Source) ([]seal.Name, error) {
	check := fmt.Sprintf("%016x", rand.Uint64())
	n := 0
	names, err := gate.Names(ctx, sources, func(gate.Source) string {
		n++
		return fmt.Sprintf("canary-%s-%d.invalid", check, n)
	})
	if err != nil {
		return nil, err
	}
	log, err := os.Open(c.Seal.NamesLog)
	if err != nil {
		return nil, fmt.Errorf("opening the log of names: %w", err)
	}
	defer log.Close()
	queries, err := sink.ReadLog(log)
	if err != nil {
		return nil, err
	}
	for i := range names {
		for _, q := range queries {
			if q.Name == names[i].Name {
				names[i].Recorded++
			}
		}
	}
	return names, nil
}

// foreignImages are the images on nodes that the cluster's lock does not list, and how many images were looked at.
func foreignImages(ctx context.Context, c *cluster.Cluster) (foreign []seal.NodeImage, count int, err error) {
	locked := map[string]bool{}
	for _, i := range c.Images {
		locked[i.Digest] = true
	}
	have, err := cluster.NodeImages(ctx, c)
	if err != nil {
		return nil, 0, err
	}
	all := make([]seal.NodeImage, 0, len(have))
	for _, i := range have {
		all = append(all, seal.NodeImage(i))
	}
	return seal.Images(all, locked), len(all), nil
}

// nameTried says of what was tried who has the address. Most CNIs give what leaves a pod network the address of the pod's node, so that a node's
// packets and its pods' cannot be told apart.
func nameTried(tried []seal.Tried, c *cluster.Cluster, pods *addresses) {
	names := map[netip.Addr]string{c.Mirror.Addr(): "the mirror", c.Seal.Sink.Addr(): "the sink", c.Seal.Sink6.Addr(): "the sink"}
	for _, n := range c.Nodes {
		names[n.Address], names[n.Address6] = "node "+n.Name+" or a pod on it", "node "+n.Name+" or a pod on it"
	}
	for i := range tried {
		tried[i].From = names[tried[i].Source]
		if pod := pods.name(tried[i].Source); pod != "" {
			tried[i].From = pod
		}
	}
}

// writeSeal renders a proof for people: the verdict, why, what was sent and counted, and what others tried.
func writeSeal(out io.Writer, r sealReport) error {
	var b strings.Builder
	f := r.Facts
	fmt.Fprintf(&b, "%s  cluster %s: %d images on its nodes, %d not in the lock\n", r.Verdict, r.Cluster, f.Images, len(f.Foreign))
	for _, l := range r.Leaks {
		fmt.Fprintf(&b, "  leak: %s\n", l)
	}
	for _, d := range r.Doubts {
		fmt.Fprintf(&b, "  doubt: %s\n", d)
	}
	fmt.Fprintln(&b)
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "SOURCE\tCANARY\tSENT\tCOUNTED\tLEFT")
	for _, c := range f.Canaries {
		fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%d\n", c.From, strings.TrimPrefix(string(c.Counter), "canary-"), c.Sent, c.Counted, c.Left)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(&b)
	fmt.Fprintln(w, "SOURCE\tASKED\tFOR\tANSWER\tRECORDED")
	for _, n := range f.Names {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\n", n.From, n.Asked, n.Name, n.Answer, n.Recorded)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if len(r.Tried) > 0 {
		since := "the last check"
		if f.Began != nil {
			since = "the run began"
		}
		fmt.Fprintf(&b, "\nTried since %s, and dropped:\n", since)
		for _, t := range r.Tried {
			fmt.Fprintf(&b, "  %s\n", t)
		}
	}
	_, err := io.WriteString(out, b.String())
	return err
}

// writeJSON writes a file that only this user reads; it is whole or is not there.
func writeJSON(path string, v any) error {
	raw, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding %s: %w", path, err)
	}
	part := path + ".part"
	if err := os.WriteFile(part, append(raw, '\n'), 0o600); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	if err := os.Rename(part, path); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

func readJSON(path string, v any) error {
	raw, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("reading the seal: %w", err)
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return fmt.Errorf("decoding %s: %w", path, err)
	}
	return nil
}
