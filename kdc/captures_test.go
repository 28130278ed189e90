package kdc

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/charon-kdc/charon/kdc/kdb"
	"github.com/charon-kdc/charon/kdc/krb5"
	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
)

const captureDir = "krb5/testdata/captures"

// capture is a recorded session of MIT's clients with MIT's KDC.
type capture struct {
	Messages []struct {
		Transport      string
		Time           float64
		Request, Reply captured
	}
}

type captured struct {
	Hex       string
	Decrypted []struct {
		Decoded json.RawMessage
	}
}

func readCapture(t testing.TB, file string, out any) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, out); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
}

// labWorld is the realm of the captures: the same keys, attributes and lives.
func labWorld(t testing.TB) *world {
	w := newWorld(t, func(c *Config) { c.AcceptIDLess = true }) // MIT's TGTs carry no id of ours
	var keys struct {
		Keys []struct {
			Principal string
			KVNO      uint32
			EncType   kcrypto.EType
			Key       string
		}
	}
	readCapture(t, filepath.Join(captureDir, "keys.json"), &keys)
	ps := map[string]*kdb.Principal{}
	for _, k := range keys.Keys {
		p := ps[k.Principal]
		if p == nil {
			name, realm, err := krb5.ParsePrincipal(k.Principal, "")
			if err != nil {
				t.Fatal(err)
			}
			p = &kdb.Principal{Realm: realm, Name: name, KVNO: k.KVNO}
			ps[k.Principal] = p
		}
		raw, err := hex.DecodeString(k.Key)
		if err != nil {
			t.Fatal(err)
		}
		if key, err := kcrypto.NewKey(k.EncType, raw); err == nil {
			p.Keys = append(p.Keys, kdb.Key{KVNO: k.KVNO, EType: k.EncType, Key: key, Salt: krb5.DefaultSalt(p.Realm, p.Name)})
		}
	}
	for _, p := range ps {
		w.store.put(p)
	}
	for _, name := range []string{"LAB.TEST", "SUB.LAB.TEST"} {
		w.store.realms[name] = &kdb.Realm{Name: name, MaxLife: 10 * time.Hour, MaxRenewableLife: 7 * 24 * time.Hour, ETypes: allAES}
	}
	lab := func(name string) *kdb.Principal { return ps[name+"@LAB.TEST"] }
	for _, name := range []string{"alice", "carol", "dave", "erin", "frank", "gina", "pkuser", "WELLKNOWN/ANONYMOUS"} {
		lab(name).Attributes |= kdb.RequiresPreAuth
	}
	lab("gina").Policy = &kdb.Policy{MaxFailures: 3}
	lab("needchange").Attributes |= kdb.RequiresPWChange
	lab("kadmin/changepw").Attributes |= kdb.PWChangeService
	lab("kadmin/changepw").MaxLife = 5 * time.Minute
	lab("locked").Attributes |= kdb.DisallowAllTix
	lab("u2usvc").Attributes |= kdb.DisallowSvr
	lab("expired").Expiration = time.Date(2001, 1, 1, 0, 0, 0, 0, time.UTC)
	lab("pwexp").PasswordExpiration = lab("expired").Expiration
	return w
}

// ours is where we answer otherwise than MIT did, by file and number of the message, with the reason.
var ours = map[string]struct {
	code krb5.ErrorCode
	why  string
}{
	"as-anonymous 0":            {krb5.ErrBadOption, "no anonymity (RFC 8062)"},
	"as-anonymous 1":            {krb5.ErrBadOption, "no anonymity (RFC 8062)"},
	"as-camellia 0":             {krb5.ErrEtypeNoSupp, "no Camellia (RFC 6803)"},
	"as-camellia 1":             {krb5.ErrEtypeNoSupp, "no Camellia (RFC 6803)"},
	"as-fast-anonymous-armor 1": {krb5.ErrPreauthRequired, "no FAST (RFC 6113)"},
	"as-fast-enc-challenge 1":   {krb5.ErrPreauthRequired, "no FAST (RFC 6113)"},
	"as-fast-spake 1":           {krb5.ErrPreauthRequired, "no FAST (RFC 6113)"},
	"as-fast-spake 2":           {krb5.ErrPreauthRequired, "no FAST (RFC 6113)"},
	"as-spake 1":                {krb5.ErrPreauthRequired, "no SPAKE (RFC 9588)"},
	"as-spake 2":                {krb5.ErrPreauthRequired, "no SPAKE (RFC 9588)"},
	"as-pkinit 1":               {krb5.ErrPreauthRequired, "no PKINIT (RFC 4556)"},
	"as-response-too-big 1":     {krb5.ErrNone, "our reply, without a PAC, fits"},
	"tgs-anonymous 0":           {krb5.ErrPolicy, "no anonymity (RFC 8062)"},
	"tgs-err-unknown-kvno 0":    {krb5.ErrBadKeyVer, "the RFC's code; MIT says generic"},
	"tgs-err-modified-body 0":   {krb5.ErrModified, "the RFC's code"},
	"tgs-referral 0":            {krb5.ErrSPrincipalUnknown, "no referrals (RFC 6806 section 8)"},
	"tgs-s4u2self 1":            {krb5.ErrPADataTypeNoSupp, "no S4U2Self (MS-SFU)"},
	"tgs-s4u2proxy-denied 0":    {krb5.ErrBadOption, "no S4U2Proxy (MS-SFU)"},
}

// TestMITsClients plays the recorded requests of MIT's kinit and kvno to our KDC, at their time and with their keys: the answer is what MIT's KDC
// gave, flags and times included, but for what stands in ours.
func TestMITsClients(t *testing.T) {
	var files []string
	for _, g := range []string{"as-*.json", "tgs-*.json"} {
		f, err := filepath.Glob(filepath.Join(captureDir, g))
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f...)
	}
	if len(files) < 40 {
		t.Fatalf("%d captures", len(files))
	}
	lockout := labWorld(t)
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".json")
		t.Run(name, func(t *testing.T) {
			w := labWorld(t)
			if strings.HasPrefix(name, "as-lockout-") {
				w = lockout // one story in four files
			}
			var c capture
			readCapture(t, file, &c)
			for i, m := range c.Messages {
				req, err := hex.DecodeString(m.Request.Hex)
				if err != nil {
					t.Fatal(err)
				}
				reply, _ := hex.DecodeString(m.Reply.Hex)
				if _, ok := exchangeOf(req); !ok || reply == nil {
					continue
				}
				sec, frac := math.Modf(m.Time)
				w.clock = time.Unix(int64(sec), int64(frac*1e9))
				got := w.kdc.Answer(t.Context(), Request{Data: req, Peer: testPeer, TCP: true})
				compare(t, w, fmt.Sprintf("%s %d", name, i), m.Reply, reply, got)
			}
		})
	}
}

func compare(t *testing.T, w *world, name string, m captured, theirs, got []byte) {
	t.Helper()
	want := krb5.ErrNone
	if e, err := krb5.DecodeKRBError(theirs); err == nil {
		want = e.ErrorCode
	}
	if o, ok := ours[name]; ok {
		want = o.code
	}
	have := krb5.ErrNone
	if e, err := krb5.DecodeKRBError(got); err == nil {
		have = e.ErrorCode
	}
	if have != want {
		t.Errorf("%s: %s, want %v", name, describe(got), want)
	}
	if have != krb5.ErrNone || want != krb5.ErrNone {
		return
	}
	mine, err := krb5.DecodeKDCRep(got)
	if err != nil {
		t.Fatal(name, err)
	}
	their, err := krb5.DecodeKDCRep(theirs)
	if err != nil {
		return // they refused
	}
	if mine.CRealm != their.CRealm || !mine.CName.Equal(their.CName) || mine.EncPart.EType != their.EncPart.EType || !mine.Ticket.SName.Equal(their.Ticket.SName) || mine.Ticket.EncPart.HasKVNO != their.Ticket.EncPart.HasKVNO {
		t.Errorf("%s: %s, MIT %s", name, describe(got), describe(theirs))
	}
	ev := w.lastEvent()
	if ev.Lookaside {
		return
	}
	for _, d := range m.Decrypted {
		var part struct {
			Flags   struct{ Hex string }
			EndTime string
			LastReq json.RawMessage `json:"last-req"`
			Key     struct{ KeyType kcrypto.EType }
		}
		if json.Unmarshal(d.Decoded, &part) != nil || part.LastReq == nil {
			continue
		}
		var flags uint32
		fmt.Sscanf(part.Flags.Hex, "%x", &flags)
		if ev.Flags != krb5.TicketFlags(flags) || ev.EndTime.Format("20060102150405Z") != part.EndTime || ev.SessionEType != part.Key.KeyType {
			t.Errorf("%s: flags %v end %v session %v; MIT: %v %s %v", name, ev.Flags, ev.EndTime, ev.SessionEType, krb5.TicketFlags(flags), part.EndTime, part.Key.KeyType)
		}
	}
}
