package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/charon-kdc/charon/kdc/kdb"
	"github.com/charon-kdc/charon/kdc/krb5"
	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
	adminv1 "github.com/charon-kdc/charon/proto/charon/admin/v1"
)

// The layouts of MIT's kadmin/cli/kadmin.c, 1.20.

// mitError is an error in MIT's words, capitals and full stops included: scripts look for them.
type mitError string

func (e mitError) Error() string { return string(e) }

func inMITsWords(format string, args ...any) error { return mitError(fmt.Sprintf(format, args...)) }

// mitDate is "Tue Nov 24 21:03:24 UTC 2026" in the local zone, or "[never]".
func mitDate(ms int64) string {
	if ms == 0 {
		return "[never]"
	}
	return time.UnixMilli(ms).Format("Mon Jan 02 15:04:05 MST 2006")
}

// mitDuration is "1 day 10:00:00".
func mitDuration(seconds int64) string {
	sign := ""
	if seconds < 0 {
		sign, seconds = "-", -seconds
	}
	days := "days"
	if seconds/86400 == 1 {
		days = "day"
	}
	return fmt.Sprintf("%s%d %s %02d:%02d:%02d", sign, seconds/86400, days, seconds/3600%24, seconds/60%60, seconds%60)
}

// mitSalt is the salt type that an explicit salt stands for: "" for the default, or ":norealm" and so on.
func mitSalt(k *adminv1.KeyInfo, principal string) string {
	n, realm, err := krb5.ParsePrincipal(principal, "")
	switch {
	case k.GetSaltDefault() || err != nil || kcrypto.EType(k.GetEtype()) == kcrypto.RC4HMAC:
		return ""
	case k.GetSalt() == strings.Join(n.NameString, ""):
		return ":norealm"
	case k.GetSalt() == realm:
		return ":onlyrealm"
	case k.GetSalt() == krb5.DefaultSalt(realm, n):
		return ""
	}
	return ":special"
}

// saltTypes are MIT's numbers (KRB5_KDB_SALTTYPE_*).
var saltTypes = map[string]int{"": 0, ":norealm": 2, ":onlyrealm": 3, ":special": 4}

func mitPrincipal(w io.Writer, p *adminv1.Principal) {
	fmt.Fprintf(w, "Principal: %s\n", p.GetName())
	fmt.Fprintf(w, "Expiration date: %s\n", mitDate(p.GetExpiration()))
	fmt.Fprintf(w, "Last password change: %s\n", mitDate(p.GetLastPasswordChange()))
	fmt.Fprintf(w, "Password expiration date: %s\n", mitDate(p.GetPasswordExpiration()))
	fmt.Fprintf(w, "Maximum ticket life: %s\n", mitDuration(p.GetMaxLife()))
	fmt.Fprintf(w, "Maximum renewable life: %s\n", mitDuration(p.GetMaxRenewableLife()))
	fmt.Fprintf(w, "Last modified: %s (%s)\n", mitDate(p.GetModifiedAt()), p.GetModifiedBy())
	fmt.Fprintf(w, "Last successful authentication: %s\n", mitDate(p.GetLastSuccess()))
	fmt.Fprintf(w, "Last failed authentication: %s\n", mitDate(p.GetLastFailure()))
	fmt.Fprintf(w, "Failed password attempts: %d\n", p.GetFailures())
	fmt.Fprintf(w, "Number of keys: %d\n", len(p.GetKeys()))
	for _, k := range p.GetKeys() {
		fmt.Fprintf(w, "Key: vno %d, %s%s\n", k.GetKvno(), kcrypto.EType(k.GetEtype()), mitSalt(k, p.GetName()))
	}
	fmt.Fprintf(w, "MKey: vno %d\n", p.GetMasterKeyVersion())
	fmt.Fprint(w, "Attributes:")
	for _, a := range kdb.Attributes(p.GetAttributes()).Names() {
		fmt.Fprint(w, " "+a)
	}
	fmt.Fprintln(w)
	fmt.Fprintf(w, "Policy: %s\n", mitPolicyName(p))
}

func mitPolicyName(p *adminv1.Principal) string {
	switch {
	case p.GetPolicy() == "":
		return "[none]"
	case !p.GetPolicyExists():
		return p.GetPolicy() + " [does not exist]"
	}
	return p.GetPolicy()
}

func mitPrincipalTerse(w io.Writer, p *adminv1.Principal) {
	policy := p.GetPolicy()
	if policy == "" {
		policy = "[none]"
	}
	fmt.Fprintf(w, "%q\t%d\t%d\t%d\t%d\t%q\t%d\t%d\t%d\t%d\t%q\t%d\t%d\t%d\t%d\t%d", p.GetName(), p.GetExpiration()/1000, p.GetLastPasswordChange()/1000,
		p.GetPasswordExpiration()/1000, p.GetMaxLife(), p.GetModifiedBy(), p.GetModifiedAt()/1000, p.GetAttributes(), p.GetKvno(), p.GetMasterKeyVersion(), policy,
		p.GetMaxRenewableLife(), p.GetLastSuccess()/1000, p.GetLastFailure()/1000, p.GetFailures(), len(p.GetKeys()))
	for _, k := range p.GetKeys() {
		salt := saltTypes[mitSalt(k, p.GetName())]
		version := 1 // of MIT's key data: 2 has a salt
		if salt != 0 {
			version = 2
		}
		fmt.Fprintf(w, "\t%d\t%d\t%d\t%d", version, k.GetKvno(), k.GetEtype(), salt)
	}
	fmt.Fprintln(w)
}

// atLeastOne is how MIT keeps a policy's numbers that were not given.
func atLeastOne(n uint32) uint32 { return max(1, n) }

func mitPolicy(w io.Writer, p *adminv1.Policy) {
	fmt.Fprintf(w, "Policy: %s\n", p.GetName())
	fmt.Fprintf(w, "Maximum password life: %s\n", mitDuration(p.GetMaxLife()))
	fmt.Fprintf(w, "Minimum password life: %s\n", mitDuration(p.GetMinLife()))
	fmt.Fprintf(w, "Minimum password length: %d\n", atLeastOne(p.GetMinLength()))
	fmt.Fprintf(w, "Minimum number of password character classes: %d\n", atLeastOne(p.GetMinClasses()))
	fmt.Fprintf(w, "Number of old keys kept: %d\n", atLeastOne(p.GetHistory()))
	fmt.Fprintf(w, "Maximum password failures before lockout: %d\n", p.GetMaxFailures())
	fmt.Fprintf(w, "Password failure count reset interval: %s\n", mitDuration(p.GetFailureWindow()))
	fmt.Fprintf(w, "Password lockout duration: %s\n", mitDuration(p.GetLockoutDuration()))
	if len(p.GetAllowedKeysalts()) > 0 {
		fmt.Fprintf(w, "Allowed key/salt types: %s\n", strings.Join(p.GetAllowedKeysalts(), ","))
	}
}

func mitPolicyTerse(w io.Writer, p *adminv1.Policy) {
	keysalts := "-"
	if len(p.GetAllowedKeysalts()) > 0 {
		keysalts = strings.Join(p.GetAllowedKeysalts(), ",")
	}
	fmt.Fprintf(w, "%q\t%d\t%d\t%d\t%d\t%d\t0\t%d\t%d\t%d\t%s\n", p.GetName(), p.GetMaxLife(), p.GetMinLife(), atLeastOne(p.GetMinLength()),
		atLeastOne(p.GetMinClasses()), atLeastOne(p.GetHistory()), p.GetMaxFailures(), p.GetFailureWindow(), p.GetLockoutDuration(), keysalts)
}
