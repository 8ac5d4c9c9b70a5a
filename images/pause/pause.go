//go:build linux

// Command pause holds a pod's namespaces open: it is the sandbox container of every pod of the lab.
//
// It waits for SIGINT or SIGTERM and then ends. As process 1 of a pod that shares its process namespace it also reaps what the
// other containers orphan. The trap: it must do nothing else, since one runs in every pod.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	signals := make(chan os.Signal, 8) // room for the deaths that come while one is being reaped; wait4 takes them all anyway
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGCHLD)
	for s := range signals {
		if s != syscall.SIGCHLD {
			return
		}
		if err := reap(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}

// reap collects every child that has ended.
func reap() error {
	for {
		pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case errors.Is(err, syscall.ECHILD) || err == nil && pid == 0:
			return nil
		case err != nil:
			return fmt.Errorf("reaping children: %w", err)
		}
	}
}
