package mutant

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
)

// Every name is asked for by product code, in the form that the compiler takes away: mutant.On(mutant.Name).
func TestNamesArePlanted(t *testing.T) {
	planted := plantedIn(t, filepath.Join("..", ".."))
	for ident := range declared(t) {
		if planted[ident] == 0 {
			t.Errorf("nothing asks for mutant.On(mutant.%s)", ident)
		}
		delete(planted, ident)
	}
	for ident := range planted {
		t.Errorf("mutant.%s is asked for and is no name", ident)
	}
}

// declared are the identifiers in Names.
func declared(t *testing.T) map[string]bool {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), "names.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]bool{}
	ast.Inspect(f, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || spec.Names[0].Name != "Names" {
			return true
		}
		for _, e := range spec.Values[0].(*ast.CompositeLit).Elts {
			out[e.(*ast.Ident).Name] = true
		}
		return false
	})
	if len(out) != len(Names) {
		t.Fatalf("%d identifiers, %d names", len(out), len(Names))
	}
	return out
}

// plantedIn counts by identifier how often On asks for it below root, tests and this package left out.
func plantedIn(t *testing.T, root string) map[string]int {
	t.Helper()
	out := map[string]int{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != root && (strings.HasPrefix(d.Name(), ".") || d.Name() == "mutant" || d.Name() == "bin"):
			return filepath.SkipDir
		case d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		ast.Inspect(f, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || of(call.Fun) != "On" || len(call.Args) != 1 {
				return true
			}
			if name := of(call.Args[0]); name != "" {
				out[name]++
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// of is X in mutant.X, or empty.
func of(e ast.Expr) string {
	s, ok := e.(*ast.SelectorExpr)
	if !ok {
		return ""
	}
	if pkg, ok := s.X.(*ast.Ident); !ok || pkg.Name != "mutant" {
		return ""
	}
	return s.Sel.Name
}
