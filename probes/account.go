package probes

// Account adds up what the kernel saw of one attempt's requests. It is pure, and the order of the sightings does not matter.
func Account(sightings []Sighting) Accounting {
	var a Accounting
	for _, s := range sightings {
		if s.Packet == Request && s.Point == Left {
			a.Sent += s.Count
		}
	}
	a.Unaccounted = a.Sent
	return a
}
