package krb5

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
)

// edit takes a request of the captures, changes the contents of one field of its req-body, and gives the DER.
func edit(t *testing.T, field int, contents ...byte) []byte {
	t.Helper()
	root := parseDER(t, sampleRequest(t))[0]
	body := root.children[0].children
	for _, f := range body[len(body)-1].children[0].children {
		if f.tag == 0xa0|byte(field) {
			f.children = parseDER(t, contents)
			return root.bytes()
		}
	}
	t.Fatalf("the request has no field %d", field)
	return nil
}

func sampleRequest(t testing.TB) []byte {
	t.Helper()
	for _, c := range loadCaptures() {
		if c.where == "as-enc-timestamp/messages/0/request" {
			return c.der
		}
	}
	t.Fatal("no capture as-enc-timestamp")
	return nil
}

// TestTolerance is what clients send that a stricter reader would refuse.
func TestTolerance(t *testing.T) {
	c := codecNamed(t, "KDCReq")
	general := func(s string) []byte { return append([]byte{27, byte(len(s))}, s...) }
	for _, v := range []struct {
		what string
		der  []byte
		get  func(b *KDCReqBody) any
		want any
	}{
		{"nonce 2^32-1", edit(t, 7, 2, 5, 0, 0xff, 0xff, 0xff, 0xff), func(b *KDCReqBody) any { return b.Nonce }, uint32(1<<32 - 1)},
		{"nonce -2", edit(t, 7, 2, 1, 0xfe), func(b *KDCReqBody) any { return b.Nonce }, uint32(1<<32 - 2)},
		{"nonce -2^31", edit(t, 7, 2, 4, 0x80, 0, 0, 0), func(b *KDCReqBody) any { return b.Nonce }, uint32(1 << 31)},
		{"nonce 0", edit(t, 7, 2, 1, 0), func(b *KDCReqBody) any { return b.Nonce }, uint32(0)},
		{"etypes nobody knows", edit(t, 8, 0x30, 11, 2, 1, 0x80, 2, 2, 0xff, 0x7b, 2, 2, 0x7f, 0xff), func(b *KDCReqBody) any { return b.EType }, []kcrypto.EType{-128, -133, 32767}},
		{"no etypes", edit(t, 8, 0x30, 0), func(b *KDCReqBody) any { return b.EType }, []kcrypto.EType{}},
		{"till in 9999", edit(t, 5, append([]byte{24, 15}, "99991231235959Z"...)...), func(b *KDCReqBody) any { return b.Till }, time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)},
		{"till zero", edit(t, 5, append([]byte{24, 15}, "19700101000000Z"...)...), func(b *KDCReqBody) any { return b.Till }, time.Unix(0, 0).UTC()},
		{"till zero of Windows", edit(t, 5, append([]byte{24, 15}, "16010101000000Z"...)...), func(b *KDCReqBody) any { return b.Till }, time.Date(1601, 1, 1, 0, 0, 0, 0, time.UTC)},
		{"leap day", edit(t, 5, append([]byte{24, 15}, "20240229000000Z"...)...), func(b *KDCReqBody) any { return b.Till }, time.Date(2024, 2, 29, 0, 0, 0, 0, time.UTC)},
		{"40 bits of options", edit(t, 0, 3, 6, 0, 0x40, 0, 0, 0x10, 0xff), func(b *KDCReqBody) any { return b.KDCOptions }, KDCOptForwardable | KDCOptRenewableOK},
		{"2 bits of options", edit(t, 0, 3, 2, 6, 0x40), func(b *KDCReqBody) any { return b.KDCOptions }, KDCOptForwardable},
		{"no bits of options", edit(t, 0, 3, 1, 0), func(b *KDCReqBody) any { return b.KDCOptions }, KDCOptions(0)},
		{"realm in UTF-8", edit(t, 2, general("ĐÔMAIN")...), func(b *KDCReqBody) any { return b.Realm }, "ĐÔMAIN"},
		{"realm in Latin-1", edit(t, 2, general("D\xd4M")...), func(b *KDCReqBody) any { return b.Realm }, "D\xd4M"},
		{"empty realm", edit(t, 2, general("")...), func(b *KDCReqBody) any { return b.Realm }, ""},
		{"empty component", edit(t, 3, 0x30, 11, 0xa0, 3, 2, 1, 1, 0xa1, 4, 0x30, 2, 27, 0), func(b *KDCReqBody) any { return b.SName.NameString }, []string{""}},
	} {
		m, ok := c.same(t, v.der).(*KDCReq)
		if !ok {
			_, err := DecodeKDCReq(v.der)
			t.Errorf("%s: %v", v.what, err)
			continue
		}
		if got := v.get(&m.ReqBody); !reflect.DeepEqual(got, v.want) {
			t.Errorf("%s: %v, want %v", v.what, got, v.want)
		}
	}
}

// TestStrictness is what nobody sends and no decoder takes.
func TestStrictness(t *testing.T) {
	c := codecNamed(t, "KDCReq")
	name := func(n int, component string) []byte {
		e := append([]byte{27, 0x81, byte(len(component))}, component...)
		if len(component) < 128 {
			e = append([]byte{27, byte(len(component))}, component...)
		}
		list := &derNode{tag: 0x30, value: nil}
		list.children = parseDER(t, bytes.Repeat(e, n))
		n0 := &derNode{tag: 0xa0, children: parseDER(t, []byte{2, 1, 1})}
		n1 := &derNode{tag: 0xa1, children: []*derNode{list}}
		return (&derNode{tag: 0x30, children: []*derNode{n0, n1}}).bytes()
	}
	at := func(s string) []byte { return append([]byte{24, byte(len(s))}, s...) }
	for what, der := range map[string][]byte{
		"nonce 2^32":              edit(t, 7, 2, 5, 1, 0, 0, 0, 0),
		"nonce -2^31-1":           edit(t, 7, 2, 5, 0xff, 0x7f, 0xff, 0xff, 0xff),
		"nonce not minimal":       edit(t, 7, 2, 2, 0, 1),
		"nonce not minimal, -1":   edit(t, 7, 2, 2, 0xff, 0xff),
		"nonce of no octets":      edit(t, 7, 2, 0),
		"nonce of nine octets":    edit(t, 7, 2, 9, 1, 0, 0, 0, 0, 0, 0, 0, 0),
		"two nonces":              edit(t, 7, 2, 1, 1, 2, 1, 1),
		"eleven components":       edit(t, 3, name(11, "a")...),
		"no components":           edit(t, 3, name(0, "a")...),
		"1,250 octets of name":    edit(t, 3, name(10, strings.Repeat("a", 125))...),
		"fraction of a second":    edit(t, 5, at("20261122033337.5Z")...),
		"time with an offset":     edit(t, 5, at("20261122033337+0100")...),
		"time without zone":       edit(t, 5, at("20261122033337")...),
		"second 60":               edit(t, 5, at("20261231235960Z")...),
		"month 13":                edit(t, 5, at("20261322033337Z")...),
		"30 February":             edit(t, 5, at("20240230000000Z")...),
		"29 February 1900":        edit(t, 5, at("19000229000000Z")...),
		"year 1, Go's zero time":  edit(t, 5, at("00010101000000Z")...),
		"hour of letters":         edit(t, 5, at("20261122xx3337Z")...),
		"UTCTime":                 edit(t, 5, append([]byte{23, 13}, "261122033337Z"...)...),
		"padding bits set":        edit(t, 0, 3, 5, 1, 0, 0, 0, 1),
		"nine padding bits":       edit(t, 0, 3, 5, 9, 0, 0, 0, 0),
		"padding of nothing":      edit(t, 0, 3, 1, 1),
		"bit string of no octets": edit(t, 0, 3, 0),
		"realm as UTF8String":     edit(t, 2, 12, 1, 'R'),
		"realm as IA5String":      edit(t, 2, 22, 1, 'R'),
	} {
		if m := c.same(t, der); m != nil {
			t.Errorf("%s is accepted: %+v", what, m)
		}
	}
	if _, err := DecodeMethodData(append([]byte{0x30, 0x83, 0x10, 0, 0}, make([]byte, 1<<20)...)); err == nil {
		t.Error("more than 1 MiB is accepted")
	}
}

// TestVersionsAndTypes: the two mistakes that have error codes of their own are told apart.
func TestVersionsAndTypes(t *testing.T) {
	root := parseDER(t, sampleRequest(t))[0]
	fields := root.children[0].children
	fields[0].children[0].value = []byte{4}
	wantErr(t, root.bytes(), ErrDecodeVersion)
	fields[0].children[0].value = []byte{5}
	fields[1].children[0].value = []byte{byte(MsgTGSReq)}
	wantErr(t, root.bytes(), ErrDecodeType)
	root.tag = byte(appTag(uint8(MsgAPReq)))
	wantErr(t, root.bytes(), ErrDecodeType)
}

func wantErr(t *testing.T, der []byte, want error) {
	t.Helper()
	_, err := DecodeKDCReq(der)
	if !isBoth(err, ErrDecode, want) {
		t.Errorf("got %v, want %v", err, want)
	}
}

// TestAllocation: no decoder allocates more than 20 times its input, plus what one message of fixed size takes.
func TestAllocation(t *testing.T) {
	const fixed = 2048
	inputs := map[string][][]byte{}
	for _, c := range codecs {
		inputs[c.name] = append(inputs[c.name], bombs(t, c.name)...)
		for _, b := range seedsOf(t, c.name) {
			if len(inputs[c.name]) < 12 {
				inputs[c.name] = append(inputs[c.name], b)
			}
		}
	}
	for _, c := range codecs {
		for _, b := range inputs[c.name] {
			if got, bound := allocated(c, b), 20*len(b)+fixed; got > bound {
				t.Errorf("%s of %d octets (%.20x...) allocates %d, more than %d", c.name, len(b), b, got, bound)
			}
		}
	}
}

// allocated is how many octets one decoding takes, the least of three.
func allocated(c codec, b []byte) int {
	least := 1 << 62
	var before, after runtime.MemStats
	for range 3 {
		runtime.ReadMemStats(&before)
		m, _ := c.decode(b)
		runtime.ReadMemStats(&after)
		runtime.KeepAlive(m)
		least = min(least, int(after.TotalAlloc-before.TotalAlloc))
	}
	return least
}

// bombs are lists of as many of the smallest elements as 60 KiB hold, and lengths that promise what is not there.
func bombs(t *testing.T, name string) [][]byte {
	list := func(e []byte) []byte {
		return (&derNode{tag: 0x30, children: parseDER(t, bytes.Repeat(e, 60_000/len(e)))}).bytes()
	}
	typed := []byte{0x30, 9, 0xa0, 3, 2, 1, 1, 0xa1, 2, 4, 0}
	empty, emptyTicket := []byte{0x30, 0}, []byte{byte(appTag(tagTicket)), 0}
	pa := []byte{0x30, 9, 0xa1, 3, 2, 1, 1, 0xa2, 2, 4, 0}
	out := [][]byte{{0x30, 0x84, 0xff, 0xff, 0xff, 0xff}, {0x6a, 0x83, 0x0f, 0xff, 0xff, 0x30}, bytes.Repeat([]byte{0x30, 0x80}, 30_000), bytes.Repeat([]byte{0xa0, 2}, 30_000)}
	switch name {
	case "MethodData":
		out = append(out, list(pa), list(empty))
	case "AuthorizationData", "ETypeInfo":
		out = append(out, list(empty), list(typed), list([]byte{0x30, 5, 0xa0, 3, 2, 1, 1}))
	case "ETypeInfo2":
		out = append(out, list(empty), list([]byte{0x30, 5, 0xa0, 3, 2, 1, 1}))
	case "KDCReq":
		out = append(out, edit(t, 8, list([]byte{2, 1, 18})...), withTickets(t, list(emptyTicket)), withTickets(t, list(leastTicket(t))))
		for _, e := range [][]byte{emptyTicket, leastTicket(t)} { // half of the tickets are good
			out = append(out, withTickets(t, list(append(leastTicket(t), e...))))
		}
	case "KRBCred":
		enc, err := EncodeKRBCred(&KRBCred{})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range [][]byte{emptyTicket, leastTicket(t)} {
			root := parseDER(t, enc)[0]
			root.children[0].children[2].children = parseDER(t, list(e))
			out = append(out, root.bytes())
		}
	case "EncKRBCredPart":
		part := EncKRBCredPart{TicketInfo: slices.Repeat([]KRBCredInfo{{Key: vKey}}, 1500)}
		b, err := EncodeEncKRBCredPart(&part)
		if err != nil {
			t.Fatal(err)
		}
		root := parseDER(t, b)[0]
		root.children[0].children[0].children = parseDER(t, list(empty))
		out = append(out, b, root.bytes())
	case "EncTGSRepPart":
		part := EncKDCRepPart{Key: vKey, LastReq: slices.Repeat([]LastReq{{0, vTime}}, 2000), AuthTime: vTime, EndTime: vTime, SName: vName}
		b, err := EncodeEncKDCRepPart(MsgTGSRep, &part)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, b)
	}
	return out
}

// leastTicket is as short as a Ticket can be.
func leastTicket(t *testing.T) []byte {
	t.Helper()
	b, err := EncodeTicket(&Ticket{SName: PrincipalName{NameString: []string{""}}})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// withTickets is a request of the captures with that SEQUENCE OF Ticket.
func withTickets(t *testing.T, tickets []byte) []byte {
	t.Helper()
	root := parseDER(t, sampleRequest(t))[0]
	body := root.children[0].children
	fields := body[len(body)-1].children[0]
	fields.children = append(fields.children, &derNode{tag: 0xa0 | 11, children: parseDER(t, tickets)})
	return root.bytes()
}

// TestLeastTicket: the bound on how many tickets a list can hold is no tighter than tickets are.
func TestLeastTicket(t *testing.T) {
	if n := len(leastTicket(t)); n != ticketOctetsMin {
		t.Errorf("the shortest ticket has %d octets, not %d", n, ticketOctetsMin)
	}
	c := codecNamed(t, "KDCReq")
	for n := range 4 {
		der := (&derNode{tag: 0x30, children: parseDER(t, bytes.Repeat(leastTicket(t), n))}).bytes()
		if m, ok := c.same(t, withTickets(t, der)).(*KDCReq); !ok || len(m.ReqBody.AdditionalTickets) != n {
			t.Errorf("%d of the shortest tickets are refused", n)
		}
	}
}

// TestTimes holds the calendar here against that of package time.
func TestTimes(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	first, last := time.Date(1601, 1, 1, 0, 0, 0, 0, time.UTC).Unix(), time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC).Unix()
	secs := []int64{first, last, 0, -1, 951782400, 951868800, 4107542400}
	for range 20_000 {
		secs = append(secs, first+rng.Int64N(last-first))
	}
	for _, s := range secs {
		want := time.Unix(s, 0).UTC()
		text := want.Format("20060102150405Z")
		if got, ok := parseTime([]byte(text)); !ok || !got.Equal(want) {
			t.Fatalf("%s is read as %v, %v", text, got, ok)
		}
		w := writer{buf: make([]byte, 64), at: 64}
		w.time(0, want, "test")
		if got := string(w.buf[w.at+4:]); w.err != nil || got != text {
			t.Fatalf("%v is written as %q, %v", want, got, w.err)
		}
	}
}

// TestDecodedIsOwn: appending to an octet string of a message does not reach into its input, and strings outlive the input.
func TestDecodedIsOwn(t *testing.T) {
	der := bytes.Clone(sampleRequest(t))
	m, err := DecodeKDCReq(der)
	if err != nil {
		t.Fatal(err)
	}
	before := fmt.Sprint(m.ReqBody.Realm, *m.ReqBody.CName, *m.ReqBody.SName, m.ReqBody.EType)
	for i := range m.PAData {
		_ = append(m.PAData[i].PADataValue, "overwrite"...)
	}
	_ = append(m.RawBody, "overwrite"...)
	if !bytes.Equal(der, sampleRequest(t)) {
		t.Error("appending to a decoded field changed the input")
	}
	clear(der)
	if after := fmt.Sprint(m.ReqBody.Realm, *m.ReqBody.CName, *m.ReqBody.SName, m.ReqBody.EType); after != before {
		t.Errorf("clearing the input made %s of %s", after, before)
	}
}

// TestPoolIsWiped: the writer's working buffer keeps no session key.
func TestPoolIsWiped(t *testing.T) {
	for range 50 {
		if _, err := EncodeEncKDCRepPart(MsgASRep, &EncKDCRepPart{Key: vKey, AuthTime: vTime, EndTime: vTime, SName: vName}); err != nil {
			t.Fatal(err)
		}
		w := writers.Get().(*writer)
		if len(bytes.Trim(w.buf, "\x00")) != 0 {
			t.Fatal("a writer in the pool holds octets of a message")
		}
		writers.Put(w)
	}
}
