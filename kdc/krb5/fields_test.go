package krb5

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
)

func errorsIsEType(err error) bool {
	return errors.Is(err, ErrDecode) && errors.Is(err, kcrypto.ErrEType)
}

// compareFields holds a decoded message against a capture's own reading of it, by flattening both into name=value lines.
func compareFields(t *testing.T, where string, got any, want node) {
	t.Helper()
	g, w := map[string]string{}, map[string]string{}
	flatten("", reflect.ValueOf(got), g)
	flattenNode("", want, w)
	if e, ok := got.(*KRBError); ok && w["/edatamethoddata#"] != "" {
		list, err := DecodeMethodData(e.EData)
		if err != nil {
			t.Errorf("%s: e-data: %v", where, err)
		}
		flatten("/edatamethoddata", reflect.ValueOf(list), g)
	}
	for _, k := range sortedKeys(w) {
		if g[k] != w[k] {
			t.Errorf("%s: %s is %q, want %q", where, k, g[k], w[k])
		}
	}
	for _, k := range sortedKeys(g) {
		if _, ok := w[k]; !ok {
			t.Errorf("%s: %s is %q, want none", where, k, g[k])
		}
	}
}

func sortedKeys(m map[string]string) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	sort.Strings(out)
	return out
}

// flattenNode leaves out what is not a field: types by name, version and type numbers, and what a typed hole was read as.
func flattenNode(path string, v any, out map[string]string) {
	switch v := v.(type) {
	case node:
		if h, ok := v["hex"].(string); ok && v["set"] != nil {
			out[path] = h
			return
		}
		isPA := v["type"] != nil && v["value"] != nil
		for k, e := range v {
			switch {
			case norm(k) == "userdataascii", k == "result-code", k == "result-string": // what kpasswd makes of user-data
			case k == "decoded", k == "pvno", k == "msg-type", k == "tkt-vno", k == "authenticator-vno":
			case isPA && k == "name", !isPA && k == "type" && path == "":
			case isPA && (k == "type" || k == "value"):
				flattenNode(path+"/padata"+k, e, out)
			default:
				flattenNode(path+"/"+norm(k), e, out)
			}
		}
	case []any:
		out[path+"#"] = fmt.Sprint(len(v))
		for i, e := range v {
			flattenNode(fmt.Sprintf("%s/%d", path, i), e, out)
		}
	case json.Number:
		out[path] = v.String()
	case string:
		out[path] = v
	}
}

// norm makes one name of an ASN.1 field and its Go field.
func norm(s string) string {
	s = strings.ToLower(strings.NewReplacer("-", "", "_", "").Replace(s))
	if s == "errortext" {
		return "etext"
	}
	return s
}

func flatten(path string, v reflect.Value, out map[string]string) {
	switch x := v.Interface().(type) {
	case time.Time:
		if !x.IsZero() {
			out[path] = x.Format("20060102150405Z")
		}
		return
	case *kcrypto.Key:
		if x != nil {
			out[path+"/keytype"] = fmt.Sprint(int32(x.EType()))
			out[path+"/keyvalue"] = hex.EncodeToString(x.Bytes())
		}
		return
	case KDCOptions, TicketFlags, APOptions:
		out[path] = fmt.Sprintf("%08x", v.Uint())
		return
	case []byte:
		if x != nil {
			out[path] = hex.EncodeToString(x)
		}
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			flatten(path, v.Elem(), out)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			name := v.Type().Field(i).Name
			has := v.FieldByName("Has" + name)
			if strings.HasPrefix(name, "Has") || has.IsValid() && !has.Bool() || name == "RawBody" || name == "MsgType" {
				continue
			}
			flatten(path+"/"+norm(name), v.Field(i), out)
		}
	case reflect.Slice:
		if v.IsNil() {
			return
		}
		out[path+"#"] = fmt.Sprint(v.Len())
		for i := range v.Len() {
			flatten(fmt.Sprintf("%s/%d", path, i), v.Index(i), out)
		}
	case reflect.String:
		if v.String() != "" {
			out[path] = v.String()
		}
	case reflect.Int32, reflect.Int64:
		out[path] = fmt.Sprint(v.Int())
	case reflect.Uint32:
		out[path] = fmt.Sprint(v.Uint())
	}
}

func isBoth(err, a, b error) bool { return errors.Is(err, a) && errors.Is(err, b) }
