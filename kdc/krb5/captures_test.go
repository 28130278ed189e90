package krb5

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
)

// The captures are real exchanges of MIT's tools, each message with its fields as another decoder read them, and each ciphertext with its key.

// node is a JSON object of a capture.
type node = map[string]any

// captured is one message or plaintext out of the captures.
type captured struct {
	where   string // file and path
	codec   string
	der     []byte
	decoded node // fields as another decoder saw them; may be nil
}

// loadCaptures reads all of testdata/captures and finds what this package decodes.
var loadCaptures = sync.OnceValue(func() []captured {
	files, err := filepath.Glob("testdata/captures/*.json")
	if err != nil || len(files) < 70 {
		panic(fmt.Sprintf("%d captures, %v", len(files), err))
	}
	var out []captured
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			panic(err)
		}
		var v any
		d := json.NewDecoder(bytes.NewReader(b))
		d.UseNumber()
		if err := d.Decode(&v); err != nil {
			panic(f + ": " + err.Error())
		}
		walk(strings.TrimSuffix(filepath.Base(f), ".json"), v, func(path string, n node) {
			if c, ok := capturedAt(path, n); ok {
				out = append(out, c)
			}
		})
	}
	return out
})

func walk(path string, v any, visit func(string, node)) {
	switch v := v.(type) {
	case node:
		visit(path, v)
		for k, e := range v {
			walk(path+"/"+k, e, visit)
		}
	case []any:
		for i, e := range v {
			walk(fmt.Sprintf("%s/%d", path, i), e, visit)
		}
	}
}

var (
	codecOfType = map[string]string{
		"AS-REQ": "KDCReq", "TGS-REQ": "KDCReq", "AS-REP": "KDCRep", "TGS-REP": "KDCRep", "KRB-ERROR": "KRBError",
		"AP-REQ": "APReq", "AP-REP": "APRep",
	}
	codecOfPlain = map[string]string{
		"EncASRepPart": "EncTGSRepPart", "EncTGSRepPart": "EncTGSRepPart", "EncAPRepPart": "EncAPRepPart", // MIT sends 26 for both
		"EncKrbCredPart": "EncKRBCredPart", "EncKrbPrivPart": "EncKRBPrivPart", "PA-ENC-TS-ENC": "PAEncTSEnc",
		"ENCRYPTED-CHALLENGE from KDC": "PAEncTSEnc", "ENCRYPTED-CHALLENGE from client": "PAEncTSEnc",
	}
	codecOfPAData = map[string]string{"PA-TGS-REQ": "APReq", "PA-ENC-TIMESTAMP": "EncryptedData", "PA-ENCRYPTED-CHALLENGE": "EncryptedData", "PA-ETYPE-INFO2": "ETypeInfo2"}
)

func capturedAt(path string, n node) (captured, bool) {
	str := func(k string) string { s, _ := n[k].(string); return s }
	fields, _ := n["decoded"].(node)
	typ, _ := fields["type"].(string)
	c := captured{where: path, decoded: fields}
	src := ""
	switch {
	case n["hex"] != nil && codecOfType[typ] != "":
		c.codec, src = codecOfType[typ], str("hex")
	case n["plaintext"] != nil && n["what"] != nil:
		c.codec, src = codecOfPlain[str("what")], str("plaintext")
		for _, part := range []string{"EncTicketPart", "Authenticator"} {
			if strings.HasSuffix(str("what"), part) {
				c.codec = part
			}
		}
	case n["value"] != nil && codecOfPAData[str("name")] != "" && str("value") != "":
		c.codec, src = codecOfPAData[str("name")], str("value")
	case n["KRB-CRED_hex"] != nil:
		c.codec, src = "KRBCred", str("KRB-CRED_hex")
		c.decoded, _ = n["KRB-CRED"].(node)
	}
	if c.codec == "" || src == "" {
		return c, false
	}
	var err error
	if c.der, err = hex.DecodeString(src); err != nil {
		panic(path + ": " + err.Error())
	}
	return c, true
}

// unsupportedKey tells whether a plaintext holds a session key or subkey of an enctype that kcrypto has not (the Camellia captures).
func unsupportedKey(n node) bool {
	found := false
	walk("", n, func(_ string, n node) {
		if num, ok := n["keytype"].(json.Number); ok {
			i, _ := num.Int64()
			found = found || !kcrypto.EType(i).Supported()
		}
	})
	return found
}

func TestCaptures(t *testing.T) {
	seen := map[string]int{}
	for _, c := range loadCaptures() {
		codec := codecNamed(t, c.codec)
		got := codec.same(t, c.der)
		if got == nil {
			if _, err := codec.decode(c.der); unsupportedKey(c.decoded) && errorsIsEType(err) {
				continue
			}
			_, err := codec.decode(c.der)
			t.Errorf("%s: %s does not decode: %v", c.where, c.codec, err)
			continue
		}
		if out, err := codec.encode(got); err != nil || !bytes.Equal(out, c.der) {
			t.Errorf("%s: %s encodes to other octets, %v\n got %x\nwant %x", c.where, c.codec, err, out, c.der)
		}
		if c.decoded != nil {
			compareFields(t, c.where, got, c.decoded)
		}
		seen[c.codec]++
	}
	for name, min := range map[string]int{
		"KDCReq": 110, "KDCRep": 55, "KRBError": 50, "APReq": 30, "APRep": 2, "EncTicketPart": 100, "Authenticator": 50, "EncTGSRepPart": 50,
		"EncAPRepPart": 10, "EncKRBCredPart": 1, "KRBCred": 1, "EncKRBPrivPart": 6, "PAEncTSEnc": 15, "EncryptedData": 20, "ETypeInfo2": 60,
	} {
		if seen[name] < min {
			t.Errorf("only %d captures of %s, want %d", seen[name], name, min)
		}
	}
}

// TestCapturesOpen decrypts what the captures give a key for, out of the messages themselves, and wants the plaintext that they give.
func TestCapturesOpen(t *testing.T) {
	opened := 0
	for _, c := range loadCaptures() {
		sealed := sealedParts(c)
		if len(sealed) == 0 {
			continue
		}
		for _, p := range plaintexts(t, c.where) {
			var got [][]byte
			for _, ed := range sealed {
				if plain, err := p.key.Decrypt(p.usage, ed.Cipher); err == nil && ed.EType == p.key.EType() {
					got = append(got, plain)
				}
			}
			// One key may open two tickets of a message.
			if len(got) > 0 && !slices.ContainsFunc(got, func(b []byte) bool { return bytes.Equal(b, p.plain) }) {
				t.Errorf("%s: %s opens to\n%x, want\n%x", c.where, p.what, got, p.plain)
			}
			opened += len(got)
		}
	}
	if opened < 190 {
		t.Errorf("opened %d ciphertexts, want 190 or more", opened)
	}
}

// sealedParts are the ciphertexts in a message, those inside its padata included.
func sealedParts(c captured) []EncryptedData {
	switch c.codec {
	case "KDCReq":
		m, err := DecodeKDCReq(c.der)
		if err != nil {
			return nil
		}
		var out []EncryptedData
		for _, pa := range m.PAData {
			if ed, err := DecodeEncryptedData(pa.PADataValue); err == nil {
				out = append(out, *ed)
			}
			if ap, err := DecodeAPReq(pa.PADataValue); err == nil {
				out = append(out, ap.Ticket.EncPart, ap.Authenticator)
			}
		}
		for _, tk := range m.ReqBody.AdditionalTickets {
			out = append(out, tk.EncPart)
		}
		return out
	case "KDCRep":
		if m, err := DecodeKDCRep(c.der); err == nil {
			return []EncryptedData{m.Ticket.EncPart, m.EncPart}
		}
	case "APRep":
		if m, err := DecodeAPRep(c.der); err == nil {
			return []EncryptedData{m.EncPart}
		}
	}
	return nil
}

type plaintext struct {
	what  string
	key   *kcrypto.Key
	usage kcrypto.Usage
	plain []byte
}

// plaintexts are those that stand beside the message at that path: its sibling "decrypted".
func plaintexts(t *testing.T, where string) []plaintext {
	file, rest, _ := strings.Cut(where, "/")
	b, err := os.ReadFile("testdata/captures/" + file + ".json")
	if err != nil {
		t.Fatal(err)
	}
	var root any
	if err := json.Unmarshal(b, &root); err != nil {
		t.Fatal(err)
	}
	var out []plaintext
	walk(file, root, func(path string, n node) {
		if path != file+"/"+rest {
			return
		}
		walk("", n["decrypted"], func(_ string, n node) {
			k, ok := n["key"].(node)
			plain, ok2 := n["plaintext"].(string)
			usage, ok3 := n["usage"].(float64)
			if !ok || !ok2 || !ok3 {
				return
			}
			etype, _ := k["etype"].(float64)
			text, _ := k["hex"].(string)
			key, err := kcrypto.NewKey(kcrypto.EType(etype), unhex(t, text))
			if err != nil {
				return // an enctype that kcrypto has not
			}
			what, _ := n["what"].(string)
			out = append(out, plaintext{what, key, kcrypto.Usage(usage), unhex(t, plain)})
		})
	})
	return out
}
