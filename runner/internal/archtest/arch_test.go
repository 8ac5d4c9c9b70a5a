package archtest_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/gapproof/gapproof/"

// row is one line of the README's table.
type row struct {
	pkg   string   // path below the module; a trailing /... means everything below too
	may   []string // ours, same form
	never []string // import paths or prefixes ending in /... that are banned
	seen  bool
}

type listed struct {
	ImportPath   string
	Imports      []string
	TestImports  []string
	XTestImports []string
}

func TestImportsFollowTheArrowTable(t *testing.T) {
	rows := readTable(t)
	for _, p := range goList(t) {
		path := strings.TrimPrefix(p.ImportPath, module)
		r := find(rows, path)
		if r == nil {
			t.Errorf("%s has no row in README.md's arrow table", path)
			continue
		}
		r.seen = true
		for _, imported := range p.Imports {
			if ours, ok := strings.CutPrefix(imported, module); ok {
				if !slices.ContainsFunc(r.may, func(m string) bool { return matches(m, ours) }) {
					t.Errorf("%s imports %s: not an arrow of its row (%s)", path, ours, strings.Join(r.may, ", "))
				}
				continue
			}
			for _, banned := range r.never {
				if matches(banned, imported) {
					t.Errorf("%s imports %s, which its row bans", path, imported)
				}
			}
		}
	}
	for _, r := range rows {
		if !r.seen {
			t.Errorf("README.md's arrow table has a row for %s, which matches no package", r.pkg)
		}
	}
}

func TestOnlyWitnessImportsTheEBPFLibrary(t *testing.T) {
	for _, p := range goList(t) {
		if strings.HasPrefix(p.ImportPath, module+"probes/witness") {
			continue
		}
		for _, i := range slices.Concat(p.Imports, p.TestImports, p.XTestImports) {
			if strings.HasPrefix(i, "github.com/cilium/ebpf") {
				t.Errorf("%s imports %s; only probes/witness may", p.ImportPath, i)
			}
		}
	}
}

func TestTheProbeBinaryStaysSmallInDependencies(t *testing.T) {
	out := run(t, "go", "list", "-deps", "./probes/cmd/gapproof-probe")
	for _, dep := range strings.Fields(out) {
		if strings.Contains(strings.SplitN(dep, "/", 2)[0], ".") && !strings.HasPrefix(dep, module) {
			t.Errorf("gapproof-probe depends on %s; it is built from the standard library alone", dep)
		}
	}
}

func TestEveryPackageAndExportedNameIsDocumented(t *testing.T) {
	eachGoFile(t, func(path string, f *ast.File, fset *token.FileSet) {
		for _, d := range f.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Name.IsExported() && d.Doc == nil && exportedReceiver(d) && !interfaceMethod(d.Name.Name) {
					t.Errorf("%s: func %s has no doc comment", fset.Position(d.Pos()), d.Name.Name)
				}
			case *ast.GenDecl:
				for _, s := range d.Specs {
					if s, ok := s.(*ast.TypeSpec); ok && s.Name.IsExported() && d.Doc == nil && s.Doc == nil {
						t.Errorf("%s: type %s has no doc comment", fset.Position(s.Pos()), s.Name.Name)
					}
				}
			}
		}
	})
	documented := map[string]bool{}
	eachGoFile(t, func(path string, f *ast.File, _ *token.FileSet) {
		dir := filepath.Dir(path)
		documented[dir] = documented[dir] || f.Doc != nil
	})
	for dir, ok := range documented {
		if !ok {
			t.Errorf("%s has no package doc", dir)
		}
	}
}

// interfaceMethod tells whether a method's contract is written at a standard interface.
func interfaceMethod(name string) bool {
	switch name {
	case "Error", "Unwrap", "Hint", "String", "Is", "As", "Read", "Write", "Close", "Network", "LocalAddr", "RemoteAddr",
		"ServeHTTP", "Len", "Less", "Swap", "MarshalText", "UnmarshalText", "MarshalJSON", "UnmarshalJSON":
		return true
	}
	return false
}

func exportedReceiver(d *ast.FuncDecl) bool {
	if d.Recv == nil {
		return true
	}
	t := d.Recv.List[0].Type
	if star, ok := t.(*ast.StarExpr); ok {
		t = star.X
	}
	if index, ok := t.(*ast.IndexExpr); ok {
		t = index.X
	}
	name, ok := t.(*ast.Ident)
	return ok && name.IsExported()
}

func TestNothingSleepsForAFixedTime(t *testing.T) {
	eachGoFile(t, func(path string, f *ast.File, fset *token.FileSet) {
		ast.Inspect(f, func(n ast.Node) bool {
			if s, ok := n.(*ast.SelectorExpr); ok && s.Sel.Name == "Sleep" {
				if x, ok := s.X.(*ast.Ident); ok && x.Name == "time" {
					t.Errorf("%s: time.Sleep; poll a stated condition with an interval and a limit", fset.Position(s.Pos()))
				}
			}
			return true
		})
	})
}

func readTable(t *testing.T) []*row {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root(t), "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	var rows []*row
	in := false
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "| package | may import |") {
			in = true
			continue
		}
		if !in || strings.HasPrefix(line, "|--") || strings.HasPrefix(line, "|-") {
			continue
		}
		if !strings.HasPrefix(line, "|") {
			in = false
			continue
		}
		cells := strings.Split(strings.Trim(line, "|"), "|")
		if len(cells) != 3 {
			t.Fatalf("README.md: table row with %d cells, want 3: %s", len(cells), line)
		}
		for _, pkg := range words(cells[0]) {
			rows = append(rows, &row{pkg: pkg, may: words(cells[1]), never: words(cells[2])})
		}
	}
	if len(rows) == 0 {
		t.Fatal(`README.md has no arrow table (a header "| package | may import | never |")`)
	}
	return rows
}

// words are the code spans of a table cell.
func words(cell string) []string {
	var found []string
	for i, part := range strings.Split(cell, "`") {
		if i%2 == 1 {
			found = append(found, part)
		}
	}
	return found
}

// find is the row with the longest match.
func find(rows []*row, path string) *row {
	var best *row
	for _, r := range rows {
		if matches(r.pkg, path) && (best == nil || len(r.pkg) > len(best.pkg)) {
			best = r
		}
	}
	return best
}

func matches(pattern, path string) bool {
	if base, ok := strings.CutSuffix(pattern, "/..."); ok {
		return path == base || strings.HasPrefix(path, base+"/")
	}
	return pattern == path
}

func goList(t *testing.T) []listed {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(run(t, "go", "list", "-json=ImportPath,Imports,TestImports,XTestImports", "./...")))
	var all []listed
	for {
		var p listed
		err := d.Decode(&p)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

func eachGoFile(t *testing.T, visit func(path string, f *ast.File, fset *token.FileSet)) {
	t.Helper()
	base := root(t)
	fset := token.NewFileSet()
	err := filepath.WalkDir(base, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && path != base || d.Name() == "testdata" || d.Name() == "bin") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		f, err := parser.ParseFile(fset, path, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		visit(path, f, fset)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	c := exec.CommandContext(t.Context(), name, args...)
	c.Dir = root(t)
	var stderr bytes.Buffer
	c.Stderr = &stderr
	out, err := c.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, stderr.String())
	}
	return string(out)
}

func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../../..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}
