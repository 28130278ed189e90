package adminapi

import (
	"testing"

	"google.golang.org/grpc/codes"

	adminv1 "github.com/charon-kdc/charon/proto/charon/admin/v1"
)

func TestSetAutoRemoval(t *testing.T) {
	b := newBench(t)
	b.store.Nodes.Voters = 5
	set := func(after int64, voters uint32) (*adminv1.SetAutoRemovalResponse, error) {
		return b.cluster().SetAutoRemoval(as("root"), &adminv1.SetAutoRemovalRequest{RequestId: b.fresh(), After: after, Voters: voters})
	}
	for _, bad := range []struct {
		after  int64
		voters uint32
	}{{-1, 0}, {59, 0}, {1 << 40, 0}, {86400, 2}, {86400, 100}, {0, 3}} {
		_, err := set(bad.after, bad.voters)
		wantReason(t, err, codes.InvalidArgument, "INVALID")
	}
	for _, good := range []struct {
		after        int64
		voters, want uint32
	}{{86400, 0, 5}, {86400, 3, 3}, {0, 0, 0}} {
		r, err := set(good.after, good.voters)
		if err != nil || r.GetAfter() != good.after || r.GetVoters() != good.want {
			t.Errorf("%+v: %v, %v", good, r, err)
		}
		st, err := b.cluster().GetStatus(as("root"), &adminv1.GetStatusRequest{})
		if err != nil || st.GetAutoRemoveAfter() != good.after || st.GetAutoRemoveVoters() != good.want {
			t.Errorf("%+v: status says %d s, %d voters, %v", good, st.GetAutoRemoveAfter(), st.GetAutoRemoveVoters(), err)
		}
	}
	b.store.Nodes.Voters = 1
	if r, err := set(3600, 0); err != nil || r.GetVoters() != 3 {
		t.Errorf("with one voter: %v, %v", r, err)
	}
}
