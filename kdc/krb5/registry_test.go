package krb5

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
)

// registry is testdata/constants.json: every number as found in the RFCs and in three implementations.
func registry(t *testing.T) map[string][]struct {
	Number any    `json:"number"`
	Bit    *int   `json:"bit"`
	Mask   string `json:"mask"`
	Name   string `json:"name"`
} {
	t.Helper()
	b, err := os.ReadFile("testdata/constants.json")
	if err != nil {
		t.Fatal(err)
	}
	var out map[string][]struct {
		Number any    `json:"number"`
		Bit    *int   `json:"bit"`
		Mask   string `json:"mask"`
		Name   string `json:"name"`
	}
	if err := json.Unmarshal(b, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// TestRegistryNames holds every number and name that String knows against the registries, both ways: none missing, none more.
func TestRegistryNames(t *testing.T) {
	reg := registry(t)
	for _, v := range []struct {
		table string
		text  func(int32) string
		known int
	}{
		{"Error codes", func(n int32) string { return ErrorCode(n).String() }, len(errorCodeNames)},
		{"Pre-authentication data types", func(n int32) string { return PADataType(n).String() }, len(paDataTypeNames)},
		{"Name types", func(n int32) string { return NameType(n).String() }, len(nameTypeNames)},
	} {
		rows := reg[v.table]
		if len(rows) == 0 || len(rows) != v.known {
			t.Errorf("%s: %d numbers here, %d in the registry", v.table, v.known, len(rows))
		}
		for _, r := range rows {
			n := int32(r.Number.(float64))
			want, _, _ := strings.Cut(r.Name, " (")
			if got := v.text(n); got != want {
				t.Errorf("%s: %d is %q here, %q in the registry", v.table, n, got, want)
			}
		}
	}
	messages := 0
	for _, r := range reg["Message types and ASN.1 application tags"] {
		if !strings.HasPrefix(r.Name, "KRB-") {
			continue
		}
		messages++
		if n := MsgType(r.Number.(float64)); n.String() != r.Name {
			t.Errorf("message type %d is %q here, %q in the registry", n, n, r.Name)
		}
	}
	if messages != len(msgTypeNames) {
		t.Errorf("%d message types here, %d in the registry", len(msgTypeNames), messages)
	}
}

func TestRegistryFlags(t *testing.T) {
	reg := registry(t)
	for table, text := range map[string]func(uint32) string{
		"KDC options (bit 0 = most significant)":  func(v uint32) string { return KDCOptions(v).String() },
		"Ticket flags (bit 0 = most significant)": func(v uint32) string { return TicketFlags(v).String() },
		"AP options": func(v uint32) string { return APOptions(v).String() },
	} {
		named := map[int]bool{}
		for _, r := range reg[table] {
			mask, err := strconv.ParseUint(r.Mask, 0, 32)
			if err != nil || uint32(mask) != 1<<(31-*r.Bit) {
				t.Fatalf("%s: bit %d has mask %s", table, *r.Bit, r.Mask)
			}
			if r.Name == "reserved" {
				continue
			}
			named[*r.Bit] = true
			if got := text(uint32(mask)); got != r.Name {
				t.Errorf("%s: bit %d is %q here, %q in the registry", table, *r.Bit, got, r.Name)
			}
		}
		for bit := range 32 {
			if got := text(1 << (31 - bit)); !named[bit] && got != fmt.Sprintf("bit%d", bit) {
				t.Errorf("%s: bit %d is %q here and not in the registry", table, bit, got)
			}
		}
	}
}

// TestRegistryConstants ties the Go names to the numbers that matter most, once more by hand.
func TestRegistryConstants(t *testing.T) {
	reg := registry(t)
	for table, want := range map[string]map[string]int32{
		"Authorization data types": {
			"AD-IF-RELEVANT": ADIfRelevant, "AD-KDCIssued": ADKDCIssued, "AD-AND-OR": ADAndOr, "AD-MANDATORY-FOR-KDC": ADMandatoryForKDC,
			"AD-INITIAL-VERIFIED-CAS": ADInitialVerifiedCAs, "AD-authentication-strength": ADAuthenticationStrength, "AD-fx-fast-armor": ADFXFastArmor,
			"AD-fx-fast-used": ADFXFastUsed, "AD-CAMMAC": ADCAMMAC, "AD-AUTHENTICATION-INDICATOR": ADAuthenticationIndicator, "AD-WIN2K-PAC": ADWin2KPAC,
			"AD-ETYPE-NEGOTIATION": ADETypeNegotiation, "AD-AUTH-DATA-AP-OPTIONS": ADAPOptions, "AD-TARGET-PRINCIPAL": ADTargetPrincipal,
		},
		"Address types": {"IPv4": AddrIPv4, "directional": AddrDirectional, "NetBIOS (16 octets, space padded)": AddrNetBIOS, "IPv6": AddrIPv6},
		"Last-request types (negative = this KDC only)": {
			"no information": LRNone, "last initial TGT request": LRInitialTGT, "last initial request": LRInitial, "time of issue of the newest TGT used": LRNewestTGT,
			"last renewal": LRRenewal, "last request of any type": LRAny, "password expiry": LRPasswordExpires, "account expiry": LRAccountExpires,
		},
		"Transited encoding types": {"DOMAIN-X500-COMPRESS": TRDomainX500Compress},
		"Error codes": {
			"KDC_ERR_PREAUTH_REQUIRED": int32(ErrPreauthRequired), "KDC_ERR_PREAUTH_FAILED": int32(ErrPreauthFailed), "KRB_AP_ERR_REPEAT": int32(ErrRepeat),
			"KRB_AP_ERR_SKEW": int32(ErrSkew), "KRB_ERR_RESPONSE_TOO_BIG": int32(ErrResponseTooBig), "KDC_ERR_SVC_UNAVAILABLE": int32(ErrSvcUnavailable),
		},
		"Pre-authentication data types": {
			"PA-TGS-REQ": int32(PATGSReq), "PA-ENC-TIMESTAMP": int32(PAEncTimestamp), "PA-ETYPE-INFO": int32(PAETypeInfo), "PA-ETYPE-INFO2": int32(PAETypeInfo2),
			"PA-REQ-ENC-PA-REP": int32(PAReqEncPARep), "PA-FX-FAST": int32(PAFXFast),
		},
		"Message types and ASN.1 application tags": {
			"Ticket": tagTicket, "Authenticator": tagAuthenticator, "EncTicketPart": tagEncTicketPart, "EncASRepPart": tagEncASRepPart, "EncTGSRepPart": tagEncTGSRepPart,
			"EncAPRepPart": tagEncAPRepPart, "EncKrbPrivPart": tagEncKRBPrivPart, "EncKrbCredPart": tagEncKRBCredPart, "KRB-TGS-REQ": int32(MsgTGSReq),
		},
	} {
		found := 0
		for _, r := range reg[table] {
			if n, ok := want[r.Name]; ok {
				found++
				if n != int32(r.Number.(float64)) {
					t.Errorf("%s: %s is %d here, %v in the registry", table, r.Name, n, r.Number)
				}
			}
		}
		if found != len(want) {
			t.Errorf("%s: %d of %d names are in the registry", table, found, len(want))
		}
	}
}

func TestUnregistered(t *testing.T) {
	for got, want := range map[string]string{
		ErrorCode(1234).String():                         "error code 1234",
		PADataType(-7).String():                          "PA -7",
		NameType(99).String():                            "NT 99",
		MsgType(99).String():                             "message type 99",
		(FlagForwardable | FlagRenewable | 1).String():   "forwardable,renewable,bit31",
		KDCOptions(0).String():                           "",
		(&Error{Code: ErrSkew, Status: "SKEW"}).Error():  "KRB_AP_ERR_SKEW (SKEW)",
		(&Error{Code: ErrNoKey, Err: errNilKey}).Error(): "KRB_AP_ERR_NOKEY: no key",
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
