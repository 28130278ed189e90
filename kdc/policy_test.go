package kdc

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/charon-kdc/charon/kdc/kdb"
	"github.com/charon-kdc/charon/kdc/krb5"
	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
)

// plainAS is an AS exchange with nothing special about it, for a table to change.
func plainAS(t *testing.T) *asFacts {
	w := newWorld(t)
	cname, sname := mustName("alice"), krb5.TGSName(testRealm)
	return &asFacts{
		body:  &krb5.KDCReqBody{CName: &cname, SName: &sname, Realm: testRealm, Till: testNow.Add(time.Hour), EType: []kcrypto.EType{18}},
		realm: w.store.realms[testRealm], client: w.user("alice"), server: w.store.principals["krbtgt/"+testRealm+"@"+testRealm],
		now: testNow, stateNow: testNow, skew: clockSkewDefault,
	}
}

// plainTGS is a TGS exchange with a TGT that has every flag a TGT may have.
func plainTGS(t *testing.T) *tgsFacts {
	w := newWorld(t)
	session, err := kcrypto.GenerateKey(w.rand, kcrypto.AES256SHA1)
	if err != nil {
		t.Fatal(err)
	}
	sname := mustName("HTTP/web")
	tgs := w.store.principals["krbtgt/"+testRealm+"@"+testRealm]
	return &tgsFacts{
		body:  &krb5.KDCReqBody{SName: &sname, Realm: testRealm, Till: testNow.Add(time.Hour), EType: []kcrypto.EType{18}},
		realm: w.store.realms[testRealm], client: w.user("alice"), server: w.princ("HTTP/web"), sname: sname,
		header: &krb5.EncTicketPart{
			Flags: krb5.FlagForwardable | krb5.FlagProxiable | krb5.FlagMayPostdate | krb5.FlagRenewable | krb5.FlagInitial | krb5.FlagPreAuthent | krb5.FlagHWAuthent,
			Key:   session, CRealm: testRealm, CName: mustName("alice"), AuthTime: testNow.Add(-time.Hour), EndTime: testNow.Add(9 * time.Hour), RenewTill: testNow.Add(90 * time.Hour),
		},
		headerServer: tgs, headerRealm: testRealm, headerTGT: true, now: testNow, skew: clockSkewDefault,
	}
}

func outcome(err error) string {
	if err == nil {
		return ""
	}
	e, ok := errors.AsType[*krb5.Error](err)
	if !ok {
		return err.Error()
	}
	return fmt.Sprintf("%v %s", e.Code, e.Status)
}

// TestASRulesBothWays breaks each AS rule alone: it says no to that and yes to its opposite.
func TestASRulesBothWays(t *testing.T) {
	later, before := testNow.Add(time.Second), testNow.Add(-time.Second)
	seen := map[string]bool{}
	for _, c := range []struct {
		want   string // the status; the code stands in the rule
		breaks func(*asFacts)
		mends  func(*asFacts)
	}{
		{"INVALID AS OPTIONS", func(f *asFacts) { f.body.KDCOptions = krb5.KDCOptForwarded }, func(f *asFacts) { f.body.KDCOptions = krb5.KDCOptForwardable }},
		{"ANONYMOUS NOT SUPPORTED", func(f *asFacts) { f.body.KDCOptions = krb5.KDCOptRequestAnonymous }, func(f *asFacts) { f.body.KDCOptions = krb5.KDCOptCanonicalize }},
		{"CLIENT EXPIRED", func(f *asFacts) { f.client.Expiration = testNow }, func(f *asFacts) { f.client.Expiration = later }},
		{"CLIENT NOT YET VALID", func(f *asFacts) { f.client.Strings = validFrom(later) }, func(f *asFacts) { f.client.Strings = validFrom(testNow) }},
		{"CLIENT KEY EXPIRED", func(f *asFacts) { f.client.PasswordExpiration = before }, func(f *asFacts) { f.client.PasswordExpiration = later }},
		{"CLIENT KEY EXPIRED", func(f *asFacts) { f.client.PasswordExpiration = before }, func(f *asFacts) {
			f.client.PasswordExpiration, f.server.Attributes = before, kdb.PWChangeService
		}},
		{"SERVICE EXPIRED", func(f *asFacts) { f.server.Expiration = before }, func(f *asFacts) { f.server.Expiration = later }},
		{"SERVICE NOT YET VALID", func(f *asFacts) { f.server.Strings = validFrom(later) }, func(f *asFacts) { f.server.Strings = validFrom(before) }},
		{"REQUIRED PWCHANGE", func(f *asFacts) { f.client.Attributes = kdb.RequiresPWChange }, func(f *asFacts) {
			f.client.Attributes, f.server.Attributes = kdb.RequiresPWChange, kdb.PWChangeService
		}},
		{"POSTDATE NOT ALLOWED", func(f *asFacts) {
			f.body.KDCOptions, f.client.Attributes = krb5.KDCOptAllowPostdate, kdb.DisallowPostdated
		}, func(f *asFacts) { f.client.Attributes = kdb.DisallowPostdated }},
		{"POSTDATE NOT ALLOWED", func(f *asFacts) { f.body.KDCOptions, f.server.Attributes = krb5.KDCOptPostdated, kdb.DisallowPostdated }, func(f *asFacts) { f.body.KDCOptions = krb5.KDCOptPostdated }},
		{"CLIENT LOCKED OUT", func(f *asFacts) { f.client.Attributes = kdb.DisallowAllTix }, func(f *asFacts) { f.client.Attributes = kdb.DisallowSvr }},
		{"SERVICE LOCKED OUT", func(f *asFacts) { f.server.Attributes = kdb.DisallowAllTix }, func(f *asFacts) { f.server.Attributes = kdb.DisallowTGTBased }},
		{"SERVICE NOT ALLOWED", func(f *asFacts) { f.server.Attributes = kdb.DisallowSvr }, func(f *asFacts) { f.server.Attributes = kdb.DisallowDupSKey }},
		{"LOCKED_OUT", func(f *asFacts) { locked(f, 3) }, func(f *asFacts) { locked(f, 2) }},
	} {
		f := plainAS(t)
		c.breaks(f)
		_, err := checkAS(f)
		if got := outcome(err); !strings.HasSuffix(got, c.want) {
			t.Errorf("%s: broken: %q", c.want, got)
		}
		f = plainAS(t)
		c.mends(f)
		if _, err := checkAS(f); err != nil {
			t.Errorf("%s: mended: %v", c.want, err)
		}
		seen[c.want] = true
	}
	for _, r := range asRules {
		if !seen[r.status] {
			t.Errorf("rule %q is not tried", r.status)
		}
	}
}

func validFrom(t time.Time) map[string]string {
	return map[string]string{validFromAttr: t.Format(time.RFC3339)}
}

func locked(f *asFacts, failures uint32) {
	f.client.Policy = &kdb.Policy{MaxFailures: 3}
	f.activity = kdb.Activity{Failures: failures, LastFailure: testNow.Add(-time.Minute)}
}

// TestASRulesOrder breaks every pair of rules that can be broken at once: the earlier one is told.
func TestASRulesOrder(t *testing.T) {
	breaks := []func(*asFacts){
		func(f *asFacts) { f.body.KDCOptions |= krb5.KDCOptProxy },
		func(f *asFacts) { f.body.KDCOptions |= krb5.KDCOptRequestAnonymous },
		func(f *asFacts) { f.client.Expiration = testNow },
		func(f *asFacts) { f.client.Strings = validFrom(testNow.Add(time.Hour)) },
		func(f *asFacts) { f.client.PasswordExpiration = testNow },
		func(f *asFacts) { f.server.Expiration = testNow },
		func(f *asFacts) { f.server.Strings = validFrom(testNow.Add(time.Hour)) },
		func(f *asFacts) { f.client.Attributes |= kdb.RequiresPWChange },
		func(f *asFacts) {
			f.body.KDCOptions |= krb5.KDCOptAllowPostdate
			f.server.Attributes |= kdb.DisallowPostdated
		},
		func(f *asFacts) { f.client.Attributes |= kdb.DisallowAllTix },
		func(f *asFacts) { f.server.Attributes |= kdb.DisallowAllTix },
		func(f *asFacts) { f.server.Attributes |= kdb.DisallowSvr },
		func(f *asFacts) { locked(f, 3) },
	}
	if len(breaks) != len(asRules) {
		t.Fatalf("%d of %d rules", len(breaks), len(asRules))
	}
	for i := range breaks {
		for j := i; j < len(breaks); j++ {
			f := plainAS(t)
			breaks[j](f)
			breaks[i](f)
			if got, want := outcome(checkASRules(f)), fmt.Sprintf("%v %s", asRules[i].code, asRules[i].status); got != want {
				t.Errorf("rules %d and %d: %s, want %s", i, j, got, want)
			}
		}
	}
}

// TestTGSRulesBothWays does the same for the TGS.
func TestTGSRulesBothWays(t *testing.T) {
	const renewTGT = krb5.KDCOptRenew
	sameServer := func(f *tgsFacts) { f.server, f.sname = f.headerServer, f.headerServer.Name }
	u2u := func(f *tgsFacts) {
		f.body.KDCOptions |= krb5.KDCOptEncTktInSKey
		f.second, f.secondClient = &krb5.EncTicketPart{Key: f.header.Key, EndTime: testNow}, f.server
	}
	for _, c := range []struct {
		want   string
		breaks func(*tgsFacts)
		mends  func(*tgsFacts)
	}{
		{"KDC_ERR_BADOPTION UNSUPPORTED_S4U2PROXY_REQUEST", func(f *tgsFacts) { f.body.KDCOptions = krb5.KDCOptCNameInAddlTkt }, func(f *tgsFacts) {}},
		{"KDC_ERR_BADOPTION ANONYMOUS NOT SUPPORTED", func(f *tgsFacts) { f.body.KDCOptions = krb5.KDCOptRequestAnonymous }, func(f *tgsFacts) { f.body.KDCOptions = krb5.KDCOptCanonicalize }},
		{"KDC_ERR_POLICY ANONYMOUS NOT ALLOWED", func(f *tgsFacts) { f.header.Flags |= krb5.FlagAnonymous }, func(f *tgsFacts) {}},
		{"KDC_ERR_BADOPTION CONTRADICTING OPTIONS", func(f *tgsFacts) { f.body.KDCOptions = renewTGT | krb5.KDCOptValidate }, func(f *tgsFacts) { f.body.KDCOptions = renewTGT; sameServer(f) }},
		{"KDC_ERR_BADOPTION CONTRADICTING OPTIONS", func(f *tgsFacts) { f.body.KDCOptions = renewTGT | krb5.KDCOptEncTktInSKey }, u2u},
		{"KDC_ERR_CLIENT_REVOKED CLIENT LOCKED OUT", func(f *tgsFacts) { f.client.Attributes = kdb.DisallowAllTix }, func(f *tgsFacts) { f.client.Attributes = kdb.DisallowSvr | kdb.RequiresPWChange }},
		{"KDC_ERR_NAME_EXP CLIENT EXPIRED", func(f *tgsFacts) { f.client.Expiration = testNow }, func(f *tgsFacts) { f.client.Expiration = testNow.Add(1) }},
		{"KDC_ERR_CLIENT_NOTYET CLIENT NOT YET VALID", func(f *tgsFacts) { f.client.Strings = validFrom(testNow.Add(time.Second)) }, func(f *tgsFacts) { f.client.Strings = validFrom(testNow) }},
		{"KDC_ERR_BADOPTION TGT NOT FORWARDABLE", func(f *tgsFacts) {
			f.body.KDCOptions, f.header.Flags = krb5.KDCOptForwarded, f.header.Flags&^krb5.FlagForwardable
		}, func(f *tgsFacts) { f.body.KDCOptions = krb5.KDCOptForwarded }},
		{"KDC_ERR_BADOPTION TGT NOT PROXIABLE", func(f *tgsFacts) {
			f.body.KDCOptions, f.header.Flags = krb5.KDCOptProxy, f.header.Flags&^krb5.FlagProxiable
		}, func(f *tgsFacts) { f.body.KDCOptions = krb5.KDCOptProxy }},
		{"KDC_ERR_BADOPTION TGT NOT POSTDATABLE", func(f *tgsFacts) {
			f.body.KDCOptions, f.header.Flags = krb5.KDCOptAllowPostdate, f.header.Flags&^krb5.FlagMayPostdate
		}, func(f *tgsFacts) { f.body.KDCOptions = krb5.KDCOptAllowPostdate }},
		{"KDC_ERR_CANNOT_POSTDATE TGT NOT POSTDATABLE", func(f *tgsFacts) {
			f.body.KDCOptions, f.header.Flags = krb5.KDCOptPostdated, f.header.Flags&^krb5.FlagMayPostdate
		}, func(f *tgsFacts) { f.body.KDCOptions = krb5.KDCOptPostdated }},
		{"KDC_ERR_BADOPTION VALIDATE VALID TICKET", func(f *tgsFacts) { f.body.KDCOptions = krb5.KDCOptValidate; sameServer(f) }, func(f *tgsFacts) {
			f.body.KDCOptions, f.header.Flags = krb5.KDCOptValidate, f.header.Flags|krb5.FlagInvalid
			sameServer(f)
		}},
		{"KDC_ERR_BADOPTION TICKET NOT RENEWABLE", func(f *tgsFacts) {
			f.body.KDCOptions, f.header.Flags = renewTGT, f.header.Flags&^krb5.FlagRenewable
			sameServer(f)
		}, func(f *tgsFacts) { f.body.KDCOptions = renewTGT; sameServer(f) }},
		{"KRB_AP_ERR_TKT_NYV NOT_YET_VALID", func(f *tgsFacts) {
			f.body.KDCOptions, f.header.Flags, f.header.StartTime = krb5.KDCOptValidate, f.header.Flags|krb5.FlagInvalid, testNow.Add(1)
			sameServer(f)
		}, func(f *tgsFacts) {
			f.body.KDCOptions, f.header.Flags, f.header.StartTime = krb5.KDCOptValidate, f.header.Flags|krb5.FlagInvalid, testNow
			sameServer(f)
		}},
		{"KRB_AP_ERR_TKT_EXPIRED TKT_EXPIRED", func(f *tgsFacts) {
			f.body.KDCOptions, f.header.RenewTill = renewTGT, testNow
			sameServer(f)
		}, func(f *tgsFacts) {
			f.body.KDCOptions, f.header.RenewTill = renewTGT, testNow.Add(time.Second)
			sameServer(f)
		}},
		{"KDC_ERR_POLICY NON-RENEWABLE TICKET", func(f *tgsFacts) {
			f.body.KDCOptions = renewTGT
			sameServer(f)
			f.server.Attributes = kdb.DisallowRenewable
		}, func(f *tgsFacts) { f.server.Attributes = kdb.DisallowRenewable }},
		{"KDC_ERR_POLICY NON-RENEWABLE TICKET", func(f *tgsFacts) { f.body.KDCOptions = renewTGT; f.client.Attributes = kdb.DisallowRenewable }, func(f *tgsFacts) { f.client.Attributes = kdb.DisallowRenewable }},
		{"KDC_ERR_POLICY NON-FORWARDABLE TICKET", func(f *tgsFacts) {
			f.body.KDCOptions = krb5.KDCOptForwarded
			f.server.Attributes = kdb.DisallowForwardable
		}, func(f *tgsFacts) {
			f.body.KDCOptions = krb5.KDCOptForwardable
			f.server.Attributes = kdb.DisallowForwardable
		}},
		{"KDC_ERR_POLICY NON-PROXIABLE TICKET", func(f *tgsFacts) { f.body.KDCOptions = krb5.KDCOptProxy; f.client.Attributes = kdb.DisallowProxiable }, func(f *tgsFacts) {
			f.body.KDCOptions = krb5.KDCOptProxiable
			f.client.Attributes = kdb.DisallowProxiable
		}},
		{"KDC_ERR_CANNOT_POSTDATE NON-POSTDATABLE TICKET", func(f *tgsFacts) {
			f.body.KDCOptions = krb5.KDCOptAllowPostdate
			f.server.Attributes = kdb.DisallowPostdated
		}, func(f *tgsFacts) { f.server.Attributes = kdb.DisallowPostdated }},
		{"KDC_ERR_POLICY DUP_SKEY DISALLOWED", func(f *tgsFacts) { u2u(f); f.server.Attributes = kdb.DisallowDupSKey }, func(f *tgsFacts) { f.server.Attributes = kdb.DisallowDupSKey }},
		{"KDC_ERR_S_PRINCIPAL_UNKNOWN SERVER LOCKED OUT", func(f *tgsFacts) { f.server.Attributes = kdb.DisallowAllTix }, func(f *tgsFacts) { f.server.Attributes = kdb.OKAsDelegate }},
		{"KDC_ERR_MUST_USE_USER2USER SERVER NOT ALLOWED", func(f *tgsFacts) { f.server.Attributes = kdb.DisallowSvr }, func(f *tgsFacts) { u2u(f); f.server.Attributes = kdb.DisallowSvr }},
		{"KDC_ERR_POLICY TGT BASED NOT ALLOWED", func(f *tgsFacts) { f.server.Attributes = kdb.DisallowTGTBased }, func(f *tgsFacts) {
			f.server.Attributes, f.headerTGT, f.headerServer, f.body.KDCOptions = kdb.DisallowTGTBased, false, f.server, renewTGT
		}},
		{"KRB_ERR_GENERIC NO HW PREAUTH", func(f *tgsFacts) {
			f.server.Attributes, f.header.Flags = kdb.RequiresHWAuth, f.header.Flags&^krb5.FlagHWAuthent
		}, func(f *tgsFacts) { f.server.Attributes = kdb.RequiresHWAuth }},
		{"KRB_ERR_GENERIC NO PREAUTH", func(f *tgsFacts) {
			f.server.Attributes, f.header.Flags = kdb.RequiresPreAuth, f.header.Flags&^krb5.FlagPreAuthent
		}, func(f *tgsFacts) { f.server.Attributes = kdb.RequiresPreAuth }},
		{"KDC_ERR_SERVICE_EXP SERVICE EXPIRED", func(f *tgsFacts) { f.server.Expiration = testNow }, func(f *tgsFacts) { f.server.Expiration = testNow.Add(1) }},
		{"KDC_ERR_SERVICE_NOTYET SERVICE NOT YET VALID", func(f *tgsFacts) { f.server.Strings = validFrom(testNow.Add(time.Minute)) }, func(f *tgsFacts) { f.server.Strings = validFrom(testNow) }},
		{"KRB_AP_ERR_NOT_US BAD TGS SERVER NAME", func(f *tgsFacts) { f.headerTGT, f.headerServer = false, f.server }, func(f *tgsFacts) {
			f.headerTGT, f.headerServer, f.body.KDCOptions = false, f.server, krb5.KDCOptProxy
		}},
		{"KDC_ERR_SERVER_NOMATCH SERVER DIDN'T MATCH TICKET FOR RENEW/FORWARD/ETC", func(f *tgsFacts) { f.body.KDCOptions = renewTGT }, func(f *tgsFacts) { f.body.KDCOptions = renewTGT; sameServer(f) }},
		{"KDC_ERR_BADOPTION CAN'T PROXY TGT", func(f *tgsFacts) { f.body.KDCOptions = krb5.KDCOptProxy; sameServer(f) }, func(f *tgsFacts) { f.body.KDCOptions = krb5.KDCOptForwarded; sameServer(f) }},
		{"KRB_AP_ERR_TKT_NYV 2ND_TKT_INVALID", func(f *tgsFacts) { u2u(f); f.second.Flags = krb5.FlagInvalid }, u2u},
		{"KRB_AP_ERR_TKT_EXPIRED 2ND_TKT_EXPIRED", func(f *tgsFacts) { u2u(f); f.second.EndTime = testNow.Add(-f.skew - 1) }, func(f *tgsFacts) { u2u(f); f.second.EndTime = testNow.Add(-f.skew) }},
		{"KDC_ERR_SERVER_NOMATCH 2ND_TKT_MISMATCH", func(f *tgsFacts) { u2u(f); f.secondClient = f.client }, u2u},
		{"KDC_ERR_POLICY MANDATORY_AUTHDATA", func(f *tgsFacts) {
			f.header.AuthorizationData = krb5.AuthorizationData{{ADType: krb5.ADMandatoryForKDC}}
		}, func(f *tgsFacts) {
			f.header.AuthorizationData = krb5.AuthorizationData{{ADType: krb5.ADIfRelevant}}
		}},
		{"KDC_ERR_ETYPE_NOSUPP BAD_ENCRYPTION_TYPE", func(f *tgsFacts) { f.body.EType = nil }, func(f *tgsFacts) { f.body.EType = []kcrypto.EType{3, 17} }},
		{"KDC_ERR_NULL_KEY FINDING_SERVER_KEY", func(f *tgsFacts) { f.server.Keys = nil }, func(f *tgsFacts) { f.server.Keys = f.server.Keys[:1] }},
	} {
		f := plainTGS(t)
		c.breaks(f)
		_, err := checkTGS(f)
		if got := outcome(err); got != c.want {
			t.Errorf("%s: broken: %q", c.want, got)
		}
		f = plainTGS(t)
		c.mends(f)
		if _, err := checkTGS(f); err != nil {
			t.Errorf("%s: mended: %v", c.want, err)
		}
	}
}

// TestTGSFlags: each flag of the new ticket needs its option, the header ticket's flag and leave of client and service, all of them.
func TestTGSFlags(t *testing.T) {
	for _, c := range []struct {
		option krb5.KDCOptions
		flag   krb5.TicketFlags
		deny   kdb.Attributes
	}{
		{krb5.KDCOptForwardable, krb5.FlagForwardable, kdb.DisallowForwardable},
		{krb5.KDCOptProxiable, krb5.FlagProxiable, kdb.DisallowProxiable},
		{krb5.KDCOptRenewable, krb5.FlagRenewable, kdb.DisallowRenewable},
	} {
		for bits := range 16 {
			f := plainTGS(t)
			option, header, client, server := bits&1 != 0, bits&2 != 0, bits&4 != 0, bits&8 != 0
			if option {
				f.body.KDCOptions = c.option
			}
			if !header {
				f.header.Flags &^= c.flag
			}
			if client {
				f.client.Attributes = c.deny
			}
			if server {
				f.server.Attributes = c.deny
			}
			g, err := checkTGS(f)
			if err != nil {
				t.Fatal(err)
			}
			if want := option && header && !client && !server; g.flags.Has(c.flag) != want {
				t.Errorf("%v: option %v, header %v, client denies %v, service denies %v: flags %v", c.flag, option, header, client, server, g.flags)
			}
		}
	}
}

// TestCopiedFlags: INITIAL does not survive a new ticket, the others that tell a ticket's past do, and nothing is made up.
func TestCopiedFlags(t *testing.T) {
	for i := range 32 {
		bit := krb5.TicketFlags(1) << i
		f := plainTGS(t)
		if bit == krb5.FlagAnonymous {
			continue // refused
		}
		f.header.Flags = bit
		g, err := checkTGS(f)
		if err != nil {
			t.Fatal(err)
		}
		want := krb5.FlagEncPARep | krb5.FlagTransitedPolicyChecked
		switch bit {
		case krb5.FlagForwarded, krb5.FlagProxy, krb5.FlagPreAuthent, krb5.FlagHWAuthent:
			want |= bit
		}
		if g.flags != want {
			t.Errorf("header %v: %v, want %v", bit, g.flags, want)
		}
	}
}

// TestTransitedPolicy: RFC 4120 section 2.7. Only direct trust is accepted, and T is never claimed for what was not checked.
func TestTransitedPolicy(t *testing.T) {
	through := krb5.TransitedEncoding{TRType: krb5.TRDomainX500Compress, Contents: []byte("EVIL.COM")}
	for _, c := range []struct {
		name             string
		edit             func(f *tgsFacts)
		refused, checked bool
	}{
		{"local client", func(*tgsFacts) {}, false, true},
		{"local client that asks not to be checked", func(f *tgsFacts) { f.body.KDCOptions = krb5.KDCOptDisableTransitedCheck }, false, false},
		{"local client by way of another realm", func(f *tgsFacts) { f.header.Transited = through }, true, false},
		{"neighbour", func(f *tgsFacts) { foreign(f, "OTHER.COM", "OTHER.COM") }, false, true},
		{"neighbour that asks not to be checked", func(f *tgsFacts) {
			foreign(f, "OTHER.COM", "OTHER.COM")
			f.body.KDCOptions = krb5.KDCOptDisableTransitedCheck
		}, true, false},
		{"neighbour's neighbour", func(f *tgsFacts) { foreign(f, "FAR.COM", "OTHER.COM") }, true, false},
		{"client of another realm of ours", func(f *tgsFacts) { foreign(f, "OTHER.COM", "OTHER.COM"); f.foreign = false }, false, true},
		{"neighbour of another realm of ours", func(f *tgsFacts) { foreign(f, "FAR.COM", "OTHER.COM"); f.foreign = false }, true, false},
		{"client of a third realm of ours", func(f *tgsFacts) {
			client := f.client
			foreign(f, "THIRD.COM", "OTHER.COM")
			f.foreign, f.client = false, client
		}, true, false},
		{"neighbour by way of another realm", func(f *tgsFacts) { foreign(f, "OTHER.COM", "OTHER.COM"); f.header.Transited = through }, true, false},
	} {
		f := plainTGS(t)
		c.edit(f)
		g, err := checkTGS(f)
		if c.refused != (err != nil) || err != nil && outcome(err) != "KDC_ERR_POLICY BAD_TRANSIT" {
			t.Errorf("%s: %v", c.name, err)
		}
		if err == nil && g.flags.Has(krb5.FlagTransitedPolicyChecked) != c.checked {
			t.Errorf("%s: flags %v", c.name, g.flags)
		}
	}
}

func foreign(f *tgsFacts, crealm, issuer string) {
	f.foreign, f.client, f.header.CRealm, f.headerRealm = true, nil, crealm, issuer
}
