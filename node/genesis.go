package node

import (
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/charon-kdc/charon/kdc/kdb"
	"github.com/charon-kdc/charon/kdc/kdb/masterkey"
	"github.com/charon-kdc/charon/kdc/krb5"
	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
	"github.com/charon-kdc/charon/node/pki"
	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
	"github.com/charon-kdc/charon/raftstore"
	"github.com/charon-kdc/charon/raftstore/realm"
)

// What a new realm begins with. Tickets live for a working day and its edges.
const (
	ticketLife    = 10 * time.Hour
	renewableLife = 7 * 24 * time.Hour
	changepwLife  = 5 * time.Minute
	probeLife     = 5 * time.Minute
	realmNameMax  = 255

	// AdminName is the first admin client's name; its grant is "cert:root".
	AdminName     = "root"
	defaultPolicy = "default"
	createdBy     = "charon init"
)

// Names of secrets in the realm state, beside the authorities'.
const (
	replayKeySecret = raftstore.ReplayKeyName
	cookieKeySecret = "cookie-key"
)

// DefaultETypes are a new realm's, in order of preference. RC4 and everything older must be asked for.
var DefaultETypes = []kcrypto.EType{kcrypto.AES256SHA2, kcrypto.AES128SHA2, kcrypto.AES256SHA1, kcrypto.AES128SHA1}

// genesis is a new cluster before it is written down: everything in it was made here, once.
type genesis struct {
	cluster  [16]byte
	realm    string
	now      time.Time
	ring     *masterkey.Ring
	kit      string // shown once
	nodes    *pki.Authority
	admins   *pki.Authority
	commands []*statev1.Command
}

// CheckRealmName tells whether a realm can be called that. RFC 4120 section 6.1 allows more than the domain style; what can't
// stand in a principal's text form or a configuration line is refused.
func CheckRealmName(name string) error {
	if name == "" || len(name) > realmNameMax {
		return fmt.Errorf("a realm's name has 1 to %d characters", realmNameMax)
	}
	for _, r := range name {
		if r <= ' ' || r >= 0x7f || strings.ContainsRune("/@:{}\"\\#;", r) {
			return fmt.Errorf("realm name %q: only printable ASCII without blanks and any of / @ : { } \" \\ # ;", name)
		}
	}
	return nil
}

// newGenesis makes keys, authorities and the commands that put them into the state. lax makes the default policy one that
// takes any password and never locks, for throw-away realms. level 0 is the newest.
func newGenesis(realmName string, now time.Time, random io.Reader, lax bool, level uint32) (*genesis, error) {
	if err := CheckRealmName(realmName); err != nil {
		return nil, err
	}
	g := &genesis{realm: realmName, now: now}
	if _, err := io.ReadFull(random, g.cluster[:]); err != nil {
		return nil, fmt.Errorf("making a cluster id: %w", err)
	}
	var err error
	if g.ring, err = masterkey.Generate(random); err != nil {
		return nil, err
	}
	var recipient string
	if g.kit, recipient, err = NewRecoveryKit(); err != nil {
		return nil, err
	}
	g.add(&statev1.Command{Op: &statev1.Command_PutCluster{PutCluster: &statev1.PutCluster{Expect: absent(), Cluster: &statev1.Cluster{
		Id: g.cluster[:], DefaultRealm: realmName, FeatureLevel: cmp.Or(level, realm.FeatureLevelMax), CreatedAt: now.UnixMilli(),
		MasterKeyVersion: g.ring.Current(), RecoveryRecipient: recipient,
	}}}})
	etypes := make([]int32, len(DefaultETypes))
	for i, e := range DefaultETypes {
		etypes[i] = int32(e)
	}
	g.add(&statev1.Command{Op: &statev1.Command_PutRealm{PutRealm: &statev1.PutRealm{Expect: absent(), Realm: &statev1.Realm{
		Name: realmName, MaxLife: seconds(ticketLife), MaxRenewableLife: seconds(renewableLife), Etypes: etypes,
	}}}})
	g.add(&statev1.Command{Op: &statev1.Command_PutPolicy{PutPolicy: &statev1.PutPolicy{Expect: absent(), Policy: firstPolicy(now, lax)}}})
	g.add(&statev1.Command{Op: &statev1.Command_PutRole{PutRole: &statev1.PutRole{Expect: absent(), Role: &statev1.Role{
		Id: AdminName, Subject: "cert:" + AdminName, Verbs: []string{"*", "extract"}, ModifiedAt: now.UnixMilli(), ModifiedBy: createdBy,
	}}}})
	err = errors.Join(g.addAuthorities(random), g.addSecrets(random), g.addPrincipals(random))
	for _, c := range g.commands {
		realm.Prune(c, cmp.Or(level, realm.FeatureLevelMax))
	}
	return g, err
}

func (g *genesis) add(c *statev1.Command) { g.commands = append(g.commands, c) }

func absent() *statev1.Expect {
	return &statev1.Expect{Condition: &statev1.Expect_Absent{Absent: true}}
}

func seconds(d time.Duration) int64 { return int64(d / time.Second) }

func firstPolicy(now time.Time, lax bool) *statev1.Policy {
	p := &statev1.Policy{Name: defaultPolicy, MinLength: 1, MinClasses: 1, ModifiedAt: now.UnixMilli(), ModifiedBy: createdBy}
	if !lax {
		// Guessing at one account over the network is slowed to 5 tries in 5 minutes, and ends by itself.
		p.MinLength, p.MaxFailures = 8, 5
		p.FailureWindow, p.LockoutDuration = seconds(5*time.Minute), seconds(5*time.Minute)
	}
	return p
}

func (g *genesis) addAuthorities(random io.Reader) error {
	for _, kind := range pki.Kinds {
		a, err := pki.NewAuthority(random, kind, g.cluster, g.now)
		if err != nil {
			return err
		}
		key, err := a.MarshalKey()
		if err != nil {
			return err
		}
		if err := g.addSecret(random, kind.SecretName(), a.Cert.Raw, key); err != nil {
			return err
		}
		switch kind {
		case pki.Nodes:
			g.nodes = a
		case pki.Admins:
			g.admins = a
		}
	}
	return nil
}

func (g *genesis) addSecrets(random io.Reader) error {
	for _, name := range []string{replayKeySecret, cookieKeySecret} {
		var key [32]byte
		if _, err := io.ReadFull(random, key[:]); err != nil {
			return err
		}
		if err := g.addSecret(random, name, nil, key[:]); err != nil {
			return err
		}
	}
	return nil
}

func (g *genesis) addSecret(random io.Reader, name string, cert, key []byte) error {
	sealed, err := g.ring.Seal(random, masterkey.SecretAAD(g.cluster[:], name), key)
	if err != nil {
		return err
	}
	g.add(&statev1.Command{Op: &statev1.Command_PutSecret{PutSecret: &statev1.PutSecret{Expect: absent(), Secret: &statev1.Secret{
		Name: name, Certificate: cert, Key: sealed,
	}}}})
	return nil
}

// firstPrincipals are there from the beginning, all with random keys that nobody has seen.
var firstPrincipals = []struct {
	name       func(realm string) krb5.PrincipalName
	attributes kdb.Attributes
	maxLife    time.Duration
	renewable  time.Duration
}{
	{krb5.TGSName, kdb.LockdownKeys, ticketLife, renewableLife},
	// RFC 3244 section 2: the service of password changes takes initial tickets only.
	{service("kadmin", "changepw"), kdb.DisallowTGTBased | kdb.PWChangeService | kdb.LockdownKeys, changepwLife, 0},
	{service("charon", "admin"), kdb.DisallowTGTBased | kdb.RequiresPreAuth | kdb.LockdownKeys, ticketLife, 0},
	// What a node asks itself for a ticket with. Without pre-authentication, so that a probe writes nothing; its random key makes
	// what anybody else gets by its name worthless.
	{probeName, kdb.DisallowSvr | kdb.DisallowForwardable | kdb.DisallowRenewable | kdb.DisallowProxiable | kdb.DisallowPostdated | kdb.LockdownKeys, probeLife, 0},
}

func service(parts ...string) func(string) krb5.PrincipalName {
	return func(string) krb5.PrincipalName { return krb5.MkName(krb5.NTSrvInst, parts...) }
}

func probeName(string) krb5.PrincipalName {
	return krb5.MkName(krb5.NTPrincipal, "charon", "probe")
}

func (g *genesis) addPrincipals(random io.Reader) error {
	for _, f := range firstPrincipals {
		name := f.name(g.realm)
		p := &statev1.Principal{
			Id: make([]byte, 16), Realm: g.realm, Name: name.NameString, NameType: int32(name.NameType), Kvno: 1,
			Attributes: uint32(f.attributes), MaxLife: seconds(f.maxLife), MaxRenewableLife: seconds(f.renewable),
			LastPasswordChange: g.now.UnixMilli(),
			CreatedAt:          g.now.UnixMilli(), CreatedBy: createdBy, ModifiedAt: g.now.UnixMilli(), ModifiedBy: createdBy,
		}
		if _, err := io.ReadFull(random, p.Id); err != nil {
			return err
		}
		for _, e := range DefaultETypes {
			key, err := kcrypto.GenerateKey(random, e)
			if err != nil {
				return err
			}
			rec := &statev1.Key{Kvno: 1, Etype: int32(e), Salt: krb5.DefaultSalt(g.realm, name), SaltDefault: true}
			if rec.Key, err = g.ring.Seal(random, masterkey.KeyAAD(g.cluster[:], p, rec), key.Bytes()); err != nil {
				return err
			}
			p.Keys = append(p.Keys, rec)
		}
		g.add(&statev1.Command{Op: &statev1.Command_PutPrincipal{PutPrincipal: &statev1.PutPrincipal{Principal: p, Expect: absent()}}})
	}
	return nil
}

// issueNode certifies a fresh key for the first node.
func (g *genesis) issueNode(id pki.NodeIdentity, hosts []string) (*issued, error) {
	key, err := pki.NewKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	cert, err := g.nodes.IssueNode(rand.Reader, g.now, key.Public(), id, hosts)
	return &issued{key: key, cert: cert}, err
}

// issueAdmin certifies a fresh key for the first admin client.
func (g *genesis) issueAdmin() (*issued, error) {
	key, err := pki.NewKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	cert, err := g.admins.IssueAdmin(rand.Reader, g.now, key.Public(), g.cluster, AdminName)
	return &issued{key: key, cert: cert}, err
}
