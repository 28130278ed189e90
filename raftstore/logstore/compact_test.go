package logstore

import (
	"bytes"
	"path/filepath"
	"testing"

	"github.com/hashicorp/raft"
)

func TestCompact(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log.db")
	s, err := Open(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	var logs []*raft.Log
	for i := range uint64(2000) {
		logs = append(logs, &raft.Log{Index: i + 1, Term: 3, Data: bytes.Repeat([]byte{byte(i)}, 2000)})
	}
	if err := s.StoreLogs(logs); err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteRange(1, 1900); err != nil {
		t.Fatal(err)
	}
	for _, f := range []error{s.SetUint64(keyVoteTerm, 7), s.Set(keyVoteCand, []byte("c")), s.SetUint64([]byte("CurrentTerm"), 7)} {
		if f != nil {
			t.Fatal(f)
		}
	}
	if _, _, err := Compact(path); err == nil {
		t.Error("compacted a log that is open")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	before, after, err := Compact(path)
	if err != nil || after > before/4 {
		t.Fatalf("%d bytes, then %d, %v", before, after, err)
	}
	if s, err = Open(path, Options{}); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	first, _ := s.FirstIndex()
	last, _ := s.LastIndex()
	if first != 1901 || last != 2000 {
		t.Errorf("entries %d to %d", first, last)
	}
	var l raft.Log
	if err := s.GetLog(1950, &l); err != nil || l.Term != 3 || !bytes.Equal(l.Data, logs[1949].Data) {
		t.Errorf("%v %v", l.Term, err)
	}
	term, termErr := s.GetUint64(keyVoteTerm)
	cand, candErr := s.Get(keyVoteCand)
	cur, curErr := s.GetUint64([]byte("CurrentTerm"))
	if term != 7 || string(cand) != "c" || cur != 7 || termErr != nil || candErr != nil || curErr != nil {
		t.Errorf("vote %d %q, term %d; %v %v %v", term, cand, cur, termErr, candErr, curErr)
	}
	if _, _, err := Compact(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("compacted nothing")
	}
}
