package plan

import (
	"encoding/json"

	"github.com/gapproof/gapproof/scenarios"
)

// GroupByWorld puts scenarios with the same world together, so that one fixture serves them. Groups are in the order of
// their first scenario and scenarios keep their order within a group; an empty map or list is the same as none.
func GroupByWorld(list []*scenarios.Scenario) [][]*scenarios.Scenario {
	index := map[string]int{}
	var groups [][]*scenarios.Scenario
	for _, s := range list {
		// JSON is a canonical form here: fields in the order of the types, map keys sorted, what is empty left out. A world
		// holds nothing that cannot be written.
		key, err := json.Marshal(s.World)
		n, known := index[string(key)]
		if err != nil || !known {
			n = len(groups)
			index[string(key)] = n
			groups = append(groups, nil)
		}
		groups[n] = append(groups[n], s)
	}
	return groups
}
