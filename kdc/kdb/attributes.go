package kdb

import (
	"fmt"
	"strings"
)

// Attributes are a principal's flags, with the bit values of MIT's database so that dumps carry over.
type Attributes uint32

const (
	DisallowPostdated   Attributes = 0x00000001
	DisallowForwardable Attributes = 0x00000002
	DisallowTGTBased    Attributes = 0x00000004
	DisallowRenewable   Attributes = 0x00000008
	DisallowProxiable   Attributes = 0x00000010
	DisallowDupSKey     Attributes = 0x00000020
	DisallowAllTix      Attributes = 0x00000040
	RequiresPreAuth     Attributes = 0x00000080
	RequiresHWAuth      Attributes = 0x00000100
	RequiresPWChange    Attributes = 0x00000200
	DisallowSvr         Attributes = 0x00001000
	PWChangeService     Attributes = 0x00002000
	SupportDESMD5       Attributes = 0x00004000
	NewPrinc            Attributes = 0x00008000
	OKAsDelegate        Attributes = 0x00100000
	OKToAuthAsDelegate  Attributes = 0x00200000
	NoAuthDataRequired  Attributes = 0x00400000
	LockdownKeys        Attributes = 0x00800000
	attributesKnown                = 0x00f0f3ff
)

// attributeNames: flag is MIT kadmin's name in [+|-]name, set tells which sign sets the bit, display is what getprinc prints.
var attributeNames = []struct {
	bit     Attributes
	flag    string
	inverse bool // "-flag" sets the bit
	display string
}{
	{DisallowPostdated, "allow_postdated", true, "DISALLOW_POSTDATED"},
	{DisallowForwardable, "allow_forwardable", true, "DISALLOW_FORWARDABLE"},
	{DisallowTGTBased, "allow_tgs_req", true, "DISALLOW_TGT_BASED"},
	{DisallowRenewable, "allow_renewable", true, "DISALLOW_RENEWABLE"},
	{DisallowProxiable, "allow_proxiable", true, "DISALLOW_PROXIABLE"},
	{DisallowDupSKey, "allow_dup_skey", true, "DISALLOW_DUP_SKEY"},
	{DisallowAllTix, "allow_tix", true, "DISALLOW_ALL_TIX"},
	{RequiresPreAuth, "requires_preauth", false, "REQUIRES_PRE_AUTH"},
	{RequiresHWAuth, "requires_hwauth", false, "REQUIRES_HW_AUTH"},
	{RequiresPWChange, "needchange", false, "REQUIRES_PWCHANGE"},
	{DisallowSvr, "allow_svr", true, "DISALLOW_SVR"},
	{PWChangeService, "password_changing_service", false, "PWCHANGE_SERVICE"},
	{SupportDESMD5, "support_desmd5", false, "SUPPORT_DESMD5"},
	{NewPrinc, "new_princ", false, "NEW_PRINC"},
	{OKAsDelegate, "ok_as_delegate", false, "OK_AS_DELEGATE"},
	{OKToAuthAsDelegate, "ok_to_auth_as_delegate", false, "OK_TO_AUTH_AS_DELEGATE"},
	{NoAuthDataRequired, "no_auth_data_required", false, "NO_AUTH_DATA_REQUIRED"},
	{LockdownKeys, "lockdown_keys", false, "LOCKDOWN_KEYS"},
}

// Has tells whether every bit of b is set.
func (a Attributes) Has(b Attributes) bool { return a&b == b }

// Valid tells whether a has only bits that are known.
func (a Attributes) Valid() bool { return a&^attributesKnown == 0 }

// String lists MIT getprinc's names, separated by blanks.
func (a Attributes) String() string { return strings.Join(a.Names(), " ") }

// Names lists MIT getprinc's names in MIT's order.
func (a Attributes) Names() []string {
	var out []string
	for _, n := range attributeNames {
		if a.Has(n.bit) {
			out = append(out, n.display)
		}
	}
	return out
}

// ParseAttribute applies one of kadmin's [+|-]name to a: "+requires_preauth", "-allow_tix". A name without sign counts as "+".
func (a Attributes) ParseAttribute(s string) (Attributes, error) {
	name, plus := strings.TrimPrefix(s, "+"), true
	if rest, ok := strings.CutPrefix(s, "-"); ok {
		name, plus = rest, false
	}
	for _, n := range attributeNames {
		if n.flag == strings.ToLower(name) {
			if plus != n.inverse {
				return a | n.bit, nil
			}
			return a &^ n.bit, nil
		}
	}
	return a, fmt.Errorf("attribute %q is not known; one of %s", name, strings.Join(attributeFlags(), ", "))
}

func attributeFlags() []string {
	out := make([]string, len(attributeNames))
	for i, n := range attributeNames {
		out[i] = n.flag
	}
	return out
}
