package evidence

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
)

// linesOf are the lines, counted from 1, on which the values of a JSON document begin, by their paths as differences name them; that of the
// whole is "". What cannot be read has no lines behind it.
func linesOf(b []byte) map[string]int {
	type level struct {
		path  string
		key   string
		index int // -1 in an object
	}
	lines := map[string]int{"": 1}
	d := json.NewDecoder(bytes.NewReader(b))
	var open []level
	wantKey := false
	line, counted := 1, int64(0)
	for {
		token, err := d.Token()
		if err != nil {
			return lines
		}
		end := d.InputOffset()
		line += bytes.Count(b[counted:end], []byte("\n"))
		counted = end
		if wantKey {
			if key, ok := token.(string); ok {
				open[len(open)-1].key, wantKey = key, false
				continue
			}
		}
		if token == json.Delim('}') || token == json.Delim(']') {
			open = open[:len(open)-1]
		} else {
			path := ""
			if len(open) > 0 {
				if top := open[len(open)-1]; top.index < 0 {
					path = strings.TrimPrefix(top.path+"."+top.key, ".")
				} else {
					path = fmt.Sprintf("%s[%d]", top.path, top.index)
				}
			}
			if _, twice := lines[path]; !twice {
				lines[path] = line
			}
			switch token {
			case json.Delim('{'):
				open, wantKey = append(open, level{path, "", -1}), true
				continue
			case json.Delim('['):
				open, wantKey = append(open, level{path, "", 0}), false
				continue
			}
		}
		// A value has ended.
		if len(open) == 0 {
			return lines
		}
		if top := &open[len(open)-1]; top.index < 0 {
			wantKey = true
		} else {
			top.index++
			wantKey = false
		}
	}
}
