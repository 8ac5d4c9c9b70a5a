package reach

// bitset is a set of pods, one bit per index into Engine.pods. Sets that are combined have the same length.
type bitset []uint64

const wordBits = 64

func newBitset(n int) bitset { return make(bitset, (n+wordBits-1)/wordBits) }

func (b bitset) add(i int)      { b[i/wordBits] |= 1 << (i % wordBits) }
func (b bitset) has(i int) bool { return b[i/wordBits]&(1<<(i%wordBits)) != 0 }

// and is the intersection, in a set of its own.
func (b bitset) and(o bitset) bitset {
	r := make(bitset, len(b))
	for i := range b {
		r[i] = b[i] & o[i]
	}
	return r
}
