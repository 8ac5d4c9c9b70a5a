package cluster

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gapproof/gapproof/images"
	"github.com/gapproof/gapproof/runner/internal/kube"
)

// ErrName reports a cluster name that cannot be one.
var ErrName = errors.New("invalid cluster name")

// DefaultName is the cluster that commands mean when none is named.
const DefaultName = "dev"

// maxName keeps "gapproof-<name>-control-plane" within the 63 characters of a host name.
const maxName = 30

var nameForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?$`)

// checkName refuses what could not be a host name, a network name and a folder at once.
func checkName(name string) error {
	if !nameForm.MatchString(name) || len(name) > maxName {
		return fmt.Errorf("checking the name %q: it must be 1 to %d of a-z, 0-9 and '-', not at its ends: %w", name, maxName, ErrName)
	}
	return nil
}

// objectName is what the cluster's network is called, what kind calls the cluster, and what its containers' names begin with.
func objectName(name string) string { return "gapproof-" + name }

// DefaultStateDir is where clusters keep their files: gapproof/clusters below $XDG_STATE_HOME, which is ~/.local/state when unset
// (XDG Base Directory Specification).
func DefaultStateDir() (string, error) {
	base := os.Getenv("XDG_STATE_HOME")
	if !filepath.IsAbs(base) { // the specification has relative values ignored
		home, err := os.UserHomeDir()
		if err != nil {
			return "", fmt.Errorf("finding the state directory: %w", err)
		}
		base = filepath.Join(home, ".local", "state")
	}
	return filepath.Join(base, "gapproof", "clusters"), nil
}

// Permissions of the state: it holds a kubeconfig, which is a key to the cluster. The mirror runs as the same user.
const (
	dirMode  = 0o700
	fileMode = 0o600
)

// files are the paths of one cluster's state.
type files struct {
	dir string // <state>/<name>
	// logs is beside dir, so that what explains a failure outlives the cluster.
	logs string
}

func filesOf(stateDir, name string) files {
	return files{dir: filepath.Join(stateDir, name), logs: filepath.Join(stateDir, ".logs", name)}
}

func (f files) kubeconfig() string { return filepath.Join(f.dir, "kubeconfig") }
func (f files) record() string     { return filepath.Join(f.dir, "cluster.json") }
func (f files) certs() string      { return filepath.Join(f.dir, "certs.d") }
func (f files) mirror() string     { return filepath.Join(f.dir, "mirror") }

// seal is for whoever seals the network; resolvers holds a resolv.conf for each node, by its place in the topology.
func (f files) seal() string             { return filepath.Join(f.dir, "seal") }
func (f files) namesLog() string         { return filepath.Join(f.dir, "sink", namesLogName) }
func (f files) resolvers() string        { return filepath.Join(f.dir, "resolv") }
func (f files) resolver(node int) string { return filepath.Join(f.resolvers(), strconv.Itoa(node)) }

// outside is the folder of one outside host of a run; without a name, of all of the run; without a run, of all.
func (f files) outside(run, name string) string { return filepath.Join(f.dir, "outside", run, name) }

func (f files) accessLog() string { return filepath.Join(f.mirror(), accessLogName) }

// accessLogName is the access log's name in the folder that is mounted into the mirror.
const accessLogName = "access.jsonl"

// namesLogName is the name of the sink's log in the folder that is mounted into the sink.
const namesLogName = "names.jsonl"

// recordVersion is the only version of cluster.json that this build reads.
const recordVersion = 3

// record is cluster.json: what a cluster was made from. It is written when the cluster is complete, so its absence is the mark of
// a half-made one.
type record struct {
	Version  int       `json:"version"`
	Name     string    `json:"name"`
	Topology string    `json:"topology"`
	Lock     string    `json:"lock"` // digest of the lock
	LabDir   string    `json:"labDir"`
	Platform string    `json:"platform"` // the lock's
	Created  time.Time `json:"created"`
	// PodNetwork is whether one was installed; without it nodes cannot be Ready.
	PodNetwork bool     `json:"podNetwork"`
	Cluster    *Cluster `json:"cluster"`
}

// ErrNotUp reports that no complete cluster of that name is recorded.
var ErrNotUp = errors.New("cluster is not up")

// Find reads what was recorded when the cluster was complete; it does not ask whether it still runs. The error matches [ErrNotUp]
// or [ErrName].
func Find(stateDir, name string) (*Cluster, error) {
	if err := checkName(name); err != nil {
		return nil, fmt.Errorf("finding cluster %q: %w", name, err)
	}
	r, err := readRecord(filesOf(stateDir, name).record())
	if errors.Is(err, errNoRecord) {
		return nil, fmt.Errorf("finding cluster %q: %w", name, ErrNotUp)
	}
	if err != nil {
		return nil, fmt.Errorf("finding cluster %q: %w", name, err)
	}
	return r.Cluster, nil
}

// errNoRecord reports that there is no record of a complete cluster.
var errNoRecord = errors.New("no record of a complete cluster")

func readRecord(path string) (*record, error) {
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errNoRecord
	}
	if err != nil {
		return nil, fmt.Errorf("reading the cluster's record: %w", err)
	}
	var r record
	if err := json.Unmarshal(raw, &r); err != nil || r.Version != recordVersion || r.Cluster == nil {
		return nil, errNoRecord // written by another build, or cut off: as good as none
	}
	return &r, nil
}

func (r *record) write(path string) error {
	raw, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding the cluster's record: %w", err)
	}
	// Renamed into place: a record is whole or is not there.
	part := path + ".part"
	if err := os.WriteFile(part, append(raw, '\n'), fileMode); err != nil {
		return fmt.Errorf("writing the cluster's record: %w", err)
	}
	if err := os.Rename(part, path); err != nil {
		return fmt.Errorf("writing the cluster's record: %w", err)
	}
	return nil
}

// lockDigest identifies a lock by its content.
func lockDigest(l *images.Lock) (string, error) {
	raw, err := json.Marshal(l)
	if err != nil {
		return "", fmt.Errorf("encoding the lock: %w", err)
	}
	sum := sha256.Sum256(raw)
	return "sha256:" + hex.EncodeToString(sum[:]), nil
}

// writeHosts writes the folder that is mounted as every node's certs.d: one hosts.toml for every registry, whose server is the
// mirror. With a server, containerd adds no endpoint of its own, and with no [host] entry it asks no other
// (https://github.com/containerd/containerd/blob/main/docs/hosts.md).
func (f files) writeHosts(mirror netip.AddrPort) error {
	dir := filepath.Join(f.certs(), "_default")
	if err := os.MkdirAll(dir, dirMode); err != nil {
		return fmt.Errorf("making the nodes' registry configuration: %w", err)
	}
	toml := fmt.Sprintf("server = %q\ncapabilities = [\"pull\", \"resolve\"]\n", "http://"+mirror.String())
	if err := os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte(toml), fileMode); err != nil {
		return fmt.Errorf("writing the nodes' registry configuration: %w", err)
	}
	return nil
}

const (
	// lockInterval is how often a waiting process looks whether the lock file is free: often enough not to be noticed, and flock(2)
	// cannot be waited for together with a context.
	lockInterval = 200 * time.Millisecond
	// lockLimit is longer than one Up may take.
	lockLimit = kindLimit + 5*time.Minute
)

// lockState keeps every other process, and every other goroutine of this one, from changing clusters below stateDir until
// release is called. waiting is called once if it has to wait.
func lockState(ctx context.Context, stateDir string, waiting func()) (release func() error, err error) {
	if err := os.MkdirAll(stateDir, dirMode); err != nil {
		return nil, fmt.Errorf("making the state directory: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(stateDir, ".lock"), os.O_CREATE|os.O_RDWR, fileMode)
	if err != nil {
		return nil, fmt.Errorf("opening the state's lock file: %w", err)
	}
	told := false
	_, err = kube.Poll(ctx, "another gapproof to finish with "+stateDir, lockInterval, lockLimit, func(context.Context) (bool, string, error) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) {
			if !told && waiting != nil {
				told = true
				waiting()
			}
			return false, "its lock file is held", nil
		}
		return err == nil, "", err
	})
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f.Close, nil // closing the only descriptor releases the lock
}
