package realm

import (
	"errors"
	"io"

	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
)

var errStub = errors.New("not written yet")

const outcomesMax = 1_000_000

// Entry is one log entry: a command's envelope in Data, or a raft configuration in Config.
type Entry struct {
	Index, Term uint64
	Data        []byte
	Config      []byte
}

func (db *DB) ApplyBatch(entries []Entry) ([]*statev1.Result, []Change, error) {
	return nil, nil, errStub
}

func NameKey(realm string, name []string) string { return "" }
func NameText(name []string) string              { return "" }
func ParseName(text string) ([]string, error)    { return nil, errStub }
func Glob(pattern, s string) bool                { return false }

// Tx is one consistent view of the state.
type Tx struct{}

func (db *DB) View(f func(*Tx) error) error { return errStub }

func (t *Tx) Applied() (index, term uint64)                                     { return }
func (t *Tx) Principal(realm string, name []string) (*statev1.Principal, error) { return nil, errStub }
func (t *Tx) Policy(name string) (*statev1.Policy, error)                       { return nil, errStub }
func (t *Tx) Policies() ([]*statev1.Policy, error)                              { return nil, errStub }
func (t *Tx) Realm(name string) (*statev1.Realm, error)                         { return nil, errStub }
func (t *Tx) Realms() ([]*statev1.Realm, error)                                 { return nil, errStub }
func (t *Tx) Node(id []byte) (*statev1.Node, error)                             { return nil, errStub }
func (t *Tx) Nodes() ([]*statev1.Node, error)                                   { return nil, errStub }
func (t *Tx) Token(id []byte) (*statev1.Token, error)                           { return nil, errStub }
func (t *Tx) Tokens() ([]*statev1.Token, error)                                 { return nil, errStub }
func (t *Tx) Role(id string) (*statev1.Role, error)                             { return nil, errStub }
func (t *Tx) Roles() ([]*statev1.Role, error)                                   { return nil, errStub }
func (t *Tx) Secret(name string) (*statev1.Secret, error)                       { return nil, errStub }
func (t *Tx) Secrets() ([]*statev1.Secret, error)                               { return nil, errStub }
func (t *Tx) Cluster() (*statev1.Cluster, error)                                { return nil, errStub }

func (db *DB) GetPrincipal(realm string, name []string) (*statev1.Principal, error) {
	return nil, errStub
}

// ListPrincipals: after is the name text of the last one seen (empty to begin), match a glob over name texts (empty: all). next is "" at the end.
func (db *DB) ListPrincipals(realm, after string, limit int, match string) (page []*statev1.Principal, next string, err error) {
	return nil, "", errStub
}
func (db *DB) Policy(name string) (*statev1.Policy, error) { return nil, errStub }
func (db *DB) Policies() ([]*statev1.Policy, error)        { return nil, errStub }
func (db *DB) Realm(name string) (*statev1.Realm, error)   { return nil, errStub }
func (db *DB) Realms() ([]*statev1.Realm, error)           { return nil, errStub }
func (db *DB) Node(id []byte) (*statev1.Node, error)       { return nil, errStub }
func (db *DB) Nodes() ([]*statev1.Node, error)             { return nil, errStub }
func (db *DB) Token(id []byte) (*statev1.Token, error)     { return nil, errStub }
func (db *DB) Tokens() ([]*statev1.Token, error)           { return nil, errStub }
func (db *DB) Role(id string) (*statev1.Role, error)       { return nil, errStub }
func (db *DB) Roles() ([]*statev1.Role, error)             { return nil, errStub }
func (db *DB) Secret(name string) (*statev1.Secret, error) { return nil, errStub }
func (db *DB) Secrets() ([]*statev1.Secret, error)         { return nil, errStub }
func (db *DB) Cluster() (*statev1.Cluster, error)          { return nil, errStub }

// SnapshotInfo is what a snapshot says of itself.
type SnapshotInfo struct {
	Index, Term, ConfigIndex uint64
	Config                   []byte
	FeatureLevel             uint32
	Size                     int64 // of the whole stream, exact
}

// Snapshot is a stream of one read transaction; Read it to io.EOF, then Close.
type Snapshot struct{ Info SnapshotInfo }

func (db *DB) Snapshot() (*Snapshot, error)                      { return nil, errStub }
func (s *Snapshot) Read(p []byte) (int, error)                   { return 0, errStub }
func (s *Snapshot) Close() error                                 { return errStub }
func (db *DB) WriteSnapshot(w io.Writer) (SnapshotInfo, error)   { return SnapshotInfo{}, errStub }
func (db *DB) InstallSnapshot(r io.Reader) (SnapshotInfo, error) { return SnapshotInfo{}, errStub }
func (db *DB) Hash() ([32]byte, error)                           { return [32]byte{}, errStub }
