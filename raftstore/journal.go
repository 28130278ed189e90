package raftstore

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/charon-kdc/charon/raftstore/replay"
)

// journalMax bounds the records of the journal, 74 bytes each.
const journalMax = 1 << 19

// The journal's file, little endian: a header and records of one size, written one by one, never changed.
//
//	header  "charonJN", u32 version, 16 B the host's boot, u32 CRC-32C
//	record  u8 kind, u8 flags (1: a failed attempt; 2: it may be in the log already), 16 B K, 8 B R, i64 time in s, i64 when, in ms,
//	        16 B principal, u32 window, i64 unlocked at, u32 CRC-32C
//
//	kind 1, an authenticator that was accepted; 2, an attempt
//	kind 3, decided: the records before the file offset in "when" are in the log, at the latest by the index in "unlocked at"
//	kind 4, full: from here on something was not written
const (
	journalFile    = "journal" // in the replay group's directory
	journalMagic   = "charonJN"
	journalVersion = 1
	journalHeader  = 8 + 4 + 16 + 4
	recordSize     = 1 + 1 + 16 + 8 + 8 + 8 + 16 + 4 + 8 + 4

	recordProof   = 1
	recordAttempt = 2
	recordDecided = 3
	recordFull    = 4

	recordFailed = 1
	recordSent   = 2
)

// journal is what this node accepted and counted while it was cut off, on disk, until the replay log has it. A record is with the operating system before the
// answer that it stands for leaves, so it survives the end of the process; it is flushed once a second, so a power cut may cost the last
// of them, which the next start knows by the host's boot. The file goes when everything in it is decided.
type journal struct {
	path string
	boot [16]byte
	disk Disk
	max  int

	mu   sync.Mutex
	file *os.File // nil: there is none
	// end of the file, and up to where records are decided, under way (0: none are) and have been sent once.
	end, decided, underway, sent int64
	records, pending, taken      int    // in the file; of them not decided; of the batch under way
	lost, told                   uint64 // records that did not fit or could not be written; of them, those that takeLost told
	dirty                        bool
	// unmarked: records were lost, and the file could not be made to say so to the next process.
	unmarked bool
}

// journalled is one record: an authenticator accepted (attempt is false) or an attempt counted, by this node alone. sent: it may be in the log all
// the same, under the time it has.
type journalled struct {
	item
	sent bool
	at   int64 // ms since the epoch
}

// openJournal reads the records that an earlier process left and gives each to take, with the index by which the log had it, or 0 if that is not decided.
// incomplete says why something may be missing, or is empty.
func openJournal(path string, boot [16]byte, disk Disk, take func(r journalled, inLog uint64)) (j *journal, incomplete string, err error) {
	j = &journal{path: path, boot: boot, disk: disk, max: journalMax}
	f, err := os.OpenFile(path, os.O_RDWR, 0o600)
	if errors.Is(err, os.ErrNotExist) {
		return j, "", nil
	}
	if err != nil {
		return nil, "", err
	}
	j.file = f
	incomplete, err = j.load(take)
	if err != nil {
		return nil, "", errors.Join(fmt.Errorf("reading %s: %w", path, err), f.Close())
	}
	return j, incomplete, nil
}

func (j *journal) load(take func(journalled, uint64)) (incomplete string, err error) {
	info, err := j.file.Stat()
	if err != nil {
		return "", err
	}
	head := make([]byte, journalHeader)
	le := binary.LittleEndian
	_, err = io.ReadFull(j.file, head)
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		incomplete = "its header is missing"
	case err != nil:
		return "", err
	case string(head[:8]) != journalMagic || crc32.Checksum(head[:journalHeader-4], castagnoli) != le.Uint32(head[journalHeader-4:]):
		incomplete = "its header is damaged"
	case le.Uint32(head[8:]) != journalVersion:
		return "", fmt.Errorf("%w: journal of version %d, this release reads %d", replay.ErrTooNew, le.Uint32(head[8:]), journalVersion)
	case [16]byte(head[12:28]) != j.boot:
		incomplete = "the host went down meanwhile"
	}
	j.end = max(journalHeader, journalHeader+(info.Size()-journalHeader)/recordSize*recordSize)
	j.decided = journalHeader
	records, damaged, err := j.read(journalHeader, j.end)
	if err != nil {
		return "", err
	}
	index := uint64(0)
	for _, r := range records {
		switch r.kind {
		case recordDecided:
			j.decided, index = max(j.decided, min(r.at, j.end)), max(index, uint64(r.UnlockedAt))
		case recordFull:
			incomplete = "it was full"
		default:
			j.records++
		}
	}
	if damaged > 0 {
		incomplete = fmt.Sprintf("%d of its records are damaged", damaged)
	}
	for _, r := range records {
		switch {
		case r.kind > recordAttempt:
		case r.offset < j.decided:
			take(r.journalled, index)
		default:
			j.pending++
			take(r.journalled, 0)
		}
	}
	return incomplete, nil
}

// record is a journalled one where it lies.
type record struct {
	journalled
	kind   byte
	offset int64
}

// read returns the records between two offsets; damaged counts those that were left out.
func (j *journal) read(from, to int64) (out []record, damaged int, err error) {
	b := make([]byte, max(0, to-from))
	if _, err := j.file.ReadAt(b, from); err != nil && !errors.Is(err, io.EOF) {
		return nil, 0, err
	}
	for ; len(b) >= recordSize; b, from = b[recordSize:], from+recordSize {
		r, ok := decodeRecord(b[:recordSize])
		if !ok {
			damaged++
			continue
		}
		r.offset = from
		out = append(out, r)
	}
	return out, damaged, nil
}

func (r *record) append(b []byte) []byte {
	le, start := binary.LittleEndian, len(b)
	var flags byte
	if r.Failed {
		flags |= recordFailed
	}
	if r.sent {
		flags |= recordSent
	}
	b = append(append(append(b, r.kind, flags), r.K[:]...), r.R[:]...)
	b = le.AppendUint64(b, uint64(r.CTime))
	b = le.AppendUint64(b, uint64(r.at))
	b = le.AppendUint32(append(b, r.Principal[:]...), r.Window)
	b = le.AppendUint64(b, uint64(r.UnlockedAt))
	return le.AppendUint32(b, crc32.Checksum(b[start:], castagnoli))
}

func decodeRecord(b []byte) (r record, ok bool) {
	le := binary.LittleEndian
	if crc32.Checksum(b[:recordSize-4], castagnoli) != le.Uint32(b[recordSize-4:]) || b[0] < recordProof || b[0] > recordFull {
		return r, false
	}
	r.kind, r.attempt = b[0], b[0] == recordAttempt
	r.Failed, r.sent = b[1]&recordFailed != 0, b[1]&recordSent != 0
	copy(r.K[:], b[2:])
	copy(r.R[:], b[18:])
	r.CTime, r.at = int64(le.Uint64(b[26:])), int64(le.Uint64(b[34:]))
	copy(r.Principal[:], b[42:])
	r.Window, r.UnlockedAt = le.Uint32(b[58:]), int64(le.Uint64(b[62:]))
	return r, true
}

// begin makes the file, if there is none, so that it is there after a power cut: a node answers nothing alone before.
func (j *journal) begin() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.beginLocked()
}

func (j *journal) beginLocked() error {
	if j.file != nil {
		return nil
	}
	f, err := os.OpenFile(j.path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	le := binary.LittleEndian
	h := le.AppendUint32([]byte(journalMagic), journalVersion)
	h = append(h, j.boot[:]...)
	h = le.AppendUint32(h, crc32.Checksum(h, castagnoli))
	if _, err = f.WriteAt(h, 0); err == nil {
		err = j.disk.sync(f)
	}
	if err == nil {
		err = j.disk.syncDir(filepath.Dir(j.path))
	}
	if err != nil {
		return errors.Join(err, f.Close(), os.Remove(j.path))
	}
	j.file, j.end, j.decided, j.sent, j.dirty = f, journalHeader, journalHeader, 0, false
	j.records, j.pending, j.lost, j.told = 0, 0, 0, 0
	return nil
}

// add writes one record. It tells whether it was the first one that could not be written.
func (j *journal) add(r journalled) (full bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	kind := byte(recordProof)
	if r.attempt {
		kind = recordAttempt
	}
	if j.lost == 0 && j.beginLocked() == nil && j.records < j.max && j.write(&record{journalled: r, kind: kind}) {
		j.records++
		j.pending++
		return false
	}
	if j.lost++; j.lost > 1 {
		return false
	}
	if j.file == nil || !j.write(&record{kind: recordFull}) {
		j.unmarked = !j.void()
	}
	return true
}

// void spoils the header where it lies, which needs no room on the disk: the next process then knows that something is missing.
func (j *journal) void() bool {
	f, err := os.OpenFile(j.path, os.O_WRONLY, 0)
	if err != nil {
		return false
	}
	_, err = f.WriteAt(make([]byte, len(journalMagic)), 0)
	return errors.Join(err, f.Close()) == nil
}

// forgetful tells whether the next process would take a journal for whole that is not.
func (j *journal) forgetful() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.unmarked
}

func (j *journal) write(r *record) bool {
	var buf [recordSize]byte
	if _, err := j.file.WriteAt(r.append(buf[:0]), j.end); err != nil {
		return false // what is there of it will be written over
	}
	j.end += recordSize
	j.dirty = true
	return true
}

// batch takes up to n records that are not decided, unless some are under way.
func (j *journal) batch(n int) ([]journalled, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.file == nil || j.underway > 0 || j.pending == 0 {
		return nil, nil
	}
	var out []journalled
	for len(out) == 0 && j.decided < j.end {
		to := min(j.end, j.decided+int64(n)*recordSize)
		records, _, err := j.read(j.decided, to)
		if err != nil {
			return nil, err
		}
		for _, r := range records {
			if r.kind <= recordAttempt {
				r.sent = r.sent || r.offset < j.sent
				out = append(out, r.journalled)
			}
		}
		if len(out) == 0 {
			j.decided = to // marks only
			continue
		}
		j.underway, j.taken = to, len(out)
	}
	return out, nil
}

// done ends the batch that is under way: decided, by that index of the log, or not this time, and then sent tells whether a leader may have got some of it.
func (j *journal) done(decided, sent bool, index uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	switch {
	case decided:
		j.decided = j.underway
		j.pending -= j.taken
		if j.decided >= j.end {
			j.pending = 0
		}
		j.write(&record{kind: recordDecided, journalled: journalled{at: j.decided, item: item{Attempt: replay.Attempt{UnlockedAt: int64(index)}}}})
	case sent:
		j.sent = max(j.sent, j.underway)
	}
	j.underway = 0
}

// clear removes the file when nothing is in it that is not decided.
func (j *journal) clear() (err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.file == nil || j.pending > 0 {
		return nil
	}
	err = errors.Join(j.file.Close(), os.Remove(j.path))
	j.file, j.records, j.lost, j.told, j.dirty, j.unmarked = nil, 0, 0, 0, false, false
	return err
}

// left is how many records are not decided.
func (j *journal) left() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.pending
}

// takeLost is how many more found no room since it was last asked.
func (j *journal) takeLost() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	n := j.lost - j.told
	j.told = j.lost
	return int(n)
}

// lostRecords is how many found no room since the file was made.
func (j *journal) lostRecords() uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.lost
}

// flush syncs what was written since the last time.
func (j *journal) flush() error {
	j.mu.Lock()
	f, dirty := j.file, j.dirty
	j.dirty = false
	j.mu.Unlock()
	if !dirty || f == nil {
		return nil
	}
	if err := j.disk.sync(f); err != nil && !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}

func (j *journal) close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.file == nil {
		return nil
	}
	err := j.file.Close()
	j.file = nil
	return err
}

// hostBoot is the kernel's id of this boot of the host; zero where it has none.
func hostBoot() (id [16]byte) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return id
	}
	raw, err := hex.DecodeString(strings.ReplaceAll(strings.TrimSpace(string(b)), "-", ""))
	if err == nil && len(raw) == len(id) {
		copy(id[:], raw)
	}
	return id
}
