package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"sigs.k8s.io/kind/pkg/apis/config/v1alpha4"
	kindcluster "sigs.k8s.io/kind/pkg/cluster"
	kindlog "sigs.k8s.io/kind/pkg/log"
)

// networkVariable is how kind is told its docker network; there is no option for it in its library
// (sigs.k8s.io/kind/pkg/cluster/internal/providers/docker/provider.go).
const networkVariable = "KIND_EXPERIMENTAL_DOCKER_NETWORK"

// cancelInterval is how often nodes are looked for and removed while kind has not yet noticed that it was cancelled: it may be
// about to start the next one.
const cancelInterval = 300 * time.Millisecond

func kindProvider(l kindlog.Logger) *kindcluster.Provider {
	return kindcluster.NewProvider(kindcluster.ProviderWithDocker(), kindcluster.ProviderWithLogger(l))
}

// kindConfig completes a topology with what depends on this host. s is nil for a network that is not sealed.
func kindConfig(topology *v1alpha4.Cluster, f files, s *Seal) *v1alpha4.Cluster {
	c := topology.DeepCopy()
	for i := range c.Nodes {
		c.Nodes[i].ExtraMounts = append(c.Nodes[i].ExtraMounts, v1alpha4.Mount{
			HostPath: f.certs(), ContainerPath: "/etc/containerd/certs.d", Readonly: true,
		})
		if s != nil {
			c.Nodes[i].ExtraMounts = append(c.Nodes[i].ExtraMounts, v1alpha4.Mount{HostPath: f.resolver(i), ContainerPath: resolvConf})
		}
	}
	return c
}

// createNodes runs kind. kind keeps the nodes of a failed attempt, because their logs are wanted before the caller removes them.
func (e engine) createNodes(ctx context.Context, name, image string, config *v1alpha4.Cluster, f files, l kindlog.Logger) error {
	restore, err := setEnvironment(map[string]string{
		networkVariable: objectName(name),
		// kind passes these to the nodes. The lab's nodes ask nobody but the mirror, which is on their own network.
		"HTTP_PROXY": "", "HTTPS_PROXY": "", "NO_PROXY": "", "http_proxy": "", "https_proxy": "", "no_proxy": "",
	})
	if err != nil {
		return err
	}
	defer restore()
	done := make(chan error, 1)
	go func() {
		done <- kindProvider(l).Create(objectName(name),
			kindcluster.CreateWithV1Alpha4Config(config), kindcluster.CreateWithNodeImage(image),
			kindcluster.CreateWithKubeconfigPath(f.kubeconfig()), kindcluster.CreateWithRetain(true))
	}()
	select {
	case err := <-done:
		if err != nil {
			return fmt.Errorf("creating the kind cluster: %w", fromKind(err))
		}
		return nil
	case <-ctx.Done():
	}
	// Every command that kind runs, it runs against a node: without nodes it fails soon.
	cleanup := context.WithoutCancel(ctx)
	tick := time.NewTicker(cancelInterval)
	defer tick.Stop()
	for {
		own, _, err := e.find(cleanup, name)
		if err == nil {
			_, err = e.removeContainers(cleanup, own.nodes)
		}
		select {
		case <-done:
			return errors.Join(ended(ctx), err)
		case <-tick.C:
		}
	}
}

// setEnvironment sets variables, removing those whose value is empty, and returns what puts the old ones back. The caller holds
// the state's lock.
func setEnvironment(vars map[string]string) (restore func(), err error) {
	var undo []func()
	restore = func() {
		for _, u := range undo {
			u()
		}
	}
	for k, v := range vars {
		old, was := os.LookupEnv(k)
		undo = append(undo, func() {
			// The same names were accepted a moment ago.
			if was {
				_ = os.Setenv(k, old)
			} else {
				_ = os.Unsetenv(k)
			}
		})
		if v == "" {
			err = os.Unsetenv(k)
		} else {
			err = os.Setenv(k, v)
		}
		if err != nil {
			restore()
			return nil, fmt.Errorf("setting %s for kind: %w", k, err)
		}
	}
	return restore, nil
}

// kindLogger gives kind's messages to a slog logger, and those a person should see to notice as well.
type kindLogger struct {
	log    *slog.Logger
	notice func(string)
}

var _ kindlog.Logger = kindLogger{}

func (l kindLogger) Warn(m string)            { l.log.Debug("kind warns", "message", strings.TrimSpace(m)) }
func (l kindLogger) Warnf(f string, a ...any) { l.Warn(fmt.Sprintf(f, a...)) }
func (l kindLogger) Error(m string) {
	l.log.Error("kind reports a fault", "message", strings.TrimSpace(m))
}
func (l kindLogger) Errorf(f string, a ...any) {
	l.Error(fmt.Sprintf(f, a...))
}
func (l kindLogger) V(level kindlog.Level) kindlog.InfoLogger { return kindInfo{l, level} }

// kindInfo is one verbosity of a kindLogger.
type kindInfo struct {
	kindLogger
	level kindlog.Level
}

// noticed is the mark in front of the lines in which kind names what it is about to do (pkg/internal/cli/status.go).
const noticed = "•"

func (l kindInfo) Info(m string) {
	m = strings.TrimSpace(m)
	l.log.Debug("kind", "message", m, "verbosity", int32(l.level))
	if rest, ok := strings.CutPrefix(m, noticed); ok && l.level == 0 && l.notice != nil {
		// kind ends its lines with emojis and dots, which a log does not need.
		words := strings.Fields(strings.TrimRight(rest, " ."))
		for len(words) > 1 && words[len(words)-1][0] >= utf8.RuneSelf {
			words = words[:len(words)-1]
		}
		rest = strings.Join(words, " ")
		l.notice(rest)
	}
}
func (l kindInfo) Infof(f string, a ...any) { l.Info(fmt.Sprintf(f, a...)) }
func (l kindInfo) Enabled() bool            { return l.level <= 1 }
