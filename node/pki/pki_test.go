package pki

import (
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"sync"
	"testing"
	"time"
)

var (
	testNow     = time.Date(2026, 11, 2, 3, 0, 0, 0, time.UTC)
	testCluster = [16]byte{0x7f, 0x3a, 0x91, 0xc2, 5}
	testNode    = NodeIdentity{Cluster: testCluster, Node: [16]byte{1, 2, 3}, Name: "kdc1"}
)

// authorities are made once: an RSA key takes its time under the race detector.
var authorities = sync.OnceValue(func() map[Kind]*Authority {
	out := map[Kind]*Authority{}
	for _, k := range Kinds {
		a, err := NewAuthority(rand.Reader, k, testCluster, testNow)
		if err != nil {
			panic(err)
		}
		out[k] = a
	}
	return out
})

// leafOf issues a proper certificate of a kind, from an authority of perhaps another.
func leafOf(t *testing.T, kind Kind, by *Authority, life time.Duration) []byte {
	t.Helper()
	key, err := NewKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl, err := template(rand.Reader, testNow, life)
	if err != nil {
		t.Fatal(err)
	}
	switch kind {
	case Nodes:
		tmpl.Subject.CommonName = testNode.Name
		tmpl.URIs = append(tmpl.URIs, testNode.uri())
		tmpl.DNSNames = []string{"kdc1.example.com"}
	case Admins:
		tmpl.Subject.CommonName = "ops"
		tmpl.EmailAddresses = []string{"ops@" + adminDomain(testCluster)}
	case PKINIT:
		tmpl.Subject.CommonName = "alice"
		tmpl.ExtraExtensions = []pkix.Extension{{Id: oidSAN, Critical: true, Value: otherNameSAN(t)}}
	}
	tmpl.KeyUsage = x509.KeyUsageDigitalSignature
	setUsages(tmpl, kind, false)
	der, err := x509.CreateCertificate(rand.Reader, tmpl, by.Cert, key.Public(), by.Key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// otherNameSAN is a SubjectAltName with one otherName, id-pkinit-san and an empty SEQUENCE.
func otherNameSAN(t *testing.T) []byte {
	t.Helper()
	oid, err := asn1.Marshal(asn1.ObjectIdentifier{1, 3, 6, 1, 5, 2, 2})
	if err != nil {
		t.Fatal(err)
	}
	value := append(oid, 0xa0, 2, 0x30, 0)
	name := append([]byte{0xa0, byte(len(value))}, value...)
	return append([]byte{0x30, byte(len(name))}, name...)
}

func open(door Kind, authority *Authority, chain [][]byte, now time.Time) error {
	var err error
	switch door {
	case Nodes:
		_, err = VerifyNode(authority.Cert, chain, now)
	case Admins:
		_, err = VerifyAdmin(authority.Cert, testCluster, chain, now)
	case PKINIT:
		_, err = VerifyPKINIT(authority.Cert, chain, now)
	}
	return err
}

// Each door against each kind of certificate, issued by each authority, with the door trusting its own authority.
func TestEachDoorRefusesTheOtherTwo(t *testing.T) {
	as := authorities()
	for _, door := range Kinds {
		for _, kind := range Kinds {
			for _, by := range Kinds {
				err := open(door, as[door], [][]byte{leafOf(t, kind, as[by], NodeLife)}, testNow)
				if want := door == kind && kind == by; (err == nil) != want {
					t.Errorf("%s door, %s certificate by the %s authority: %v", door, kind, by, err)
				} else if err != nil && !errors.Is(err, ErrDoor) {
					t.Errorf("%s door: %v is not ErrDoor", door, err)
				}
			}
		}
	}
}

// Even a door that by mistake trusts another kind's authority refuses that kind's certificates: usages and names are disjoint.
func TestDoorsDoNotRestOnTheAuthorityAlone(t *testing.T) {
	as := authorities()
	for _, door := range Kinds {
		for _, kind := range Kinds {
			if door == kind {
				continue
			}
			if err := open(door, as[kind], [][]byte{leafOf(t, kind, as[kind], NodeLife)}, testNow); !errors.Is(err, ErrDoor) {
				t.Errorf("%s door that trusts the %s authority: %v", door, kind, err)
			}
		}
	}
}

func TestDoorRefusesTimeAndAuthorities(t *testing.T) {
	as := authorities()
	for _, k := range Kinds {
		leaf := leafOf(t, k, as[k], time.Hour)
		for what, err := range map[string]error{
			"expired":       open(k, as[k], [][]byte{leaf}, testNow.Add(time.Hour+time.Second)),
			"not yet valid": open(k, as[k], [][]byte{leaf}, testNow.Add(-backdate-time.Second)),
			"authority":     open(k, as[k], [][]byte{as[k].Cert.Raw}, testNow),
			"nothing":       open(k, as[k], nil, testNow),
			"garbage":       open(k, as[k], [][]byte{[]byte("x")}, testNow),
		} {
			if !errors.Is(err, ErrDoor) {
				t.Errorf("%s door, %s: %v", k, what, err)
			}
		}
	}
}

func TestIssuedCertificatesOpenTheirDoors(t *testing.T) {
	as := authorities()
	key, err := NewKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := as[Nodes].IssueNode(rand.Reader, testNow, key.Public(), testNode, []string{"kdc1.example.com", "10.0.0.11", "0.0.0.0"})
	if err != nil {
		t.Fatal(err)
	}
	id, err := VerifyNode(as[Nodes].Cert, [][]byte{der, as[Nodes].Cert.Raw}, testNow)
	if err != nil || id != testNode {
		t.Errorf("%+v, %v", id, err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.IPAddresses) != 1 || c.VerifyHostname("kdc1.example.com") != nil || c.VerifyHostname("10.0.0.11") != nil {
		t.Errorf("names %v %v", c.DNSNames, c.IPAddresses)
	}
	if life := c.NotAfter.Sub(testNow); life != NodeLife {
		t.Errorf("life %v", life)
	}
	adm, err := as[Admins].IssueAdmin(rand.Reader, testNow, key.Public(), testCluster, "ops")
	if err != nil {
		t.Fatal(err)
	}
	if name, err := VerifyAdmin(as[Admins].Cert, testCluster, [][]byte{adm}, testNow); err != nil || name != "ops" {
		t.Errorf("%q, %v", name, err)
	}
	if _, err := VerifyAdmin(as[Admins].Cert, [16]byte{9}, [][]byte{adm}, testNow); !errors.Is(err, ErrDoor) {
		t.Errorf("another cluster's: %v", err)
	}
	if _, err := as[Admins].IssueNode(rand.Reader, testNow, key.Public(), testNode, nil); err == nil {
		t.Error("the admin authority certified a node")
	}
	for _, name := range []string{"", "a b", "a@b", "ops*", "é"} {
		if _, err := as[Admins].IssueAdmin(rand.Reader, testNow, key.Public(), testCluster, name); err == nil {
			t.Errorf("admin name %q was certified", name)
		}
	}
}

func TestAuthorityIsPutTogetherAgain(t *testing.T) {
	as := authorities()
	for _, k := range Kinds {
		key, err := as[k].MarshalKey()
		if err != nil {
			t.Fatal(err)
		}
		again, err := LoadAuthority(k, as[k].Cert.Raw, key)
		if err != nil {
			t.Fatal(err)
		}
		if again.Pin() != as[k].Pin() {
			t.Errorf("%s: another pin", k)
		}
	}
	key, err := as[Nodes].MarshalKey()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := LoadAuthority(Admins, as[Admins].Cert.Raw, key); err == nil {
		t.Error("a key of another authority was taken")
	}
}

func FuzzVerifyNode(f *testing.F) {
	as := authorities()
	key, err := NewKey(rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	der, err := as[Nodes].IssueNode(rand.Reader, testNow, key.Public(), testNode, nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(der)
	f.Fuzz(func(t *testing.T, b []byte) {
		id, err := VerifyNode(as[Nodes].Cert, [][]byte{b}, testNow)
		if err == nil && id != testNode {
			t.Errorf("opened for %+v", id)
		}
	})
}
