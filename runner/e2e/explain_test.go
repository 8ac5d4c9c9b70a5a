package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/e2e-framework/pkg/envconf"
	"sigs.k8s.io/e2e-framework/pkg/features"
)

// fence denies, before any NetworkPolicy, what the cluster's resolvers ask each other. Calico does not enforce the kind: explain derives.
const fence = `apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: gapproof-e2e-fence}
spec:
  tier: Admin
  priority: 7
  subject: {namespaces: {matchLabels: {kubernetes.io/metadata.name: kube-system}}}
  ingress:
  - action: Deny
    from: [{namespaces: {}}]
`

// binding gives the rights of `gapproof explain --rbac` to the account reader.
const binding = `
---
apiVersion: v1
kind: ServiceAccount
metadata: {namespace: default, name: reader}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: gapproof-explain}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: gapproof-explain}
subjects: [{kind: ServiceAccount, namespace: default, name: reader}]
`

func TestExplainReadsALiveClusterWithTheRightsItNames(t *testing.T) {
	live.Test(t, features.New("explain").
		Assess("a ClusterNetworkPolicy of the cluster decides, and nothing but the printed role is needed", func(ctx context.Context, t *testing.T, cfg *envconf.Config) context.Context {
			rbac := gapproof(t, "explain", "--rbac")
			rbac.wantExit(t, 0)
			account := rbac.stdout.String() + binding
			kubectl(t, account, "apply", "-f", "-")
			t.Cleanup(func() { undo(t, account) })
			config := reader(t, cfg.KubeconfigFile())

			names := strings.Fields(kubectl(t, "", "get", "pods", "-n", "kube-system", "-l", "k8s-app=kube-dns", "-o", "jsonpath={.items[*].metadata.name}"))
			if len(names) < 2 {
				t.Fatalf("the cluster has the resolvers %v, want two", names)
			}
			ask := func(want int, said string) {
				t.Helper()
				c := gapproof(t, "explain", "kube-system/"+names[0], "kube-system/"+names[1], "UDP/53", "--kubeconfig", config)
				c.wantExit(t, want)
				if !strings.Contains(c.stdout.String(), said) {
					t.Errorf("it does not say %q:\n%s", said, &c.stdout)
				}
			}
			ask(0, "allow")

			dir, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/network-policy-api").Output()
			if err != nil {
				t.Fatalf("finding the module with the kind's definition: %v", err)
			}
			definition, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "config/crd/experimental/policy.networking.k8s.io_clusternetworkpolicies.yaml"))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { undo(t, string(definition)) }) // with it goes the policy
			kubectl(t, string(definition), "apply", "-f", "-")
			kubectl(t, "", "wait", "--for=condition=Established", "--timeout=30s", "crd/clusternetworkpolicies.policy.networking.k8s.io")
			kubectl(t, fence, "apply", "-f", "-")
			ask(1, "gapproof-e2e-fence")
			return ctx
		}).Feature())
}

// kubectl runs the one of the control plane's node, and gives what it prints.
func kubectl(t *testing.T, in string, args ...string) string {
	t.Helper()
	return sh(t, in, "docker", append(kubectlOf("gapproof-"+clusterName+"-control-plane"), args...)...)
}

func kubectlOf(node string) []string {
	return []string{"exec", "--interactive", node, "kubectl", "--kubeconfig", "/etc/kubernetes/admin.conf"}
}

// undo deletes objects when a test ends, whose context has ended by then.
func undo(t *testing.T, objects string) {
	c := exec.Command("docker", append(kubectlOf("gapproof-"+clusterName+"-control-plane"), "delete", "--ignore-not-found", "-f", "-")...)
	c.Stdin = strings.NewReader(objects)
	if out, err := c.CombinedOutput(); err != nil {
		t.Errorf("deleting what the test made: %v: %s", err, out)
	}
}

// reader writes a kubeconfig of the account reader and gives its path.
func reader(t *testing.T, admin string) string {
	t.Helper()
	config, err := clientcmd.LoadFromFile(admin)
	if err != nil {
		t.Fatal(err)
	}
	token := strings.TrimSpace(kubectl(t, "", "create", "token", "reader"))
	for name := range config.AuthInfos {
		config.AuthInfos[name] = &clientcmdapi.AuthInfo{Token: token}
	}
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*config, path); err != nil {
		t.Fatal(err)
	}
	return path
}
