package realm

import (
	"encoding/binary"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
)

// The envelope of a command in the log, little endian: u8 format, u16 type, u16 lowest feature level that a node must
// support to apply it, i64 leader time in ms since the epoch, then the Command in protobuf, request id included.
const (
	envelopeFormat  = 1
	envelopeCommand = 1
	envelopeHeader  = 1 + 2 + 2 + 8
	// EnvelopeMax bounds an entry that a proposer may write, in bytes.
	EnvelopeMax = 512 << 10
)

// ErrEnvelopeTooLarge says that a command does not fit into one entry; the caller splits it.
var ErrEnvelopeTooLarge = errors.New("command too large for one log entry")

// EncodeEnvelope is cmd as a log entry, stamped with the leader's time in ms since the epoch. It refuses what this
// release could not apply itself, since a log that holds it would stop every node: a command without operation, text that is not
// UTF-8, something above FeatureLevelMax, more than EnvelopeMax bytes (ErrEnvelopeTooLarge).
func EncodeEnvelope(cmd *statev1.Command, leaderTime int64) ([]byte, error) {
	if err := supported(cmd, FeatureLevelMax); err != nil {
		return nil, err
	}
	level := CommandLevel(cmd)
	if level > FeatureLevelMax {
		return nil, fmt.Errorf("%w: the command needs feature level %d or a newer release, this one supports up to %d", ErrTooNew, level, FeatureLevelMax)
	}
	le := binary.LittleEndian
	b := make([]byte, 0, envelopeHeader+proto.Size(cmd))
	b = append(b, envelopeFormat)
	b = le.AppendUint16(b, envelopeCommand)
	b = le.AppendUint16(b, uint16(level))
	b = le.AppendUint64(b, uint64(leaderTime))
	b, err := deterministic.MarshalAppend(b, cmd)
	if err != nil {
		return nil, fmt.Errorf("encoding a command: %w", err)
	}
	if len(b) > EnvelopeMax {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrEnvelopeTooLarge, len(b), EnvelopeMax)
	}
	return b, nil
}

// DecodeEnvelope is the reverse, for any bytes. Errors wrap ErrTooNew or ErrCorrupt; the caller of ApplyBatch stops the process on
// either, since a replica that skips what others applied is worse than one that stops.
func DecodeEnvelope(b []byte) (cmd *statev1.Command, leaderTime int64, err error) {
	return decodeEnvelope(b, FeatureLevelMax)
}

func decodeEnvelope(b []byte, levelMax uint32) (cmd *statev1.Command, leaderTime int64, err error) {
	if len(b) < envelopeHeader {
		return nil, 0, fmt.Errorf("%w: log entry of %d bytes", ErrCorrupt, len(b))
	}
	le := binary.LittleEndian
	format, typ, level := b[0], le.Uint16(b[1:]), le.Uint16(b[3:])
	if format != envelopeFormat || typ != envelopeCommand {
		return nil, 0, fmt.Errorf("%w: log entry of format %d, type %d", ErrTooNew, format, typ)
	}
	if uint32(level) > levelMax {
		return nil, 0, fmt.Errorf("%w: a log entry needs feature level %d, and this node supports up to %d: install the release that the other nodes run", ErrTooNew, level, levelMax)
	}
	cmd = new(statev1.Command)
	if err := proto.Unmarshal(b[envelopeHeader:], cmd); err != nil {
		return nil, 0, fmt.Errorf("%w: command in the log: %w", ErrCorrupt, err)
	}
	if err := supported(cmd, levelMax); err != nil {
		return nil, 0, err
	}
	return cmd, int64(le.Uint64(b[5:])), nil
}

// supported refuses a command, or a part of a batch, whose operation this release does not know, or that sets a level above levelMax.
func supported(cmd *statev1.Command, levelMax uint32) error {
	switch op := cmd.GetOp().(type) {
	case nil:
		return fmt.Errorf("%w: command without a known operation", ErrTooNew)
	case *statev1.Command_SetFeatureLevel:
		if l := op.SetFeatureLevel.GetLevel(); l > levelMax {
			return fmt.Errorf("%w: feature level %d, this node supports up to %d", ErrTooNew, l, levelMax)
		}
	case *statev1.Command_PutCluster:
		if l := op.PutCluster.GetCluster().GetFeatureLevel(); l > levelMax {
			return fmt.Errorf("%w: feature level %d, this node supports up to %d", ErrTooNew, l, levelMax)
		}
	case *statev1.Command_Batch:
		for _, c := range op.Batch.GetCommands() {
			if _, nested := c.GetOp().(*statev1.Command_Batch); nested {
				continue // a refusal of ApplyBatch, and no recursion on hostile bytes
			}
			if err := supported(c, levelMax); err != nil {
				return err
			}
		}
	}
	return nil
}
