package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// ErrAddressTaken reports an address that an outside host should stand for and that something else has.
var ErrAddressTaken = errors.New("the address is taken")

const (
	// standsForLabel keeps, on the container of an outside host, which addresses nodes lead to it, for a later command to take the routes away.
	standsForLabel = "gapproof.dev/stands-for"
	// routeProtocol marks these routes, so that no other is ever removed: a number that linux/rtnetlink.h gives to nobody (RTPROT_*).
	routeProtocol = "203"
)

func whole(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

func joined(all []netip.Addr, by string) string {
	words := make([]string, len(all))
	for i, a := range all {
		words[i] = a.String()
	}
	return strings.Join(words, by)
}

// leading are the routes to what a host with these own addresses stands for, in the words of ip-route(8). A host that has ended has none of its
// own any more, and routes by whichever are meant.
func leading(to, own []netip.Addr) []string {
	var routes []string
	for _, a := range to {
		route := whole(a).String()
		if i := slices.IndexFunc(own, func(by netip.Addr) bool { return by.Is4() == a.Is4() }); i >= 0 {
			route += " via " + own[i].String()
		}
		routes = append(routes, route+" proto "+routeProtocol)
	}
	return routes
}

// leadNodes gives every node a route to what the host stands for.
func (h *OutsideHost) leadNodes(ctx context.Context) error {
	err := h.engine.onNodes(ctx, h.cluster, batch("add", leading(h.standsFor, h.own)), "ip", "-batch", "-")
	if failed := new(CommandError); errors.As(err, &failed) && strings.Contains(failed.Output, "File exists") {
		return fmt.Errorf("leading nodes to %s, which another run has or a killed one left (gapproof clean): %w: %w", joined(h.standsFor, " and "), ErrAddressTaken, err)
	}
	return err
}

// forgetRoutes takes routes of [leading] away from the nodes. Those that are gone already are no error.
func (e engine) forgetRoutes(ctx context.Context, cluster string, routes []string) error {
	err := e.onNodes(ctx, cluster, batch("del", routes), "ip", "-force", "-batch", "-")
	if failed := new(CommandError); errors.As(err, &failed) && onlyGone(failed.Output) {
		return nil
	}
	return err
}

func batch(verb string, routes []string) string {
	var b strings.Builder
	for _, r := range routes {
		fmt.Fprintf(&b, "route %s %s\n", verb, r)
	}
	return b.String()
}

// onlyGone tells whether ip complained of nothing but routes that are not there.
func onlyGone(output string) bool {
	for line := range strings.Lines(output) {
		if line = strings.TrimSpace(line); line != "" && !strings.Contains(line, "No such process") && !strings.HasPrefix(line, "Command failed") {
			return false
		}
	}
	return true
}

// onNodes runs a command in every node that runs, with this input; with none it does nothing.
func (e engine) onNodes(ctx context.Context, cluster, input string, command ...string) error {
	if input == "" {
		return nil
	}
	own, _, err := e.find(ctx, cluster)
	if err != nil {
		return err
	}
	for _, node := range own.nodes {
		if node.state != "running" { // its routes ended with it
			continue
		}
		if _, err := e.docker(ctx, strings.NewReader(input), append([]string{"exec", "--interactive", node.name}, command...)...); err != nil {
			if failed := new(CommandError); errors.As(err, &failed) { // its last words say which line failed, the ones before why
				err = fmt.Errorf("%q: %w", strings.TrimSpace(failed.Output), err)
			}
			return fmt.Errorf("changing the routes of %s: %w", node.name, err)
		}
	}
	return nil
}

// routesTo are those that nodes have to the container of an outside host, by its label.
func (e engine) routesTo(ctx context.Context, c container) ([]string, error) {
	format := fmt.Sprintf("{{index .Config.Labels %q}};{{range .NetworkSettings.Networks}}{{.IPAddress}},{{.GlobalIPv6Address}}{{end}}", standsForLabel)
	out, err := e.docker(ctx, nil, "container", "inspect", "--format", format, c.id)
	if err != nil {
		return nil, fmt.Errorf("inspecting %s: %w", c.name, err)
	}
	to, own, _ := strings.Cut(strings.TrimSpace(string(out)), ";")
	return leading(addresses(to), addresses(own)), nil
}

// addresses are those of a list with commas.
func addresses(list string) []netip.Addr {
	var all []netip.Addr
	for word := range strings.SplitSeq(list, ",") {
		if a, err := netip.ParseAddr(word); err == nil {
			all = append(all, a)
		}
	}
	return all
}
