package realm

import (
	"fmt"
	"io"

	"google.golang.org/protobuf/proto"

	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
)

// Record is one record of a snapshot.
type Record struct {
	// Kind is 0 for aliases and for what is remembered of request ids.
	Kind Kind
	// Message is the record, the receiver's own: *statev1.Principal for KindPrincipal, and so on. nil where Kind is 0.
	Message proto.Message
}

// message is an empty record of a bucket and its kind; nil where records are no concern of a reader.
func message(id bucketID) (Kind, proto.Message) {
	switch id {
	case principals:
		return KindPrincipal, new(statev1.Principal)
	case policies:
		return KindPolicy, new(statev1.Policy)
	case realms:
		return KindRealm, new(statev1.Realm)
	case nodes:
		return KindNode, new(statev1.Node)
	case tokens:
		return KindToken, new(statev1.Token)
	case roles:
		return KindRole, new(statev1.Role)
	case secrets:
		return KindSecret, new(statev1.Secret)
	case cluster:
		return KindCluster, new(statev1.Cluster)
	}
	return 0, nil
}

// visit decodes an opened record and hands it to f.
func visit(id bucketID, key, payload []byte, f func(Record) error) error {
	r, err := decodePayload(id, key, payload)
	if err != nil {
		return err
	}
	return f(r)
}

func decodePayload(id bucketID, key, payload []byte) (r Record, err error) {
	r.Kind, r.Message = message(id)
	if r.Message == nil {
		return r, nil
	}
	if err := proto.Unmarshal(payload, r.Message); err != nil {
		return r, fmt.Errorf("%w: %s %q: %w", ErrCorrupt, bucketNames[id], key, err)
	}
	return r, nil
}

// ScanSnapshot reads a snapshot stream up to io.EOF, checks every byte of it as InstallSnapshot does, and calls f with each record. It keeps one
// record at a time. Errors: ErrCorrupt, ErrTooNew, r's and f's own.
func ScanSnapshot(r io.Reader, f func(Record) error) (SnapshotInfo, error) {
	in := &stream{r: r}
	st, records, err := in.header()
	if err != nil {
		return SnapshotInfo{}, err
	}
	var l loaded
	for {
		id, k, v, err := in.record()
		if err == io.EOF {
			break
		}
		if err != nil {
			return SnapshotInfo{}, err
		}
		payload, err := l.take(id, k, v)
		if err == nil {
			err = visit(id, k, payload, f)
		}
		if err != nil {
			return SnapshotInfo{}, err
		}
	}
	return st.info(), l.finish(in, st, records)
}
