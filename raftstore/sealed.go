package raftstore

import (
	"bytes"
	"fmt"
	"hash/crc32"
	"os"
)

// A small text file ends in a line "crc32c " and 8 hex digits, over all before it.
const sumLine = "crc32c "

func sealText(b []byte) []byte {
	return fmt.Appendf(bytes.Clone(b), "%s%08x\n", sumLine, crc32.Checksum(b, castagnoli))
}

// readSealed reads a file that sealText made. ErrBroken if it is not whole; os.ErrNotExist.
func readSealed(path string) ([]byte, error) {
	const size = len(sumLine) + 8 + 1
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if len(b) < size || !bytes.Equal(sealText(b[:len(b)-size]), b) {
		return nil, fmt.Errorf("%w: %s: its checksum is wrong", ErrBroken, path)
	}
	return b[:len(b)-size], nil
}
