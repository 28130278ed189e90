package kdb

import (
	"slices"
	"strings"
	"testing"
)

// TestAttributesAreMITs: the bit values stand in every MIT dump (include/kdb.h KRB5_KDB_*), the names are kadmin's.
func TestAttributesAreMITs(t *testing.T) {
	for _, c := range []struct {
		bit     Attributes
		value   uint32
		word    string // what kadmin's addprinc and modprinc take to set the bit
		unset   string
		display string
	}{
		{DisallowPostdated, 0x1, "-allow_postdated", "+allow_postdated", "DISALLOW_POSTDATED"},
		{DisallowForwardable, 0x2, "-allow_forwardable", "+allow_forwardable", "DISALLOW_FORWARDABLE"},
		{DisallowTGTBased, 0x4, "-allow_tgs_req", "+allow_tgs_req", "DISALLOW_TGT_BASED"},
		{DisallowRenewable, 0x8, "-allow_renewable", "+allow_renewable", "DISALLOW_RENEWABLE"},
		{DisallowProxiable, 0x10, "-allow_proxiable", "+allow_proxiable", "DISALLOW_PROXIABLE"},
		{DisallowDupSKey, 0x20, "-allow_dup_skey", "+allow_dup_skey", "DISALLOW_DUP_SKEY"},
		{DisallowAllTix, 0x40, "-allow_tix", "+allow_tix", "DISALLOW_ALL_TIX"},
		{RequiresPreAuth, 0x80, "+requires_preauth", "-requires_preauth", "REQUIRES_PRE_AUTH"},
		{RequiresHWAuth, 0x100, "+requires_hwauth", "-requires_hwauth", "REQUIRES_HW_AUTH"},
		{RequiresPWChange, 0x200, "+needchange", "-needchange", "REQUIRES_PWCHANGE"},
		{DisallowSvr, 0x1000, "-allow_svr", "+allow_svr", "DISALLOW_SVR"},
		{PWChangeService, 0x2000, "+password_changing_service", "-password_changing_service", "PWCHANGE_SERVICE"},
		{SupportDESMD5, 0x4000, "+support_desmd5", "-support_desmd5", "SUPPORT_DESMD5"},
		{NewPrinc, 0x8000, "+new_princ", "-new_princ", "NEW_PRINC"},
		{OKAsDelegate, 0x100000, "+ok_as_delegate", "-ok_as_delegate", "OK_AS_DELEGATE"},
		{OKToAuthAsDelegate, 0x200000, "+ok_to_auth_as_delegate", "-ok_to_auth_as_delegate", "OK_TO_AUTH_AS_DELEGATE"},
		{NoAuthDataRequired, 0x400000, "+no_auth_data_required", "-no_auth_data_required", "NO_AUTH_DATA_REQUIRED"},
		{LockdownKeys, 0x800000, "+lockdown_keys", "-lockdown_keys", "LOCKDOWN_KEYS"},
	} {
		if uint32(c.bit) != c.value || !c.bit.Valid() {
			t.Errorf("%s is %#x", c.display, uint32(c.bit))
		}
		if c.bit.String() != c.display || !slices.Equal(c.bit.Names(), []string{c.display}) {
			t.Errorf("%#x prints as %q", c.value, c.bit)
		}
		for _, word := range []string{c.word, strings.ToUpper(c.word)} {
			if a, err := Attributes(0).ParseAttribute(word); err != nil || a != c.bit {
				t.Errorf("%s: %v %v", word, a, err)
			}
		}
		all := Attributes(attributesKnown)
		if a, err := all.ParseAttribute(c.unset); err != nil || a != all&^c.bit {
			t.Errorf("%s: %v %v", c.unset, a, err)
		}
		if a, err := all.ParseAttribute(c.word); err != nil || a != all {
			t.Errorf("%s on all: %v %v", c.word, a, err)
		}
	}
	if a, err := Attributes(0).ParseAttribute("requires_preauth"); err != nil || a != RequiresPreAuth {
		t.Errorf("without a sign: %v %v", a, err)
	}
}

func TestAttributesUnknown(t *testing.T) {
	before := RequiresPreAuth
	for _, word := range []string{"", "+", "-", "+nosuch", "allow", "+allow_tix ", "--allow_tix", "REQUIRES_PRE_AUTH"} {
		a, err := before.ParseAttribute(word)
		if err == nil || a != before || !strings.Contains(err.Error(), "requires_preauth") {
			t.Errorf("%q: %v %v", word, a, err)
		}
	}
	for _, bad := range []Attributes{0x400, 0x800, 0x10000, 0x1000000, 0x80000000} {
		if bad.Valid() || (bad | RequiresPreAuth).Valid() {
			t.Errorf("%#x is valid", uint32(bad))
		}
	}
	if !Attributes(0).Valid() || Attributes(0).String() != "" || Attributes(0).Names() != nil {
		t.Error("no attributes")
	}
	if got := (DisallowAllTix | RequiresPreAuth).String(); got != "DISALLOW_ALL_TIX REQUIRES_PRE_AUTH" {
		t.Error(got)
	}
	if (RequiresPreAuth).Has(RequiresPreAuth | RequiresHWAuth) {
		t.Error("Has wants all of them")
	}
}
