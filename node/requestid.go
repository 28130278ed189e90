package node

import (
	"crypto/rand"
	"encoding/binary"
	"time"
)

// NewRequestID makes a UUIDv7 (RFC 9562 section 5.7): what marks one mutation, however often it is sent.
func NewRequestID(now time.Time) (id [16]byte) {
	binary.BigEndian.PutUint64(id[:8], uint64(now.UnixMilli())<<16)
	_, _ = rand.Read(id[6:]) // crypto/rand.Read never fails
	id[6] = id[6]&0x0f | 0x70
	id[8] = id[8]&0x3f | 0x80
	return id
}
