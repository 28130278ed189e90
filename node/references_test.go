package node

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var document = regexp.MustCompile(`(?:[\w.]+/)*\b[A-Z]+\.md\b`)

// TestLayoutReferences: a comment that sends its reader to a document names one that is here, by its path or, within one
// top-level directory, by its name alone.
func TestLayoutReferences(t *testing.T) {
	here := map[string]bool{}
	var sources []string
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == ".git" || d.Name() == "bin"):
			return filepath.SkipDir
		}
		rel, _ := filepath.Rel("..", path)
		switch filepath.Ext(path) {
		case ".md":
			here[filepath.ToSlash(rel)] = true
		case ".go", ".proto":
			sources = append(sources, filepath.ToSlash(rel))
		}
		return nil
	})
	if err != nil || len(here) == 0 || len(sources) == 0 {
		t.Fatalf("%d documents, %d sources, %v", len(here), len(sources), err)
	}
	for _, f := range sources {
		text, err := os.ReadFile(filepath.Join("..", f))
		if err != nil {
			t.Fatal(err)
		}
		top, _, _ := strings.Cut(f, "/")
		for _, name := range document.FindAllString(string(text), -1) {
			if !here[name] && !here[top+"/"+name] {
				t.Errorf("%s refers to %s, which is not in this repository", f, name)
			}
		}
	}
}
