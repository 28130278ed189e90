package krb5

import (
	"fmt"
	"math/bits"
	"strings"
)

// Flags are numbered as the RFC numbers bits: bit 0 is the most significant one, 0x80000000. A bit string longer than 32 bits is cut,
// a shorter one filled with zeros (RFC 4120 section 5.2.8).

// KDCOptions is RFC 4120 section 5.4.1.
type KDCOptions uint32

const (
	KDCOptForwardable           KDCOptions = 0x40000000 // forwardable(1)
	KDCOptForwarded             KDCOptions = 0x20000000 // forwarded(2)
	KDCOptProxiable             KDCOptions = 0x10000000 // proxiable(3)
	KDCOptProxy                 KDCOptions = 0x08000000 // proxy(4)
	KDCOptAllowPostdate         KDCOptions = 0x04000000 // allow-postdate(5)
	KDCOptPostdated             KDCOptions = 0x02000000 // postdated(6)
	KDCOptRenewable             KDCOptions = 0x00800000 // renewable(8)
	KDCOptCNameInAddlTkt        KDCOptions = 0x00020000 // cname-in-addl-tkt(14), MS-SFU
	KDCOptCanonicalize          KDCOptions = 0x00010000 // canonicalize(15), RFC 6806
	KDCOptRequestAnonymous      KDCOptions = 0x00008000 // request-anonymous(16), RFC 8062
	KDCOptDisableTransitedCheck KDCOptions = 0x00000020 // disable-transited-check(26)
	KDCOptRenewableOK           KDCOptions = 0x00000010 // renewable-ok(27)
	KDCOptEncTktInSKey          KDCOptions = 0x00000008 // enc-tkt-in-skey(28)
	KDCOptRenew                 KDCOptions = 0x00000002 // renew(30)
	KDCOptValidate              KDCOptions = 0x00000001 // validate(31)
)

// TicketFlags is RFC 4120 section 5.3.
type TicketFlags uint32

const (
	FlagForwardable            TicketFlags = 0x40000000 // forwardable(1)
	FlagForwarded              TicketFlags = 0x20000000 // forwarded(2)
	FlagProxiable              TicketFlags = 0x10000000 // proxiable(3)
	FlagProxy                  TicketFlags = 0x08000000 // proxy(4)
	FlagMayPostdate            TicketFlags = 0x04000000 // may-postdate(5)
	FlagPostdated              TicketFlags = 0x02000000 // postdated(6)
	FlagInvalid                TicketFlags = 0x01000000 // invalid(7)
	FlagRenewable              TicketFlags = 0x00800000 // renewable(8)
	FlagInitial                TicketFlags = 0x00400000 // initial(9)
	FlagPreAuthent             TicketFlags = 0x00200000 // pre-authent(10)
	FlagHWAuthent              TicketFlags = 0x00100000 // hw-authent(11)
	FlagTransitedPolicyChecked TicketFlags = 0x00080000 // transited-policy-checked(12)
	FlagOKAsDelegate           TicketFlags = 0x00040000 // ok-as-delegate(13)
	FlagEncPARep               TicketFlags = 0x00010000 // enc-pa-rep(15), RFC 6806
	FlagAnonymous              TicketFlags = 0x00008000 // anonymous(16), RFC 8062
)

// APOptions is RFC 4120 section 5.5.1.
type APOptions uint32

const (
	APOptUseSessionKey  APOptions = 0x40000000 // use-session-key(1)
	APOptMutualRequired APOptions = 0x20000000 // mutual-required(2)
)

var kdcOptionNames = [32]string{1: "forwardable", 2: "forwarded", 3: "proxiable", 4: "proxy", 5: "allow-postdate", 6: "postdated", 8: "renewable", 14: "cname-in-addl-tkt", 15: "canonicalize", 16: "request-anonymous", 26: "disable-transited-check", 27: "renewable-ok", 28: "enc-tkt-in-skey", 30: "renew", 31: "validate"}
var ticketFlagNames = [32]string{1: "forwardable", 2: "forwarded", 3: "proxiable", 4: "proxy", 5: "may-postdate", 6: "postdated", 7: "invalid", 8: "renewable", 9: "initial", 10: "pre-authent", 11: "hw-authent", 12: "transited-policy-checked", 13: "ok-as-delegate", 15: "enc-pa-rep", 16: "anonymous"}
var apOptionNames = [32]string{1: "use-session-key", 2: "mutual-required"}

// String is the RFC's names joined by commas, in order of bits ("forwardable,renewable"); an unnamed bit prints as its number; "" when none is set.
func (o KDCOptions) String() string { return flagString(uint32(o), &kdcOptionNames) }

// String is as that of KDCOptions.
func (f TicketFlags) String() string { return flagString(uint32(f), &ticketFlagNames) }

// String is as that of KDCOptions.
func (o APOptions) String() string { return flagString(uint32(o), &apOptionNames) }

// Has tells whether every bit of want is set.
func (o KDCOptions) Has(want KDCOptions) bool { return o&want == want }

// Has tells whether every bit of want is set.
func (f TicketFlags) Has(want TicketFlags) bool { return f&want == want }

// Has tells whether every bit of want is set.
func (o APOptions) Has(want APOptions) bool { return o&want == want }

func flagString(v uint32, names *[32]string) string {
	out := make([]string, 0, bits.OnesCount32(v))
	for i, name := range names {
		if v&(1<<(31-i)) == 0 {
			continue
		}
		if name == "" {
			name = fmt.Sprintf("bit%d", i)
		}
		out = append(out, name)
	}
	return strings.Join(out, ",")
}
