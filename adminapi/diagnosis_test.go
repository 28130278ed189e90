package adminapi

import (
	"context"
	"errors"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	adminv1 "github.com/charon-kdc/charon/proto/charon/admin/v1"
	"github.com/charon-kdc/charon/raftstore"
	"github.com/charon-kdc/charon/raftstore/peer"
)

// fakeDoctor finds one thing about its node and one about the cluster.
type fakeDoctor string

func (d fakeDoctor) Node(context.Context) []*adminv1.Finding {
	return []*adminv1.Finding{{Check: "node.ready", Node: string(d)}}
}

func (d fakeDoctor) Cluster(_ context.Context, st raftstore.Status) []*adminv1.Finding {
	return []*adminv1.Finding{{Check: "quorum.lost", Severity: adminv1.Severity_SEVERITY_FAIL, Text: "no quorum, says " + st.Self.Name}}
}

// fakePeers are the other nodes by id.
type fakePeers map[peer.NodeID]*grpc.ClientConn

func (f fakePeers) LeaderConn(context.Context) (*grpc.ClientConn, peer.NodeID, error) {
	return nil, peer.NodeID{}, raftstore.ErrNoLeader
}

func (f fakePeers) Conn(id peer.NodeID) (*grpc.ClientConn, error) {
	if c := f[id]; c != nil {
		return c, nil
	}
	return nil, errors.New("no way there")
}

// A diagnosis without a leader has each node's own findings, and says of whom there are none.
func TestDiagnose(t *testing.T) {
	b, other, old := newBench(t), newBench(t), newBench(t)
	b.svc.Doctor, other.svc.Doctor = fakeDoctor("n1"), fakeDoctor("n2")
	b.store.Depose()
	b.store.Nodes.Quorum = false
	b.store.Nodes.Nodes = append(b.store.Nodes.Nodes, member(2, "follower", true), member(3, "follower", true), member(4, "follower", false), member(5, "follower", true))
	b.svc.Forwarder = fakePeers{peer.NodeID{2}: other.peer, peer.NodeID{3}: old.peer}
	r, err := adminv1.NewDiagnosisClient(b.peer).Diagnose(as("root"), &adminv1.DiagnoseRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range r.GetFindings() {
		got = append(got, f.GetCheck()+" "+f.GetNode()+" "+f.GetText())
	}
	want := []string{"quorum.lost  no quorum, says n1", "node.ready n1 ", "node.ready n2 ", "node.diagnosis n3 n3 runs ", "node.diagnosis n5 n5 answers, but not what is wrong with it: no way there"}
	if len(got) != len(want) {
		t.Fatalf("%q", got)
	}
	for i := range want {
		if !strings.HasPrefix(got[i], want[i]) {
			t.Errorf("%q, want %q", got[i], want[i])
		}
	}
	_, err = adminv1.NewDiagnosisClient(serveFor(t, b.svc, DoorTLS)).DiagnoseNode(context.Background(), &adminv1.DiagnoseNodeRequest{})
	wantReason(t, err, codes.Unauthenticated, "UNAUTHENTICATED")
}
