package gate

import (
	"errors"
	"fmt"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// Check tells whether this process may seal a network here. The error matches [ErrNotPermitted] where it lacks the right.
func Check() error {
	c, err := nftables.New()
	if err == nil {
		_, err = c.ListTables()
	}
	switch {
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("listing the kernel's tables: %w", ErrNotPermitted)
	case err != nil:
		return fmt.Errorf("listing the kernel's tables: %w", err)
	}
	return nil
}
