package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// closeDNS takes the forwarding to the host's resolver out of CoreDNS' configuration, before its pods start. A lab answers for
// its own names only: forwarding would carry the names pods ask for out of the lab, and CoreDNS itself asks every forwarder for
// "." all the time, in vain where there is none. In a sealed network names are forwarded to the sink, which refuses and records them, and
// the nodes lose their way to the engine's resolver.
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
	detail := ""
	if s := u.cluster.Seal; s != nil {
		if m.Data[corefile], err = forwardingTo(m.Data[corefile], s.podSink()); err != nil {
			return "", err
		}
		if err := u.engine.closeResolver(ctx, u.cluster.Nodes); err != nil {
			return "", err
		}
		detail = "they go to the sink"
	} else {
		m.Data[corefile] = withoutPlugin(m.Data[corefile], "forward")
	}
	if _, err := maps.Update(ctx, m, metav1.UpdateOptions{}); err != nil {
		return "", fmt.Errorf("writing CoreDNS' configuration: %w", err)
	}
	return detail, nil
}

// forwardingTo makes every forwarding of a Corefile go to one resolver (https://coredns.io/plugins/forward: forward FROM TO... [{]).
func forwardingTo(corefile string, to netip.AddrPort) (string, error) {
	var out strings.Builder
	found := false
	for line := range strings.Lines(corefile) {
		words := strings.Fields(line)
		if len(words) < 3 || words[0] != "forward" {
			out.WriteString(line)
			continue
		}
		found = true
		indent := line[:strings.Index(line, words[0])]
		block := ""
		if words[len(words)-1] == "{" {
			block = " {"
		}
		fmt.Fprintf(&out, "%sforward %s %s%s\n", indent, words[1], to, block)
	}
	if !found {
		return "", errors.New("reading CoreDNS' configuration: it forwards nothing, so nothing would come to the sink")
	}
	return out.String(), nil
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
