package kdc

import (
	"time"

	"github.com/charon-kdc/charon/kdc/kdb"
	"github.com/charon-kdc/charon/kdc/krb5"
)

// The rules of this file stand in MIT's order, which decides what a client is told when several are broken, and in MIT's words
// (src/kdc/kdc_util.c validate_as_request, src/kdc/tgs_policy.c).

// validFromAttr is a string attribute of ours: an RFC 3339 time before which a principal neither logs in nor gets tickets.
// One that can't be read keeps it out.
const validFromAttr = "valid_from"

// asFacts is all that decides an AS exchange: what a table of facts in a test fills in by hand.
type asFacts struct {
	body           *krb5.KDCReqBody
	realm          *kdb.Realm
	client, server *kdb.Principal
	activity       kdb.Activity
	fresh          bool // the node was, before it read client and server
	now            time.Time
	// stateNow is by what deadlines in the state are held, Config.StateNow.
	stateNow time.Time
	skew     time.Duration
}

type asRule struct {
	status string
	code   krb5.ErrorCode
	broken func(*asFacts) bool
}

// asInvalidOptions are for the TGS alone (RFC 4120 section 5.4.1).
const asInvalidOptions = krb5.KDCOptForwarded | krb5.KDCOptProxy | krb5.KDCOptEncTktInSKey | krb5.KDCOptRenew | krb5.KDCOptValidate | krb5.KDCOptCNameInAddlTkt

const postdateOptions = krb5.KDCOptAllowPostdate | krb5.KDCOptPostdated

var asRules = []asRule{
	{"INVALID AS OPTIONS", krb5.ErrBadOption, func(f *asFacts) bool { return f.body.KDCOptions&asInvalidOptions != 0 }},
	{"ANONYMOUS NOT SUPPORTED", krb5.ErrBadOption, func(f *asFacts) bool { return f.body.KDCOptions.Has(krb5.KDCOptRequestAnonymous) }},
	{"CLIENT EXPIRED", krb5.ErrNameExp, func(f *asFacts) bool { return past(f.client.Expiration, f.now) }},
	{"CLIENT NOT YET VALID", krb5.ErrClientNotYet, func(f *asFacts) bool { return notYet(f.client, f.now) }},
	{"CLIENT KEY EXPIRED", krb5.ErrKeyExpired, func(f *asFacts) bool {
		return past(f.client.PasswordExpiration, f.now) && !f.server.Attributes.Has(kdb.PWChangeService)
	}},
	{"SERVICE EXPIRED", krb5.ErrServiceExp, func(f *asFacts) bool { return past(f.server.Expiration, f.now) }},
	{"SERVICE NOT YET VALID", krb5.ErrServiceNotYet, func(f *asFacts) bool { return notYet(f.server, f.now) }},
	{"REQUIRED PWCHANGE", krb5.ErrKeyExpired, func(f *asFacts) bool {
		return f.client.Attributes.Has(kdb.RequiresPWChange) && !f.server.Attributes.Has(kdb.PWChangeService)
	}},
	{"POSTDATE NOT ALLOWED", krb5.ErrCannotPostdate, func(f *asFacts) bool {
		return f.body.KDCOptions&postdateOptions != 0 && (f.client.Attributes | f.server.Attributes).Has(kdb.DisallowPostdated)
	}},
	{"CLIENT LOCKED OUT", krb5.ErrClientRevoked, func(f *asFacts) bool { return f.client.Attributes.Has(kdb.DisallowAllTix) }},
	{"SERVICE LOCKED OUT", krb5.ErrSPrincipalUnknown, func(f *asFacts) bool { return f.server.Attributes.Has(kdb.DisallowAllTix) }},
	{"SERVICE NOT ALLOWED", krb5.ErrMustUseUser2User, func(f *asFacts) bool { return f.server.Attributes.Has(kdb.DisallowSvr) }},
	{"LOCKED_OUT", krb5.ErrClientRevoked, func(f *asFacts) bool { return lockedOut(f.client, f.activity, f.stateNow) }},
}

func checkASRules(f *asFacts) error {
	for i := range asRules {
		if r := &asRules[i]; r.broken(f) {
			return refused(r.code, r.status)
		}
	}
	return nil
}

// past tells whether t is set and over.
func past(t, now time.Time) bool { return !t.IsZero() && !now.Before(t) }

func notYet(p *kdb.Principal, now time.Time) bool {
	v, ok := p.Strings[validFromAttr]
	if !ok {
		return false
	}
	from, err := time.Parse(time.RFC3339, v)
	return err != nil || now.Before(from)
}

// tgsFacts is all that decides a TGS exchange.
type tgsFacts struct {
	body  *krb5.KDCReqBody
	realm *kdb.Realm // that of the server asked for
	// header is the opened ticket in the PA-TGS-REQ, headerServer whom it is for, headerRealm that one's realm. headerTGT tells that it is a TGT for realm.
	header       *krb5.EncTicketPart
	headerServer *kdb.Principal
	headerRealm  string
	headerTGT    bool
	// foreign: the header ticket comes from another realm's KDC. client is then nil.
	foreign bool
	client  *kdb.Principal
	server  *kdb.Principal
	sname   krb5.PrincipalName // of the server, as asked for
	// second is the opened additional ticket for ENC-TKT-IN-SKEY; secondClient whom it was issued to.
	second       *krb5.EncTicketPart
	secondClient *kdb.Principal
	now          time.Time
	skew         time.Duration
}

// optionNeedsFlag: an option of the request which the header ticket must have a flag for (RFC 4120 section 3.3.3).
var optionNeedsFlag = []struct {
	options krb5.KDCOptions // any of them
	flag    krb5.TicketFlags
	status  string
	code    krb5.ErrorCode
}{
	{krb5.KDCOptForwarded, krb5.FlagForwardable, "TGT NOT FORWARDABLE", krb5.ErrBadOption},
	{krb5.KDCOptProxy, krb5.FlagProxiable, "TGT NOT PROXIABLE", krb5.ErrBadOption},
	{krb5.KDCOptPostdated, krb5.FlagMayPostdate, "TGT NOT POSTDATABLE", krb5.ErrCannotPostdate},
	{krb5.KDCOptAllowPostdate, krb5.FlagMayPostdate, "TGT NOT POSTDATABLE", krb5.ErrBadOption},
	{krb5.KDCOptValidate, krb5.FlagInvalid, "VALIDATE VALID TICKET", krb5.ErrBadOption},
	{krb5.KDCOptRenew, krb5.FlagRenewable, "TICKET NOT RENEWABLE", krb5.ErrBadOption},
}

// attributeDenies: an option that an attribute of the service forbids and, where client is set, one of the client as well: both are read afresh, so
// what was taken from a user after the TGT is gone.
var attributeDenies = []struct {
	options krb5.KDCOptions // any of them
	attr    kdb.Attributes
	client  bool
	status  string
	code    krb5.ErrorCode
}{
	{krb5.KDCOptRenew, kdb.DisallowRenewable, true, "NON-RENEWABLE TICKET", krb5.ErrPolicy},
	{krb5.KDCOptForwarded, kdb.DisallowForwardable, true, "NON-FORWARDABLE TICKET", krb5.ErrPolicy},
	{krb5.KDCOptProxy, kdb.DisallowProxiable, true, "NON-PROXIABLE TICKET", krb5.ErrPolicy},
	{postdateOptions, kdb.DisallowPostdated, true, "NON-POSTDATABLE TICKET", krb5.ErrCannotPostdate},
	{krb5.KDCOptEncTktInSKey, kdb.DisallowDupSKey, false, "DUP_SKEY DISALLOWED", krb5.ErrPolicy},
}

type tgsRule struct {
	status string
	code   krb5.ErrorCode
	broken func(*tgsFacts) bool
}

// sameTicketOptions give the header ticket again, changed: the server asked for must be that of the ticket.
const sameTicketOptions = krb5.KDCOptRenew | krb5.KDCOptValidate

// tgsUnsupported are options that this KDC does not know how to honour, or that contradict each other.
var tgsUnsupported = []tgsRule{
	{"UNSUPPORTED_S4U2PROXY_REQUEST", krb5.ErrBadOption, func(f *tgsFacts) bool { return f.has(krb5.KDCOptCNameInAddlTkt) }},
	{"ANONYMOUS NOT SUPPORTED", krb5.ErrBadOption, func(f *tgsFacts) bool { return f.has(krb5.KDCOptRequestAnonymous) }},
	{"ANONYMOUS NOT ALLOWED", krb5.ErrPolicy, func(f *tgsFacts) bool { return f.header.Flags.Has(krb5.FlagAnonymous) }},
	{"CONTRADICTING OPTIONS", krb5.ErrBadOption, func(f *tgsFacts) bool {
		return f.has(sameTicketOptions) ||
			f.body.KDCOptions&sameTicketOptions != 0 && f.body.KDCOptions&(krb5.KDCOptPostdated|krb5.KDCOptEncTktInSKey) != 0
	}},
}

// tgsClientRules hold the client as it is now (MIT lets these pass until the TGT ends).
var tgsClientRules = []tgsRule{
	{"CLIENT LOCKED OUT", krb5.ErrClientRevoked, func(f *tgsFacts) bool { return f.client.Attributes.Has(kdb.DisallowAllTix) }},
	{"CLIENT EXPIRED", krb5.ErrNameExp, func(f *tgsFacts) bool { return past(f.client.Expiration, f.now) }},
	{"CLIENT NOT YET VALID", krb5.ErrClientNotYet, func(f *tgsFacts) bool { return notYet(f.client, f.now) }},
}

var tgsTimeRules = []tgsRule{
	{"NOT_YET_VALID", krb5.ErrTktNYV, func(f *tgsFacts) bool { return f.has(krb5.KDCOptValidate) && ticketStart(f.header).After(f.now) }},
	{"TKT_EXPIRED", krb5.ErrTktExpired, func(f *tgsFacts) bool { return f.has(krb5.KDCOptRenew) && past(f.header.RenewTill, f.now) }},
}

var tgsServiceRules = []tgsRule{
	{"SERVER LOCKED OUT", krb5.ErrSPrincipalUnknown, func(f *tgsFacts) bool { return f.server.Attributes.Has(kdb.DisallowAllTix) }},
	{"SERVER NOT ALLOWED", krb5.ErrMustUseUser2User, func(f *tgsFacts) bool {
		return f.server.Attributes.Has(kdb.DisallowSvr) && !f.has(krb5.KDCOptEncTktInSKey)
	}},
	{"TGT BASED NOT ALLOWED", krb5.ErrPolicy, func(f *tgsFacts) bool { return f.headerTGT && f.server.Attributes.Has(kdb.DisallowTGTBased) }},
	{"NO HW PREAUTH", krb5.ErrGeneric, func(f *tgsFacts) bool {
		return f.server.Attributes.Has(kdb.RequiresHWAuth) && !f.header.Flags.Has(krb5.FlagHWAuthent)
	}},
	{"NO PREAUTH", krb5.ErrGeneric, func(f *tgsFacts) bool {
		return f.server.Attributes.Has(kdb.RequiresPreAuth) && !f.header.Flags.Has(krb5.FlagPreAuthent)
	}},
	{"SERVICE EXPIRED", krb5.ErrServiceExp, func(f *tgsFacts) bool { return past(f.server.Expiration, f.now) }},
	{"SERVICE NOT YET VALID", krb5.ErrServiceNotYet, func(f *tgsFacts) bool { return notYet(f.server, f.now) }},
}

// tgsHeaderRules: which ticket may be presented for which server (RFC 4120 section 3.3.2).
var tgsHeaderRules = []tgsRule{
	{"BAD TGS SERVER NAME", krb5.ErrNotUs, func(f *tgsFacts) bool {
		return !f.headerTGT && f.body.KDCOptions&(sameTicketOptions|krb5.KDCOptProxy) == 0
	}},
	{"SERVER DIDN'T MATCH TICKET FOR RENEW/FORWARD/ETC", krb5.ErrServerNoMatch, func(f *tgsFacts) bool {
		return (!f.headerTGT || f.body.KDCOptions&sameTicketOptions != 0) && f.server.ID != f.headerServer.ID
	}},
	{"CAN'T PROXY TGT", krb5.ErrBadOption, func(f *tgsFacts) bool {
		_, tgs := f.server.Name.IsTGS()
		return tgs && f.has(krb5.KDCOptProxy)
	}},
}

// tgsU2URules are for ENC-TKT-IN-SKEY, once the additional ticket is open (RFC 4120 sections 3.3.3 and 3.7). Names are compared after aliases: by id.
var tgsU2URules = []tgsRule{
	{"2ND_TKT_INVALID", krb5.ErrTktNYV, func(f *tgsFacts) bool { return f.second.Flags.Has(krb5.FlagInvalid) }},
	{"2ND_TKT_EXPIRED", krb5.ErrTktExpired, func(f *tgsFacts) bool { return f.now.Sub(f.second.EndTime) > f.skew }},
	{"2ND_TKT_MISMATCH", krb5.ErrServerNoMatch, func(f *tgsFacts) bool { return f.secondClient.ID != f.server.ID }},
}

func (f *tgsFacts) has(o krb5.KDCOptions) bool { return f.body.KDCOptions.Has(o) }

// checkTGSRules is all of them, in MIT's order.
func checkTGSRules(f *tgsFacts) error {
	if err := brokenRule(tgsUnsupported, f); err != nil {
		return err
	}
	if f.client != nil {
		if err := brokenRule(tgsClientRules, f); err != nil {
			return err
		}
	}
	for i := range optionNeedsFlag {
		if r := &optionNeedsFlag[i]; f.body.KDCOptions&r.options != 0 && !f.header.Flags.Has(r.flag) {
			return refused(r.code, r.status)
		}
	}
	if err := brokenRule(tgsTimeRules, f); err != nil {
		return err
	}
	for i := range attributeDenies {
		r := &attributeDenies[i]
		if f.body.KDCOptions&r.options == 0 {
			continue
		}
		if f.server.Attributes.Has(r.attr) || r.client && f.client != nil && f.client.Attributes.Has(r.attr) {
			return refused(r.code, r.status)
		}
	}
	if err := brokenRule(tgsServiceRules, f); err != nil {
		return err
	}
	if err := brokenRule(tgsHeaderRules, f); err != nil {
		return err
	}
	if !f.has(krb5.KDCOptEncTktInSKey) {
		return nil
	}
	return brokenRule(tgsU2URules, f)
}

func brokenRule(rules []tgsRule, f *tgsFacts) error {
	for i := range rules {
		if r := &rules[i]; r.broken(f) {
			return refused(r.code, r.status)
		}
	}
	return nil
}
