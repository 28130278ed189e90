package kdc

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/charon-kdc/charon/kdc/kdb"
	"github.com/charon-kdc/charon/kdc/krb5"
	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
)

var rewrite = flag.Bool("rewrite", false, "write what the scripts in testdata give below their lines")

// TestScripts plays every testdata/*.txt: a paragraph of commands, a line of dashes, what they must print. Each file is a realm of its own, with
// a fixed clock and seeded keys. `go test -run Scripts -rewrite` fills in what stands under the lines, for the diff to be read in review.
//
//	princ NAME [+attribute|-attribute]... [key=value]...   a service; keys: etypes, expire, pwexpire, maxlife, maxrenew, alias, session_enctypes, valid_from
//	user NAME ...                                           the same with the password pw-NAME and +requires_preauth; also policy=FAILURES/WINDOW/LOCKOUT
//	set NAME ...                                            changes a principal
//	delete NAME; clock +5m; stale; fresh
//	as CLIENT [SERVER] [key=value]...                       keys: pw, etypes, opts, from, till, rtime, skew, addr, pa=none|encparep, ticket=NAME
//	tgs SERVER tgt=NAME [key=value]...                      keys: opts, etypes, from, till, rtime, skew, addr, second, subkey, cksum, ticket=NAME
//	resend [udp] [max=N]; copy                              the last packet again; its proof in another packet
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no scripts", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			s := &script{world: newWorld(t), creds: map[string]*cred{}}
			got := s.play(string(text))
			if got == string(text) {
				return
			}
			if *rewrite {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			t.Errorf("%s differs; read the diff after go test -rewrite.\n%s", file, firstDifference(string(text), got))
		})
	}
}

func firstDifference(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range max(len(w), len(g)) {
		a, b := "", ""
		if i < len(w) {
			a = w[i]
		}
		if i < len(g) {
			b = g[i]
		}
		if a != b {
			return fmt.Sprintf("line %d\n want %s\n  got %s", i+1, a, b)
		}
	}
	return ""
}

type script struct {
	*world
	creds map[string]*cred
	last  []byte
}

// play gives the script with what it prints.
func (s *script) play(text string) string {
	var out strings.Builder
	for i, par := range strings.Split(strings.TrimRight(text, "\n"), "\n\n") {
		if i > 0 {
			out.WriteString("\n")
		}
		commands, _, _ := strings.Cut(par, "\n----")
		out.WriteString(commands + "\n")
		printed := ""
		for line := range strings.SplitSeq(commands, "\n") {
			if words := strings.Fields(strings.SplitN(line, "#", 2)[0]); len(words) > 0 {
				printed += s.command(words)
			}
		}
		if printed != "" {
			out.WriteString("----\n" + printed)
		}
	}
	return out.String()
}

// args are a command's words: plain ones, +attributes and -attributes, and key=value.
type args struct {
	plain, attrs []string
	kv           map[string]string
}

func parseArgs(words []string) args {
	a := args{kv: map[string]string{}}
	for _, w := range words {
		if k, v, ok := strings.Cut(w, "="); ok {
			a.kv[k] = v
		} else if w[0] == '+' || w[0] == '-' {
			a.attrs = append(a.attrs, w)
		} else {
			a.plain = append(a.plain, w)
		}
	}
	return a
}

func (s *script) command(words []string) string {
	a := parseArgs(words[1:])
	switch words[0] {
	case "clock":
		s.pass(s.duration(a.attrs[0]))
	case "stale", "fresh":
		s.store.setStale(words[0] == "stale")
	case "delete":
		s.store.remove(a.plain[0])
	case "princ", "user":
		return s.addPrincipal(words[0] == "user", a)
	case "set":
		s.store.change(a.plain[0], func(p *kdb.Principal) { s.change(p, a) })
	case "as":
		return s.as(a)
	case "tgs":
		return s.tgs(a)
	case "resend":
		r := Request{Data: s.last, Peer: testPeer, TCP: len(a.plain) == 0, ReplyMax: s.number(a.kv["max"])}
		before := len(s.events)
		reply := s.kdc.Answer(s.t.Context(), r)
		note := ""
		if s.events[before].Lookaside {
			note = " (lookaside)"
		}
		return describe(reply) + note + "\n"
	case "copy":
		return describe(s.send(s.copied())) + "\n"
	default:
		s.t.Fatalf("command %q", words[0])
	}
	return ""
}

// copied is the last packet with its proof kept and something else changed that the proof does not cover.
func (s *script) copied() []byte {
	m, err := krb5.DecodeKDCReq(s.last)
	if err != nil {
		s.t.Fatal(err)
	}
	m.PAData = append(m.PAData, krb5.PAData{PADataType: krb5.PAPACRequest, PADataValue: []byte{0x30, 0}})
	b, err := krb5.EncodeKDCReq(m)
	if err != nil {
		s.t.Fatal(err)
	}
	return b
}

func (s *script) addPrincipal(user bool, a args) string {
	p := &kdb.Principal{Realm: testRealm, Name: mustName(a.plain[0]), KVNO: 1}
	password := ""
	if user {
		password, p.Attributes = "pw-"+a.plain[0], kdb.RequiresPreAuth
	}
	es := allAES
	if v, ok := a.kv["etypes"]; ok {
		es = s.etypes(v)
	}
	s.keys(p, password, es...)
	s.change(p, a)
	var aliases []string
	if v := a.kv["alias"]; v != "" {
		aliases = append(aliases, v)
	}
	s.store.put(p, aliases...)
	return ""
}

func (s *script) change(p *kdb.Principal, a args) {
	for _, w := range a.attrs {
		var err error
		if p.Attributes, err = p.Attributes.ParseAttribute(w); err != nil {
			s.t.Fatal(err)
		}
	}
	for k, v := range a.kv {
		switch k {
		case "etypes", "alias":
		case "expire":
			p.Expiration = s.time(v)
		case "pwexpire":
			p.PasswordExpiration = s.time(v)
		case "maxlife":
			p.MaxLife = s.duration(v)
		case "maxrenew":
			p.MaxRenewableLife = s.duration(v)
		case "unlock":
			p.UnlockedAt = s.now()
		case "pw":
			p.KVNO++
			s.keys(p, v, allAES...)
		case "policy":
			f := strings.Split(v, "/")
			p.Policy = &kdb.Policy{Name: "p", MaxFailures: uint32(s.number(f[0])), FailureWindow: s.duration(f[1]), LockoutDuration: s.duration(f[2])}
		case sessionEnctypesAttr, validFromAttr:
			strs := map[string]string{k: v}
			for n, o := range p.Strings {
				if n != k {
					strs[n] = o
				}
			}
			p.Strings = strs
		default:
			s.t.Fatalf("key %q", k)
		}
	}
}

func (s *script) as(a args) string {
	r := asReq{client: a.plain[0], password: "pw-" + a.plain[0], options: s.options(a), from: s.time(a.kv["from"]), till: s.time(a.kv["till"]),
		rtime: s.time(a.kv["rtime"]), skew: s.duration(a.kv["skew"]), etypes: s.etypes(a.kv["etypes"]), addresses: s.addresses(a)}
	if len(a.plain) > 1 {
		r.server = a.plain[1]
	}
	if v, ok := a.kv["pw"]; ok {
		r.password = v
	}
	for v := range strings.SplitSeq(a.kv["pa"], ",") {
		switch v {
		case "none":
			r.password = ""
		case "encparep":
			r.encPARep = true
		}
	}
	s.last = s.asReq(r)
	reply := s.send(s.last)
	rep, err := krb5.DecodeKDCRep(reply)
	if err != nil {
		return s.refusalLine(reply)
	}
	p, err := s.store.Principal(testRealm, mustName(r.client))
	if err != nil {
		s.t.Fatal(err)
	}
	key, _ := p.CurrentKey(rep.EncPart.EType)
	c := s.openAS(reply, key)
	s.creds[a.kv["ticket"]] = c
	return s.ticketLine("AS-REP", c, rep.EncPart.EType)
}

func (s *script) tgs(a args) string {
	tgt := s.creds[a.kv["tgt"]]
	if tgt == nil {
		s.t.Fatalf("no ticket %q", a.kv["tgt"])
	}
	r := tgsReq{tgt: tgt, options: s.options(a), from: s.time(a.kv["from"]), till: s.time(a.kv["till"]), rtime: s.time(a.kv["rtime"]),
		skew: s.duration(a.kv["skew"]), etypes: s.etypes(a.kv["etypes"]), addresses: s.addresses(a), second: s.creds[a.kv["second"]]}
	if len(a.plain) > 0 {
		r.server = a.plain[0]
	}
	if v, ok := a.kv["subkey"]; ok {
		k, err := kcrypto.GenerateKey(s.rand, s.etypes(v)[0])
		if err != nil {
			s.t.Fatal(err)
		}
		r.subkey = k
	}
	s.last = s.tgsReq(r)
	reply := s.send(s.last)
	rep, err := krb5.DecodeKDCRep(reply)
	if err != nil {
		return s.refusalLine(reply)
	}
	c := s.openTGS(reply, r)
	if c.part == nil && r.second != nil {
		if c.part, err = krb5.OpenTicket(r.second.session, &c.ticket); err != nil {
			s.t.Fatal(err)
		}
	}
	s.creds[a.kv["ticket"]] = c
	return s.ticketLine("TGS-REP", c, rep.EncPart.EType)
}

// ticketLine is a reply as both its readers see it, who must agree.
func (s *script) ticketLine(what string, c *cred, reply kcrypto.EType) string {
	p, r := c.part, c.rep
	if p.Flags != r.Flags || !p.Key.Equal(r.Key) || !p.EndTime.Equal(r.EndTime) || !p.StartTime.Equal(r.StartTime) || !p.RenewTill.Equal(r.RenewTill) || len(p.CAddr) != len(r.CAddr) {
		s.t.Fatalf("ticket and reply differ: %+v and %+v", p, r)
	}
	line := fmt.Sprintf("%s %s -> %s session=%d ticket=%d reply=%d flags=%v", what, c.cname, c.ticket.SName, p.Key.EType(), c.ticket.EncPart.EType, reply, p.Flags)
	if !c.ticket.EncPart.HasKVNO {
		line += " no-kvno"
	}
	if !p.StartTime.Equal(p.AuthTime) {
		line += " start=" + s.rel(p.StartTime)
	}
	line += " end=" + s.rel(p.EndTime)
	if !p.RenewTill.IsZero() {
		line += " renew=" + s.rel(p.RenewTill)
	}
	for _, a := range p.CAddr {
		line += fmt.Sprintf(" caddr=%d:%x", a.AddrType, a.Address)
	}
	if !r.KeyExpiration.IsZero() {
		line += " key-expiration=" + s.rel(r.KeyExpiration)
	}
	for _, l := range r.LastReq {
		if l.LRType != krb5.LRNone {
			line += fmt.Sprintf(" last-req=%d:%s", l.LRType, s.rel(l.LRValue))
		}
	}
	return line + paLine(" padata=", c.padata) + paLine(" enc-pa=", r.EncryptedPAData) + "\n"
}

func (s *script) refusalLine(reply []byte) string {
	if reply == nil {
		return fmt.Sprintf("no reply, status=%s\n", s.lastEvent().Status)
	}
	e := s.refusalOf(reply)
	line := fmt.Sprintf("KRB-ERROR %v status=%s", e.ErrorCode, e.EText)
	if e.CName != nil {
		line += " cname=" + krb5.FormatPrincipal(*e.CName, e.CRealm)
	}
	if e.EData != nil {
		pas, err := krb5.DecodeMethodData(e.EData)
		if err != nil {
			s.t.Fatal(err)
		}
		line += paLine(" e-data=", pas)
	}
	return line + "\n"
}

func paLine(name string, pas []krb5.PAData) string {
	var out []string
	for _, pa := range pas {
		item := pa.PADataType.String()
		switch pa.PADataType {
		case krb5.PAETypeInfo2:
			info, err := krb5.DecodeETypeInfo2(pa.PADataValue)
			if err != nil {
				return err.Error()
			}
			for _, i := range info {
				item += fmt.Sprintf("[%d %s]", i.EType, i.Salt)
			}
		case krb5.PAETypeInfo:
			info, err := krb5.DecodeETypeInfo(pa.PADataValue)
			if err != nil {
				return err.Error()
			}
			for _, i := range info {
				item += fmt.Sprintf("[%d %s]", i.EType, i.Salt)
			}
		}
		out = append(out, item)
	}
	if out == nil {
		return ""
	}
	return name + strings.Join(out, ",")
}

// rel is a time from the script's beginning.
func (s *script) rel(t time.Time) string {
	d := t.Sub(testNow).String()
	if strings.HasSuffix(d, "m0s") {
		d = strings.TrimSuffix(d, "0s")
	}
	if strings.HasSuffix(d, "h0m") {
		d = strings.TrimSuffix(d, "0m")
	}
	return "+" + d
}

// time reads +10h as from the script's clock; "zero" is the zero KerberosTime, "9999" the last year there is.
func (s *script) time(v string) time.Time {
	switch v {
	case "":
		return time.Time{}
	case "zero":
		return time.Unix(0, 0).UTC()
	case "9999":
		return endOfTime
	}
	return s.now().Add(s.duration(v))
}

func (s *script) duration(v string) time.Duration {
	if v == "" || v == "0" {
		return 0
	}
	d, err := time.ParseDuration(v)
	if err != nil {
		s.t.Fatal(err)
	}
	return d
}

func (s *script) number(v string) int {
	if v == "" {
		return 0
	}
	n, err := strconv.Atoi(v)
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}

func (s *script) etypes(v string) []kcrypto.EType {
	var out []kcrypto.EType
	for n := range strings.SplitSeq(v, ",") {
		if n != "" {
			out = append(out, kcrypto.EType(s.number(n)))
		}
	}
	return out
}

func (s *script) options(a args) krb5.KDCOptions {
	var o krb5.KDCOptions
	for name := range strings.SplitSeq(a.kv["opts"], ",") {
		if name == "" {
			continue
		}
		bit, ok := optionNames[name]
		if !ok {
			s.t.Fatalf("option %q", name)
		}
		o |= bit
	}
	return o
}

var optionNames = func() map[string]krb5.KDCOptions {
	out := map[string]krb5.KDCOptions{}
	for i := range 32 {
		o := krb5.KDCOptions(1) << i
		out[o.String()] = o
	}
	return out
}()

func (s *script) addresses(a args) []krb5.HostAddress {
	v, ok := a.kv["addr"]
	if !ok {
		return nil
	}
	var ip [4]byte
	for i, n := range strings.Split(v, ".") {
		ip[i] = byte(s.number(n))
	}
	return []krb5.HostAddress{{AddrType: krb5.AddrIPv4, Address: ip[:]}}
}
