package kdc

import (
	"slices"
	"testing"
	"time"

	"github.com/charon-kdc/charon/kdc/kdb"
	"github.com/charon-kdc/charon/kdc/krb5"
	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
)

// TestSessionEType: the first requested enctype which realm and server both accept.
func TestSessionEType(t *testing.T) {
	w := newWorld(t)
	realm := &kdb.Realm{Name: testRealm, ETypes: []kcrypto.EType{18, 20}}
	all := &kdb.Realm{Name: testRealm, ETypes: allAES}
	server := func(list string, keys ...kcrypto.EType) *kdb.Principal {
		p := &kdb.Principal{Realm: testRealm, Name: mustName("HTTP/web"), KVNO: 1, Strings: map[string]string{}}
		if list != "" {
			p.Strings[sessionEnctypesAttr] = list
		}
		w.keys(p, "", keys...)
		return p
	}
	for _, c := range []struct {
		name      string
		realm     *kdb.Realm
		server    *kdb.Principal
		requested []kcrypto.EType
		want      kcrypto.EType // 0: none
	}{
		{"aes256-sha1 is taken for granted", all, server("", 17), []kcrypto.EType{18}, 18},
		{"others need a key", all, server("", 17), []kcrypto.EType{20, 19, 17}, 17},
		{"what the realm does not issue", realm, server("", 17, 18), []kcrypto.EType{17, 18}, 18},
		{"what the realm does not issue, though listed", realm, server("aes128-cts aes256-cts", 18), []kcrypto.EType{17, 18}, 18},
		{"families", realm, server("aes", 18), []kcrypto.EType{99, 25, 3, 23, 19, 20, 18}, 20},
		{"a family of one", all, server("rc4", 18), []kcrypto.EType{18, 23}, 23},
		{"names nobody knows", all, server("des-cbc-crc, kyber,aes128-cts", 18), []kcrypto.EType{1, 18, 17}, 17},
		{"only names nobody knows", all, server("des-cbc-crc", 18), []kcrypto.EType{1, 18, 17}, 0},
		{"RC4 without consent", all, server("", 18), []kcrypto.EType{23}, 0},
		{"RC4 by key", all, server("", 23), []kcrypto.EType{23}, 23},
		{"RC4 by key, taken back by the list", all, server("aes", 23), []kcrypto.EType{23}, 0},
		{"RC4 listed by the realm is not consent", &kdb.Realm{ETypes: []kcrypto.EType{23}}, server("", 18), []kcrypto.EType{23, 18}, 0},
		{"nothing asked for", all, server("", 18), nil, 0},
		{"numbers that mean nothing", all, server("", 18), []kcrypto.EType{-2147483648, -1, 0, 2147483647}, 0},
	} {
		if got, ok := sessionEType(c.realm, c.server, nil, c.requested); got != c.want || ok != (c.want != 0) {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

// TestTGSAndRC4: a TGS can do RC4, and does for a client that consents; for other services a client's consent means nothing.
func TestTGSAndRC4(t *testing.T) {
	w := newWorld(t)
	realm := w.store.realms[testRealm]
	tgs := w.store.principals["krbtgt/"+testRealm+"@"+testRealm]
	web := w.princ("HTTP/web")
	strong, weak, listed, unlisted := w.princ("a"), w.princ("b"), w.princ("c"), w.princ("d")
	w.keys(weak, "", kcrypto.RC4HMAC)
	w.keys(unlisted, "", kcrypto.RC4HMAC)
	listed.Strings = map[string]string{sessionEnctypesAttr: "rc4-hmac"}
	unlisted.Strings = map[string]string{sessionEnctypesAttr: "aes256-cts"}
	for _, c := range []struct {
		client *kdb.Principal
		want   bool
	}{{strong, false}, {weak, true}, {listed, true}, {unlisted, false}, {nil, false}} {
		if _, ok := sessionEType(realm, tgs, c.client, []kcrypto.EType{23}); ok != c.want {
			t.Errorf("%+v: %v", c.client, ok)
		}
		if _, ok := sessionEType(realm, web, c.client, []kcrypto.EType{23}); ok {
			t.Errorf("%+v: RC4 for a service that did not consent", c.client)
		}
	}
	away := w.princ("krbtgt/OTHER.COM")
	if _, ok := sessionEType(realm, away, weak, []kcrypto.EType{23}); ok {
		t.Error("RC4 for another realm's TGS")
	}
}

// TestReplyKey: the first strong one that there is a key of, and that the realm still issues.
func TestReplyKey(t *testing.T) {
	w := newWorld(t)
	realm := &kdb.Realm{ETypes: []kcrypto.EType{18, 20}}
	p := w.princ("alice")
	w.keys(p, "x", 17, 18, 23)
	p.Keys = append(p.Keys, kdb.Key{KVNO: 1, EType: 20, State: kdb.KeyRetiring, Key: p.Keys[0].Key})
	for _, c := range []struct {
		requested []kcrypto.EType
		want      kcrypto.EType
	}{
		{[]kcrypto.EType{18, 17, 23}, 18},
		{[]kcrypto.EType{17, 18}, 18},
		{[]kcrypto.EType{17}, 0},
		{[]kcrypto.EType{23, 17, 18}, 18},
		{[]kcrypto.EType{23, 17}, 23},
		{[]kcrypto.EType{20}, 0},
		{nil, 0},
	} {
		k := replyKey(realm, p, c.requested)
		if (k == nil) != (c.want == 0) || k != nil && k.EType != c.want {
			t.Errorf("%v: %+v", c.requested, k)
		}
	}
}

// TestETypeListAmplification: a list of 20,000 enctypes costs little more than to read it, whatever it repeats and whoever is asked for.
func TestETypeListAmplification(t *testing.T) {
	w := newWorld(t)
	w.user("alice")
	web := w.princ("HTTP/web")
	web.Strings = map[string]string{sessionEnctypesAttr: "des-cbc-crc kyber aes128-sha2 rc4"}
	least := func(f func()) time.Duration {
		d := time.Hour
		for range 5 {
			began := time.Now()
			f()
			d = min(d, time.Since(began))
		}
		return d
	}
	for name, es := range map[string][]kcrypto.EType{"unknown": {99}, "one": {17}, "all": allAES, "RC4": {23}} {
		list := slices.Repeat(es, 20_000/len(es))
		for _, server := range []string{"HTTP/web", ""} {
			b := w.asReq(asReq{client: "alice", server: server, etypes: list})
			read := least(func() {
				if _, err := krb5.DecodeKDCReq(b); err != nil {
					t.Fatal(err)
				}
			})
			served := least(func() { w.send(b) })
			if most := 5*read + time.Millisecond; served > most {
				t.Errorf("%s for %q: %v, and %v to read it", name, server, served, read)
			}
		}
	}
}

// TestDistinctETypes: each enctype that means something counts where it stands first.
func TestDistinctETypes(t *testing.T) {
	for _, c := range []struct{ in, want []kcrypto.EType }{
		{nil, nil},
		{[]kcrypto.EType{1, 3, -133, 99, 1 << 30, -1 << 31}, nil},
		{[]kcrypto.EType{23, 18, 23, 26, 17, 18, 25, 26, 16, 20, 19}, []kcrypto.EType{23, 18, 26, 17, 25, 20, 19}},
	} {
		in := slices.Clone(c.in)
		if got := distinctETypes(in); !slices.Equal(got, c.want) || !slices.Equal(in, c.in) {
			t.Errorf("%v: %v", c.in, got)
		}
	}
}
