package node

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"crypto/rand"

	"github.com/charon-kdc/charon/adminapi/jointoken"
	"github.com/charon-kdc/charon/kdc/kdb/masterkey"
	"github.com/charon-kdc/charon/node/join"
	"github.com/charon-kdc/charon/node/pki"
	"github.com/charon-kdc/charon/node/wallclock"
	"github.com/charon-kdc/charon/raftstore"
	"github.com/charon-kdc/charon/raftstore/realm"
)

// joinKeyFile keeps the joiner's key from before the token is used until its certificate is written: a crash resumes with it,
// since the token is bound to it.
const joinKeyFile = "join.key"

// JoinOptions say which cluster to join, as what.
type JoinOptions struct {
	Token   *jointoken.Token
	Name    string // empty: the token's, which then must have one
	Config  *Config
	Version string
	// Timeout bounds the whole. The same call after it, or after a crash, goes on.
	Timeout time.Duration
	// FeatureLevelMax holds the node back to a lower feature level than the release's. For tests of mixed clusters. 0: no.
	FeatureLevelMax uint32
	Progress        func(string)
}

// JoinResult is what charon join prints.
type JoinResult struct {
	Realm, Name string
	CertLife    time.Duration
}

// Join makes a node of a cluster in the data directory: a key certified, the master key, and whom to believe. The node is a
// member without a vote from then on; Run makes it catch up and be promoted. ErrExists, *LockedError, join.ErrPin,
// join.ErrRefused, or what failed.
func Join(ctx context.Context, o JoinOptions) (*JoinResult, error) {
	c := o.Config
	name := o.Name
	if name == "" {
		name = o.Token.NodeName
	}
	if err := jointoken.CheckNodeName(name); err != nil {
		return nil, err
	}
	lock, err := lockDir(c.Dir)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	if _, err := os.Stat(filepath.Join(c.Dir, nodeCertFile)); err == nil {
		return nil, fmt.Errorf("%w in %s; to join again as another, move it away first", ErrExists, c.Dir)
	}
	key, err := joinKey(c.Dir)
	if err != nil {
		return nil, err
	}
	req, err := c.joinRequest(name, o.Version, cmp.Or(o.FeatureLevelMax, realm.FeatureLevelMax))
	if err != nil {
		return nil, err
	}
	id, replayID, err := raftstore.Prepare(c.raftPath())
	if err != nil {
		return nil, err
	}
	req.RealmID, req.ReplayID = id[:], replayID[:]
	j := &join.Joiner{Token: o.Token, Key: key, Request: *req, Now: wallclock.Now, Timeout: o.Timeout, Progress: o.Progress}
	g, err := j.Join(ctx)
	if err != nil {
		return nil, err
	}
	if err := c.settle(key, g); err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(g.Certificate)
	if err != nil {
		return nil, err
	}
	return &JoinResult{Realm: g.Realm, Name: g.Name, CertLife: leaf.NotAfter.Sub(wallclock.Now()).Round(time.Hour)}, nil
}

// Recertify has the key of the stopped node in the data directory replaced, by a token that was made for that: its certificate has ended, or its key was
// seen by others. The node stays the member that it is. Errors: ErrNoNode, *LockedError, join.ErrPin, join.ErrRefused, or what failed; after a failure or
// a crash it may be called again.
func Recertify(ctx context.Context, o JoinOptions) (*JoinResult, error) {
	c := o.Config
	var out *JoinResult
	err := c.offline(func() error {
		key, err := keptKey(filepath.Join(c.Dir, nextKeyFile))
		if err != nil {
			return err
		}
		name := o.Token.NodeName
		if name == "" {
			return errors.New("the token names no node: make one with charon token create NAME --recertify")
		}
		req, err := c.joinRequest(name, o.Version, o.FeatureLevelMax)
		if err != nil {
			return err
		}
		id, replayID, err := raftstore.Prepare(c.raftPath())
		if err != nil {
			return err
		}
		req.RealmID, req.ReplayID = id[:], replayID[:]
		j := &join.Joiner{Token: o.Token, Key: key, Request: *req, Now: wallclock.Now, Timeout: o.Timeout, Progress: o.Progress}
		g, err := j.Join(ctx)
		if err != nil {
			return err
		}
		leaf, err := x509.ParseCertificate(g.Certificate)
		if err != nil {
			return err
		}
		out = &JoinResult{Realm: g.Realm, Name: g.Name, CertLife: leaf.NotAfter.Sub(wallclock.Now()).Round(time.Hour)}
		return c.replaceCertificate(g.Certificate, g.Authority)
	})
	return out, err
}

func (c *Config) joinRequest(name, version string, level uint32) (*join.Request, error) {
	self, err := c.selfRecord(name, version)
	if err != nil {
		return nil, err
	}
	return &join.Request{
		Name: name, PeerAddress: self.GetPeerAddress(), AdminAddress: self.GetAdminAddress(), KDCAddress: self.GetKdcAddress(),
		HTTPAddress: self.GetHttpAddress(), Hosts: c.hosts(name), Version: version, FeatureLevelMax: level,
	}, nil
}

// settle writes down what the cluster gave; the certificate, which makes it a node, is last.
func (c *Config) settle(key *ecdsa.PrivateKey, g *join.Grant) error {
	ring, err := masterkey.Parse(g.MasterKey)
	if err != nil {
		return err
	}
	if err := ring.WriteFile(filepath.Join(c.Dir, masterKeyFile)); err != nil {
		return err
	}
	peers := make([]raftstore.JoinPeer, len(g.Members))
	for i, m := range g.Members {
		peers[i] = raftstore.JoinPeer{ID: hex.EncodeToString(m.ID), PeerAddress: m.PeerAddress}
	}
	if err := raftstore.SaveJoinPeers(c.raftPath(), peers); err != nil {
		return err
	}
	if err := writeCredentials(c.Dir, key, g.Certificate, g.Authority); err != nil {
		return err
	}
	return errors.Join(os.Remove(filepath.Join(c.Dir, joinKeyFile)), syncDir(c.Dir))
}

// joinKey is the key of an interrupted join, or a fresh one.
func joinKey(dir string) (*ecdsa.PrivateKey, error) { return keptKey(filepath.Join(dir, joinKeyFile)) }

// keptKey is the key at path, of what was interrupted, or a fresh one, on disk before it is shown to anybody.
func keptKey(path string) (*ecdsa.PrivateKey, error) {
	text, err := os.ReadFile(path)
	if err == nil {
		block, _ := pem.Decode(text)
		if block == nil {
			return nil, fmt.Errorf("reading an interrupted request's key %s: not PEM", path)
		}
		k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("reading an interrupted request's key %s: %w", path, err)
		}
		key, ok := k.(*ecdsa.PrivateKey)
		if !ok {
			return nil, fmt.Errorf("reading an interrupted request's key %s: not ECDSA", path)
		}
		return key, nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("reading an interrupted request's key: %w", err)
	}
	key, err := pki.NewKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	b, err := pemKey(key)
	if err != nil {
		return nil, err
	}
	return key, writeFile(path, b, 0o600)
}
