package adminapi

import (
	"context"
	"crypto/x509"

	"google.golang.org/grpc/codes"

	adminv1 "github.com/charon-kdc/charon/proto/charon/admin/v1"
)

// IssueAdminCertificate makes somebody an admin client. Whoever may do that for any name can have what any role grants, so it takes the right to
// grant roles as well.
func (s clusterServer) IssueAdminCertificate(ctx context.Context, req *adminv1.IssueAdminCertificateRequest) (*adminv1.IssueAdminCertificateResponse, error) {
	name := req.GetName()
	if callerOf(ctx).Subject != "cert:"+name {
		for _, v := range []Verb{VerbCluster, VerbRole} {
			if err := requireEverywhere(ctx, v); err != nil {
				return nil, err
			}
		}
	}
	if s.IssueAdmin == nil {
		return nil, refuse(codes.FailedPrecondition, "NO_AUTHORITY", "this node can't certify admin clients")
	}
	csr, err := x509.ParseCertificateRequest(req.GetCsr())
	if err != nil || csr.CheckSignature() != nil {
		return nil, invalid("csr", "the request for a certificate is not signed by its key")
	}
	der, err := s.IssueAdmin(name, csr.PublicKey)
	if err != nil {
		return nil, invalid("name", "%v", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	ca, err := s.Reader.Secret("ca/node")
	if err != nil {
		return nil, err
	}
	return &adminv1.IssueAdminCertificateResponse{Meta: s.readMeta(), Certificate: der, NodeAuthority: ca.GetCertificate(), ExpiresAt: leaf.NotAfter.UnixMilli()}, nil
}
