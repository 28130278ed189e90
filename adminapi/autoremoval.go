package adminapi

import (
	"context"

	adminv1 "github.com/charon-kdc/charon/proto/charon/admin/v1"
	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
)

const (
	autoRemovalMin = 60              // seconds
	autoRemovalMax = 366 * 24 * 3600 // seconds
	votersLeast    = 3
	votersMost     = 99
)

// SetAutoRemoval allows or forbids that a dead voter goes by itself. Without a number of voters, as many as there are now must stay: then one goes
// only after another was promoted.
func (s clusterServer) SetAutoRemoval(ctx context.Context, req *adminv1.SetAutoRemovalRequest) (*adminv1.SetAutoRemovalResponse, error) {
	if err := requireEverywhere(ctx, VerbCluster); err != nil {
		return nil, err
	}
	after, voters := req.GetAfter(), req.GetVoters()
	if after != 0 && (after < autoRemovalMin || after > autoRemovalMax) {
		return nil, invalid("after", "a node is silent for %d to %d seconds before it is removed by itself, or 0 for never", autoRemovalMin, autoRemovalMax)
	}
	if voters != 0 && (after == 0 || voters < votersLeast || voters > votersMost) {
		return nil, invalid("voters", "automatic removal always leaves %d to %d voters", votersLeast, votersMost)
	}
	resp := &adminv1.SetAutoRemovalResponse{}
	res, err := s.mutate(ctx, req, resp, true, func() (*change, error) {
		if after != 0 && voters == 0 {
			voters = max(votersLeast, uint32(s.Store.Status(ctx).Voters))
		}
		return &change{what: "cluster", answer: &adminv1.SetAutoRemovalResponse{After: after, Voters: voters},
			cmd: &statev1.Command{Op: &statev1.Command_SetAutoRemoval{SetAutoRemoval: &statev1.SetAutoRemoval{After: after, Voters: voters}}}}, nil
	})
	if err != nil {
		return nil, err
	}
	resp.Meta = s.meta(res)
	return resp, nil
}
