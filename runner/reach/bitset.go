package reach

import (
	"encoding/binary"
	"math/bits"
	"slices"
)

// bitset is a set of pods, one bit per index into Engine.pods. Sets that are combined have the same length.
type bitset []uint64

const wordBits = 64

func newBitset(n int) bitset { return make(bitset, (n+wordBits-1)/wordBits) }

// fullBitset has the first n bits set and none behind them, so that counting it counts pods.
func fullBitset(n int) bitset {
	b := newBitset(n)
	for i := range b {
		b[i] = ^uint64(0)
	}
	if rest := n % wordBits; rest != 0 {
		b[len(b)-1] = 1<<rest - 1
	}
	return b
}

func (b bitset) add(i int)      { b[i/wordBits] |= 1 << (i % wordBits) }
func (b bitset) remove(i int)   { b[i/wordBits] &^= 1 << (i % wordBits) }
func (b bitset) has(i int) bool { return b[i/wordBits]&(1<<(i%wordBits)) != 0 }

// and is the intersection, in a set of its own.
func (b bitset) and(o bitset) bitset {
	r := make(bitset, len(b))
	for i := range b {
		r[i] = b[i] & o[i]
	}
	return r
}

// intersect takes from b what is not in o.
func (b bitset) intersect(o bitset) {
	for i, w := range o {
		b[i] &= w
	}
}

// or adds the members of o to b.
func (b bitset) or(o bitset) {
	for i, w := range o {
		b[i] |= w
	}
}

// count is the number of members.
func (b bitset) count() int {
	n := 0
	for _, w := range b {
		n += bits.OnesCount64(w)
	}
	return n
}

// empty tells whether there is no member.
func (b bitset) empty() bool {
	for _, w := range b {
		if w != 0 {
			return false
		}
	}
	return true
}

// first is the smallest member, -1 when there is none.
func (b bitset) first() int {
	for i, w := range b {
		if w != 0 {
			return i*wordBits + bits.TrailingZeros64(w)
		}
	}
	return -1
}

// firstBeside is the smallest member other than i, -1 when there is none.
func (b bitset) firstBeside(i int) int {
	for j, w := range b {
		if j == i/wordBits {
			w &^= 1 << (i % wordBits)
		}
		if w != 0 {
			return j*wordBits + bits.TrailingZeros64(w)
		}
	}
	return -1
}

// each calls f with every member in ascending order.
func (b bitset) each(f func(int)) {
	for i, w := range b {
		for ; w != 0; w &= w - 1 {
			f(i*wordBits + bits.TrailingZeros64(w))
		}
	}
}

// key is the same for equal sets only.
func (b bitset) key() string { return string(b.appendKey(nil)) }

// appendKey appends the bytes of key.
func (b bitset) appendKey(to []byte) []byte {
	to = slices.Grow(to, len(b)*wordBits/8)
	for _, w := range b {
		to = binary.LittleEndian.AppendUint64(to, w)
	}
	return to
}
