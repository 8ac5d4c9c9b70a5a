package seal

import (
	"fmt"
	"slices"
)

// Verdict is what a proof says of a seal. The zero value is none.
type Verdict string

// The verdicts.
const (
	// Sealed: every canary was counted, nothing was seen beyond, and no image came in from elsewhere.
	Sealed Verdict = "SEALED"
	// Leaked: something was seen that a sealed network does not let out or in. It outranks the others.
	Leaked Verdict = "LEAKED"
	// NotProven: nothing was seen to leak, but what should have seen it was not shown to look.
	NotProven Verdict = "SEAL_NOT_PROVEN"
)

// Proof is what was found, with the verdict.
type Proof struct {
	Verdict Verdict `json:"verdict"`
	// Leaks are why it is Leaked, Doubts why it would be NotProven, both in words.
	Leaks  []string `json:"leaks,omitempty"`
	Doubts []string `json:"doubts,omitempty"`
	Facts  Facts    `json:"facts"`
}

// Judge makes a proof of facts. The same facts give the same proof, so that whoever has them can judge again.
func (s Spec) Judge(f Facts) Proof {
	p := Proof{Verdict: Sealed, Facts: f}
	if f.Unchecked != "" {
		p.doubt("not checked: %s", f.Unchecked)
		p.Verdict = NotProven
		return p
	}
	p.judgeRules(s)
	p.judgeCanaries(s)
	p.judgeNames()
	for _, i := range f.Foreign {
		p.leak("%s is not in the lock: %s", i, i.Digest)
	}
	if f.Images == 0 {
		p.doubt("no image was seen on any node")
	}
	for _, u := range f.Unknown {
		p.doubt("%s", u)
	}
	switch {
	case len(p.Leaks) > 0:
		p.Verdict = Leaked
	case len(p.Doubts) > 0:
		p.Verdict = NotProven
	}
	return p
}

func (p *Proof) leak(format string, args ...any) {
	p.Leaks = append(p.Leaks, fmt.Sprintf(format, args...))
}
func (p *Proof) doubt(format string, args ...any) {
	p.Doubts = append(p.Doubts, fmt.Sprintf(format, args...))
}

// judgeRules looks at the table and its counters over time.
func (p *Proof) judgeRules(s Spec) {
	f := p.Facts
	for _, r := range f.Rules {
		p.doubt("%s", r)
	}
	for _, m := range f.Masquerades {
		p.doubt("masquerading is on: %s", m)
	}
	backwards := s.Backwards(f.Last, f.Before)
	if f.Began != nil {
		backwards = append(backwards, s.fallen(*f.Began, f.Before)...) // another proof may have sent canaries meanwhile
		slices.Sort(backwards)
		backwards = slices.Compact(backwards)
	}
	for _, b := range backwards {
		p.doubt("%s", b)
	}
	for _, c := range []Counter{BeyondForward4, BeyondForward6, BeyondInput4, BeyondInput6} {
		if n := f.After.Packets[c]; n > 0 {
			p.leak("%d packets got past the gate: counter %s", n, c)
		}
	}
	// Between its two readings a proof's own canaries are all that may have come.
	sent := map[Counter]uint64{}
	for _, c := range f.Canaries {
		sent[c.Counter] += c.Sent
	}
	for _, c := range s.Chains() {
		for _, r := range c.Rules {
			before, after := f.Before.Packets[r.Counter], f.After.Packets[r.Counter]
			switch {
			case after < before:
				p.doubt("counter %s went back from %d to %d while canaries were sent", r.Counter, before, after)
			case s.isCanary(r.Counter) && after-before != sent[r.Counter]:
				p.doubt("counter %s grew by %d, and %d canaries were sent", r.Counter, after-before, sent[r.Counter])
			}
		}
	}
}

func (s Spec) isCanary(c Counter) bool {
	return slices.ContainsFunc(s.canaries(), func(r Rule) bool { return r.Counter == c })
}

// judgeCanaries holds every source's canaries against those it must have sent.
func (p *Proof) judgeCanaries(s Spec) {
	if len(p.Facts.Sources) == 0 {
		p.doubt("no source sent canaries")
	}
	for _, e := range p.Facts.Sources {
		want := s.Sends(e.Kind)
		for _, r := range s.canaries() { // in the order of the rules, so that a report reads the same every time
			n, asked := want[r.Counter]
			if !asked {
				continue
			}
			i := slices.IndexFunc(p.Facts.Canaries, func(c Canary) bool { return c.From == e.From && c.Counter == r.Counter })
			if i < 0 {
				p.doubt("%s sent nothing for %s", e.From, r.Counter)
				continue
			}
			c := p.Facts.Canaries[i]
			switch {
			case c.Fault != "":
				p.doubt("%s: %s: %s", c.From, c.Counter, c.Fault)
			case c.Sent != n:
				p.doubt("%s sent %d of %d packets for %s", c.From, c.Sent, n, c.Counter)
			case c.Counted != c.Sent:
				p.doubt("%s: %s: %d sent, %d counted at the gate", c.From, c.Counter, c.Sent, c.Counted)
			}
		}
	}
	for _, c := range p.Facts.Canaries {
		if c.Left > 0 {
			p.leak("%s: %s: %d packets were seen leaving this host", c.From, c.Counter, c.Left)
		}
	}
}

// judgeNames holds that every name that was asked for came to the sink, once, and got no address.
func (p *Proof) judgeNames() {
	for _, e := range p.Facts.Sources {
		if !slices.ContainsFunc(p.Facts.Names, func(n Name) bool { return n.From == e.From }) {
			p.doubt("%s asked for no name", e.From)
		}
	}
	for _, n := range p.Facts.Names {
		switch {
		case n.Answer == AnswerAddress:
			p.leak("%s asked %s for %s and got an address", n.From, n.Asked, n.Name)
		case n.Fault != "":
			p.doubt("%s asked %s for %s: %s", n.From, n.Asked, n.Name, n.Fault)
		case n.Recorded == 0:
			p.doubt("%s asked %s for %s, which the sink did not record: it went elsewhere", n.From, n.Asked, n.Name)
		case n.Recorded > 1:
			p.doubt("%s asked %s once for %s, which the sink recorded %d times", n.From, n.Asked, n.Name, n.Recorded)
		case n.Answer != AnswerNoName:
			p.doubt("%s asked %s for %s and got no answer of the sink's: %s", n.From, n.Asked, n.Name, n.Answer)
		}
	}
}

// Tried is what was dropped since the run began whose proof this is, or else since the last proof: the packets of somebody who tried to leave the
// lab and could not.
func (p Proof) Tried() []Tried {
	if p.Facts.Began != nil {
		return p.Facts.After.Since(*p.Facts.Began)
	}
	return p.Facts.After.Since(p.Facts.Last)
}
