package ocifront

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseCommand(t *testing.T) {
	const text = "text"
	tests := []struct {
		name string
		args string
		want command
	}{
		{"create as the engine's shim calls it",
			"--root /run/docker/runtime --log /b/log.json --log-format json create --bundle /b --pid-file /b/init.pid id",
			command{subject: subjectBundle, bundle: "/b", logFile: "/b/log.json", logFormat: "json"}},
		{"exec as the engine's shim calls it",
			"--root /r --log /b/log.json --log-format json exec --process /tmp/runc-process1 --console-socket /s --detach --pid-file /p id",
			command{subject: subjectProcess, process: "/tmp/runc-process1", logFile: "/b/log.json", logFormat: "json"}},
		{"values may follow an equals sign", "--log=/l --log-format=json --root=/r run --bundle=/b --console-socket=/s id",
			command{subject: subjectBundle, bundle: "/b", logFile: "/l", logFormat: "json"}},
		{"short flags and single dashes are flags", "-log /l create -b /b id", command{subject: subjectBundle, bundle: "/b", logFile: "/l", logFormat: text}},
		{"switches take no value", "--systemd-cgroup --debug create --no-pivot --bundle /b id", command{subject: subjectBundle, bundle: "/b", logFormat: text}},
		{"a bundle that is not named is the working directory", "create id", command{subject: subjectBundle, bundle: ".", logFormat: text}},
		{"flags of create may follow the container's name", "create id --bundle /b", command{subject: subjectBundle, bundle: "/b", logFormat: text}},
		{"the short flag of exec's process", "exec -p /p -d id", command{subject: subjectProcess, process: "/p", logFormat: text}},
		{"what follows the container's name is not exec's", "exec id tool --process /p", command{logFormat: text}},
		{"flags that take a value hide what looks like a flag", "exec --cwd --process --user 0 id sh", command{logFormat: text}},
		{"a bundle flag of exec means nothing", "exec --bundle /b id sh", command{logFormat: text}},
		{"-p is not the bundle of create", "create -p /p id", command{subject: subjectBundle, bundle: ".", logFormat: text}},
		{"two dashes end the flags", "create --bundle /b -- id --bundle /c", command{subject: subjectBundle, bundle: "/b", logFormat: text}},
		{"the last of repeated flags counts", "create --bundle /b --bundle /c id", command{subject: subjectBundle, bundle: "/c", logFormat: text}},
		{"a flag without its value is left for runc to refuse", "exec --process", command{logFormat: text}},
		{"other commands carry no specification", "--log /l start id", command{logFile: "/l", logFormat: text}},
		{"a global value that names a command is not the command", "--root create delete id", command{logFormat: text}},
		{"version is no command", "--version", command{logFormat: text}},
		{"no arguments at all", "", command{logFormat: text}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got := parseCommand(strings.Fields(test.args))
			if diff := cmp.Diff(test.want, got, cmp.AllowUnexported(command{})); diff != "" {
				t.Errorf("command (-want +got):\n%s", diff)
			}
		})
	}
}

func FuzzParseCommandNeverFails(f *testing.F) {
	f.Add("--log\n/l\ncreate\n--bundle\n/b\nid")
	f.Add("exec\n-p=\n--\n-")
	f.Fuzz(func(t *testing.T, text string) {
		got := parseCommand(strings.Split(text, "\n"))
		if got.subject == subjectBundle && got.bundle == "" {
			t.Error("a bundle without a path")
		}
		if got.subject == subjectProcess && got.process == "" {
			t.Error("a process without a path")
		}
	})
}
