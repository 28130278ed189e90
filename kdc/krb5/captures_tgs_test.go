package krb5

import (
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
)

// realmKeys are the long-term keys of the captured realms, by "name@REALM kvno etype".
func realmKeys(t *testing.T) func(realm string, n PrincipalName, kvno uint32, e kcrypto.EType) *kcrypto.Key {
	t.Helper()
	b, err := os.ReadFile("testdata/captures/keys.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Keys []struct {
			Principal string        `json:"principal"`
			KVNO      uint32        `json:"kvno"`
			EType     kcrypto.EType `json:"enctype"`
			Key       string        `json:"key"`
		} `json:"keys"`
	}
	if err := json.Unmarshal(b, &file); err != nil {
		t.Fatal(err)
	}
	type id struct {
		name string
		kvno uint32
		e    kcrypto.EType
	}
	keys := map[id]*kcrypto.Key{}
	for _, k := range file.Keys {
		if key, err := kcrypto.NewKey(k.EType, unhex(t, k.Key)); err == nil {
			keys[id{k.Principal, k.KVNO, k.EType}] = key
		}
	}
	if len(keys) < 50 {
		t.Fatalf("only %d keys", len(keys))
	}
	return func(realm string, n PrincipalName, kvno uint32, e kcrypto.EType) *kcrypto.Key {
		return keys[id{FormatPrincipal(n, realm), kvno, e}]
	}
}

// TestCapturesTGS does for every captured TGS-REQ what a KDC does first: it opens the ticket with the realm's key and the authenticator with the
// session key, and verifies the checksum over req-body as received. The damaged requests fail where they are damaged.
func TestCapturesTGS(t *testing.T) {
	keyOf := realmKeys(t)
	good := 0
	for _, c := range loadCaptures() {
		req, err := DecodeKDCReq(c.der)
		if c.codec != "KDCReq" || err != nil || req.MsgType != MsgTGSReq {
			continue
		}
		err = openTGS(req, keyOf)
		switch {
		case strings.HasPrefix(c.where, "tgs-err-bad-ticket/"), strings.HasPrefix(c.where, "tgs-err-bad-authenticator/"):
			if !errors.Is(err, kcrypto.ErrIntegrity) {
				t.Errorf("%s: %v, want ErrIntegrity", c.where, err)
			}
		case strings.HasPrefix(c.where, "tgs-err-modified-body/"):
			if codeOf(err) != ErrModified {
				t.Errorf("%s: %v, want KRB_AP_ERR_MODIFIED", c.where, err)
			}
		case errors.Is(err, errNilKey) && strings.HasPrefix(c.where, "s4u"), errors.Is(err, errNilKey) && strings.HasPrefix(c.where, "tgs-err-unknown-kvno/"):
			// another realm's keys, or a kvno that is not
		case err != nil:
			t.Errorf("%s: %v", c.where, err)
		default:
			good++
		}
	}
	if good < 20 {
		t.Errorf("%d good TGS-REQs, want 20 or more", good)
	}
}

func openTGS(req *KDCReq, keyOf func(string, PrincipalName, uint32, kcrypto.EType) *kcrypto.Key) error {
	for _, pa := range req.PAData {
		if pa.PADataType != PATGSReq {
			continue
		}
		ap, err := DecodeAPReq(pa.PADataValue)
		if err != nil {
			return err
		}
		k := keyOf(ap.Ticket.Realm, ap.Ticket.SName, ap.Ticket.EncPart.KVNO, ap.Ticket.EncPart.EType)
		if k == nil {
			return errNilKey
		}
		ticket, err := OpenTicket(k, &ap.Ticket)
		if err != nil {
			return err
		}
		auth, err := Open(ticket.Key, kcrypto.UsageTGSReqAuthenticator, ap.Authenticator, DecodeAuthenticator)
		if err != nil {
			return err
		}
		if err := CheckAuthenticator(ticket, auth, auth.Time(), 0); err != nil {
			return err
		}
		return VerifyChecksum(auth.Cksum, ticket.Key, kcrypto.UsageTGSReqChecksum, req.RawBody)
	}
	return errors.New("no PA-TGS-REQ")
}
