package node

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/charon-kdc/charon/node/pki"
	"github.com/charon-kdc/charon/node/wallclock"
	peerv1 "github.com/charon-kdc/charon/proto/charon/peer/v1"
	"github.com/charon-kdc/charon/raftstore/peer"
)

// nextKeyFile keeps the key of a renewal from before it is shown to anybody until its certificate is in use. A crash between the two files of a new
// certificate leaves this key beside a certificate for it.
const nextKeyFile = "node.key.next"

const (
	renewalEvery = time.Minute      // a renewal that failed is tried again
	drainLimit   = 5 * time.Second  // calls in work on the old connections have so long
	renewalLimit = 20 * time.Second // of one try
	// renewalLevel is the feature level from which a renewal changes the key.
	renewalLevel = 2
)

// readPair reads the certificate and its key, which has the next one's name where a renewal was cut off between the two files, or is between them now.
func readPair(dir string) (pair tls.Certificate, cutOff bool, err error) {
	cert, key := filepath.Join(dir, nodeCertFile), filepath.Join(dir, nodeKeyFile)
	if pair, err = tls.LoadX509KeyPair(cert, key); err == nil {
		return pair, false, nil
	}
	if pair, nextErr := tls.LoadX509KeyPair(cert, filepath.Join(dir, nextKeyFile)); nextErr == nil {
		return pair, true, nil
	}
	pair, err = tls.LoadX509KeyPair(cert, key) // it may have got its name since
	return pair, false, err
}

func finishRenewal(dir string) error {
	err := os.Rename(filepath.Join(dir, nextKeyFile), filepath.Join(dir, nodeKeyFile))
	return errors.Join(err, syncDir(dir))
}

// tendCertificate renews this node's certificate when a third of its life is over, or when it lacks a name of this host, until ctx ends. The admin
// door shows the same one.
func (s *server) tendCertificate(ctx context.Context) {
	for {
		wait := max(min(renewalEvery, pki.RenewAt(s.creds.certificate().Leaf).Sub(wallclock.Now())), time.Second)
		if s.inactive() {
			wait = drainLimit
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-s.removed:
			t.Stop()
			return
		case <-t.C:
		}
		if err := s.tendOnce(ctx); err != nil && ctx.Err() == nil {
			left := s.creds.expires().Sub(wallclock.Now()).Round(time.Minute)
			s.log.Warn("the node's certificate is not renewed yet", "expires_in", left, "error", err)
			s.pauseRenewal(ctx)
		}
	}
}

// inactive tells whether the key before the present one is not retired yet.
func (s *server) inactive() bool {
	n, err := s.store.DB().Node(s.creds.Node[:])
	hash := peer.HashKey(s.creds.certificate().Leaf)
	return err == nil && bytes.Equal(n.GetNextKeyHash(), hash[:])
}

func (s *server) pauseRenewal(ctx context.Context) {
	leaf := s.creds.certificate().Leaf
	t := time.NewTimer(min(renewalEvery, leaf.NotAfter.Sub(pki.RenewAt(leaf))/20))
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// tendOnce does what is to be done now: a certificate that is there is put into force, else one that is due is asked for.
func (s *server) tendOnce(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, renewalLimit)
	defer cancel()
	leaf := s.creds.certificate().Leaf
	n, err := s.store.DB().Node(s.creds.Node[:])
	if err != nil {
		return nil // no member, or not yet
	}
	hash := peer.HashKey(leaf)
	switch {
	case bytes.Equal(n.GetNextKeyHash(), hash[:]):
		return s.activate(ctx)
	case wallclock.Now().Before(pki.RenewAt(leaf)) && covers(leaf, s.c.hosts(s.creds.Name)):
		return nil
	}
	return s.renew(ctx)
}

// covers tells whether a certificate is good for every host.
func covers(leaf *x509.Certificate, hosts []string) bool {
	return !slices.ContainsFunc(hosts, func(h string) bool { return leaf.VerifyHostname(h) != nil })
}

// renew has the next key certified and shows the new certificate from then on. Where the cluster can't note another key yet, it is the same key.
func (s *server) renew(ctx context.Context) error {
	key, ok := s.creds.certificate().PrivateKey.(*ecdsa.PrivateKey)
	if !ok || s.store.DB().FeatureLevel() >= renewalLevel {
		var err error
		if key, err = keptKey(filepath.Join(s.c.Dir, nextKeyFile)); err != nil {
			return err
		}
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: s.creds.Name}}, key)
	if err != nil {
		return err
	}
	der, err := s.certified(ctx, &peerv1.RenewRequest{Csr: csr, Hosts: s.c.hosts(s.creds.Name)})
	if err != nil {
		return err
	}
	if err := s.checkRenewed(der, key); err != nil {
		return err
	}
	if err := s.c.replaceCertificate(der, s.creds.authority.Raw); err != nil {
		return err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return err
	}
	s.creds.cert.Store(&tls.Certificate{Certificate: [][]byte{der, s.creds.authority.Raw}, PrivateKey: key, Leaf: leaf})
	s.store.Reconnect(drainLimit)
	s.log.Info("the node's certificate is renewed", "expires", leaf.NotAfter)
	return nil // the next round activates it
}

// certified asks the leader, which may be this node.
func (s *server) certified(ctx context.Context, req *peerv1.RenewRequest) ([]byte, error) {
	if s.store.IsLeader() {
		return s.certifier.renew(ctx, s.creds.Node, peer.HashKey(s.creds.certificate().Leaf), req)
	}
	cc, _, err := s.store.Forward().LeaderConn(ctx)
	if err != nil {
		return nil, err
	}
	r, err := peerv1.NewCertificatesClient(cc).Renew(ctx, req)
	return r.GetCertificate(), err
}

// activate has the key before this one retired.
func (s *server) activate(ctx context.Context) error {
	if s.store.IsLeader() {
		return s.certifier.activate(ctx, s.creds.Node, peer.HashKey(s.creds.certificate().Leaf))
	}
	cc, _, err := s.store.Forward().LeaderConn(ctx)
	if err != nil {
		return err
	}
	_, err = peerv1.NewCertificatesClient(cc).Activate(ctx, &peerv1.ActivateRequest{})
	return err
}

// checkRenewed holds what came against what was asked for.
func (s *server) checkRenewed(der []byte, key crypto.Signer) error {
	id, err := pki.VerifyNode(s.creds.authority, [][]byte{der}, wallclock.Now())
	if err != nil {
		return fmt.Errorf("the certificate that was issued: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return err
	}
	pub, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	if id != s.creds.NodeIdentity || !ok || !pub.Equal(leaf.PublicKey) {
		return errors.New("the certificate that was issued is another's")
	}
	return nil
}

// replaceCertificate writes the certificate, then gives its key the name beside it; loadCredentials knows what a crash leaves between. Without a next
// key, the certificate is for the present one.
func (c *Config) replaceCertificate(cert, authority []byte) error {
	if err := writeFile(filepath.Join(c.Dir, nodeCertFile), pemCertificates(cert, authority), 0o644); err != nil {
		return err
	}
	err := os.Rename(filepath.Join(c.Dir, nextKeyFile), filepath.Join(c.Dir, nodeKeyFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return errors.Join(err, syncDir(c.Dir))
}
