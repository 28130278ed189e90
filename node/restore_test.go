package node

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"google.golang.org/protobuf/proto"

	"github.com/charon-kdc/charon/kdc/kdb/masterkey"
	"github.com/charon-kdc/charon/node/backup"
	adminv1 "github.com/charon-kdc/charon/proto/charon/admin/v1"
	backupv1 "github.com/charon-kdc/charon/proto/charon/backup/v1"
	"github.com/charon-kdc/charon/raftstore"
	"github.com/charon-kdc/charon/raftstore/realm"
)

// saveBackup streams one over the admin socket.
func (n *testNode) saveBackup(req *adminv1.SaveBackupRequest) ([]byte, *adminv1.BackupSummary, error) {
	n.t.Helper()
	stream, err := adminv1.NewBackupsClient(n.dial()).SaveBackup(n.t.Context(), req)
	if err != nil {
		return nil, nil, err
	}
	var data []byte
	var done *adminv1.BackupSummary
	for {
		m, err := stream.Recv()
		if err == io.EOF {
			return data, done, nil
		}
		if err != nil {
			return data, done, err
		}
		data = append(data, m.GetData()...)
		if m.GetDone() != nil {
			done = m.GetDone()
		}
	}
}

func (n *testNode) mustSave() ([]byte, *adminv1.BackupSummary) {
	n.t.Helper()
	b, sum, err := n.saveBackup(&adminv1.SaveBackupRequest{})
	if err != nil {
		n.t.Fatal(err)
	}
	if h := sha256.Sum256(b); !bytes.Equal(h[:], sum.GetSha256()) || sum.GetBytes() != uint64(len(b)) {
		n.t.Fatalf("%d bytes of %x, the summary says %d of %x", len(b), h, sum.GetBytes(), sum.GetSha256())
	}
	return b, sum
}

func kitOf(t *testing.T, text string) age.Identity {
	t.Helper()
	id, err := ParseRecoveryKit(text)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func (n *testNode) addPrincipal(name string) *adminv1.Principal {
	n.t.Helper()
	return n.add(adminv1.NewPrincipalsClient(n.dial()), name, &adminv1.NewKeys{Source: &adminv1.NewKeys_Password{Password: "correct horse battery"}})
}

func (n *testNode) add(api adminv1.PrincipalsClient, name string, keys *adminv1.NewKeys) *adminv1.Principal {
	n.t.Helper()
	r, err := api.CreatePrincipal(n.t.Context(), &adminv1.CreatePrincipalRequest{RequestId: requestID(), Name: name, Keys: keys})
	if err != nil {
		n.t.Fatal(err)
	}
	return r.GetPrincipal()
}

func (n *testNode) principal(name string) *adminv1.Principal {
	n.t.Helper()
	var out *adminv1.Principal
	within(n.t, 20*time.Second, name, func() error {
		r, err := adminv1.NewPrincipalsClient(n.dial()).GetPrincipal(n.t.Context(), &adminv1.GetPrincipalRequest{Name: name, Consistency: adminv1.Consistency_CONSISTENCY_LOCAL})
		out = r.GetPrincipal()
		return err
	})
	return out
}

// contentsOf is the state that a stopped node has on its disk.
func contentsOf(t *testing.T, c *Config) (*realm.DB, *masterkey.Ring) {
	t.Helper()
	db, err := realm.Open(filepath.Join(c.raftPath(), "realm", "state.db"), realm.Options{MmapSize: 64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	ring, err := masterkey.Load(c.MasterKeyPath())
	if err != nil {
		t.Fatal(err)
	}
	return db, ring
}

// keysOf are a principal's keys in clear.
func keysOf(t *testing.T, db *realm.DB, ring *masterkey.Ring, name string) (out []string) {
	t.Helper()
	cl, err := db.Cluster()
	if err != nil {
		t.Fatal(err)
	}
	components, err := realm.ParseName(name)
	if err != nil {
		t.Fatal(err)
	}
	p, err := db.GetPrincipal("EXAMPLE.COM", components)
	if err != nil {
		t.Fatal(name, err)
	}
	for _, k := range p.GetKeys() {
		plain, err := ring.Open(masterkey.KeyAAD(cl.GetId(), p, k), k.GetKey())
		if err != nil {
			t.Fatal(name, err)
		}
		out = append(out, fmt.Sprintf("%d %d %x", k.GetKvno(), k.GetEtype(), plain))
	}
	return out
}

func TestBackupAndRestore(t *testing.T) {
	c := testConfig(t)
	made := initNode(t, c, "kdc1")
	n := runNode(t, c)
	n.waitReady()
	alice := n.addPrincipal("alice")
	oldToken := n.token("kdc9")
	b, sum := n.mustSave()
	// What is changed afterwards is not in it.
	n.addPrincipal("later")

	report, err := backup.Verify(bytes.NewReader(b), kitOf(t, made.Recovery))
	if err != nil || report.Header.GetIndex() != sum.GetIndex() || report.Header.GetPrincipals() != sum.GetPrincipals() || report.Keys != sum.GetKeys() || report.Secrets != 5 {
		t.Fatalf("%+v of %+v, %v", report, sum, err)
	}
	n.stop()

	c2 := testConfig(t)
	r, err := Restore(t.Context(), RestoreOptions{
		Backup: bytes.NewReader(b), Identities: []age.Identity{kitOf(t, made.Recovery)}, Name: "new1", Config: c2, Version: "test", Logger: testLogger(t),
	})
	if err != nil {
		t.Fatal(err)
	}
	if r.ClusterID == made.ClusterID || r.CAPin == made.CAPin || r.Keys != sum.GetKeys() || r.Recovery != "" || time.Until(r.Epoch) < 5*time.Minute {
		t.Errorf("%+v", r)
	}
	m := runNode(t, c2)
	m.waitReady()
	m.checkAdminTLS()
	if got := m.principal("alice"); got.GetKvno() != alice.GetKvno() || got.GetRevision() != alice.GetRevision() || !bytes.Equal(got.GetId(), alice.GetId()) {
		t.Errorf("%v, want %v", got, alice)
	}
	st, err := adminv1.NewClusterClient(m.dial()).GetStatus(t.Context(), &adminv1.GetStatusRequest{})
	if err != nil || len(st.GetNodes()) != 1 || st.GetNodes()[0].GetNode().GetName() != "new1" || st.GetLastBackup() != nil {
		t.Errorf("%v %v", st, err)
	}
	// Nodes join; a token of the lost cluster lets nobody in.
	n2 := joinNode(t, m.token("new2"), "new2")
	n3 := joinNode(t, m.token("new3"), "new3")
	n2.waitReady()
	n3.waitReady()
	m.waitVoters(3)
	stale := *oldToken
	stale.Address = m.c.Peer.Address
	if _, err := Join(t.Context(), JoinOptions{Token: &stale, Name: "kdc9", Config: testConfig(t), Timeout: 5 * time.Second}); err == nil {
		t.Error("a token of the lost cluster let a node in")
	}
	if got := n3.principal("alice"); !proto.Equal(got, m.principal("alice")) {
		t.Error(got)
	}
	// A backup of the new cluster opens with the same kit, and its index goes on from the old one's.
	b2, sum2 := n2.mustSave()
	if _, err := backup.Verify(bytes.NewReader(b2), kitOf(t, made.Recovery)); err != nil || sum2.GetIndex() <= sum.GetIndex() {
		t.Error(sum2, err)
	}
	m.stop()
	n2.stop()
	n3.stop()

	was, wasRing := contentsOf(t, c)
	is, isRing := contentsOf(t, c2)
	for _, name := range []string{"alice", "krbtgt/EXAMPLE.COM", "kadmin/changepw"} {
		if a, b := keysOf(t, was, wasRing, name), keysOf(t, is, isRing, name); len(a) == 0 || strings.Join(a, "\n") != strings.Join(b, "\n") {
			t.Errorf("keys of %s:\n%v\n%v", name, a, b)
		}
	}
	if _, err := is.GetPrincipal("EXAMPLE.COM", []string{"later"}); !errors.Is(err, realm.ErrNotFound) {
		t.Errorf("a principal of after the backup: %v", err)
	}
	checkSevered(t, was, wasRing, is)
}

// checkSevered makes sure that nothing a node of the lost cluster holds opens anything of the new one.
func checkSevered(t *testing.T, was *realm.DB, wasRing *masterkey.Ring, is *realm.DB) {
	t.Helper()
	old, err := was.Cluster()
	if err != nil {
		t.Fatal(err)
	}
	cl, err := is.Cluster()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"ca/node", "ca/admin", "ca/pkinit", replayKeySecret, cookieKeySecret} {
		s, err := is.Secret(name)
		if err != nil {
			t.Fatal(name, err)
		}
		for _, id := range [][]byte{old.GetId(), cl.GetId()} {
			if _, err := wasRing.Open(masterkey.SecretAAD(id, s.GetName()), s.GetKey()); err == nil {
				t.Errorf("the lost cluster's master key opens %s", s.GetName())
			}
		}
		before, err := was.Secret(s.GetName())
		if err != nil {
			t.Fatal(err)
		}
		same := bytes.Equal(before.GetCertificate(), s.GetCertificate())
		if want := s.GetName() != "ca/node" && s.GetName() != "ca/admin"; same != want {
			t.Errorf("certificate of %s: same is %v, want %v", s.GetName(), same, want)
		}
	}
	nodes, err := is.Nodes()
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range nodes {
		if !strings.HasPrefix(n.GetName(), "new") {
			t.Errorf("node %s is of the lost cluster", n.GetName())
		}
	}
	tokens, err := is.Tokens()
	if err != nil {
		t.Fatal(err)
	}
	for _, tok := range tokens {
		if !strings.HasPrefix(tok.GetNodeName(), "new") {
			t.Errorf("the token for %s is of the lost cluster", tok.GetNodeName())
		}
	}
	if cl.GetRecoveryRecipient() != old.GetRecoveryRecipient() || bytes.Equal(cl.GetId(), old.GetId()) || cl.GetMasterKeyVersion() <= old.GetMasterKeyVersion() {
		t.Errorf("%v after %v", cl, old)
	}
}

func TestRestoreRefuses(t *testing.T) {
	c := testConfig(t)
	made := initNode(t, c, "kdc1")
	n := runNode(t, c)
	n.waitReady()
	// More than one of age's chunks, so that a restore finds damage when it has written a part.
	api := adminv1.NewPrincipalsClient(n.dial())
	for i := range 150 {
		n.add(api, fmt.Sprintf("host/h%d", i), &adminv1.NewKeys{Source: &adminv1.NewKeys_Random{Random: true}})
	}
	b, _ := n.mustSave()
	if len(b) < 3*64<<10/2 {
		t.Fatalf("a backup of %d bytes shows nothing", len(b))
	}
	kit := kitOf(t, made.Recovery)
	try := func(c *Config, b []byte, id age.Identity) error {
		_, err := Restore(t.Context(), RestoreOptions{Backup: bytes.NewReader(b), Identities: []age.Identity{id}, Name: "new1", Config: c, Version: "test", Logger: testLogger(t)})
		return err
	}
	if err := try(c, b, kit); err == nil {
		t.Fatal("restored over a running node")
	} else if _, ok := errors.AsType[*LockedError](err); !ok {
		t.Errorf("a running node's directory: %v", err)
	}
	n.stop()
	if err := try(c, b, kit); !errors.Is(err, ErrExists) {
		t.Errorf("a directory that holds a node: %v", err)
	}
	otherText, _, err := NewRecoveryKit()
	if err != nil {
		t.Fatal(err)
	}
	fresh := testConfig(t)
	if _, ok := errors.AsType[*backup.ForeignError](try(fresh, b, kitOf(t, otherText))); !ok {
		t.Errorf("another cluster's kit: %v", err)
	}
	// Damage of the last bytes is found when all else is written: nothing of it stays, and the directory is as good as new.
	bad := bytes.Clone(b)
	bad[len(bad)-1] ^= 1
	for what, b := range map[string][]byte{"flipped at the end": bad, "without its trailer": beheaded(t, b, kit), "cut": b[:len(b)-1], "cut in the middle": b[:len(b)/2], "empty": nil} {
		if err := try(fresh, b, kit); !errors.Is(err, backup.ErrDamaged) && !errors.Is(err, backup.ErrNotBackup) {
			t.Errorf("%s: %v", what, err)
		}
	}
	left, err := os.ReadDir(fresh.Dir)
	if err != nil || len(left) != 1 || left[0].Name() != lockFile {
		t.Errorf("left behind: %v %v", left, err)
	}
	if err := try(fresh, b, kit); err != nil {
		t.Error("the same directory with the whole file:", err)
	}
	if err := try(fresh, b, kit); !errors.Is(err, ErrExists) {
		t.Error("again:", err)
	}
}

// beheaded is a backup that ends before its trailer does, and is well encrypted.
func beheaded(t *testing.T, b []byte, kit age.Identity) []byte {
	t.Helper()
	h, front, err := backup.ReadHeader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	body, err := age.Decrypt(bytes.NewReader(b[len(front):]), kit)
	if err != nil {
		t.Fatal(err)
	}
	inside, err := io.ReadAll(body)
	if err != nil {
		t.Fatal(err)
	}
	to, err := backup.ParseRecipients(h.GetRecipients())
	if err != nil {
		t.Fatal(err)
	}
	out := bytes.NewBuffer(bytes.Clone(front))
	w, err := age.Encrypt(out, to...)
	if err == nil {
		_, err = w.Write(inside[:len(inside)-1])
	}
	if err = errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// A kit that is lost or was seen is replaced: the old one opens no backup of the new cluster.
func TestRestoreWithANewKit(t *testing.T) {
	c := testConfig(t)
	made := initNode(t, c, "kdc1")
	n := runNode(t, c)
	n.waitReady()
	own, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	b, sum, err := n.saveBackup(&adminv1.SaveBackupRequest{Recipients: []string{own.Recipient().String()}, OnlyRecipients: true})
	if err != nil || len(sum.GetRecipients()) != 1 {
		t.Fatal(sum, err)
	}
	n.stop()
	c2 := testConfig(t)
	r, err := Restore(t.Context(), RestoreOptions{
		Backup: bytes.NewReader(b), Identities: []age.Identity{own}, Name: "new1", Config: c2, Version: "test", NewKit: true, NoEpoch: true, Logger: testLogger(t),
	})
	if err != nil || r.Recovery == "" || !r.Epoch.IsZero() {
		t.Fatalf("%+v, %v", r, err)
	}
	m := runNode(t, c2)
	m.waitReady()
	b2, _ := m.mustSave()
	if _, err := backup.Verify(bytes.NewReader(b2), kitOf(t, r.Recovery)); err != nil {
		t.Error(err)
	}
	if _, err := backup.Verify(bytes.NewReader(b2), kitOf(t, made.Recovery)); err == nil {
		t.Error("the lost kit opens a backup of the new cluster")
	}
}

func TestScheduledBackupsOfACluster(t *testing.T) {
	dir := t.TempDir()
	with := func(c *Config) *Config {
		c.Backup.Directory, c.Backup.Every.Duration = dir, time.Hour
		return c
	}
	c := with(testConfig(t))
	made := initNode(t, c, "kdc1")
	n := runNode(t, c)
	n.waitReady()
	var last *adminv1.LastBackup
	within(t, 30*time.Second, "the first backup", func() error {
		st, err := adminv1.NewClusterClient(n.dial()).GetStatus(t.Context(), &adminv1.GetStatusRequest{})
		if last = st.GetLastBackup(); err == nil && last == nil {
			err = errors.New("none is known")
		}
		return err
	})
	if last.GetNode() != "kdc1" || !last.GetVerified() {
		t.Error(last)
	}
	list, err := backup.List(dir, made.ClusterID[:])
	if err != nil || len(list) != 1 || list[0].Header.GetIndex() != last.GetIndex() {
		t.Fatal(list, err)
	}
	if _, err := backup.VerifyFile(list[0].Path, kitOf(t, made.Recovery)); err != nil {
		t.Error(err)
	}
	if _, body, err := n.get("/metrics"); err != nil || !strings.Contains(body, "\ncharon_backup_age_seconds ") || strings.Contains(body, "charon_backup_age_seconds +Inf") ||
		!strings.Contains(body, `charon_backup_runs_total{result="written"} 1`) {
		t.Error("/metrics", err)
	}
}

// A manual backup counts once the client says that it is on its disk, and only one that was made here.
func TestConfirmedBackup(t *testing.T) {
	c := testConfig(t)
	initNode(t, c, "kdc1")
	n := runNode(t, c)
	n.waitReady()
	api := adminv1.NewBackupsClient(n.dial())
	if _, body, err := n.get("/metrics"); err != nil || !strings.Contains(body, "\ncharon_backup_age_seconds +Inf") {
		t.Error("/metrics before any backup", err)
	}
	_, sum := n.mustSave()
	known := func() *adminv1.LastBackup {
		st, err := adminv1.NewClusterClient(n.dial()).GetStatus(t.Context(), &adminv1.GetStatusRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return st.GetLastBackup()
	}
	if known() != nil {
		t.Error("known before it was confirmed")
	}
	if _, err := api.ConfirmBackup(t.Context(), &adminv1.ConfirmBackupRequest{Sha256: make([]byte, 32)}); err == nil {
		t.Error("a backup that was never made was confirmed")
	}
	if _, err := api.ConfirmBackup(t.Context(), &adminv1.ConfirmBackupRequest{Sha256: sum.GetSha256()}); err != nil {
		t.Fatal(err)
	}
	if got := known(); got.GetIndex() != sum.GetIndex() || !bytes.Equal(got.GetSha256(), sum.GetSha256()) {
		t.Error(got, sum)
	}
}

// A clock behind the backup's, as of a machine that has just been set up, does not shorten the epoch.
func TestEpochOfABackupFromLater(t *testing.T) {
	made := time.UnixMilli(1_900_000_000_000)
	h := &backupv1.Header{CreatedAt: made.UnixMilli(), ClockSkew: 600}
	for _, now := range []time.Time{made.Add(-time.Hour), made, made.Add(time.Hour)} {
		from := made
		if now.After(made) {
			from = now
		}
		if got, want := epochOf(h, now, 5*time.Minute), raftstore.EpochAfter(from, 10*time.Minute); !got.Equal(want) {
			t.Errorf("restored at %v: %v, want %v", now, got, want)
		}
	}
}
