package explain

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"go4.org/netipx"

	"github.com/gapproof/gapproof/runner/manifest"
	"github.com/gapproof/gapproof/runner/reach"
)

// ErrNoFamily is in the error of a question about an address family that an end has no address of.
var ErrNoFamily = errors.New("the ends have no address of that family")

// Assumption is an address that was made up because the files state none, where another one would be judged otherwise.
type Assumption struct {
	Pod     string     `json:"pod"`
	Address netip.Addr `json:"address"`
	// Direction is the one that it was held against: a pod's ingress knows the source's address, its egress the destination's.
	Direction string        `json:"direction"`
	Verdict   reach.Verdict `json:"verdict"`
	// Otherwise is an address of the pod networks at which the direction has the other verdict.
	Otherwise netip.Addr `json:"otherwise"`
	Text      string     `json:"text"`
}

// commonNetworks are where pods have addresses in nearly every cluster: private ones (RFC 1918, RFC 4193), the carriers' (RFC 6598, which some clouds
// use), and for IPv6 global unicast (RFC 4291). A block that holds none of them, such as an office's public range, is not about pods.
var commonNetworks = []netip.Prefix{
	netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("172.16.0.0/12"), netip.MustParsePrefix("192.168.0.0/16"),
	netip.MustParsePrefix("fc00::/7"), netip.MustParsePrefix("2000::/3"),
}

// located is one end at one address.
type located struct {
	reach.Endpoint
	// among are the networks that the address may really be of; nil for one that is stated.
	among []netip.Prefix
}

// locator knows the addresses of pods.
type locator struct {
	set    *manifest.Set
	ranges []netip.Prefix
	blocks []netip.Prefix
	// follows is set where blocks move with the invented addresses, so that nothing rests on these.
	follows bool
}

func newLocator(set *manifest.Set, ranges []netip.Prefix) *locator {
	return &locator{set: set, ranges: ranges, blocks: set.Blocks(), follows: set.FollowsInvented()}
}

// at are the addresses of an end, one per family. For one without any it is the endpoint as it is.
func (l *locator) at(e reach.Endpoint) []located {
	if e.Pod == "" {
		return []located{{Endpoint: e}}
	}
	i := slices.IndexFunc(l.set.World.Pods, func(p reach.Pod) bool { return p.Namespace == e.Namespace && p.Name == e.Pod })
	if i < 0 || len(l.set.World.Pods[i].IPs) == 0 {
		return []located{{Endpoint: e}}
	}
	pod := &l.set.World.Pods[i]
	var out []located
	add := func(a netip.Addr, among []netip.Prefix) {
		if !slices.ContainsFunc(out, func(o located) bool { return o.Addr.Is4() == a.Is4() }) {
			e.Addr = a
			out = append(out, located{e, among})
		}
	}
	for _, a := range pod.IPs {
		switch {
		case !l.set.InventedAddress(a) || l.follows:
			add(a.Unmap(), nil)
		case len(l.ranges) == 0 || pod.HostNetwork: // a hostNetwork pod has its node's address
			add(a, ofFamily(commonNetworks, a))
		default:
			for _, r := range l.ranges {
				first := r.Addr()
				if next := first.Next(); r.Contains(next) { // the network's own address is no pod's
					first = next
				}
				add(first, ofFamily(l.ranges, first))
			}
		}
	}
	return out
}

func ofFamily(networks []netip.Prefix, a netip.Addr) []netip.Prefix {
	return slices.DeleteFunc(slices.Clone(networks), func(n netip.Prefix) bool { return n.Addr().Is4() != a.Is4() })
}

// connection is a pair of ends that reach each other in one family.
type connection struct {
	source, destination located
	family              reach.Family
	// none says why no packet goes between the two; empty where one may.
	none string
}

// connections are the pairs of addresses of one family, IPv4 first. An address outside is of its family, whatever the pod's are. Ends with
// addresses of different families are one connection that never comes about.
func (l *locator) connections(source, destination reach.Endpoint) []connection {
	sources, destinations := l.at(source), l.at(destination)
	var out []connection
	for _, f := range []reach.Family{reach.IPv4, reach.IPv6} {
		s, d := inFamily(sources, f), inFamily(destinations, f)
		if s != nil && d != nil {
			out = append(out, connection{*s, *d, f, ""})
		}
	}
	if len(out) > 0 {
		return out
	}
	c := connection{source: sources[0], destination: destinations[0]}
	if s, d := c.source.Addr, c.destination.Addr; s.IsValid() && d.IsValid() {
		if c.source.among == nil && c.destination.among == nil && !l.follows {
			c.none = fmt.Sprintf("%s and %s have no addresses of one family: no such connection comes about, whatever policies say", source, destination)
		}
		// Policies of the pod are held against the address outside alone.
		switch {
		case source.Pod == "":
			c.family = familyOf(s)
		case destination.Pod == "":
			c.family = familyOf(d)
		}
	}
	return []connection{c}
}

func inFamily(of []located, f reach.Family) *located {
	i := slices.IndexFunc(of, func(o located) bool { return o.Addr.IsValid() && familyOf(o.Addr) == f })
	if i < 0 {
		return nil
	}
	return &of[i]
}

func familyOf(a netip.Addr) reach.Family {
	if a.Is4() {
		return reach.IPv4
	}
	return reach.IPv6
}

// assumptions are the assumed addresses of a connection that another one would be judged otherwise than.
func (l *locator) assumptions(engine *reach.Engine, q reach.Query, c connection, d reach.Decision) ([]Assumption, error) {
	var out []Assumption
	for _, side := range []struct {
		direction string
		other     located
		verdict   reach.Verdict
		place     func(*reach.Query, netip.Addr)
		of        func(reach.Decision) reach.Verdict
	}{
		{"egress", c.destination, d.Egress.Verdict, func(q *reach.Query, a netip.Addr) { q.Destination.Addr = a }, func(d reach.Decision) reach.Verdict { return d.Egress.Verdict }},
		{"ingress", c.source, d.Ingress.Verdict, func(q *reach.Query, a netip.Addr) { q.Source.Addr = a }, func(d reach.Decision) reach.Verdict { return d.Ingress.Verdict }},
	} {
		for _, a := range l.distinct(side.other.among) {
			asked := q
			side.place(&asked, a)
			there, err := engine.Decide(asked)
			if err != nil {
				return nil, err
			}
			if side.of(there) == side.verdict {
				continue
			}
			pod, towards, hint := side.other.Endpoint, "to", " (--pod-cidr names the pod networks)"
			if side.direction == "ingress" {
				towards = "from"
			}
			if len(l.ranges) > 0 {
				hint = ""
			}
			out = append(out, Assumption{
				Pod: pod.String(), Address: pod.Addr, Direction: side.direction, Verdict: side.verdict, Otherwise: a,
				Text: fmt.Sprintf("the files state no address of %s; %s was assumed: %s %s it is %s, and would be %s at %s%s", pod, pod.Addr, side.direction, towards, side.verdict, side.of(there), a, hint),
			})
			break
		}
	}
	return out, nil
}

// distinct are addresses of the networks such that whatever holds for all of them holds for every address of the networks: what policies say
// changes only where a block begins, and behind its end.
func (l *locator) distinct(networks []netip.Prefix) []netip.Addr {
	var out []netip.Addr
	for _, n := range networks {
		out = append(out, n.Addr())
		for _, b := range l.blocks {
			for _, a := range []netip.Addr{b.Addr(), netipx.PrefixLastIP(b).Next()} {
				if a.IsValid() && n.Contains(a) {
					out = append(out, a)
				}
			}
		}
	}
	return out
}

// rests is the verdict where it holds at every address that the assumed ones may really be, else unknown.
func rests(d reach.Decision, assumed []Assumption) reach.Verdict {
	open := map[string]bool{}
	for _, a := range assumed {
		open[a.Direction] = true
	}
	mayAllow := (d.Egress.Verdict == reach.Allow || open["egress"]) && (d.Ingress.Verdict == reach.Allow || open["ingress"])
	mayDeny := d.Verdict != reach.Allow || len(open) > 0
	if mayAllow && mayDeny {
		return reach.Unknown
	}
	return d.Verdict
}
