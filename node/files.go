package node

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/charon-kdc/charon/node/pki"
)

// Files in the data directory, beside admin.sock and audit.log whose places Config tells.
const (
	lockFile      = "lock"
	masterKeyFile = "master.key"
	nodeCertFile  = "node.crt" // PEM: this node's certificate, then the node authority's
	nodeKeyFile   = "node.key" // PEM, PKCS #8, 0600
	caFile        = "ca.crt"   // PEM: the node authority, which admin clients hold servers against
	adminDir      = "admin"    // the first admin client's ca.crt, root.crt and root.key
	raftDir       = "raft"     // both groups' logs and state
	removedFile   = "removed"  // there once this node has seen its removal from the cluster
)

// ErrNoNode says that a data directory holds no node: nothing was made or joined there.
var ErrNoNode = errors.New("there is no node")

// LockedError says that another process works on the data directory.
type LockedError struct{ Dir string }

// Error tells what to do.
func (e *LockedError) Error() string {
	return fmt.Sprintf("%s is in use by another charon process; stop it first, or name another directory", e.Dir)
}

// checkNode tells before anything is written there whether dir holds a node that may run. Errors: ErrNoNode, errRemoved.
func checkNode(dir string) error {
	if _, err := os.Stat(filepath.Join(dir, nodeCertFile)); errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%w in %s: make a realm with charon init, or join one with charon join", ErrNoNode, dir)
	}
	if _, err := os.Stat(filepath.Join(dir, removedFile)); err == nil {
		return errRemoved
	}
	return nil
}

// lockDir makes dir (0700) if need be and locks it against other processes until the file is closed. The kernel lets go of
// the lock when the process dies, however it dies.
func lockDir(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the data directory: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking the data directory: %w", err)
	}
	switch err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); {
	case errors.Is(err, unix.EWOULDBLOCK):
		f.Close()
		return nil, &LockedError{Dir: dir}
	case err != nil:
		f.Close()
		return nil, fmt.Errorf("locking the data directory: %w", err)
	}
	// Who holds it, for RunningPID.
	if err := errors.Join(f.Truncate(0), writeAt(f, fmt.Sprintf("%d\n", os.Getpid()))); err != nil {
		f.Close()
		return nil, fmt.Errorf("locking the data directory: %w", err)
	}
	return f, nil
}

func writeAt(f *os.File, s string) error {
	_, err := f.WriteAt([]byte(s), 0)
	return err
}

// RunningPID is the process that works on a data directory now, if there is one: the one that the lock file names, while it
// has that file open. It does not try the lock, which could get in the way of a node that is just starting.
func RunningPID(dir string) (pid int, running bool) {
	path, err := filepath.EvalSymlinks(filepath.Join(dir, lockFile))
	if err != nil {
		return 0, false
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, false
	}
	pid, err = strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid <= 1 {
		return 0, false
	}
	fds := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(fds)
	if err != nil {
		return pid, false
	}
	for _, e := range entries {
		if target, err := os.Readlink(filepath.Join(fds, e.Name())); err == nil && target == path {
			return pid, true
		}
	}
	return pid, false
}

// writeFile writes durably and atomically: after a crash the old or the new file is there, whole.
func writeFile(path string, b []byte, mode os.FileMode) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	f, err := os.CreateTemp(dir, ".new-*")
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	if err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err == nil {
		err = syncDir(dir)
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func pemCertificates(ders ...[]byte) []byte {
	var out []byte
	for _, der := range ders {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return out
}

func pemKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// ownCert is a node's identity as its data directory holds it.
type ownCert struct {
	pki.NodeIdentity
	authority *x509.Certificate
	cert      atomic.Pointer[tls.Certificate] // leaf, then authority; replaced by renewals
}

// certificate is the present one.
func (c *ownCert) certificate() *tls.Certificate { return c.cert.Load() }

// expires is when the node's certificate ends.
func (c *ownCert) expires() time.Time { return c.certificate().Leaf.NotAfter }

// loadCredentials reads and checks the node's certificate and key, for the node itself: it finishes a renewal that was cut off. Errors: those of
// checkNode, too.
func loadCredentials(dir string, now time.Time) (*ownCert, error) {
	c, cutOff, err := readCredentials(dir, now)
	if err == nil && cutOff {
		err = finishRenewal(dir)
	}
	if err != nil {
		return nil, err
	}
	return c, nil
}

// readCredentials writes nothing, so anybody may call it beside a running node. cutOff: the key has yet to be given its name.
func readCredentials(dir string, now time.Time) (c *ownCert, cutOff bool, err error) {
	if err := checkNode(dir); err != nil {
		return nil, false, err
	}
	pair, cutOff, err := readPair(dir)
	if err == nil {
		c, err = checkPair(filepath.Join(dir, nodeCertFile), pair, now)
	} else {
		err = fmt.Errorf("reading the node's certificate %s: %w", filepath.Join(dir, nodeCertFile), err)
	}
	return c, cutOff, err
}

func checkPair(certPath string, pair tls.Certificate, now time.Time) (*ownCert, error) {
	if len(pair.Certificate) < 2 {
		return nil, fmt.Errorf("reading the node's certificate %s: the authority's is missing after it", certPath)
	}
	authority, err := x509.ParseCertificate(pair.Certificate[1])
	if err != nil {
		return nil, fmt.Errorf("reading the node authority in %s: %w", certPath, err)
	}
	if err := authority.CheckSignatureFrom(authority); err != nil {
		return nil, fmt.Errorf("the node authority's certificate in %s: %w", certPath, err)
	}
	id, err := pki.VerifyNode(authority, pair.Certificate[:1], now)
	if leaf, leafErr := x509.ParseCertificate(pair.Certificate[0]); leafErr == nil && now.After(leaf.NotAfter) {
		return nil, fmt.Errorf("the node's own certificate ended on %s: on a running node, charon token create %s --recertify; here, charon node recertify",
			leaf.NotAfter.UTC().Format(time.DateOnly), leaf.Subject.CommonName)
	}
	if err != nil {
		return nil, fmt.Errorf("the node's own certificate %s: %w", certPath, err)
	}
	c := &ownCert{NodeIdentity: id, authority: authority}
	c.cert.Store(&pair)
	return c, nil
}

// writeCredentials writes the key first: a certificate file means that the node is whole.
func writeCredentials(dir string, key *ecdsa.PrivateKey, cert, authority []byte) error {
	k, err := pemKey(key)
	if err != nil {
		return err
	}
	if err := writeFile(filepath.Join(dir, nodeKeyFile), k, 0o600); err != nil {
		return err
	}
	if err := writeFile(filepath.Join(dir, caFile), pemCertificates(authority), 0o644); err != nil {
		return err
	}
	return writeFile(filepath.Join(dir, nodeCertFile), pemCertificates(cert, authority), 0o644)
}
