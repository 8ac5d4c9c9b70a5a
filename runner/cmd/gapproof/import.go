package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/gapproof/gapproof/scenarios"
	"github.com/gapproof/gapproof/scenarios/importer"
)

func (a *app) importing() *cobra.Command {
	var from, to string
	var manifests []string
	c := &cobra.Command{
		Use:   "import FILE ...",
		Short: "Turn test cases of cyclonus or netassert into scenarios",
		Long: `import writes one scenario per case into a directory and lists on stderr what could not be carried over. Nothing is written
when a file cannot be read or a scenario of that name is there already.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return a.importCases(args, from, to, manifests) },
	}
	c.Flags().StringVar(&from, "from", "", "cyclonus (probe models and test cases, JSON) or netassert (v2 tests, YAML)")
	c.Flags().StringVar(&to, "to", "", "directory to write into; it is made when it is missing")
	c.Flags().StringArrayVar(&manifests, "manifests", nil, "the workloads that netassert's tests name, relative to --to; may be repeated")
	return c
}

func (a *app) importCases(args []string, from, to string, manifests []string) error {
	if to == "" {
		return hinted{usageError{errors.New("--to: is needed")}, "gapproof import --help"}
	}
	read := map[string]func(string, []byte) (*importer.Import, error){
		"cyclonus": importer.Cyclonus,
		"netassert": func(file string, content []byte) (*importer.Import, error) {
			return importer.Netassert(file, content, importer.NetassertOptions{Manifests: manifests})
		},
	}[from]
	if read == nil {
		return hinted{usageError{fmt.Errorf("--from: %q is not cyclonus or netassert", from)}, "gapproof import --help"}
	}
	var files []importer.File
	var omitted []scenarios.Omission
	var faults []error
	for _, arg := range args {
		content, err := os.ReadFile(arg)
		if err != nil {
			faults = append(faults, err)
			continue
		}
		imported, err := read(arg, content)
		if err != nil {
			faults = append(faults, err)
			continue
		}
		omitted = append(omitted, imported.Omissions...)
		some, err := imported.Files()
		if err != nil {
			faults = append(faults, err)
		}
		files = append(files, some...)
	}
	for _, f := range files {
		if _, err := os.Stat(filepath.Join(to, f.Name)); !errors.Is(err, fs.ErrNotExist) {
			faults = append(faults, fmt.Errorf("writing %s: it is there already", filepath.Join(to, f.Name)))
		}
	}
	if len(faults) > 0 {
		return usageError{errors.Join(faults...)}
	}
	if err := os.MkdirAll(to, 0o755); err != nil {
		return usageError{err}
	}
	for _, f := range files {
		path := filepath.Join(to, f.Name)
		if err := writeFile(path, func(w io.Writer) error { _, err := w.Write(f.Content); return err }); err != nil {
			return fmt.Errorf("writing %s: %w", path, err)
		}
		fmt.Fprintln(a.out, path)
	}
	a.omissions(omitted)
	return nil
}

// omissions tells on stderr what of somebody's files is not in the scenarios made of them.
func (a *app) omissions(list []scenarios.Omission) {
	for _, o := range list {
		fmt.Fprintf(a.err, "left out: %s\n", o)
	}
}
