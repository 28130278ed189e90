package adminapi

import (
	"context"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
)

// checkPassword is a new password's quality by its policy (nil: only that it is none at all). MIT's rules: length in
// characters, classes of lower case, upper case, digit, punctuation and the rest; not the realm nor a component of the name.
func checkPassword(password string, n name, pol *statev1.Policy) error {
	if password == "" || len(password) > passwordMax {
		return refuse(codes.InvalidArgument, "PASSWORD_EMPTY", "a password has 1 to %d bytes", passwordMax)
	}
	if pol == nil {
		return nil
	}
	if utf8.RuneCountInString(password) < int(pol.GetMinLength()) {
		return refuse(codes.InvalidArgument, "PASSWORD_TOO_SHORT", "password is too short: policy %s wants %d characters", pol.GetName(), pol.GetMinLength())
	}
	if classes(password) < int(pol.GetMinClasses()) {
		return refuse(codes.InvalidArgument, "PASSWORD_TOO_FEW_CLASSES",
			"password has too few kinds of characters: policy %s wants %d of lower case, upper case, digits, punctuation, others", pol.GetName(), pol.GetMinClasses())
	}
	for _, part := range append([]string{n.realm}, n.components...) {
		if strings.EqualFold(password, part) {
			return refuse(codes.InvalidArgument, "PASSWORD_IS_NAME", "password may not be the principal's name")
		}
	}
	return nil
}

func classes(password string) int {
	var lower, upper, digit, punct, other int
	for _, c := range password {
		switch {
		case 'a' <= c && c <= 'z':
			lower = 1
		case 'A' <= c && c <= 'Z':
			upper = 1
		case '0' <= c && c <= '9':
			digit = 1
		case '!' <= c && c <= '~':
			punct = 1
		default:
			other = 1
		}
	}
	return lower + upper + digit + punct + other
}

// checkHistory refuses a password that p has, or had among those its policy remembers.
func (s *Service) checkHistory(p *statev1.Principal, password string, pol *statev1.Policy) error {
	if pol == nil {
		return nil
	}
	cl, err := s.Reader.Cluster()
	if err != nil {
		return err
	}
	remembered := [][]*statev1.Key{keysOf(p, p.GetKvno())}
	for _, h := range recent(p.GetKeyHistory(), pol.GetHistory()) {
		remembered = append(remembered, h.GetKeys())
	}
	for _, keys := range remembered {
		// All keys of one kvno come from one password: one of them tells.
		i := slices.IndexFunc(keys, func(k *statev1.Key) bool { return kcrypto.EType(k.GetEtype()).Supported() })
		if i < 0 {
			continue
		}
		rec := keys[i]
		old, err := s.openKey(cl.GetId(), p, rec)
		if err != nil {
			return err
		}
		k, err := kcrypto.StringToKey(kcrypto.EType(rec.GetEtype()), password, rec.GetSalt(), nil)
		if err != nil {
			return err
		}
		if k.Equal(old) {
			return refuse(codes.InvalidArgument, "PASSWORD_REUSED", "password was used before: policy %s remembers the last %d", pol.GetName(), max(1, pol.GetHistory()))
		}
	}
	return nil
}

// recent are the newest entries that a policy with that history length looks at. The current password is one of the length.
func recent(h []*statev1.KeyHistory, length uint32) []*statev1.KeyHistory {
	keep := 0
	if length > 1 {
		keep = int(length - 1)
	}
	if len(h) > keep {
		h = h[len(h)-keep:]
	}
	return h
}

// checkMinLife refuses who changes his own password too soon again. Administrators are not held to it, as in MIT's kadmind.
func checkMinLife(ctx context.Context, p *statev1.Principal, pol *statev1.Policy, now time.Time) error {
	r := rightsOf(ctx)
	if pol == nil || pol.GetMinLife() == 0 || r.caller.Root || !r.own(nameOf(p)) || p.GetAttributes()&attrRequiresPWChange != 0 {
		return nil
	}
	earliest := time.UnixMilli(p.GetLastPasswordChange()).Add(time.Duration(pol.GetMinLife()) * time.Second)
	if now.Before(earliest) {
		return refuse(codes.FailedPrecondition, "PASSWORD_TOO_SOON", "password was changed too recently; it can be changed again at %s", earliest.UTC().Format(time.RFC3339))
	}
	return nil
}

// remember puts p's current keys into its history, and forgets what the policy does not look at.
func remember(p *statev1.Principal, pol *statev1.Policy) {
	if pol.GetHistory() <= 1 {
		p.KeyHistory = nil
		return
	}
	var keys []*statev1.Key
	for _, k := range keysOf(p, p.GetKvno()) {
		keys = append(keys, proto.CloneOf(k))
	}
	if len(keys) > 0 {
		p.KeyHistory = append(p.KeyHistory, &statev1.KeyHistory{Kvno: p.GetKvno(), Keys: keys})
	}
	p.KeyHistory = recent(p.GetKeyHistory(), pol.GetHistory())
}

// passwordExpiry is when a password set now ends, in ms; 0 never.
func passwordExpiry(pol *statev1.Policy, now time.Time) int64 {
	if pol.GetMaxLife() == 0 {
		return 0
	}
	return now.Add(time.Duration(pol.GetMaxLife()) * time.Second).UnixMilli()
}
