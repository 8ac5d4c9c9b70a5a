package cluster

import (
	"context"
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// closeDNS takes the forwarding to the host's resolver out of CoreDNS' configuration, before its pods start. A lab answers for
// its own names only: forwarding would carry the names pods ask for out of the lab, and CoreDNS itself asks every forwarder for
// "." all the time, in vain where there is none.
func (u *up) closeDNS(ctx context.Context) (string, error) {
	config, err := u.cluster.RESTConfig()
	if err != nil {
		return "", err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return "", fmt.Errorf("making a client for cluster %s: %w", u.o.Name, err)
	}
	const corefile = "Corefile"
	maps := client.CoreV1().ConfigMaps(metav1.NamespaceSystem)
	m, err := maps.Get(ctx, "coredns", metav1.GetOptions{})
	if err != nil {
		return "", fmt.Errorf("reading CoreDNS' configuration: %w", err)
	}
	m.Data[corefile] = withoutPlugin(m.Data[corefile], "forward")
	if _, err := maps.Update(ctx, m, metav1.UpdateOptions{}); err != nil {
		return "", fmt.Errorf("writing CoreDNS' configuration: %w", err)
	}
	return "", nil
}

// withoutPlugin takes every line of a plugin out of a Corefile, with the block that follows it on the same line.
// (https://coredns.io/manual/toc/#configuration: a line is a plugin, its arguments, and an opening brace at its end.)
func withoutPlugin(corefile, plugin string) string {
	var out strings.Builder
	depth := 0 // of braces within the plugin that is left out
	for line := range strings.Lines(corefile) {
		words := strings.Fields(line)
		opens := len(words) > 0 && words[len(words)-1] == "{"
		switch {
		case depth > 0:
			if opens {
				depth++
			} else if len(words) > 0 && words[0] == "}" {
				depth--
			}
		case len(words) > 0 && words[0] == plugin:
			if opens {
				depth = 1
			}
		default:
			out.WriteString(line)
		}
	}
	return out.String()
}
