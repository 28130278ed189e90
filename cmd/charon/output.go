package main

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/charon-kdc/charon/kdc/kdb"
	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
)

// format is how answers are printed.
type format string

const (
	formatTable format = "table"
	formatWide  format = "wide"
	formatJSON  format = "json"
	formatYAML  format = "yaml"
)

func outputFormat(cmd *cobra.Command) (format, error) {
	text, _ := cmd.Flags().GetString("output")
	f := format(text)
	if !slices.Contains([]format{formatTable, formatWide, formatJSON, formatYAML}, f) {
		return "", usage(cmd, "output format %q is not table, wide, json or yaml", text)
	}
	return f, nil
}

// show prints m as JSON or YAML, or else by human.
func show(cmd *cobra.Command, m proto.Message, human func(w io.Writer, wide bool) error) error {
	f, err := outputFormat(cmd)
	if err != nil {
		return err
	}
	return showAs(cmd.OutOrStdout(), f, []proto.Message{m}, false, human)
}

// showList prints a list: in JSON and YAML an array, also of nothing.
func showList[M proto.Message](cmd *cobra.Command, list []M, human func(w io.Writer, wide bool) error) error {
	f, err := outputFormat(cmd)
	if err != nil {
		return err
	}
	all := make([]proto.Message, len(list))
	for i, m := range list {
		all[i] = m
	}
	return showAs(cmd.OutOrStdout(), f, all, true, human)
}

func showAs(w io.Writer, f format, all []proto.Message, list bool, human func(w io.Writer, wide bool) error) error {
	if f == formatTable || f == formatWide {
		return human(w, f == formatWide)
	}
	trees := make([]any, len(all))
	for i, m := range all {
		trees[i] = tree(m.ProtoReflect())
	}
	var v any = trees
	if !list {
		v = trees[0]
	}
	if f == formatYAML {
		e := yaml.NewEncoder(w)
		e.SetIndent(2)
		if err := e.Encode(v); err != nil {
			return err
		}
		return e.Close()
	}
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// table prints rows under a heading, columns two blanks apart.
func table(w io.Writer, heading string, rows [][]string) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	if len(rows) > 0 {
		fmt.Fprintln(tw, strings.ReplaceAll(heading, " ", "\t"))
	}
	for _, r := range rows {
		for i, cell := range r {
			if cell == "" {
				r[i] = "-"
			}
		}
		fmt.Fprintln(tw, strings.Join(r, "\t"))
	}
	return tw.Flush()
}

// object is a JSON or YAML object that keeps the order of its fields.
type object []member

type member struct {
	name  string
	value any
}

// MarshalJSON keeps the order.
func (o object) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, m := range o {
		if i > 0 {
			b.WriteByte(',')
		}
		name, err := json.Marshal(m.name)
		if err != nil {
			return nil, err
		}
		value, err := json.Marshal(m.value)
		if err != nil {
			return nil, err
		}
		b.Write(name)
		b.WriteByte(':')
		b.Write(value)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// MarshalYAML keeps the order.
func (o object) MarshalYAML() (any, error) {
	n := &yaml.Node{Kind: yaml.MappingNode}
	for _, m := range o {
		var name, value yaml.Node
		name.SetString(m.name)
		if err := value.Encode(m.value); err != nil {
			return nil, err
		}
		n.Content = append(n.Content, &name, &value)
	}
	return n, nil
}

// instants are the fields that hold milliseconds since the epoch.
var instants = map[protoreflect.Name]bool{
	"expiration": true, "password_expiration": true, "last_password_change": true, "created_at": true, "modified_at": true, "unlocked_at": true,
	"last_success": true, "last_failure": true, "retire_at": true, "expires_at": true, "used_at": true, "joined_at": true, "started_at": true, "cert_expires_at": true, "at": true, "checked_at": true,
	"feature_level_at": true,
}

// tree is a message for JSON and YAML: numbers as numbers, bytes in hex, times in RFC 3339 (null for never), attributes and enctypes by
// name. Fields that are empty are there, so that a script need not guess; meta and secrets are not.
func tree(m protoreflect.Message) object {
	var out object
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		if fd.Name() == "meta" || fd.ContainingOneof() != nil && !m.Has(fd) {
			continue
		}
		out = append(out, member{string(fd.Name()), fieldTree(fd, m)})
	}
	return out
}

func fieldTree(fd protoreflect.FieldDescriptor, m protoreflect.Message) any {
	v := m.Get(fd)
	switch {
	case fd.IsMap():
		out := map[string]any{}
		v.Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
			out[k.String()] = scalarTree(fd.MapValue(), v)
			return true
		})
		return out
	case fd.IsList():
		out := []any{}
		for i := range v.List().Len() {
			out = append(out, scalarTree(fd, v.List().Get(i)))
		}
		return out
	case fd.Message() != nil && !m.Has(fd):
		return nil
	}
	return scalarTree(fd, v)
}

func scalarTree(fd protoreflect.FieldDescriptor, v protoreflect.Value) any {
	switch {
	case fd.Message() != nil:
		return tree(v.Message())
	case fd.Kind() == protoreflect.BytesKind:
		return hex.EncodeToString(v.Bytes())
	case fd.Kind() == protoreflect.EnumKind:
		name := string(fd.Enum().Values().ByNumber(v.Enum()).Name())
		return strings.ToLower(name[strings.LastIndexByte(name, '_')+1:])
	case instants[fd.Name()]:
		if v.Int() == 0 {
			return nil
		}
		return time.UnixMilli(v.Int()).UTC().Format(time.RFC3339)
	case fd.Name() == "attributes":
		return append([]string{}, kdb.Attributes(v.Uint()).Names()...)
	case fd.Name() == "etype" || fd.Name() == "etypes":
		return kcrypto.EType(v.Int()).String()
	}
	return v.Interface()
}

// when is a time for tables: "never" for 0.
func when(ms int64) string {
	if ms == 0 {
		return "never"
	}
	return time.UnixMilli(ms).UTC().Format("2006-01-02 15:04Z")
}

// span is a duration in the largest unit that says it without a fraction: "10 h", "7 d", "90 s"; "-" for 0.
func span(seconds int64) string {
	switch {
	case seconds == 0:
		return "-"
	case seconds%86400 == 0:
		return fmt.Sprintf("%d d", seconds/86400)
	case seconds%3600 == 0:
		return fmt.Sprintf("%d h", seconds/3600)
	case seconds%60 == 0:
		return fmt.Sprintf("%d min", seconds/60)
	}
	return fmt.Sprintf("%d s", seconds)
}
