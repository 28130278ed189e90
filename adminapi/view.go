package adminapi

import (
	"cmp"
	"context"
	"encoding/base64"
	"slices"
	"strings"
	"time"

	"github.com/charon-kdc/charon/kdc/kdb"
	adminv1 "github.com/charon-kdc/charon/proto/charon/admin/v1"
	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
)

// view is p as the API shows it: everything but secrets, and what the cluster counted of its logins.
func (s *Service) view(p *statev1.Principal) (out *adminv1.Principal, err error) {
	out = &adminv1.Principal{
		Name: nameOf(p).String(), Id: p.GetId(), Kvno: p.GetKvno(), Attributes: p.GetAttributes(),
		MaxLife: p.GetMaxLife(), MaxRenewableLife: p.GetMaxRenewableLife(),
		Expiration: p.GetExpiration(), PasswordExpiration: p.GetPasswordExpiration(), LastPasswordChange: p.GetLastPasswordChange(),
		Policy: p.GetPolicy(), Strings: p.GetStrings(),
		CreatedAt: p.GetCreatedAt(), CreatedBy: p.GetCreatedBy(), ModifiedAt: p.GetModifiedAt(), ModifiedBy: p.GetModifiedBy(),
		UnlockedAt: p.GetUnlockedAt(), Revision: p.GetRevision(), History: uint32(len(p.GetKeyHistory())),
	}
	for _, a := range p.GetAliases() {
		out.Aliases = append(out.Aliases, a+"@"+p.GetRealm())
	}
	for _, k := range p.GetKeys() {
		out.Keys = append(out.Keys, &adminv1.KeyInfo{
			Kvno: k.GetKvno(), Etype: k.GetEtype(), State: adminv1.KeyState(k.GetState()), RetireAt: k.GetRetireAt(),
			Salt: k.GetSalt(), SaltDefault: k.GetSaltDefault(),
		})
	}
	slices.SortStableFunc(out.Keys, func(a, b *adminv1.KeyInfo) int { return cmp.Compare(b.GetKvno(), a.GetKvno()) })
	if out.MasterKeyVersion, err = s.masterKeyVersion(p); err != nil {
		return nil, err
	}
	pol, err := s.policy(p.GetPolicy())
	if err != nil {
		return nil, err
	}
	out.PolicyExists = pol != nil
	s.viewActivity(out, pol)
	return out, nil
}

func (s *Service) masterKeyVersion(p *statev1.Principal) (uint32, error) {
	if keys := p.GetKeys(); len(keys) > 0 {
		return keys[0].GetKey().GetMasterKeyVersion(), nil
	}
	cl, err := s.Reader.Cluster()
	return cl.GetMasterKeyVersion(), err
}

func (s *Service) viewActivity(out *adminv1.Principal, pol *statev1.Policy) {
	if s.Activity == nil || len(out.GetId()) != len(kdb.ID{}) {
		return
	}
	a := s.Activity.Activity(kdb.ID(out.GetId()))
	out.LastSuccess, out.LastFailure = millis(a.LastSuccess), millis(a.LastFailure)
	if out.LastFailure > out.GetUnlockedAt() {
		out.Failures = a.Failures
	}
	if pol.GetMaxFailures() > 0 && out.GetFailures() >= pol.GetMaxFailures() {
		until := a.LastFailure.Add(time.Duration(pol.GetLockoutDuration()) * time.Second)
		out.LockedOut = pol.GetLockoutDuration() == 0 || s.Now().Before(until)
	}
}

// millis is 0 for the zero time.
func millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

const pageMax = 1000

// pageSize is 1 to pageMax; 0 is pageMax.
func pageSize(n int32) (int, error) {
	if n < 0 || n > pageMax {
		return 0, invalid("page_size", "page_size is 1 to %d, or 0 for %d", pageMax, pageMax)
	}
	if n == 0 {
		return pageMax, nil
	}
	return int(n), nil
}

func encodePageToken(last string) string {
	if last == "" {
		return ""
	}
	return base64.RawURLEncoding.EncodeToString([]byte(last))
}

func decodePageToken(token string) (string, error) {
	b, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || len(b) > 2*globMax {
		return "", invalid("page_token", "page_token is not from an earlier answer")
	}
	return string(b), nil
}

// paged cuts a sorted page out of a table that is small enough to be read whole: those whose key comes after the token and whose text
// matches the filter.
func paged[T any](all []T, key, text func(T) string, filter, token string, size int32) (page []T, next string, err error) {
	n, err := pageSize(size)
	if err != nil {
		return nil, "", err
	}
	after, err := decodePageToken(token)
	if err != nil {
		return nil, "", err
	}
	if len(filter) > globMax {
		return nil, "", invalid("filter", "a filter has at most %d bytes", globMax)
	}
	slices.SortFunc(all, func(a, b T) int { return cmp.Compare(key(a), key(b)) })
	for _, x := range all {
		if key(x) <= after && token != "" || filter != "" && !glob(filter, text(x)) {
			continue
		}
		if len(page) == n {
			return page, encodePageToken(key(page[n-1])), nil
		}
		page = append(page, x)
	}
	return page, "", nil
}

// scanMax bounds how many records one call reads in search of a page: a filter that matches little gives short or empty pages with a token to go on.
const scanMax = 50_000

func (s principalServer) ListPrincipals(ctx context.Context, req *adminv1.ListPrincipalsRequest) (*adminv1.ListPrincipalsResponse, error) {
	size, err := pageSize(req.GetPageSize())
	if err != nil {
		return nil, err
	}
	after, err := decodePageToken(req.GetPageToken())
	if err != nil {
		return nil, err
	}
	if len(req.GetFilter()) > globMax {
		return nil, invalid("filter", "a filter has at most %d bytes", globMax)
	}
	realmName := cmp.Or(req.GetRealm(), rightsOf(ctx).realm)
	if _, err := s.realm(realmName); err != nil {
		return nil, err
	}
	resp := &adminv1.ListPrincipalsResponse{Meta: s.readMeta()}
	for scanned := 0; scanned < scanMax; {
		page, next, err := s.Reader.ListPrincipals(realmName, after, pageMax)
		if err != nil {
			return nil, err
		}
		for _, p := range page {
			after = nameOf(p).local()
			if ok, err := s.listed(ctx, p, req); err != nil {
				return nil, err
			} else if !ok {
				continue
			}
			if err := s.appendTo(resp, p, req.GetNamesOnly()); err != nil {
				return nil, err
			}
			if len(resp.GetPrincipals()) == size {
				resp.NextPageToken = encodePageToken(after)
				return resp, nil
			}
		}
		if next == "" {
			return resp, nil
		}
		scanned += len(page)
		after = next
	}
	resp.NextPageToken = encodePageToken(after)
	return resp, nil
}

// listed tells whether p is one that the caller asked for and may see: its name takes "list", the rest of it "inquire".
func (s *Service) listed(ctx context.Context, p *statev1.Principal, req *adminv1.ListPrincipalsRequest) (bool, error) {
	n := nameOf(p)
	r := rightsOf(ctx)
	if !r.may(VerbList, n) || !req.GetNamesOnly() && !r.may(VerbInquire, n) {
		return false, nil
	}
	if f := req.GetFilter(); f != "" {
		text := n.local()
		if strings.Contains(f, "@") {
			text = n.String()
		}
		if !glob(f, text) {
			return false, nil
		}
	}
	if before := req.GetExpiringBefore(); before != 0 {
		end := p.GetExpiration()
		if pw := p.GetPasswordExpiration(); pw != 0 && (end == 0 || pw < end) {
			end = pw
		}
		if end == 0 || end >= before {
			return false, nil
		}
	}
	return true, nil
}

func (s *Service) appendTo(resp *adminv1.ListPrincipalsResponse, p *statev1.Principal, namesOnly bool) error {
	if namesOnly {
		resp.Principals = append(resp.Principals, &adminv1.Principal{Name: nameOf(p).String()})
		return nil
	}
	v, err := s.view(p)
	resp.Principals = append(resp.Principals, v)
	return err
}
