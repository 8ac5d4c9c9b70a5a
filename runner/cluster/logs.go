package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

const (
	// logsLimit is how long collecting may take; a node that answers gives all its logs within seconds.
	logsLimit = 30 * time.Second
	// logsTime names a folder of logs: it sorts by time and is unique as Ups run one after the other.
	logsTime = "20060102T150405Z"
)

// collectLogs writes what explains a failure into a new directory beside the state: for every node the journal, kubelet's and
// containerd's logs and /var/log with the logs of all pods (CNI and agents among them), then events, pods and nodes as the API
// server knows them, and the mirror's log and access log. What cannot be had is left out, and told in missing.txt.
//
// kind's library knows no context, so it may still be at work when the limit has passed; finish waits for it and must be called
// after the nodes were removed.
func (u *up) collectLogs(ctx context.Context) (dir string, finish func(), err error) {
	finish = func() {}
	dir = filepath.Join(u.files.logs, time.Now().UTC().Format(logsTime))
	if err := os.MkdirAll(dir, dirMode); err != nil {
		return "", finish, fmt.Errorf("making the log directory: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, logsLimit)
	defer cancel()
	var faults []error
	defer func() {
		if missing := errors.Join(faults...); missing != nil && err == nil {
			err = os.WriteFile(filepath.Join(dir, "missing.txt"), []byte(missing.Error()+"\n"), fileMode)
		}
	}()
	if err := copyFile(filepath.Join(dir, accessLogName), u.files.accessLog()); err != nil && !errors.Is(err, os.ErrNotExist) {
		faults = append(faults, err)
	}
	own, _, err := u.engine.find(ctx, u.o.Name)
	if err != nil {
		return dir, finish, err
	}
	for _, c := range own.helpers {
		faults = append(faults, u.engine.capture(ctx, filepath.Join(dir, c.name+".log"), "container", "logs", c.id))
	}
	if len(own.nodes) == 0 {
		return dir, finish, nil
	}
	done := make(chan error, 1)
	go func() { done <- kindProvider(kindLogger{log: u.o.Log}).CollectLogs(objectName(u.o.Name), dir) }()
	kubectl := []string{"exec", objectName(u.o.Name) + "-control-plane", "kubectl", "--kubeconfig", "/etc/kubernetes/admin.conf", "--request-timeout", "5s"}
	for file, args := range map[string][]string{
		"events.txt": {"get", "events", "--all-namespaces", "--sort-by", ".metadata.creationTimestamp"},
		"pods.txt":   {"get", "pods", "--all-namespaces", "--output", "wide"},
		"pods.yaml":  {"get", "pods", "--all-namespaces", "--output", "yaml"},
		"nodes.txt":  {"describe", "nodes"},
	} {
		// Without an API server these four say so in their files; that is no fault of the collecting.
		_ = u.engine.capture(ctx, filepath.Join(dir, file), append(kubectl[:len(kubectl):len(kubectl)], args...)...)
	}
	select {
	case err := <-done:
		if err != nil {
			faults = append(faults, fmt.Errorf("collecting the nodes' logs: %w", fromKind(err)))
		}
	case <-ctx.Done():
		faults = append(faults, fmt.Errorf("collecting the nodes' logs: not done within %v", logsLimit))
		finish = func() { <-done }
	}
	return dir, finish, nil
}

// capture writes everything a docker command prints into a file.
func (e engine) capture(ctx context.Context, path string, args ...string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, fileMode)
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	runErr := e.run(ctx, call{args: args, out: f, err: f})
	if runErr != nil {
		runErr = &CommandError{Args: append([]string{"docker"}, args...), Err: runErr}
	}
	return errors.Join(runErr, f.Close())
}

func copyFile(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("reading %s: %w", from, err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, fileMode)
	if err != nil {
		return fmt.Errorf("writing %s: %w", to, err)
	}
	_, err = io.Copy(out, in)
	if err = errors.Join(err, out.Close()); err != nil {
		return fmt.Errorf("writing %s: %w", to, err)
	}
	return nil
}
