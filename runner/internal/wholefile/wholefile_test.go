package wholefile_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/gapproof/gapproof/runner/internal/wholefile"
)

func TestAFileIsReplacedWholeOrNotAtAll(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	text := func(s string) func(io.Writer) error {
		return func(w io.Writer) error { _, err := io.WriteString(w, s); return err }
	}
	want := func(content string, mode os.FileMode) {
		t.Helper()
		got, err := os.ReadFile(path)
		if err != nil || string(got) != content {
			t.Errorf("content: want %q, got %q, %v", content, got, err)
		}
		if info, err := os.Stat(path); err != nil || info.Mode() != mode {
			t.Errorf("mode: want %v, got %v, %v", mode, info.Mode(), err)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
			t.Errorf("left in the folder: %v, %v", left, err)
		}
	}
	for _, content := range []string{"one", "two"} {
		if err := wholefile.Replace(path, 0o640, text(content)); err != nil {
			t.Fatal(err)
		}
		want(content, 0o640)
	}
	broken := errors.New("the source ended early")
	err := wholefile.Replace(path, 0o600, func(w io.Writer) error { return errors.Join(text("thr")(w), broken) })
	if !errors.Is(err, broken) {
		t.Errorf("want the writer's error, got %v", err)
	}
	want("two", 0o640)
	if err := wholefile.Replace(filepath.Join(dir, "none", "f"), 0o600, text("x")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("in a folder that is not there: got %v", err)
	}
	if err := os.Mkdir(filepath.Join(dir, "taken"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := wholefile.Replace(filepath.Join(dir, "taken"), 0o600, text("x")); err == nil {
		t.Error("a folder was replaced")
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 2 {
		t.Errorf("left in the folder: %v, %v", left, err)
	}
}
