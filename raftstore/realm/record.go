package realm

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"go.etcd.io/bbolt"
	"google.golang.org/protobuf/proto"
)

// bucketID orders the buckets in a snapshot stream. The numbers are for ever.
type bucketID int

const (
	principals bucketID = iota // NameKey -> Principal
	aliases                    // NameKey of the alias -> NameKey of its principal
	policies                   // name -> Policy
	realms                     // name -> Realm
	nodes                      // id -> Node
	tokens                     // id -> Token
	roles                      // id -> Role
	secrets                    // name -> Secret
	cluster                    // "cluster" -> Cluster
	outcomes                   // request id -> Outcome
	expiries                   // expiry (ms, big endian) and request id -> nothing
	bucketCount
)

var bucketNames = [bucketCount][]byte{
	[]byte("principals"), []byte("aliases"), []byte("policies"), []byte("realms"), []byte("nodes"), []byte("tokens"),
	[]byte("roles"), []byte("secrets"), []byte("cluster"), []byte("idem"), []byte("idem_by_time"),
}

// bucketMax bounds the records by kind, where no other rule does.
var bucketMax = [bucketCount]uint64{
	policies: 10_000, realms: 1_000, nodes: 100, tokens: 1_000, roles: 10_000, secrets: 1_000, cluster: 1,
}

func createBuckets(tx *bbolt.Tx) error {
	for _, name := range append([][]byte{metaBucket}, bucketNames[:]...) {
		if _, err := tx.CreateBucketIfNotExists(name); err != nil {
			return err
		}
	}
	return nil
}

// A stored value is: u8 version, payload, CRC-32C over bucket, key, version and payload, so that a value can neither
// rot nor turn up under another key.
const (
	recordVersion  = 1
	recordOverhead = 1 + 4
)

func sealRecord(id bucketID, key, payload []byte) []byte {
	v := make([]byte, 0, len(payload)+recordOverhead)
	v = append(v, recordVersion)
	v = append(v, payload...)
	return binary.LittleEndian.AppendUint32(v, recordSum(id, key, v))
}

func recordSum(id bucketID, key, v []byte) uint32 {
	sum := crc32.Update(0, castagnoli, []byte{byte(id)})
	sum = crc32.Update(sum, castagnoli, key)
	return crc32.Update(sum, castagnoli, v)
}

// openRecord returns the payload within value.
func openRecord(id bucketID, key, value []byte) ([]byte, error) {
	if len(value) < recordOverhead {
		return nil, fmt.Errorf("%w: %s %q: %d bytes", ErrCorrupt, bucketNames[id], key, len(value))
	}
	v := value[:len(value)-4]
	if recordSum(id, key, v) != binary.LittleEndian.Uint32(value[len(v):]) {
		return nil, fmt.Errorf("%w: %s %q: checksum", ErrCorrupt, bucketNames[id], key)
	}
	if v[0] != recordVersion {
		return nil, fmt.Errorf("%w: %s %q: record version %d", ErrTooNew, bucketNames[id], key, v[0])
	}
	return v[1:], nil
}

// decodeRecord opens value and decodes it into m, which keeps nothing of value.
func decodeRecord(id bucketID, key, value []byte, m proto.Message) error {
	b, err := openRecord(id, key, value)
	if err != nil {
		return err
	}
	if err := proto.Unmarshal(b, m); err != nil {
		return fmt.Errorf("%w: %s %q: %w", ErrCorrupt, bucketNames[id], key, err)
	}
	return nil
}

var deterministic = proto.MarshalOptions{Deterministic: true}
