package client

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
)

// Bounds of krb5.conf: a file is written by an administrator, but its path comes from the environment.
const (
	confBytesMax   = 1 << 20
	confDepthMax   = 8  // of braces
	confIncludeMax = 10 // of files in files
	confFilesMax   = 256
)

// section is a node of the profile: relations and subsections by name, in the file's order. One name may come several times.
type section struct {
	items []item
}

type item struct {
	name  string
	value string
	sub   *section // nil for a relation
}

// get is the first value of a relation: in MIT's profile the first one counts.
func (s *section) get(name string) (string, bool) {
	if v := s.all(name); len(v) > 0 {
		return v[0], true
	}
	return "", false
}

func (s *section) all(name string) (out []string) {
	if s == nil {
		return nil
	}
	for _, i := range s.items {
		if i.sub == nil && i.name == name {
			out = append(out, i.value)
		}
	}
	return out
}

// subs is every subsection of that name merged, nil when there is none.
func (s *section) subs(name string) *section {
	var out *section
	if s == nil {
		return nil
	}
	for _, i := range s.items {
		if i.sub != nil && i.name == name {
			if out == nil {
				out = &section{}
			}
			out.items = append(out.items, i.sub.items...)
		}
	}
	return out
}

// profileReader reads files into one tree.
type profileReader struct {
	root  section
	files int
}

// file reads one file and what it includes.
func (r *profileReader) file(path string, depth int) error {
	if r.files++; r.files > confFilesMax || depth > confIncludeMax {
		return fmt.Errorf("%s: too many files are included", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	text := make([]byte, confBytesMax+1)
	n, err := readUpTo(f, text)
	if err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	return r.text(path, text[:n], depth)
}

// text reads one file's lines. name stands in errors, "name:line: ...".
func (r *profileReader) text(name string, text []byte, depth int) error {
	if len(text) > confBytesMax {
		return fmt.Errorf("%s: longer than %d octets", name, confBytesMax)
	}
	var open []*section // the section, then the braces inside it
	for i, line := range strings.Split(string(text), "\n") {
		bad := func(why string) error { return fmt.Errorf("%s:%d: %s", name, i+1, why) }
		line = strings.TrimSpace(line)
		switch {
		case line == "" || line[0] == '#' || line[0] == ';':
		case directive(line) != "":
			if err := r.include(line, depth); err != nil {
				return bad(err.Error())
			}
		case line[0] == '[':
			title, _, ok := strings.Cut(line[1:], "]")
			if !ok {
				return bad("a section without ]")
			}
			if len(open) > 1 {
				return bad("a section begins inside braces")
			}
			open = []*section{r.root.add(title)}
		case line[0] == '}':
			if len(open) < 2 {
				return bad("a } without {")
			}
			open = open[:len(open)-1]
		case len(open) == 0:
			return bad("a relation before the first section")
		default:
			key, value, ok := strings.Cut(line, "=")
			key = strings.TrimSuffix(strings.TrimSpace(key), "*")
			value = strings.TrimSpace(value)
			if !ok || key == "" {
				return bad("neither a section nor name = value")
			}
			at := open[len(open)-1]
			if value != "{" {
				at.items = append(at.items, item{name: key, value: unquote(value)})
				continue
			}
			if len(open) > confDepthMax {
				return bad("braces too deep")
			}
			open = append(open, at.add(key))
		}
	}
	if len(open) > 1 {
		return fmt.Errorf("%s: ends inside braces", name)
	}
	return nil
}

// add opens a subsection.
func (s *section) add(name string) *section {
	sub := &section{}
	s.items = append(s.items, item{name: name, sub: sub})
	return sub
}

// unquote reads "..." with backslashes; a trailing comment is part of an unquoted value, as with MIT.
func unquote(v string) string {
	if len(v) < 2 || v[0] != '"' {
		return v
	}
	var b strings.Builder
	for i := 1; i < len(v); i++ {
		switch c := v[i]; {
		case c == '"':
			return b.String()
		case c == '\\' && i+1 < len(v):
			i++
			switch v[i] {
			case 'n':
				b.WriteByte('\n')
			case 't':
				b.WriteByte('\t')
			case 'b':
				b.WriteByte('\b')
			default:
				b.WriteByte(v[i])
			}
		default:
			b.WriteByte(c)
		}
	}
	return v
}

func directive(line string) string {
	for _, d := range []string{"include", "includedir", "module"} {
		if rest, ok := strings.CutPrefix(line, d); ok && (strings.HasPrefix(rest, " ") || strings.HasPrefix(rest, "\t")) {
			return d
		}
	}
	return ""
}

// include reads "include FILE" and "includedir DIR"; "module" loads code and is passed over.
func (r *profileReader) include(line string, depth int) error {
	d := directive(line)
	path := strings.TrimSpace(strings.TrimPrefix(line, d))
	switch {
	case d == "module":
		return nil
	case depth < 0:
		return errors.New("this file may not include others")
	case !filepath.IsAbs(path):
		return fmt.Errorf("%s needs an absolute path", d)
	case d == "include":
		return r.file(path, depth+1)
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	sort.Slice(entries, func(i, j int) bool { return entries[i].Name() < entries[j].Name() })
	for _, e := range entries {
		if !e.IsDir() && includable(e.Name()) {
			if err := r.file(filepath.Join(path, e.Name()), depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}

// includable is MIT's rule for includedir: letters, digits, dashes and underscores, or a name that ends in .conf.
func includable(name string) bool {
	if strings.HasPrefix(name, ".") {
		return false
	}
	if strings.HasSuffix(name, ".conf") {
		return true
	}
	return strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") == ""
}
