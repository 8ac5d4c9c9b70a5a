// Package host finds out what this machine lacks for running a lab, and gets it.
//
// [Check] looks and changes nothing that lasts: it returns one [Finding] a line, each with a [Level] and, where a command helps, a
// hint that can be typed. [Fix] acts in three steps, each of which does nothing when there is nothing to do: it installs the Debian
// packages that are missing, registers the runtime front (package ocifront) where the bounding set lacks a capability, and starts
// the engine where no init system does. It returns one [Action] for each thing it did. [StopEngine] ends an engine that Fix started.
//
// What Fix leaves on the host, all of it named in its actions: the packages; the front and the engine's log and record below
// the state directory; two keys in /etc/docker/daemon.json, with a copy of the file as it was beside it; a running engine. No
// package is removed, no other key is changed, no cgroup is mounted, no sysctl is set. To undo the registration, put the copy back
// (or remove the two keys) and reload the engine.
//
// The trap: an engine may be somebody else's. An engine that Fix did not start is never stopped, and restarted only when it runs no
// container; a default runtime that somebody chose is never replaced. Nothing here pulls an image or reaches a network.
package host
