package e2e

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// gapNetwork is the network namespace of the far side: loopback and whatever the engine in it makes, and no route out.
const gapNetwork = "gapproof-e2e-gap"

// farSide is a site behind the gap: a network namespace without a route, an engine that lives in it, and folders that hold nothing.
type farSide struct {
	dir, socket string
}

// gapproof is the binary on the far side, with arguments.
func (s farSide) gapproof(t *testing.T, args ...string) *command {
	t.Helper()
	c := gapproof(t, args...)
	s.move(c.Cmd)
	return c
}

// move has a command run on the far side. nsenter leaves /sys as it is, which `ip netns exec` mounts anew without the cgroups.
func (s farSide) move(c *exec.Cmd) {
	inside := exec.Command("nsenter", append([]string{"--net=/run/netns/" + gapNetwork, c.Path}, c.Args[1:]...)...)
	c.Path, c.Args, c.Err = inside.Path, inside.Args, inside.Err
	c.Env = append(os.Environ(), "DOCKER_HOST=unix://"+s.socket, "XDG_CACHE_HOME="+filepath.Join(s.dir, "cache"), "XDG_STATE_HOME="+filepath.Join(s.dir, "state"))
}

// newFarSide makes the site and removes it when the test ends.
func newFarSide(t *testing.T) farSide {
	t.Helper()
	s := farSide{dir: t.TempDir()}
	s.socket = filepath.Join(s.dir, "docker.sock")
	endFarSide(t)
	sh(t, "", "ip", "netns", "add", gapNetwork)
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "delete", gapNetwork).Run() })
	sh(t, "", "ip", "-n", gapNetwork, "link", "set", "lo", "up")

	var log bytes.Buffer
	ctx := context.WithoutCancel(t.Context()) // the clusters in it are removed when the test's context has ended
	engine := exec.CommandContext(ctx, "dockerd", "--data-root", filepath.Join(s.dir, "engine"), "--exec-root", filepath.Join(s.dir, "run"),
		"--pidfile", filepath.Join(s.dir, "docker.pid"), "--host", "unix://"+s.socket)
	s.move(engine)
	engine.Stdout, engine.Stderr = &log, &log
	if err := engine.Start(); err != nil {
		t.Fatalf("starting an engine without a network: %v", err)
	}
	t.Cleanup(func() {
		engine.Process.Signal(syscall.SIGTERM)
		if err := engine.Wait(); err != nil {
			t.Errorf("ending the engine without a network: %v", err)
		}
	})
	eventually(t, "an engine without a network answers", func() (bool, string) {
		version := exec.CommandContext(t.Context(), "docker", "version")
		s.move(version)
		if out, err := version.CombinedOutput(); err != nil {
			return false, string(out)
		}
		return true, ""
	})
	return s
}

// endFarSide ends what an earlier test left that was killed: its engine, and whatever else lives in the namespace, and the namespace.
func endFarSide(t *testing.T) {
	t.Helper()
	if _, err := os.Stat("/run/netns/" + gapNetwork); err != nil {
		return
	}
	pids := func() []string { return strings.Fields(sh(t, "", "ip", "netns", "pids", gapNetwork)) }
	for _, pid := range pids() {
		_ = exec.Command("kill", "-TERM", pid).Run() // it may have ended meanwhile
	}
	eventually(t, "the engine of an earlier test has ended", func() (bool, string) {
		left := pids()
		return len(left) == 0, strings.Join(left, " ")
	})
	sh(t, "", "ip", "netns", "delete", gapNetwork)
}

// wantNoRoute fails the test where the far side could reach anything.
func (s farSide) wantNoRoute(t *testing.T) {
	t.Helper()
	for _, family := range []string{"-4", "-6"} {
		if routes := strings.TrimSpace(sh(t, "", "ip", "-n", gapNetwork, family, "route", "show", "default")); routes != "" {
			t.Fatalf("the far side has a route out: %s", routes)
		}
	}
}

func TestTheWholeWayAcrossTheGap(t *testing.T) {
	near, site := t.TempDir(), newFarSide(t)
	bundle, key := filepath.Join(near, "lab.tar"), filepath.Join(near, "release")
	gapproof(t, "bundle", "key", "--no-passphrase", "-o", key).wantExit(t, 0)
	// Of the pod networks those of the other tests: without --cni a bundle has all, and the lab here would be another one for them.
	gapproof(t, "bundle", "create", "--cni", "calico,none", "--out", bundle, "--serial", "1", "--key", key+".key").wantExit(t, 0)

	// One file is carried, and the public key that the site has had before.
	carried, public := filepath.Join(site.dir, "lab.tar"), filepath.Join(site.dir, "release.pub")
	for from, to := range map[string]string{bundle: carried, key + ".pub": public} {
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	site.wantNoRoute(t)
	site.gapproof(t, "bundle", "verify", carried, "--key", public).wantExit(t, 0)
	site.gapproof(t, "bundle", "load", carried, "--key", public).wantExit(t, 0)

	const name = clusterName + "-gap"
	t.Cleanup(func() {
		down := exec.Command(os.Getenv("GAPPROOF_BIN"), "down", "--cluster", name)
		site.move(down)
		if out, err := down.CombinedOutput(); err != nil {
			t.Errorf("removing the cluster: %v: %s", err, out)
		}
	})
	started := time.Now()
	site.gapproof(t, "up", "--sealed", "--cluster", name).wantExit(t, 0)
	t.Logf("up in %s", time.Since(started).Round(time.Second))
	evidence, statement := filepath.Join(site.dir, "evidence"), filepath.Join(site.dir, "seal.dsse.json")
	own := filepath.Join(site.dir, "site")
	site.gapproof(t, "bundle", "key", "--no-passphrase", "-o", own).wantExit(t, 0)
	run := site.gapproof(t, "run", "--cluster", name, "--witness", "require", "--seal", "require", "--evidence", evidence,
		"--statement", statement, "--key", own+".key", "catalogue:podSelector/allow-by-pod-selector.yaml", "catalogue:egress/allow-dns-only.yaml")
	run.wantExit(t, 0)
	t.Logf("\n%s", &run.stdout)
	site.wantNoRoute(t)

	// The evidence and the statement are carried out, and read by somebody who has neither the cluster nor the lab.
	gapproof(t, "report", "verify", evidence).wantExit(t, 0)
	verify := gapproof(t, "seal", "verify", statement, "--key", own+".pub", "--subject", filepath.Join(evidence, "manifest.json"))
	verify.wantExit(t, 0)
	if !strings.Contains(verify.stdout.String(), "SEALED") {
		t.Errorf("the statement does not say SEALED:\n%s", &verify.stdout)
	}

	t.Run("a bundle that was altered on the way", func(t *testing.T) {
		f, err := os.OpenFile(carried, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		one := make([]byte, 1)
		_, err = f.ReadAt(one, 64<<20)
		one[0] ^= 1
		if _, e := f.WriteAt(one, 64<<20); errors.Join(err, e) != nil {
			t.Fatal(errors.Join(err, e))
		}
		site.gapproof(t, "bundle", "load", carried, "--key", public).wantExit(t, 1)
	})
}
