package ocifront

import "strings"

// Name is the base name under which the gapproof binary acts as an OCI runtime, and the name the runtime is registered by.
const Name = "gapproof-oci"

// subject says which file of a runtime command carries what must be filtered.
type subject int

const (
	subjectNone    subject = iota // the command starts no process from a specification
	subjectBundle                 // create and run: config.json in the bundle
	subjectProcess                // exec: the file of --process
)

// command is what the front needs to know of a runc command line. The arguments themselves are never changed.
type command struct {
	subject   subject
	bundle    string // directory of config.json; "." where the command line names none, as runc does
	process   string // file of --process
	logFile   string // file of the global --log; empty means standard error
	logFormat string // "text" or "json"; runc's default is text
}

// globalValueFlags are runc's flags before the subcommand that take a value. Flags outside this list are taken as switches: a
// switch read as such costs nothing, while a value wrongly skipped would hide the subcommand.
// https://github.com/opencontainers/runc/blob/v1.4.3/main.go
func globalValueFlags() map[string]bool {
	return map[string]bool{"log": true, "log-format": true, "root": true, "criu": true, "rootless": true}
}

// commandValueFlags are the flags of create, run and exec that take a value.
// https://github.com/opencontainers/runc/blob/v1.4.3/create.go, run.go, exec.go
func commandValueFlags() map[string]bool {
	return map[string]bool{
		"bundle": true, "b": true, "console-socket": true, "pidfd-socket": true, "pid-file": true, "preserve-fds": true,
		"cwd": true, "env": true, "e": true, "user": true, "u": true, "additional-gids": true, "g": true, "process": true, "p": true,
		"process-label": true, "apparmor": true, "cap": true, "c": true, "cgroup": true,
	}
}

// parseCommand reads the arguments after the program name. It never fails: what runc would refuse is left for runc to refuse.
func parseCommand(args []string) command {
	parsed := command{logFormat: "text"}
	rest := args
	for len(rest) > 0 {
		flag, value, after, isFlag := nextFlag(rest, globalValueFlags())
		if !isFlag {
			break
		}
		rest = after
		switch flag {
		case "log":
			parsed.logFile = value
		case "log-format":
			parsed.logFormat = value
		}
	}
	if len(rest) == 0 {
		return parsed
	}
	name, rest := rest[0], rest[1:]
	switch name {
	case "create", "run":
		parsed.subject, parsed.bundle = subjectBundle, "."
	case "exec":
	default:
		return parsed
	}
	for len(rest) > 0 {
		if rest[0] == "--" {
			break
		}
		flag, value, after, isFlag := nextFlag(rest, commandValueFlags())
		if !isFlag {
			if name == "exec" {
				break // what follows the container's name is the command to run in it, with flags of its own
			}
			rest = rest[1:]
			continue
		}
		rest = after
		switch {
		case name == "exec" && (flag == "process" || flag == "p") && value != "":
			parsed.subject, parsed.process = subjectProcess, value
		case name != "exec" && (flag == "bundle" || flag == "b") && value != "":
			parsed.bundle = value
		}
	}
	return parsed
}

// nextFlag splits the flag at the head of args from what follows. Both "-name" and "--name" are flags, values come after "=" or
// as the next argument, as in Go's flag package, which runc's command line is built on.
func nextFlag(args []string, takesValue map[string]bool) (name, value string, rest []string, isFlag bool) {
	head := args[0]
	if len(head) < 2 || head[0] != '-' || head == "--" {
		return "", "", args, false
	}
	name = strings.TrimPrefix(strings.TrimPrefix(head, "-"), "-")
	rest = args[1:]
	if before, after, found := strings.Cut(name, "="); found {
		return before, after, rest, true
	}
	if takesValue[name] && len(rest) > 0 {
		return name, rest[0], rest[1:], true
	}
	return name, "", rest, true
}
