package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/probes/client"
	"github.com/gapproof/gapproof/probes/internal/leaktest"
	"github.com/gapproof/gapproof/probes/internal/program"
)

const token = "0123456789abcdef0123456789abcdef"

// ample is never reached.
const ample = 10 * time.Second

// asProbe is the variable that makes the test binary the program itself.
const asProbe = "GAPPROOF_TEST_AS_PROBE"

func TestMain(m *testing.M) {
	if os.Getenv(asProbe) != "" {
		main()
	}
	os.Exit(m.Run())
}

func tokenFile(t *testing.T, text string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func noEnv(string) (string, bool) { return "", false }

// freePort is a port of the loopback that was free a moment ago.
func freePort(t *testing.T) uint16 {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return uint16(l.Addr().(*net.TCPAddr).Port)
}

// waitFor polls the agent until it answers.
func waitFor(t *testing.T, c *client.Client) probes.Health {
	t.Helper()
	for began := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		health, err := c.Health(t.Context())
		if err == nil {
			return health
		}
		if time.Since(began) > ample {
			t.Fatal(err)
		}
	}
}

func clientOf(t *testing.T, port uint16) *client.Client {
	t.Helper()
	c := client.New(func(ctx context.Context) (net.Conn, error) {
		var dialer net.Dialer
		return dialer.DialContext(ctx, "tcp", fmt.Sprint("127.0.0.1:", port))
	}, token, client.Options{})
	t.Cleanup(c.Close)
	return c
}

func TestFaultsOfUsageAreToldTogether(t *testing.T) {
	good := tokenFile(t, token, 0o440)
	for _, tt := range []struct {
		name string
		args []string
		env  map[string]string
		want []string
	}{
		{"nothing given", nil, nil, []string{"--identity: identity: 0 characters", "--token-file: is required", "hint: "}},
		{"every flag wrong", []string{
			"--identity=a b", "--listen=TCP/0", "--agent-port=70000", "--token-file=/nowhere", "--concurrency=0", "extra",
		}, nil, []string{"--identity:", `listener "TCP/0"`, "--agent-port: 70000", "/nowhere", "--concurrency 0", `["extra"]`}},
		{"an unknown flag", []string{"--verbose"}, nil, []string{"-verbose"}},
		{"a token that everybody can read", []string{"--identity=a/b", "--token-file=" + tokenFile(t, token, 0o444)}, nil, []string{"-r--r--r--"}},
		{"an empty token", []string{"--identity=a/b", "--token-file=" + tokenFile(t, "\n", 0o400)}, nil, []string{"0 characters"}},
		{"a token in two lines", []string{"--identity=a/b", "--token-file=" + tokenFile(t, token+"\n"+token, 0o400)}, nil, []string{"character 32"}},
		{"a directory for a token", []string{"--identity=a/b", "--token-file=" + t.TempDir()}, nil, []string{"mode d"}},
		{"a token file without end", []string{"--identity=a/b", "--token-file=" + tokenFile(t, strings.Repeat("x", program.MaxTokenFile+1), 0o400)}, nil, []string{"more than"}},
		{"a bad variable", []string{"--identity=a/b", "--token-file=" + good}, map[string]string{"GAPPROOF_AGENT_PORT": "x"}, []string{`GAPPROOF_AGENT_PORT: "x"`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			code := run(t.Context(), tt.args, func(name string) (string, bool) { v, ok := tt.env[name]; return v, ok }, &stdout, &stderr)
			if code != program.ExitUsage || stdout.Len() > 0 {
				t.Errorf("want exit code %d and an empty standard output, got %d and %q", program.ExitUsage, code, &stdout)
			}
			for _, want := range tt.want {
				if !strings.Contains(stderr.String(), want) {
					t.Errorf("want %q in:\n%s", want, &stderr)
				}
			}
			if strings.Contains(stderr.String(), token) {
				t.Errorf("the token was printed:\n%s", &stderr)
			}
		})
	}
}

func TestVersionAndHelp(t *testing.T) {
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), []string{"--version"}, noEnv, &stdout, &stderr); code != program.ExitOK || !strings.HasPrefix(stdout.String(), "gapproof-probe ") {
		t.Errorf("--version: exit code %d, %q", code, &stdout)
	}
	stdout.Reset()
	if code := run(t.Context(), []string{"--help"}, noEnv, &stdout, &stderr); code != program.ExitOK || !strings.Contains(stderr.String(), "-token-file") || stdout.Len() > 0 {
		t.Errorf("--help: exit code %d, %q, %q", code, &stdout, &stderr)
	}
}

func TestAFlagOutranksItsVariable(t *testing.T) {
	env := map[string]string{
		"GAPPROOF_IDENTITY": "a/env", "GAPPROOF_LISTEN": "UDP/81", "GAPPROOF_TOKEN_FILE": tokenFile(t, token+"\n", 0o400), "GAPPROOF_RATE": "7",
	}
	c, err := parse([]string{"--identity", "a/flag"}, func(name string) (string, bool) { v, ok := env[name]; return v, ok }, new(bytes.Buffer))
	if err != nil {
		t.Fatal(err)
	}
	if c.identity != "a/flag" || len(c.listen) != 1 || c.listen[0].Port != 81 || c.token != token || c.rate != 7 || c.agentPort != 4370 {
		t.Errorf("got %+v", c)
	}
}

func TestABusyListenerIsAFaultAndABusyAgentPortTheEnd(t *testing.T) {
	leaktest.Check(t)
	busy, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	taken := busy.Addr().(*net.TCPAddr).Port
	path := tokenFile(t, token, 0o400)

	port := freePort(t)
	ctx, cancel := context.WithCancel(t.Context())
	var stderr bytes.Buffer
	var wg sync.WaitGroup
	wg.Go(func() {
		args := []string{"--identity=a/b", "--token-file=" + path, fmt.Sprint("--agent-port=", port), fmt.Sprintf("--listen=TCP/%d,UDP/%d", taken, taken)}
		if code := run(ctx, args, noEnv, new(bytes.Buffer), &stderr); code != program.ExitOK {
			t.Errorf("want exit code %d, got %d", program.ExitOK, code)
		}
	})
	health := waitFor(t, clientOf(t, port))
	cancel()
	wg.Wait()
	if len(health.Listeners) != 2 || health.Listeners[0].Fault == "" || health.Listeners[1].Fault != "" {
		t.Errorf("want a fault of the first listener alone, got %+v", health.Listeners)
	}
	if !strings.Contains(stderr.String(), "listener is not open") || strings.Contains(stderr.String(), token) {
		t.Errorf("want the fault in the log, and not the token:\n%s", &stderr)
	}

	args := []string{"--identity=a/b", "--token-file=" + path, fmt.Sprint("--agent-port=", taken)}
	if code := run(t.Context(), args, noEnv, new(bytes.Buffer), &stderr); code != program.ExitInfrastructure {
		t.Errorf("agent's port in use: want exit code %d, got %d", program.ExitInfrastructure, code)
	}
}

func TestTheProcessEndsAtSIGTERM(t *testing.T) {
	leaktest.Check(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	port := freePort(t)
	probe := exec.Command(self, "--identity=a/b", "--listen=TCP/28300", "--token-file="+tokenFile(t, token, 0o400), fmt.Sprint("--agent-port=", port))
	probe.Env = append(os.Environ(), asProbe+"=1", "GORACE=atexit_sleep_ms=0") // a race-checked program lingers for a second else
	if err := probe.Start(); err != nil {
		t.Fatal(err)
	}
	defer probe.Process.Kill()
	c := clientOf(t, port)
	waitFor(t, c)
	// With a stream open, a listener's connection open and an attempt under way.
	silent, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	conn, err := net.Dial("tcp", "127.0.0.1:28300")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var wg sync.WaitGroup
	wg.Go(func() {
		outcomes, _ := c.Attempts(t.Context(), []probes.Attempt{{
			ID: "a", Protocol: probes.UDP, Destination: silent.LocalAddr().(*net.UDPAddr).AddrPort(), Deadline: time.Minute,
		}})
		if outcomes[0].Kind != probes.Error {
			t.Errorf("the attempt under way: want an error, got %+v", outcomes[0])
		}
	})
	if _, err := silent.Read(make([]byte, 512)); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := probe.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := probe.Wait(); err != nil {
		t.Errorf("want exit code 0, got %v", err)
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("it ended after %s, want within a second", took)
	}
	wg.Wait()
}
