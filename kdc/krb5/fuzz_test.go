package krb5

import "testing"

// seedsOf are encodings of one message: published vectors and captures, and parts of them.
func seedsOf(t testing.TB, name string) [][]byte {
	var out [][]byte
	add := func(codec string, b []byte) {
		switch {
		case codec == name:
			out = append(out, b)
		case name == "EncASRepPart" && codec == "EncTGSRepPart":
			out = append(out, append([]byte{0x79}, b[1:]...))
		case name == "KRBSafeBody" && codec == "KRBSafe":
			m, err := DecodeKRBSafe(b)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, m.RawBody)
		case name == "Checksum" && codec == "Authenticator":
			if m, err := DecodeAuthenticator(b); err == nil && m.Cksum != nil {
				sum, err := EncodeChecksum(m.Cksum)
				if err != nil {
					t.Fatal(err)
				}
				out = append(out, sum)
			}
		}
	}
	for _, v := range asn1Vectors {
		add(v.codec, replaceElement(t, unhex(t, v.der), sampleKey, vectorKey))
	}
	for _, c := range loadCaptures() {
		if len(c.der) < 3000 {
			add(c.codec, c.der)
		}
	}
	if len(out) == 0 {
		t.Fatalf("no seed for %s", name)
	}
	return out
}

func fuzzCodec(f *testing.F, name string) {
	c := codecNamed(f, name)
	seen := map[string]bool{}
	for _, b := range seedsOf(f, name) {
		// Captures differ in what is sealed more than in shape: a few of each length are enough to start from.
		if len(seen) < 60 && !seen[string(b)] {
			seen[string(b)] = true
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) { c.same(t, b) })
}

func FuzzKDCReq(f *testing.F)            { fuzzCodec(f, "KDCReq") }
func FuzzKDCReqBody(f *testing.F)        { fuzzCodec(f, "KDCReqBody") }
func FuzzKDCRep(f *testing.F)            { fuzzCodec(f, "KDCRep") }
func FuzzEncASRepPart(f *testing.F)      { fuzzCodec(f, "EncASRepPart") }
func FuzzEncTGSRepPart(f *testing.F)     { fuzzCodec(f, "EncTGSRepPart") }
func FuzzTicket(f *testing.F)            { fuzzCodec(f, "Ticket") }
func FuzzEncTicketPart(f *testing.F)     { fuzzCodec(f, "EncTicketPart") }
func FuzzAPReq(f *testing.F)             { fuzzCodec(f, "APReq") }
func FuzzAuthenticator(f *testing.F)     { fuzzCodec(f, "Authenticator") }
func FuzzAPRep(f *testing.F)             { fuzzCodec(f, "APRep") }
func FuzzEncAPRepPart(f *testing.F)      { fuzzCodec(f, "EncAPRepPart") }
func FuzzKRBSafe(f *testing.F)           { fuzzCodec(f, "KRBSafe") }
func FuzzKRBSafeBody(f *testing.F)       { fuzzCodec(f, "KRBSafeBody") }
func FuzzKRBPriv(f *testing.F)           { fuzzCodec(f, "KRBPriv") }
func FuzzEncKRBPrivPart(f *testing.F)    { fuzzCodec(f, "EncKRBPrivPart") }
func FuzzKRBCred(f *testing.F)           { fuzzCodec(f, "KRBCred") }
func FuzzEncKRBCredPart(f *testing.F)    { fuzzCodec(f, "EncKRBCredPart") }
func FuzzKRBError(f *testing.F)          { fuzzCodec(f, "KRBError") }
func FuzzPAEncTSEnc(f *testing.F)        { fuzzCodec(f, "PAEncTSEnc") }
func FuzzEncryptedData(f *testing.F)     { fuzzCodec(f, "EncryptedData") }
func FuzzChecksum(f *testing.F)          { fuzzCodec(f, "Checksum") }
func FuzzMethodData(f *testing.F)        { fuzzCodec(f, "MethodData") }
func FuzzETypeInfo(f *testing.F)         { fuzzCodec(f, "ETypeInfo") }
func FuzzETypeInfo2(f *testing.F)        { fuzzCodec(f, "ETypeInfo2") }
func FuzzAuthorizationData(f *testing.F) { fuzzCodec(f, "AuthorizationData") }

// FuzzPrincipal: what parses prints to something that parses to the same.
func FuzzPrincipal(f *testing.F) {
	for _, s := range []string{"alice", "host/a.example@R", `a\@b\/c\\@R`, "x@", "", `\0\n\t\b`, "krbtgt/R@R", "@R", "a@b@c", `\`, "/", "//"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, realm, err := ParsePrincipal(s, "DEFAULT")
		if err != nil {
			return
		}
		text := FormatPrincipal(n, realm)
		again, realm2, err := ParsePrincipal(text, "OTHER")
		if err != nil || !again.Equal(n) || realm2 != realm {
			t.Fatalf("%q is %v in %q, prints %q, and that is %v in %q, %v", s, n.NameString, realm, text, again.NameString, realm2, err)
		}
		if !n.bounded() {
			t.Fatalf("%q is over the bounds of the wire", s)
		}
	})
}
