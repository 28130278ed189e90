package adminapi

import (
	"context"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	adminv1 "github.com/charon-kdc/charon/proto/charon/admin/v1"
	"github.com/charon-kdc/charon/raftstore"
)

// callTimeMax bounds a call whose client gave no deadline.
const callTimeMax = 30 * time.Second

// rule says what a method needs before its handler, which knows the record, decides finally.
type rule struct {
	// verbs: the caller must hold one of them over something. Empty: the method is for members alone.
	verbs []Verb
	// leader: the call goes to the leader whatever it asks for. Reads with a consistency decide for themselves.
	leader bool
}

const api = "/charon.admin.v1."

// rules lists every method; one that is not here is refused.
var rules = map[string]rule{
	api + "Principals/CreatePrincipal": {verbs: []Verb{VerbAdd}, leader: true},
	api + "Principals/GetPrincipal":    {verbs: []Verb{VerbInquire}},
	api + "Principals/ListPrincipals":  {verbs: []Verb{VerbList}},
	api + "Principals/UpdatePrincipal": {verbs: []Verb{VerbModify}, leader: true},
	api + "Principals/RenamePrincipal": {verbs: []Verb{VerbAdd}, leader: true},
	api + "Principals/SetPassword":     {verbs: []Verb{VerbChangePW}, leader: true},
	api + "Principals/PurgeKeys":       {verbs: []Verb{VerbModify}, leader: true},
	api + "Principals/DeletePrincipal": {verbs: []Verb{VerbDelete}, leader: true},

	api + "Keytabs/EnsureKeytab":   {verbs: []Verb{VerbExtract}, leader: true},
	api + "Keytabs/GetKeytab":      {verbs: []Verb{VerbExtract}},
	api + "Keytabs/RotateKeytab":   {verbs: []Verb{VerbChangePW}, leader: true},
	api + "Keytabs/ActivateKeytab": {verbs: []Verb{VerbChangePW}, leader: true},

	api + "Policies/CreatePolicy": {verbs: []Verb{VerbPolicy}, leader: true},
	api + "Policies/GetPolicy":    {verbs: []Verb{VerbInquire, VerbPolicy}},
	api + "Policies/ListPolicies": {verbs: []Verb{VerbList, VerbPolicy}},
	api + "Policies/UpdatePolicy": {verbs: []Verb{VerbPolicy}, leader: true},
	api + "Policies/DeletePolicy": {verbs: []Verb{VerbPolicy}, leader: true},

	api + "Roles/GrantRole":     {verbs: []Verb{VerbRole}, leader: true},
	api + "Roles/RevokeRole":    {verbs: []Verb{VerbRole}, leader: true},
	api + "Roles/ListRoles":     {verbs: []Verb{VerbRole}},
	api + "Roles/GetPrivileges": {verbs: []Verb{verbAny}},

	api + "Backups/SaveBackup":    {verbs: []Verb{VerbBackup}},
	api + "Backups/ConfirmBackup": {verbs: []Verb{VerbBackup}},

	api + "Diagnosis/Diagnose":     {verbs: []Verb{VerbCluster}},
	api + "Diagnosis/DiagnoseNode": {},

	api + "Upgrade/GetUpgradePlan":  {verbs: []Verb{VerbCluster}},
	api + "Upgrade/FinalizeUpgrade": {verbs: []Verb{VerbCluster}, leader: true},

	api + "Cluster/GetStatus":          {verbs: []Verb{verbAny}},
	api + "Cluster/GetNodeStats":       {},
	api + "Cluster/GetRealm":           {verbs: []Verb{verbAny}},
	api + "Cluster/UpdateRealm":        {verbs: []Verb{VerbCluster}, leader: true},
	api + "Cluster/ListNodes":          {verbs: []Verb{VerbCluster}},
	api + "Cluster/RemoveNode":         {verbs: []Verb{VerbCluster}, leader: true},
	api + "Cluster/SetAutoRemoval":     {verbs: []Verb{VerbCluster}, leader: true},
	api + "Cluster/TransferLeadership": {verbs: []Verb{VerbCluster}, leader: true},
	api + "Cluster/CreateToken":        {verbs: []Verb{VerbCluster}, leader: true},
	api + "Cluster/ListTokens":         {verbs: []Verb{VerbCluster}},
	// The handler decides: a client's own name takes no right.
	api + "Cluster/IssueAdminCertificate": {verbs: []Verb{verbAny}, leader: true},
	api + "Cluster/RevokeToken":           {verbs: []Verb{VerbCluster}, leader: true},

	api + "Rotation/RotateKrbtgt":     {verbs: []Verb{VerbCluster}, leader: true},
	api + "Rotation/RotateMasterKey":  {verbs: []Verb{VerbCluster}, leader: true},
	api + "Rotation/GetMasterKey":     {verbs: []Verb{VerbCluster}},
	api + "Rotation/RetireMasterKeys": {verbs: []Verb{VerbCluster}, leader: true},
}

// guarded is desc with every method behind the guard, for calls that come in by door. Making it part of the service, and not
// an interceptor of the server, keeps a server from being built without it.
func (s *Service) guarded(desc *grpc.ServiceDesc, door Door) *grpc.ServiceDesc {
	out := *desc
	out.Methods, out.Streams = nil, s.guardedStreams(desc, door)
	for _, m := range desc.Methods {
		inner := m.Handler
		out.Methods = append(out.Methods, grpc.MethodDesc{
			MethodName: m.MethodName,
			Handler: func(srv any, ctx context.Context, dec func(any) error, outer grpc.UnaryServerInterceptor) (any, error) {
				guard := func(ctx context.Context, req any, info *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
					return s.serve(ctx, door, info.FullMethod, req.(proto.Message), h)
				}
				if outer == nil {
					return inner(srv, ctx, dec, guard)
				}
				return inner(srv, ctx, dec, func(ctx context.Context, req any, info *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
					return outer(ctx, req, info, func(ctx context.Context, req any) (any, error) { return guard(ctx, req, info, h) })
				})
			},
		})
	}
	return &out
}

// serve is one call: who, where, may he, do it, and one audit event.
func (s *Service) serve(ctx context.Context, door Door, method string, req proto.Message, h grpc.UnaryHandler) (resp any, err error) {
	start, begun := s.Now(), time.Now()
	ctx, cancel := context.WithTimeout(ctx, callTimeMax)
	defer cancel()
	c, err := s.identify(ctx, door)
	forwarded := false
	defer func() {
		if p := recover(); p != nil {
			resp, err = nil, panicked(method, p)
		}
		err = s.conclude(method, req, err)
		s.audit(method, c, req, err, start, time.Since(begun), forwarded)
	}()
	if err != nil {
		return nil, refuse(codes.Unauthenticated, "UNAUTHENTICATED", "%v", err)
	}
	end, err := s.calls.begin(door)
	if err != nil {
		return nil, err
	}
	defer end()
	r, known := rules[method]
	if !known {
		return nil, refuse(codes.PermissionDenied, "PERMISSION_DENIED", "no rule for %s", method)
	}
	if r.leader || linearizable(req) {
		conn, err := s.toLeader(ctx, door)
		if err != nil {
			return nil, err
		}
		if conn != nil {
			forwarded = true
			return s.forward(ctx, conn, c, method, req)
		}
	}
	return s.decide(ctx, door, c, method, r, req, h)
}

// aboutItself are the calls that a node answers whose state must not be read: how it is.
var aboutItself = []string{
	adminv1.Cluster_GetStatus_FullMethodName, adminv1.Cluster_GetNodeStats_FullMethodName, adminv1.Diagnosis_Diagnose_FullMethodName, adminv1.Diagnosis_DiagnoseNode_FullMethodName,
}

// trustworthy refuses to answer from a state that is known to differ from the other nodes'.
func (s *Service) trustworthy(method string) error {
	if s.Diverged == nil || slices.Contains(aboutItself, method) {
		return nil
	}
	if why := s.Diverged(); why != "" {
		return refuse(codes.Unavailable, "STATE_DIVERGED", "nothing done: this node's %s; ask another node, and here: charon server --rebuild", why)
	}
	return nil
}

func panicked(method string, p any) error {
	return fmt.Errorf("panic in %s: %v\n%s", method, p, debug.Stack())
}

// decide checks the rule and runs the handler, on the node that answers.
func (s *Service) decide(ctx context.Context, door Door, c Caller, method string, r rule, req proto.Message, h grpc.UnaryHandler) (any, error) {
	if err := s.trustworthy(method); err != nil {
		return nil, err
	}
	ctx, err := s.admit(ctx, door, c, r)
	if err != nil {
		return nil, err
	}
	return h(ctx, req)
}

// admit checks the rule and returns the handler's context, which knows caller and rights.
func (s *Service) admit(ctx context.Context, door Door, c Caller, r rule) (context.Context, error) {
	if len(r.verbs) == 0 && door != DoorPeer {
		return nil, refuse(codes.PermissionDenied, "PERMISSION_DENIED", "only another node may call this")
	}
	have, err := s.loadRights(c)
	if err != nil {
		return nil, err
	}
	ctx = withRights(withCaller(ctx, c), have)
	for i, v := range r.verbs {
		if have.holds(v) {
			break
		}
		if i == len(r.verbs)-1 {
			return nil, denied(ctx, v, "anything")
		}
	}
	return ctx, nil
}

func linearizable(req proto.Message) bool {
	m, ok := req.(interface{ GetConsistency() adminv1.Consistency })
	return ok && m.GetConsistency() != adminv1.Consistency_CONSISTENCY_LOCAL
}

// leaderWait is how long a call waits for an election, which takes about a second.
const leaderWait = 3 * time.Second

// toLeader tells whether the call must be handed on; when not, this node leads and has applied all that was acknowledged.
// A call that was handed on once is not handed on again. Without any leader it waits for one, unless the quorum is known to be lost, but leaves a quarter of the caller's time
// for the answer: a caller whose deadline passes can't know that nothing was done.
func (s *Service) toLeader(ctx context.Context, door Door) (*grpc.ClientConn, error) {
	limit := leaderWait
	if end, ok := ctx.Deadline(); ok {
		limit = min(limit, time.Until(end)*3/4)
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		err := error(&raftstore.NotAppliedError{Err: raftstore.ErrNoLeader})
		if s.Store.IsLeader() {
			if err = s.Store.VerifyLeader(ctx); err == nil {
				return nil, nil
			}
		}
		if s.Store.LostQuorum() {
			return nil, noQuorum()
		}
		if door == DoorPeer {
			return nil, err
		}
		if s.Forwarder != nil {
			conn, _, connErr := s.Forwarder.LeaderConn(ctx)
			if connErr == nil {
				return conn, nil
			}
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(leaderPoll):
		}
	}
}

// leaderPoll is how often a call that waits for an election looks.
const leaderPoll = 20 * time.Millisecond

// forward calls the leader in the caller's name.
func (s *Service) forward(ctx context.Context, conn *grpc.ClientConn, c Caller, method string, req proto.Message) (proto.Message, error) {
	resp, err := answerOf(method)
	if err != nil {
		return nil, err
	}
	out := metadata.NewOutgoingContext(ctx, metadata.Pairs(metaCaller, c.Subject))
	if err := conn.Invoke(out, method, req, resp); err != nil {
		return nil, forwardError(err, req)
	}
	return resp, nil
}

// forwardError keeps what the leader said, and judges what the connection says: a mutation may have reached the leader.
func forwardError(err error, req proto.Message) error {
	if info := errorInfo(err); info != nil {
		return err
	}
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled, codes.Internal, codes.Unknown:
		if _, mutates := req.(interface{ GetRequestId() []byte }); mutates {
			return unknownOutcome()
		}
		return notApplied("")
	}
	return err
}

// answerOf makes an empty answer of a method of this API.
func answerOf(method string) (proto.Message, error) {
	full := protoreflect.FullName(strings.ReplaceAll(strings.TrimPrefix(method, "/"), "/", "."))
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(full)
	if err != nil {
		return nil, err
	}
	md, ok := d.(protoreflect.MethodDescriptor)
	if !ok {
		return nil, fmt.Errorf("%s is not a method", method)
	}
	t, err := protoregistry.GlobalTypes.FindMessageByName(md.Output().FullName())
	if err != nil {
		return nil, err
	}
	return t.New().Interface(), nil
}

// conclude turns err into a status and logs what is our own fault. Requests are never logged: they may hold passwords.
func (s *Service) conclude(method string, req proto.Message, err error) error {
	if err == nil {
		return nil
	}
	var id []byte
	if m, ok := req.(interface{ GetRequestId() []byte }); ok {
		id = m.GetRequestId()
	}
	out := toStatus(err, s.NodeName, id)
	if status.Code(out) == codes.Internal {
		s.Logger.Error("admin call", "method", method, "error", err)
	}
	return out
}

func (s *Service) audit(method string, c Caller, req proto.Message, err error, start time.Time, took time.Duration, forwarded bool) {
	if s.Audit == nil {
		return
	}
	e := AuditEvent{
		Time: start, Method: method, Caller: c.Subject, Target: targetOf(req), Code: status.Code(err).String(),
		Duration: took, Forwarded: forwarded,
	}
	if info := errorInfo(err); info != nil {
		e.Reason = info.GetReason()
	}
	s.Audit(e)
}

// targetOf is the record a request names, for the audit log.
func targetOf(req proto.Message) string {
	switch r := req.(type) {
	case *adminv1.RenamePrincipalRequest:
		return r.GetName() + " -> " + r.GetNewName()
	case interface{ GetName() string }:
		return r.GetName()
	case interface{ GetPolicy() *adminv1.Policy }:
		return r.GetPolicy().GetName()
	case interface{ GetRole() *adminv1.Role }:
		return r.GetRole().GetSubject()
	case interface{ GetNodeName() string }:
		return r.GetNodeName()
	case interface{ GetTo() string }:
		return r.GetTo()
	case *adminv1.SaveBackupRequest:
		return strings.Join(r.GetRecipients(), " ")
	case interface{ GetFilter() string }:
		return r.GetFilter()
	}
	return ""
}
