// Package wholefile puts files in their places whole or not at all.
package wholefile

import (
	"errors"
	"io"
	"os"
	"path/filepath"
)

// Replace has write fill a file and gives it the name path and the mode, in the place of what had that name. It is on the disk before it has its
// name, so that no power loss leaves an empty one; after an error there is what was there.
func Replace(path string, mode os.FileMode, write func(io.Writer) error) (err error) {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	f, err := os.CreateTemp(dir.Name(), ".gapproof-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, ignore(f.Close(), os.ErrClosed), ignore(os.Remove(f.Name()), os.ErrNotExist))
		}
	}()
	if err := errors.Join(write(f), f.Chmod(mode)); err != nil {
		return err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return dir.Sync()
}

// ignore is an error, but none where it says what is expected.
func ignore(err, expected error) error {
	if errors.Is(err, expected) {
		return nil
	}
	return err
}
