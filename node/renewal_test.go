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
	"strings"
	"testing"
	"time"

	"github.com/charon-kdc/charon/adminapi/jointoken"
	"github.com/charon-kdc/charon/node/doctor"
	"github.com/charon-kdc/charon/node/join"
	adminv1 "github.com/charon-kdc/charon/proto/charon/admin/v1"
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
	creds, _, err := readCredentials(dir, time.Now())
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
	for _, f := range Examine(c, false) {
		if f.Severity == doctor.Fail && strings.HasPrefix(f.Check, "cert") {
			t.Errorf("an examination: %+v", f)
		}
	}
	if after := keyOf(t, c.Dir); after != before {
		t.Error("another certificate")
	}
	if _, err := os.Stat(next); err != nil {
		t.Errorf("who only looks has written: %v", err)
	}
	if _, err := loadCredentials(c.Dir, time.Now()); err != nil {
		t.Error(err)
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

// A node that was off until its certificate had ended does not start, and says what to do; a token for that certifies it again, once, and lets in nobody.
func TestExpiredNodeIsRecertified(t *testing.T) {
	c := testConfig(t)
	initNode(t, c, "kdc1")
	n1 := runNode(t, c)
	n1.waitReady()
	n2 := joinNode(t, n1.token("kdc2"), "kdc2")
	n2.waitReady()
	joinNode(t, n1.token("kdc3"), "kdc3").waitReady()
	n1.waitVoters(3)
	n2.cancel()
	if err := <-n2.done; err != nil {
		t.Fatal(err)
	}
	n2.done <- nil
	first, err := loadCredentials(n2.c.Dir, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := loadCredentials(n2.c.Dir, first.expires().Add(time.Second)); err == nil || !strings.Contains(err.Error(), "charon token create kdc2 --recertify") {
		t.Errorf("after its end: %v", err)
	}
	var tok *jointoken.Token
	within(t, 20*time.Second, "a token", func() error {
		r, err := adminv1.NewClusterClient(n1.dial()).CreateToken(t.Context(), &adminv1.CreateTokenRequest{RequestId: requestID(), NodeName: "kdc2", Ttl: 600, Recertify: true})
		if err == nil {
			tok, err = jointoken.Parse(r.GetToken())
		}
		return err
	})
	if _, err := Join(t.Context(), JoinOptions{Token: tok, Config: testConfig(t), Timeout: 20 * time.Second}); !errors.Is(err, join.ErrRefused) {
		t.Errorf("a join by it: %v", err)
	}
	for range 2 { // again, as after a crash
		if r, err := Recertify(t.Context(), JoinOptions{Token: tok, Config: n2.c, Version: "test", Timeout: 20 * time.Second}); err != nil || r.Name != "kdc2" {
			t.Fatalf("%+v, %v", r, err)
		}
		now, err := loadCredentials(n2.c.Dir, time.Now())
		if err != nil || now.Node != first.Node || peer.HashKey(now.certificate().Leaf) == peer.HashKey(first.certificate().Leaf) {
			t.Fatalf("%+v, %v", now, err)
		}
		// The key of before the crash is still there to be used.
		text, err := os.ReadFile(filepath.Join(n2.c.Dir, nodeKeyFile))
		if err == nil {
			err = os.WriteFile(filepath.Join(n2.c.Dir, nextKeyFile), text, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	within(t, 20*time.Second, "the former key to be refused", func() error {
		if why := opens(t, n1, first); why == nil {
			return errors.New("it is taken")
		}
		return nil
	})
	n2 = runNode(t, n2.c)
	n2.waitReady()
	n1.waitVoters(3)
}
