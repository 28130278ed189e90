package masterkey

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// The file: a heading line, one "VERSION BASE64 CHECK" line a key, ascending. Which of them is in use the realm's state says. CHECK is the key check
// value, 8 hex digits: a key with a flipped bit would not open anything, and what it seals nobody else could.
const heading = "charon-master-key 2"

// checkValue of a key, which tells nothing of it that helps to guess 32 random bytes.
func checkValue(version uint32, raw [keySize]byte) string {
	d := sha256.Sum256(append(binary.BigEndian.AppendUint32([]byte("charon master key check"), version), raw[:]...))
	return hex.EncodeToString(d[:4])
}

// fileMax bounds what Load reads.
const fileMax = 16 << 10

// Text is the ring as its file holds it. It is the secret itself: for the file and for backups only.
func (r *Ring) Text() []byte {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return text(r.keys)
}

// TextInUse is Text without the versions above the one in use: for the join channel only.
func (r *Ring) TextInUse() []byte {
	r.mu.RLock()
	defer r.mu.RUnlock()
	keys := maps.Clone(r.keys)
	maps.DeleteFunc(keys, func(v uint32, _ *entry) bool { return v > r.current })
	return text(keys)
}

func text(keys map[uint32]*entry) []byte {
	var b bytes.Buffer
	b.WriteString(heading + "\n")
	for _, v := range slices.Sorted(maps.Keys(keys)) {
		fmt.Fprintf(&b, "%d %s %s\n", v, base64.StdEncoding.EncodeToString(keys[v].raw[:]), checkValue(v, keys[v].raw))
	}
	return b.Bytes()
}

// Parse reads what Text wrote.
func Parse(text []byte) (*Ring, error) {
	if len(text) > fileMax {
		return nil, fmt.Errorf("master key text of %d bytes; at most %d", len(text), fileMax)
	}
	sc := bufio.NewScanner(bytes.NewReader(text))
	if !sc.Scan() || sc.Text() != heading {
		return nil, fmt.Errorf("not a master key file: line 1 is not %q", heading)
	}
	r := &Ring{keys: map[uint32]*entry{}}
	for line := 2; sc.Scan(); line++ {
		version, raw, err := parseLine(sc.Text())
		if err != nil {
			return nil, fmt.Errorf("master key, line %d: %w", line, err)
		}
		if version <= r.current {
			return nil, fmt.Errorf("master key, line %d: version %d after %d", line, version, r.current)
		}
		if len(r.keys) == versionsMax {
			return nil, fmt.Errorf("master key: more than %d versions", versionsMax)
		}
		if err := r.add(version, raw); err != nil {
			return nil, err
		}
		r.current = version
	}
	if err := sc.Err(); err != nil {
		return nil, fmt.Errorf("master key: %w", err)
	}
	if len(r.keys) == 0 {
		return nil, errors.New("master key: no key in it")
	}
	return r, nil
}

// parseLine never puts the line's content into an error: it is a secret.
func parseLine(s string) (uint32, [keySize]byte, error) {
	var raw [keySize]byte
	fields := strings.Split(s, " ")
	if len(fields) != 3 {
		return 0, raw, errors.New("want VERSION BASE64 CHECK")
	}
	v, k, check := fields[0], fields[1], fields[2]
	version, err := strconv.ParseUint(v, 10, 32)
	if err != nil || version == 0 {
		return 0, raw, errors.New("version is not a positive number")
	}
	b, err := base64.StdEncoding.Strict().DecodeString(k)
	if err != nil || len(b) != keySize {
		return 0, raw, fmt.Errorf("key is not %d bytes of base64", keySize)
	}
	copy(raw[:], b)
	if checkValue(uint32(version), raw) != check {
		return 0, raw, errors.New("the key check value is wrong: the file is damaged; copy it from another node")
	}
	return uint32(version), raw, nil
}

// Load reads a key file. A file that group or others may read is refused.
func Load(path string) (*Ring, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading master key: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("reading master key: %w", err)
	}
	if st.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("master key %s has mode %04o; group and others must have no access: chmod 600 %s", path, st.Mode().Perm(), path)
	}
	text, err := io.ReadAll(io.LimitReader(f, fileMax+1))
	if err != nil {
		return nil, fmt.Errorf("reading master key %s: %w", path, err)
	}
	r, err := Parse(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return r, nil
}

// WriteFile writes the ring with mode 0600, durably and atomically: after a crash the old or the new file is there, whole.
func (r *Ring) WriteFile(path string) error { return writeFile(path, r.Text()) }

func writeFile(path string, text []byte) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".master-key-*") // 0600
	if err != nil {
		return fmt.Errorf("writing master key: %w", err)
	}
	defer os.Remove(f.Name())
	if err := errors.Join(writeAll(f, text), f.Close()); err != nil {
		return fmt.Errorf("writing master key: %w", err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return fmt.Errorf("writing master key: %w", err)
	}
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("writing master key: %w", err)
	}
	return errors.Join(d.Sync(), d.Close())
}

func writeAll(f *os.File, b []byte) error {
	if _, err := f.Write(b); err != nil {
		return err
	}
	return f.Sync()
}
