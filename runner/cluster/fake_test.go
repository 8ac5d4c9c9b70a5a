package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// fakeEngine keeps networks, containers and images in memory and answers the docker commands this package uses. A command it does
// not know fails the test.
type fakeEngine struct {
	t testing.TB

	mu         sync.Mutex
	networks   []*fakeNetwork
	containers []*fakeContainer
	images     map[string]fakeImage
	commands   []string
	// batch is what was read by commands that run once.
	batch bytes.Buffer
	// refuse makes the command with this prefix fail with this output.
	refuse map[string]string
	// sinkListens makes sinks start; they end at once otherwise, as mirrors do.
	sinkListens bool
	// execs is the container in which a command prints what prints has for it.
	execs  string
	prints map[string]string
	// before is called ahead of each command, outside the lock.
	before func(args string)
}

// fakeNetwork has the labels that tell whose it is and whether it is sealed. Its subnet is one, or several with commas between.
type fakeNetwork struct{ name, label, sealed, subnet string }

type fakeContainer struct {
	id, name, state, image string
	started                time.Time // default: fakeStart
	labels                 map[string]string
	networks               []string
}

// fakeStart is when containers were started that name no time of their own.
var fakeStart = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func (c *fakeContainer) startedAt() time.Time {
	if c.started.IsZero() {
		return fakeStart
	}
	return c.started
}

type fakeImage struct{ id, executable string }

func newFake(t testing.TB) *fakeEngine {
	return &fakeEngine{t: t, images: map[string]fakeImage{}, refuse: map[string]string{}}
}

func (f *fakeEngine) engine() engine { return engine{run: f.run} }

// node adds a node container as kind would.
func (f *fakeEngine) node(cluster, role string, networks ...string) {
	name := cluster + "-" + role
	f.containers = append(f.containers, &fakeContainer{
		id: "id-" + name, name: name, state: "running", networks: networks, labels: map[string]string{kindLabel: cluster},
	})
}

func (f *fakeEngine) names() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []string
	for _, c := range f.containers {
		out = append(out, "container "+c.name)
	}
	for _, n := range f.networks {
		out = append(out, "network "+n.name)
	}
	for i := range f.images {
		out = append(out, "image "+i)
	}
	slices.Sort(out)
	return out
}

func (f *fakeEngine) run(ctx context.Context, c call) error {
	line := strings.Join(c.args, " ")
	if f.before != nil {
		f.before(line)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.commands = append(f.commands, line)
	out, err := f.answer(line, c)
	if err != nil {
		fmt.Fprintln(c.err, err)
		return errors.New("exit status 1")
	}
	_, err = io.WriteString(c.out, out)
	return err
}

// flag is the value after a flag, or all of them joined by commas.
func flag(args []string, name string) string {
	var all []string
	for i := range args {
		if args[i] == name && i+1 < len(args) {
			all = append(all, args[i+1])
		}
	}
	return strings.Join(all, ",")
}

// noSuch is in docker's words.
func noSuch(kind, name string) error {
	return fmt.Errorf("%s: No such %s: %s", "Error", kind, name)
}

func (f *fakeEngine) answer(line string, c call) (string, error) {
	for prefix, output := range f.refuse {
		if strings.HasPrefix(line, prefix) {
			return "", errors.New(output)
		}
	}
	var out strings.Builder
	last := c.args[len(c.args)-1]
	switch verb := strings.Join(c.args[:min(2, len(c.args))], " "); verb {
	case "version --format":
		return "20.10.24\n", nil
	case "network ls":
		name, byName := strings.CutPrefix(flag(c.args, "--filter"), "name=^")
		for _, n := range f.networks {
			switch {
			case slices.Contains(c.args, "--quiet"):
				fmt.Fprintln(&out, n.name)
			case byName && n.name == strings.TrimSuffix(name, "$"):
				fmt.Fprintf(&out, "%s\t%s\t%s\n", n.name, n.label, n.sealed)
			case !byName && n.label != "":
				fmt.Fprintln(&out, n.label)
			}
		}
	case "network inspect":
		if flag(c.args, "--format") == "{{.Id}}" {
			return "0123456789abcdef0123\n", nil
		}
		type config struct{ Subnet string }
		type ipam struct{ Config []config }
		type network struct {
			Name string
			IPAM ipam
		}
		all := []network{}
		for _, n := range f.networks {
			var configs []config
			for subnet := range strings.SplitSeq(n.subnet, ",") {
				configs = append(configs, config{subnet})
			}
			all = append(all, network{n.name, ipam{configs}})
		}
		raw, err := json.Marshal(all)
		return string(raw), err
	case "network create":
		n := &fakeNetwork{name: last, subnet: flag(c.args, "--subnet")}
		for label := range strings.SplitSeq(flag(c.args, "--label"), ",") {
			switch key, value, _ := strings.Cut(label, "="); key {
			case Label:
				n.label = value
			case sealedLabel:
				n.sealed = value
			}
		}
		f.networks = append(f.networks, n)
	case "network rm":
		before := len(f.networks)
		f.networks = slices.DeleteFunc(f.networks, func(n *fakeNetwork) bool { return n.name == last })
		if len(f.networks) == before {
			return "", noSuch("network", last)
		}
	case "container ls":
		key, value, _ := strings.Cut(strings.TrimPrefix(flag(c.args, "--filter"), "label="), "=")
		for _, k := range f.containers {
			if k.labels[key] == value {
				fmt.Fprintf(&out, "%s\t%s\t%s\t%s\n", k.id, k.name, k.state, strings.Join(k.networks, ","))
			}
		}
	case "container rm":
		f.containers = slices.DeleteFunc(f.containers, func(k *fakeContainer) bool { return slices.Contains(c.args, k.id) || slices.Contains(c.args, k.name) })
	case "container inspect":
		for _, k := range f.containers {
			if k.id == last || k.name == last {
				if strings.Contains(flag(c.args, "--format"), standsForLabel) {
					return k.labels[standsForLabel] + ";172.30.0.130,fd67::82\n", nil
				}
				if strings.Contains(flag(c.args, "--format"), "IPAddress") {
					return k.state + " 172.30.0.130 fd67::82", nil
				}
				return map[string]string{
					"{{.Config.Image}}": k.image, "{{.State.Status}}": k.state, "{{.State.StartedAt}}": k.startedAt().Format(time.RFC3339Nano),
					"{{.State.Pid}}": map[string]string{"running": "4711\n"}[k.state],
				}[flag(c.args, "--format")], nil
			}
		}
		return "", noSuch("container", last)
	case "container logs":
		return "mirror: the lab has no lock\n", nil
	case "run --detach":
		k := &fakeContainer{
			id: "id-" + flag(c.args, "--name"), name: flag(c.args, "--name"), state: "exited", labels: map[string]string{},
			networks: []string{flag(c.args, "--network")},
		}
		for i, a := range c.args {
			if a == "--label" {
				key, value, _ := strings.Cut(c.args[i+1], "=")
				k.labels[key] = value
			}
		}
		for _, a := range c.args {
			if strings.HasPrefix(a, mirrorRepository+":") {
				k.image = a
			}
			if strings.HasPrefix(a, probeRepository+":") {
				k.image, k.state = a, "running"
			}
		}
		if strings.HasSuffix(k.name, "-sink") && f.sinkListens { // it makes its log once it listens
			source, _, _ := strings.Cut(strings.TrimPrefix(flag(c.args, "--mount"), "type=bind,source="), ",")
			if err := os.WriteFile(filepath.Join(source, namesLogName), nil, fileMode); err != nil {
				return "", err
			}
			k.state = "running"
		}
		f.containers = append(f.containers, k)
	case "run --rm":
		_, err := io.Copy(&f.batch, c.in)
		return "", err
	case "exec --interactive":
		if strings.HasSuffix(line, " -batch -") {
			raw, err := io.ReadAll(c.in)
			fmt.Fprintf(&f.batch, "%s: %s", c.args[2], raw)
			return "", err
		}
		_, err := io.Copy(&out, c.in) // an agent that answers with what it was asked
		return out.String(), err
	case "image inspect":
		i, ok := f.images[last]
		if !ok {
			return "", noSuch("image", last)
		}
		if flag(c.args, "--format") == "{{.Id}}" {
			return i.id, nil
		}
		return i.executable, nil
	case "image load":
		tag, image, err := readArchive(c.in)
		if err != nil {
			return "", err
		}
		f.images[tag] = image
	case "image rm":
		delete(f.images, last)
	case "exec " + f.execs:
		command := strings.TrimPrefix(line, verb+" ")
		printed, known := f.prints[command]
		if !known {
			return "", fmt.Errorf("the fake knows nothing of %q in %s", command, f.execs)
		}
		return printed, nil
	default:
		f.t.Errorf("the code ran a docker command that the fake does not know: %s", line)
		return "", errors.New("unknown command")
	}
	return out.String(), nil
}
