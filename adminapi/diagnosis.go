package adminapi

import (
	"context"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	adminv1 "github.com/charon-kdc/charon/proto/charon/admin/v1"
	"github.com/charon-kdc/charon/raftstore"
)

// diagnoseWait is how long a diagnosis waits for another node's findings.
const diagnoseWait = 3 * time.Second

// Doctor finds out what is wrong, from a node's own knowledge.
type Doctor interface {
	// Node are the findings about this node.
	Node(ctx context.Context) []*adminv1.Finding
	// Cluster are those about all nodes together, as this one sees them.
	Cluster(ctx context.Context, st raftstore.Status) []*adminv1.Finding
}

type diagnosisServer struct {
	adminv1.UnimplementedDiagnosisServer
	*Service
}

// Diagnose works with whatever answers: no leader is asked.
func (s diagnosisServer) Diagnose(ctx context.Context, _ *adminv1.DiagnoseRequest) (*adminv1.DiagnoseResponse, error) {
	if err := requireEverywhere(ctx, VerbCluster); err != nil {
		return nil, err
	}
	if s.Doctor == nil {
		return nil, refuse(codes.Unimplemented, "NO_DOCTOR", "this node has no diagnosis")
	}
	st := s.Store.Status(ctx)
	resp := &adminv1.DiagnoseResponse{Meta: s.readMeta(), Findings: s.Doctor.Cluster(ctx, st)}
	ctx, cancel := context.WithTimeout(ctx, diagnoseWait)
	defer cancel()
	ctx = metadata.NewOutgoingContext(ctx, metadata.Pairs(metaCaller, callerOf(ctx).Subject))
	each := make([][]*adminv1.Finding, len(st.Nodes))
	var wg sync.WaitGroup
	for i, m := range st.Nodes {
		switch {
		case m.ID == st.Self.ID:
			each[i] = s.Doctor.Node(ctx)
		case s.Forwarder != nil && m.Reachable:
			wg.Go(func() { each[i] = s.diagnoseOther(ctx, m) })
		}
	}
	wg.Wait()
	for _, f := range each {
		resp.Findings = append(resp.Findings, f...)
	}
	return resp, nil
}

// diagnoseOther are another node's findings about itself, or one that it gave none.
func (s *Service) diagnoseOther(ctx context.Context, m raftstore.NodeStatus) []*adminv1.Finding {
	conn, err := s.Forwarder.Conn(m.ID)
	if err == nil {
		var r *adminv1.DiagnoseNodeResponse
		if r, err = adminv1.NewDiagnosisClient(conn).DiagnoseNode(ctx, &adminv1.DiagnoseNodeRequest{}); err == nil {
			return r.GetFindings()
		}
	}
	f := &adminv1.Finding{Severity: adminv1.Severity_SEVERITY_WARN, Check: "node.diagnosis", Node: m.Name,
		Text: fmt.Sprintf("%s answers, but not what is wrong with it: %s", m.Name, status.Convert(err).Message()), Fix: "ask it there: charon doctor on " + m.Name}
	if status.Code(err) == codes.Unimplemented {
		f.Text, f.Fix = fmt.Sprintf("%s runs %s, which has no diagnosis", m.Name, m.Version), "upgrade it: charon upgrade plan"
	}
	return []*adminv1.Finding{f}
}

func (s diagnosisServer) DiagnoseNode(ctx context.Context, _ *adminv1.DiagnoseNodeRequest) (*adminv1.DiagnoseNodeResponse, error) {
	if s.Doctor == nil {
		return nil, refuse(codes.Unimplemented, "NO_DOCTOR", "this node has no diagnosis")
	}
	return &adminv1.DiagnoseNodeResponse{Meta: s.readMeta(), Findings: s.Doctor.Node(ctx)}, nil
}
