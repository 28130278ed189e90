package node

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// ConfigError is a refused configuration. Its text is one line: file, line, key, and what is allowed.
type ConfigError struct {
	File string
	Line int // 0: no line, for example a default
	Key  string
	Why  string
}

// Error is the one line.
func (e *ConfigError) Error() string {
	where := e.File
	if e.Line > 0 {
		where += ":" + strconv.Itoa(e.Line)
	}
	if e.Key != "" {
		where += ": " + e.Key
	}
	return where + ": " + e.Why
}

var durationType = reflect.TypeFor[Duration]()

// field is one leaf of Config, or one of its tables.
type field struct {
	key   string // "kdc.clock_skew"
	table bool
	tag   reflect.StructTag
	value reflect.Value
}

// fields lists c's tables and leaves in the order of the struct.
func fields(c *Config) []field {
	var out []field
	var walk func(prefix string, v reflect.Value)
	walk = func(prefix string, v reflect.Value) {
		for i := range v.NumField() {
			f := v.Type().Field(i)
			key := prefix + f.Tag.Get("toml")
			isTable := f.Type.Kind() == reflect.Struct && f.Type != durationType
			out = append(out, field{key: key, table: isTable, tag: f.Tag, value: v.Field(i)})
			if isTable {
				walk(key+".", v.Field(i))
			}
		}
	}
	walk("", reflect.ValueOf(c).Elem())
	return out
}

// ParseConfig is LoadConfig on a text. Defaults stand where it says nothing.
func ParseConfig(file string, text []byte) (*Config, error) {
	c := new(Config)
	all := fields(c)
	for _, f := range all {
		if err := f.setDefault(); err != nil {
			return nil, err
		}
	}
	dec := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields()
	if err := dec.Decode(c); err != nil {
		return nil, decodeError(file, text, all, err)
	}
	for _, f := range all {
		if why := f.check(); why != "" {
			return nil, &ConfigError{File: file, Line: lineOf(text, f.key), Key: f.key, Why: why}
		}
	}
	return c, nil
}

func (f field) setDefault() error {
	s, ok := f.tag.Lookup("default")
	if !ok {
		return nil
	}
	switch f.value.Kind() {
	case reflect.String:
		f.value.SetString(s)
	case reflect.Slice:
		f.value.Set(reflect.ValueOf(strings.Fields(s)))
	case reflect.Int:
		n, err := strconv.Atoi(s)
		if err != nil {
			return err
		}
		f.value.SetInt(int64(n))
	case reflect.Struct:
		return f.value.Addr().Interface().(*Duration).UnmarshalText([]byte(s))
	}
	return nil
}

// check says why the value is refused, or "".
func (f field) check() string {
	if f.table {
		return ""
	}
	kind := f.tag.Get("kind")
	switch f.value.Kind() {
	case reflect.Struct:
		if d := f.value.Interface().(Duration); int64(d.Duration) < f.bound("min") || int64(d.Duration) > f.bound("max") {
			return fmt.Sprintf("%v is out of range; %s", d, f.allowed())
		}
	case reflect.String:
		s := f.value.String()
		if values := strings.Fields(f.tag.Get("values")); len(values) > 0 && !slices.Contains(values, s) {
			return fmt.Sprintf("%q is not allowed; %s", s, f.allowed())
		}
		if err := checkKind(kind, s); err != nil {
			return fmt.Sprintf("%q: %v", s, err)
		}
	case reflect.Slice:
		for _, s := range f.value.Interface().([]string) {
			if err := checkKind(kind, s); err != nil {
				return fmt.Sprintf("%q: %v", s, err)
			}
		}
		if kind == "addresses" && f.value.Len() == 0 {
			return "must have at least one address"
		}
	case reflect.Int:
		low, high := f.bound("min"), f.bound("max")
		if n := f.value.Int(); n < low || n > high {
			return fmt.Sprintf("%d is out of range; %s", n, f.allowed())
		}
	}
	return ""
}

func (f field) bound(tag string) int64 {
	s := f.tag.Get(tag)
	if f.value.Type() == durationType {
		d, err := time.ParseDuration(s)
		if err != nil {
			panic("config field " + f.key + " has no " + tag)
		}
		return int64(d)
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		panic("config field " + f.key + " has no " + tag)
	}
	return n
}

// allowed says type and range in words.
func (f field) allowed() string {
	switch {
	case f.table:
		return "must be a table"
	case f.value.Type() == durationType:
		return fmt.Sprintf("must be a duration, %s to %s", f.tag.Get("min"), f.tag.Get("max"))
	case f.value.Kind() == reflect.Int:
		return strings.TrimSpace(fmt.Sprintf("must be %s to %s %s", f.tag.Get("min"), f.tag.Get("max"), f.tag.Get("unit")))
	case f.value.Kind() == reflect.Slice:
		return "must be a list of strings"
	case f.tag.Get("values") != "":
		return "must be one of " + strings.Join(strings.Fields(f.tag.Get("values")), ", ")
	default:
		return "must be a string"
	}
}

// decodeError turns what the TOML library says into one line.
func decodeError(file string, text []byte, all []field, err error) error {
	if missing, ok := errors.AsType[*toml.StrictMissingError](err); ok && len(missing.Errors) > 0 {
		e := missing.Errors[0]
		line, _ := e.Position()
		key := e.Key()
		return &ConfigError{File: file, Line: line, Key: strings.Join(key, "."), Why: "unknown key; allowed here: " + strings.Join(siblings(all, key), ", ")}
	}
	if bad, ok := errors.AsType[*toml.DecodeError](err); ok {
		line, _ := bad.Position()
		key := strings.Join(bad.Key(), ".")
		why := strings.TrimPrefix(bad.Error(), "toml: ")
		for _, f := range all {
			if f.key == key {
				why = f.allowed()
			}
		}
		return &ConfigError{File: file, Line: line, Key: key, Why: why}
	}
	// A number where a duration's text should be comes without a position.
	for _, f := range all {
		if f.value.Type() != durationType {
			continue
		}
		if line, kind := find(text, f.key); line > 0 && kind != unstable.String {
			return &ConfigError{File: file, Line: line, Key: f.key, Why: f.allowed()}
		}
	}
	return &ConfigError{File: file, Why: err.Error()}
}

// siblings are the keys that are allowed where key stands.
func siblings(all []field, key []string) []string {
	prefix := ""
	for n := len(key) - 1; n > 0 && prefix == ""; n-- {
		p := strings.Join(key[:n], ".")
		for _, f := range all {
			if f.table && f.key == p {
				prefix = p + "."
			}
		}
	}
	var out []string
	for _, f := range all {
		if rest, ok := strings.CutPrefix(f.key, prefix); ok && !strings.Contains(rest, ".") {
			out = append(out, rest)
		}
	}
	return out
}

// lineOf is the line on which key is set, or 0.
func lineOf(text []byte, key string) int {
	line, _ := find(text, key)
	return line
}

// find is the line on which key is set, or 0, and what stands there.
func find(text []byte, key string) (int, unstable.Kind) {
	var p unstable.Parser
	p.Reset(text)
	table := ""
	for p.NextExpression() {
		e := p.Expression()
		var parts []string
		var at unstable.Range
		for it := e.Key(); it.Next(); {
			at = it.Node().Raw
			parts = append(parts, string(it.Node().Data))
		}
		name := strings.Join(parts, ".")
		switch e.Kind {
		case unstable.Table, unstable.ArrayTable:
			table = name + "."
		case unstable.KeyValue:
			// key = { inner = ... } sets table.key.inner on the same line
			if full := table + name; full == key || strings.HasPrefix(key, full+".") {
				return p.Shape(at).Start.Line, e.Value().Kind
			}
		}
	}
	return 0, unstable.Invalid
}

// Reference is the example file and reference page: every field, commented out at its default, with what it means, its
// unit and what is allowed.
func Reference() []byte {
	var b bytes.Buffer
	b.WriteString("# Charon node configuration. Every line is optional; what is commented out shows the default.\n" +
		"# An unknown key, a wrong type or a value out of range is refused at start, with file and line.\n" +
		"# This file is generated: go test ./node -run TestReferenceFile -rewrite\n")
	c, err := ParseConfig("defaults", nil)
	if err != nil {
		panic(err) // the defaults are tested
	}
	for _, f := range fields(c) {
		b.WriteByte('\n')
		if f.table {
			fmt.Fprintf(&b, "# %s\n[%s]\n", f.tag.Get("doc"), f.key)
			continue
		}
		name := f.key[strings.LastIndexByte(f.key, '.')+1:]
		fmt.Fprintf(&b, "# %s\n# It %s.\n#%s = %s\n", f.tag.Get("doc"), f.allowed(), name, f.literal())
	}
	return b.Bytes()
}

// literal is the value as TOML.
func (f field) literal() string {
	switch v := f.value.Interface().(type) {
	case Duration:
		return strconv.Quote(v.String())
	case int:
		return strconv.Itoa(v)
	case []string:
		quoted := make([]string, len(v))
		for i, s := range v {
			quoted[i] = strconv.Quote(s)
		}
		return "[" + strings.Join(quoted, ", ") + "]"
	default:
		return strconv.Quote(f.value.String())
	}
}

// Text is c as a file: what differs from the defaults, and nothing else.
func (c *Config) Text() []byte {
	def, err := ParseConfig("defaults", nil)
	if err != nil {
		panic(err) // the defaults are tested
	}
	var b bytes.Buffer
	table, defaults := "", fields(def)
	for i, f := range fields(c) {
		if f.table || f.literal() == defaults[i].literal() {
			continue
		}
		name := f.key
		if t, rest, ok := strings.Cut(f.key, "."); ok {
			if t != table {
				fmt.Fprintf(&b, "\n[%s]\n", t)
				table = t
			}
			name = rest
		}
		fmt.Fprintf(&b, "%s = %s\n", name, f.literal())
	}
	return b.Bytes()
}
