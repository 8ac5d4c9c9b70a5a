package suite

import (
	"errors"
	"slices"
)

// removals are worlds being removed beside the run. Their names are free again when wait has returned. The zero value is ready;
// start and wait are called from one goroutine.
type removals struct {
	running []removal
}

type removal struct {
	names []string
	err   chan error
}

// start removes a world with these namespaces beside the caller.
func (r *removals) start(names []string, remove func() error) {
	done := make(chan error, 1)
	r.running = append(r.running, removal{names, done})
	go func() { done <- remove() }()
}

// wait returns when every removal that has one of these names has ended; without names, when all have.
func (r *removals) wait(names []string) error {
	var errs []error
	r.running = slices.DeleteFunc(r.running, func(one removal) bool {
		shares := slices.ContainsFunc(one.names, func(n string) bool { return slices.Contains(names, n) })
		if names != nil && !shares {
			return false
		}
		errs = append(errs, <-one.err)
		return true
	})
	return errors.Join(errs...)
}
