package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/gapproof/gapproof/runner/internal/kube"
)

const (
	// mirrorPort is the usual port of a registry in a container; it needs no privilege.
	mirrorPort = 5000
	// mirrorLimit is how long the mirror may take to answer: it reads a few hundred small manifests, well below a second.
	mirrorLimit = 20 * time.Second
	// mirrorInterval is short because every node waits behind it.
	mirrorInterval = 50 * time.Millisecond
	// answerLimit is how long one request to a service on this host may take.
	answerLimit = 2 * time.Second
)

// MirrorCommand are the arguments with which the executable is run in the mirror's container. The command line's hidden command
// must accept them: it serves the lab directory read-only on every address and appends to the access log.
func MirrorCommand() []string {
	return []string{"mirror", "serve", "--lab", "/lab", "--listen", ":" + strconv.Itoa(mirrorPort), "--log", "/log/" + accessLogName}
}

// startMirror runs the mirror's container on the cluster's network and waits until it answers. It has no capability, no writable
// file but its log, no port on the host, and the caller's user id, so that the caller can read the log.
func (e engine) startMirror(ctx context.Context, name, image, labDir string, f files, address netip.AddrPort) error {
	if err := os.MkdirAll(f.mirror(), dirMode); err != nil {
		return fmt.Errorf("making the mirror's log folder: %w", err)
	}
	lab, err := filepath.Abs(labDir)
	if err != nil {
		return fmt.Errorf("finding the lab directory: %w", err)
	}
	args := []string{"run", "--detach", "--pull", "never",
		"--name", mirrorName(name), "--label", Label + "=" + name,
		"--network", objectName(name), "--ip", address.Addr().String(), "--network-alias", "gapproof-mirror",
		"--user", fmt.Sprintf("%d:%d", os.Getuid(), os.Getgid()), "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--read-only",
		// As kind's nodes: back after the engine was restarted, not for ever when it cannot start.
		"--restart", "on-failure:1",
		"--mount", "type=bind,readonly,source=" + lab + ",target=/lab",
		"--mount", "type=bind,source=" + f.mirror() + ",target=/log",
		image,
	}
	if err := e.create(ctx, append(args, MirrorCommand()...)...); err != nil {
		return fmt.Errorf("starting the mirror: %w", err)
	}
	_, err = kube.Poll(ctx, "the mirror on "+address.String(), mirrorInterval, mirrorLimit, func(ctx context.Context) (bool, string, error) {
		refused := mirrorAnswers(ctx, address)
		if refused == nil {
			return true, "", nil
		}
		out, err := e.docker(ctx, nil, "container", "inspect", "--format", "{{.State.Status}}", mirrorName(name))
		if err != nil {
			return false, refused.Error(), fmt.Errorf("inspecting its container: %w", err)
		}
		if s := strings.TrimSpace(string(out)); s != "running" && s != "created" {
			return false, "", fmt.Errorf("its container is %s", s)
		}
		return false, refused.Error(), nil
	})
	if err != nil {
		return errors.Join(err, e.lastWords(ctx, mirrorName(name)))
	}
	return nil
}

func mirrorName(name string) string { return objectName(name) + "-mirror" }

// lastWords is what a container printed last, as an error to be joined; nil when it printed nothing.
func (e engine) lastWords(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), answerLimit)
	defer cancel()
	var out bytes.Buffer
	err := e.run(ctx, call{args: []string{"container", "logs", "--tail", "5", name}, out: &out, err: &out})
	if err != nil || out.Len() == 0 {
		return nil // it explains a failure that is already being told
	}
	return fmt.Errorf("%s printed: %s", name, strings.TrimSpace(out.String()))
}

// mirrorAnswers asks the mirror for the base of the registry protocol.
func mirrorAnswers(ctx context.Context, address netip.AddrPort) error {
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address.String()+"/v2/", nil)
	if err != nil {
		return fmt.Errorf("asking the mirror: %w", err)
	}
	// A transport of its own: no proxy from the environment and no connection kept.
	transport := &http.Transport{DisableKeepAlives: true}
	res, err := (&http.Client{Transport: transport}).Do(r)
	if err != nil {
		return fmt.Errorf("asking the mirror: %w", err)
	}
	_ = res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("asking the mirror: it answered %s", res.Status)
	}
	return nil
}
