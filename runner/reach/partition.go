package reach

// partition numbers n things so that two have the same number exactly when every one of the sets holds both or neither. Numbers start at 0, in
// the order of their first member. Each set costs as many steps as it has members.
func partition(n int, sets []bitset) (class []int, classes int) {
	class = make([]int, n)
	if n == 0 {
		return class, 0
	}
	size, hits, moved := []int{n}, []int{0}, []int{0}
	for _, set := range sets {
		var touched []int
		set.each(func(i int) {
			if hits[class[i]] == 0 {
				touched = append(touched, class[i])
			}
			hits[class[i]]++
		})
		for _, c := range touched {
			moved[c] = c // a class that lies wholly inside the set stays whole
			if hits[c] < size[c] {
				moved[c] = len(size)
				size = append(size, hits[c])
				size[c] -= hits[c]
				hits, moved = append(hits, 0), append(moved, 0)
			}
			hits[c] = 0
		}
		set.each(func(i int) { class[i] = moved[class[i]] })
	}
	const unnumbered = -1
	number := make([]int, len(size))
	for i := range number {
		number[i] = unnumbered
	}
	for i, c := range class {
		if number[c] == unnumbered {
			number[c] = classes
			classes++
		}
		class[i] = number[c]
	}
	return class, classes
}
