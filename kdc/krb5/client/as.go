package client

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/charon-kdc/charon/kdc/krb5"
	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
)

// ASRequest asks for an initial ticket.
type ASRequest struct {
	Via
	Realm  string
	Client krb5.PrincipalName
	// Server is whom the ticket is for; the zero value is krbtgt/REALM.
	Server krb5.PrincipalName
	Secret Secret
	// Options: forwardable, proxiable, allow-postdate, renewable-ok, canonicalize. Renewable and postdated follow from RenewLife and Start.
	Options krb5.KDCOptions
	// Start postdates the ticket; zero means now.
	Start time.Time
	// Life counts from Start; zero means 24 h, MIT's default.
	Life time.Duration
	// RenewLife asks for a renewable ticket; zero does not.
	RenewLife time.Duration
	// Addresses bind the ticket; nil does not.
	Addresses []krb5.HostAddress
	// ETypes in order of preference; nil means DefaultETypes.
	ETypes []kcrypto.EType
}

const lifeDefault = 24 * time.Hour

// DefaultETypes are asked for when nothing else is said, strongest first.
var DefaultETypes = []kcrypto.EType{kcrypto.AES256SHA2, kcrypto.AES128SHA2, kcrypto.AES256SHA1, kcrypto.AES128SHA1}

// AS does the AS exchange, with an encrypted timestamp when the KDC asks for one. A refusal is a *krb5.Error with the KDC's code and text.
// A reply that the client's key does not open is a *krb5.Error with KRB_AP_ERR_BAD_INTEGRITY: without pre-authentication that is what a
// wrong password looks like. A reply that fails a check of RFC 4120 section 3.1.5 is a *ReplyError.
func AS(ctx context.Context, r ASRequest) (*Credential, error) {
	x, err := newASExchange(&r)
	if err != nil {
		return nil, err
	}
	for range 2 { // RFC 4120 section 3.1.1: the first request learns what proof is wanted, the second brings it
		msg, err := x.message()
		if err != nil {
			return nil, err
		}
		reply, addr, err := Exchange(ctx, r.KDCs, msg, r.Exchange)
		if err != nil {
			return nil, fmt.Errorf("asking for an initial ticket: %w", err)
		}
		x.kdc = addr
		if errorCode(reply) == krb5.ErrNone {
			return x.accept(msg, reply)
		}
		if err := x.refused(reply); err != nil {
			return nil, err
		}
	}
	return nil, refusal(krb5.ErrPreauthRequired, "asked for a proof that it had", nil)
}

// asExchange is what one AS exchange learns on its way.
type asExchange struct {
	r      *ASRequest
	body   krb5.KDCReqBody
	kdc    string
	cookie []krb5.PAData // PA-FX-COOKIE, to be sent back (RFC 6113 section 5.2)
	infos  []krb5.ETypeInfo2Entry
	// proof is the key that the encrypted timestamp goes under; nil before the KDC asked.
	proof *kcrypto.Key
}

func newASExchange(r *ASRequest) (*asExchange, error) {
	if r.Secret == nil {
		return nil, errors.New("asking for an initial ticket: no password, keytab or key")
	}
	server := r.Server
	if len(server.NameString) == 0 {
		server = krb5.TGSName(r.Realm)
	}
	nonce, err := newNonce(r.rand())
	if err != nil {
		return nil, err
	}
	etypes, err := orderETypes(r)
	if err != nil {
		return nil, err
	}
	life := r.Life
	if life == 0 {
		life = lifeDefault
	}
	b := krb5.KDCReqBody{
		KDCOptions: r.Options, CName: &r.Client, Realm: r.Realm, SName: &server,
		Nonce: nonce, EType: etypes, Addresses: r.Addresses,
	}
	start := r.now().UTC().Truncate(time.Second)
	if !r.Start.IsZero() {
		start = r.Start.UTC().Truncate(time.Second)
		b.KDCOptions |= krb5.KDCOptPostdated | krb5.KDCOptAllowPostdate
		b.From = start
	}
	b.Till = start.Add(life)
	if r.RenewLife > 0 {
		b.KDCOptions |= krb5.KDCOptRenewable
		b.RTime = start.Add(r.RenewLife)
	}
	return &asExchange{r: r, body: b}, nil
}

// orderETypes puts those first that the secret has keys for: the KDC chooses the reply key by this order (RFC 4120 section 3.1.3).
func orderETypes(r *ASRequest) ([]kcrypto.EType, error) {
	want := r.ETypes
	if want == nil {
		want = DefaultETypes
	}
	have := r.Secret.ETypes(r.Realm, r.Client)
	if have == nil {
		return want, nil
	}
	var first, rest []kcrypto.EType
	for _, e := range want {
		if slices.Contains(have, e) {
			first = append(first, e)
		} else {
			rest = append(rest, e)
		}
	}
	if len(first) == 0 && r.ETypes == nil {
		first = have // RC4 only, say: the owner of such a keytab means it
	}
	if len(first) == 0 {
		return nil, fmt.Errorf("no key of %s for any enctype asked for", krb5.FormatPrincipal(r.Client, r.Realm))
	}
	return append(first, rest...), nil
}

// message is the AS-REQ, DER.
func (x *asExchange) message() ([]byte, error) {
	req := krb5.KDCReq{MsgType: krb5.MsgASReq, PAData: slices.Clone(x.cookie), ReqBody: x.body}
	if x.proof != nil {
		pa, err := EncTimestamp(x.r.rand(), x.r.now(), x.proof)
		if err != nil {
			return nil, err
		}
		req.PAData = append(req.PAData, pa)
	}
	req.PAData = append(req.PAData, krb5.PAData{PADataType: krb5.PAReqEncPARep})
	return krb5.EncodeKDCReq(&req)
}

// EncTimestamp is PA-ENC-TIMESTAMP (RFC 4120 section 5.2.7.2) of that time under the client's key.
func EncTimestamp(rand io.Reader, now time.Time, k *kcrypto.Key) (krb5.PAData, error) {
	ts := krb5.PAEncTSEnc{HasPAUSec: true}
	ts.PATimestamp, ts.PAUSec = krb5.SplitTime(now.UTC())
	plain, err := krb5.EncodePAEncTSEnc(&ts)
	if err != nil {
		return krb5.PAData{}, err
	}
	ed, err := krb5.Seal(k, 0, rand, kcrypto.UsagePAEncTimestamp, plain)
	if err != nil {
		return krb5.PAData{}, err
	}
	value, err := krb5.EncodeEncryptedData(&ed)
	return krb5.PAData{PADataType: krb5.PAEncTimestamp, PADataValue: value}, err
}

// refused takes a KRB-ERROR. Nil: the KDC wants a proof, and the next message brings it.
func (x *asExchange) refused(reply []byte) error {
	e, err := krb5.DecodeKRBError(reply)
	if err != nil {
		return &ReplyError{What: "its KRB-ERROR is malformed", Err: err}
	}
	if e.ErrorCode != krb5.ErrPreauthRequired || x.proof != nil {
		return kdcError(e, x.r.now())
	}
	method, err := krb5.DecodeMethodData(e.EData)
	if err != nil {
		return &ReplyError{What: "its METHOD-DATA is malformed", Err: err}
	}
	x.cookie = pick(method, krb5.PAFXCookie)
	if len(pick(method, krb5.PAEncTimestamp)) == 0 {
		return refusal(krb5.ErrPreauthRequired, "no mechanism in common", nil)
	}
	if err := x.learn(method); err != nil {
		return err
	}
	x.proof, err = x.key(0, 0)
	return err
}

// learn reads ETYPE-INFO2 (RFC 4120 section 5.2.7.5).
func (x *asExchange) learn(padata []krb5.PAData) error {
	for _, pa := range pick(padata, krb5.PAETypeInfo2) {
		infos, err := krb5.DecodeETypeInfo2(pa.PADataValue)
		if err != nil {
			return &ReplyError{What: "its ETYPE-INFO2 is malformed", Err: err}
		}
		x.infos = infos
	}
	return nil
}

// key is the client's key of enctype e; 0 means the first that the KDC offers and the client asked for.
func (x *asExchange) key(e kcrypto.EType, kvno uint32) (*kcrypto.Key, error) {
	i := KeyInfo{Realm: x.r.Realm, Client: x.r.Client, EType: e, KVNO: kvno, Salt: krb5.DefaultSalt(x.r.Realm, x.r.Client)}
	have := x.r.Secret.ETypes(x.r.Realm, x.r.Client)
	for _, info := range x.infos {
		usable := slices.Contains(x.body.EType, info.EType) && (have == nil || slices.Contains(have, info.EType))
		if e != 0 && info.EType != e || e == 0 && !usable {
			continue
		}
		i.EType, i.Params = info.EType, info.S2KParams
		if info.HasSalt {
			i.Salt = info.Salt
		}
		break
	}
	if i.EType == 0 {
		return nil, refusal(krb5.ErrEtypeNoSupp, "no enctype in common for a key of "+krb5.FormatPrincipal(x.r.Client, x.r.Realm), nil)
	}
	return x.r.Secret.Key(i)
}

// accept checks an AS-REP as RFC 4120 section 3.1.5 says, and RFC 6806 section 11 where the KDC supports it.
func (x *asExchange) accept(msg, reply []byte) (*Credential, error) {
	rep, err := krb5.DecodeKDCRep(reply)
	if err != nil {
		return nil, &ReplyError{What: "the AS-REP is malformed", Err: err}
	}
	if rep.MsgType != krb5.MsgASRep {
		return nil, &ReplyError{What: "it is no AS-REP"}
	}
	k := x.proof
	if k == nil || k.EType() != rep.EncPart.EType {
		if !slices.Contains(x.body.EType, rep.EncPart.EType) {
			return nil, &ReplyError{What: fmt.Sprintf("it is sealed with %v, which was not asked for", rep.EncPart.EType)}
		}
		if err := x.learn(rep.PAData); err != nil {
			return nil, err
		}
		if k, err = x.key(rep.EncPart.EType, rep.EncPart.KVNO); err != nil {
			return nil, err
		}
	}
	part, err := krb5.Open(k, kcrypto.UsageASRepEncPart, rep.EncPart, krb5.DecodeEncKDCRepPart)
	if errors.Is(err, kcrypto.ErrIntegrity) {
		return nil, refusal(krb5.ErrBadIntegrity, "the client's key does not open the reply", err)
	}
	if err != nil {
		return nil, &ReplyError{What: "its encrypted part is malformed", Err: err}
	}
	verified, err := checkEncPARep(k, part, msg)
	if err != nil {
		return nil, err
	}
	c := check{
		body: &x.body, rep: rep, part: part, crealm: x.r.Realm, cname: x.r.Client,
		renamed: verified && x.body.KDCOptions.Has(krb5.KDCOptCanonicalize), now: x.r.now(), skew: x.r.skew(),
	}
	if err := errors.Join(c.reply(), c.initial()); err != nil {
		return nil, err
	}
	return x.r.credential(rep, part, x.kdc), nil
}

// checkEncPARep verifies that the KDC got the request as it was sent, when it says it can tell (RFC 6806 section 11). verified: it says so, and it did.
func checkEncPARep(k *kcrypto.Key, part *krb5.EncKDCRepPart, msg []byte) (verified bool, err error) {
	if !part.Flags.Has(krb5.FlagEncPARep) {
		return false, nil
	}
	pa := pick(part.EncryptedPAData, krb5.PAReqEncPARep)
	if len(pa) == 0 {
		return false, &ReplyError{What: "its checksum over the request is missing"}
	}
	sum, err := krb5.DecodeChecksum(pa[0].PADataValue)
	if err == nil {
		err = k.VerifyChecksum(sum.CksumType, kcrypto.UsageASReq, msg, sum.Checksum)
	}
	if err != nil {
		return false, &ReplyError{What: "its checksum over the request is wrong", Err: err}
	}
	return true, nil
}

// pick is the padata of one type.
func pick(padata []krb5.PAData, t krb5.PADataType) (out []krb5.PAData) {
	for _, pa := range padata {
		if pa.PADataType == t {
			out = append(out, pa)
		}
	}
	return out
}

// newNonce is 31 bits: some KDCs read the nonce as a signed number.
func newNonce(rand io.Reader) (uint32, error) {
	var b [4]byte
	if _, err := io.ReadFull(rand, b[:]); err != nil {
		return 0, fmt.Errorf("reading random octets for a nonce: %w", err)
	}
	return binary.BigEndian.Uint32(b[:]) & 0x7fffffff, nil
}
