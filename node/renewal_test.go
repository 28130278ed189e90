package node

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/charon-kdc/charon/raftstore/peer"
)

// shown is the certificate that a TLS port shows.
func shown(t *testing.T, addr, alpn string) *tls.Certificate {
	t.Helper()
	c, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{alpn}, MinVersion: tls.VersionTLS13})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	leaf := c.ConnectionState().PeerCertificates[0]
	return &tls.Certificate{Certificate: [][]byte{leaf.Raw}, Leaf: leaf}
}

// keyOf is the key of the certificate in a data directory.
func keyOf(t *testing.T, dir string) peer.KeyHash {
	t.Helper()
	creds, err := loadCredentials(dir, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return peer.HashKey(creds.certificate().Leaf)
}

// Every node renews its certificate without a restart and with another key, the leader its own, too. The former key opens no door any more; the
// realm serves meanwhile, and the nodes start again with what is on disk.
func TestCertificatesAreRenewed(t *testing.T) {
	short := func(c *Config) { c.Peer.CertificateLife = Duration{21 * time.Second} }
	c := testConfig(t)
	short(c)
	initNode(t, c, "kdc1") // its first certificate lives for 90 days
	n1 := runNode(t, c)
	n1.waitReady()
	tok := n1.token("kdc2")
	c2 := testConfig(t)
	short(c2)
	if _, err := Join(t.Context(), JoinOptions{Token: tok, Config: c2, Version: "test", Timeout: 30 * time.Second}); err != nil {
		t.Fatal(err)
	}
	first, err := loadCredentials(c2.Dir, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	n2 := runNode(t, c2)
	n2.waitReady()
	n1.waitVoters(2)

	var served, refused int
	within(t, 60*time.Second, "two renewals of kdc2", func() error {
		for _, n := range []*testNode{n1, n2} {
			if code, _, err := n.get("/readyz"); err == nil && code == http.StatusOK {
				served++
			} else {
				refused++
			}
		}
		dir := n2.c.Dir
		if now := keyOf(t, dir); now == peer.HashKey(first.certificate().Leaf) {
			return errors.New("the first key is in use")
		}
		cert := shown(t, n2.c.Peer.Address, peer.ALPNJoin)
		if peer.HashKey(cert.Leaf) != keyOf(t, dir) {
			return errors.New("the peer port shows another certificate than the files")
		}
		if admin := shown(t, n2.c.Admin.Address, "h2"); !bytes.Equal(admin.Leaf.Raw, cert.Leaf.Raw) {
			return errors.New("the admin port shows another certificate than the peer port")
		}
		if why := opens(t, n1, first); why == nil {
			return errors.New("the first certificate is taken still")
		} else if !isRefusal(why) {
			return fmt.Errorf("the first certificate: %w", why)
		}
		return nil
	})
	if refused > served/10 {
		t.Errorf("not ready %d times of %d", refused, served+refused)
	}
	if first.expires().Before(time.Now()) {
		t.Error("the first certificate has ended by itself: nothing was shown")
	}
	n2.cancel()
	if err := <-n2.done; err != nil {
		t.Fatal(err)
	}
	n2.done <- nil
	n2 = runNode(t, n2.c)
	n2.waitReady()
	n1.waitVoters(2)
}

// opens is why n refuses a certificate at the service for members; nil: it takes it.
func opens(t *testing.T, n *testNode, creds *ownCert) error {
	t.Helper()
	id := identityOf(creds)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	c, err := peer.Dial(ctx, peer.ALPNForward, n.c.Peer.Address, &id, peer.NodeID{})
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return err
	}
	if _, err = c.Read(make([]byte, 1)); isRefusal(err) {
		return err
	}
	return nil
}

// A crash between the two files of a new certificate leaves a pair that is put together at the next start; a key of a renewal that did not come to its
// end is used again.
func TestRenewalCutShort(t *testing.T) {
	c := testConfig(t)
	initNode(t, c, "kdc1")
	key := filepath.Join(c.Dir, nodeKeyFile)
	next := filepath.Join(c.Dir, nextKeyFile)
	before := keyOf(t, c.Dir)
	if err := os.Rename(key, next); err != nil {
		t.Fatal(err)
	}
	stranger, err := keptKey(key)
	if err != nil || stranger == nil {
		t.Fatal(err)
	}
	if after := keyOf(t, c.Dir); after != before {
		t.Error("another certificate")
	}
	if _, err := os.Stat(next); err == nil {
		t.Error("the renewal is not finished")
	}
	a, err := keptKey(next)
	if err != nil {
		t.Fatal(err)
	}
	b, err := keptKey(next)
	if err != nil || !a.Equal(b) {
		t.Errorf("another key each time: %v", err)
	}
	runNode(t, c).waitReady()
}
