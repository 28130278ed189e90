package adminapi

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	adminv1 "github.com/charon-kdc/charon/proto/charon/admin/v1"
	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
)

// fakeBackups gives data, and remembers what was asked for.
type fakeBackups struct {
	data       []byte
	recipients []string
	kit        bool
	fail       error
	panics     bool
}

func (f *fakeBackups) Check(recipients []string, _ bool) error {
	for _, r := range recipients {
		if r == "nonsense" {
			return errors.New("no key")
		}
	}
	return nil
}

func (f *fakeBackups) Save(_ context.Context, w io.Writer, recipients []string, kit bool) (*adminv1.BackupSummary, error) {
	f.recipients, f.kit = recipients, kit
	if f.panics {
		panic("a bug")
	}
	if _, err := w.Write(f.data); err != nil {
		return nil, err
	}
	return &adminv1.BackupSummary{Index: 7, Bytes: uint64(len(f.data))}, f.fail
}

func (f *fakeBackups) Confirm(_ context.Context, sum []byte) error {
	if len(sum) != 32 {
		return ErrUnknownBackup
	}
	return nil
}

func (b *bench) backups() adminv1.BackupsClient { return adminv1.NewBackupsClient(b.peer) }

// saveBackup reads one to its end.
func (b *bench) saveBackup(ctx context.Context, req *adminv1.SaveBackupRequest) (data []byte, done *adminv1.BackupSummary, err error) {
	stream, err := b.backups().SaveBackup(ctx, req)
	if err != nil {
		return nil, nil, err
	}
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

func TestSaveBackup(t *testing.T) {
	b := newBench(t)
	b.made.data = bytes.Repeat([]byte("0123456789"), 100_000) // several parts
	data, done, err := b.saveBackup(as("root"), &adminv1.SaveBackupRequest{Recipients: []string{"age1a"}})
	if err != nil || !bytes.Equal(data, b.made.data) || done.GetIndex() != 7 || !b.made.kit || len(b.made.recipients) != 1 {
		t.Errorf("%d bytes, %v, %v, %+v", len(data), done, err, b.made.recipients)
	}
	if _, _, err := b.saveBackup(as("root"), &adminv1.SaveBackupRequest{Recipients: []string{"age1a"}, OnlyRecipients: true}); err != nil || b.made.kit {
		t.Error(err)
	}
	for what, req := range map[string]*adminv1.SaveBackupRequest{
		"nobody to encrypt to": {OnlyRecipients: true}, "no key": {Recipients: []string{"nonsense"}},
	} {
		if _, _, err := b.saveBackup(as("root"), req); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", what, err)
		}
	}
	// A backup that fails on the way has no summary: the caller can't take it for whole.
	b.made.fail = errors.New("a key does not open")
	if _, done, err := b.saveBackup(as("root"), &adminv1.SaveBackupRequest{}); err == nil || done != nil {
		t.Error(done, err)
	}
	b.made.panics = true
	if _, done, err := b.saveBackup(as("root"), &adminv1.SaveBackupRequest{}); status.Code(err) != codes.Internal || done != nil {
		t.Error(done, err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.audit) != 6 || b.audit[0].Method != api+"Backups/SaveBackup" || b.audit[0].Target != "age1a" || b.audit[0].Code != "OK" || b.audit[5].Code != "Internal" {
		t.Errorf("%+v", b.audit)
	}
}

func TestConfirmBackup(t *testing.T) {
	b := newBench(t)
	if _, err := b.backups().ConfirmBackup(as("root"), &adminv1.ConfirmBackupRequest{Sha256: make([]byte, 32)}); err != nil {
		t.Error(err)
	}
	if _, err := b.backups().ConfirmBackup(as("root"), &adminv1.ConfirmBackupRequest{}); status.Code(err) != codes.NotFound {
		t.Error(err)
	}
}

func TestStatusShowsTheLastBackup(t *testing.T) {
	b := newBench(t)
	st, err := b.cluster().GetStatus(as("root"), &adminv1.GetStatusRequest{})
	if err != nil || st.GetLastBackup() != nil {
		t.Error(st.GetLastBackup(), err)
	}
	r, err := b.store.Apply(&statev1.Command{Op: &statev1.Command_NoteBackup{NoteBackup: &statev1.NoteBackup{Note: &statev1.BackupNote{
		Index: 1, At: t0.UnixMilli(), Sha256: make([]byte, 32), Node: "n1", Verified: true,
	}}}})
	if err != nil || r.GetCode() != statev1.Code_CODE_OK {
		t.Fatal(r, err)
	}
	if st, err = b.cluster().GetStatus(as("root"), &adminv1.GetStatusRequest{}); err != nil || st.GetLastBackup().GetNode() != "n1" || !st.GetLastBackup().GetVerified() {
		t.Error(st.GetLastBackup(), err)
	}
}
