package lockfile

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// opened runs Open in the background and says what it read.
func opened(t *testing.T, path string, flag int) <-chan string {
	c := make(chan string, 1)
	go func() {
		f, err := Open(path, flag)
		if err != nil {
			c <- "error: " + err.Error()
			return
		}
		defer f.Close()
		b, err := ReadAll(f)
		if err != nil {
			t.Error(err)
		}
		c <- string(b)
	}()
	return c
}

func mustWrite(t *testing.T, path, s string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(s), 0o600); err != nil {
		t.Fatal(err)
	}
}

func receive(t *testing.T, c <-chan string) string {
	t.Helper()
	select {
	case s := <-c:
		return s
	case <-time.After(lockWait + 5*time.Second):
		t.Fatal("still locked")
		return ""
	}
}

// MIT krb5 falls back to plain POSIX locks where it must; ours has to respect those, too.
func TestOpenRespectsPOSIXLocks(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	mustWrite(t, path, "before")
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.FcntlFlock(f.Fd(), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK}); err != nil {
		t.Fatal(err)
	}
	reader, writer := opened(t, path, os.O_RDONLY), opened(t, path, os.O_RDWR)
	select {
	case s := <-reader:
		t.Fatalf("a reader went past an exclusive lock and read %q", s)
	case s := <-writer:
		t.Fatalf("a writer went past an exclusive lock and read %q", s)
	case <-time.After(50 * time.Millisecond): // long enough to catch a lock that is none, and no more is claimed
	}
	if _, err := f.WriteAt([]byte("after!"), 0); err != nil {
		t.Fatal(err)
	}
	if err := unix.FcntlFlock(f.Fd(), unix.F_SETLK, &unix.Flock_t{Type: unix.F_UNLCK}); err != nil {
		t.Fatal(err)
	}
	if a, b := receive(t, reader), receive(t, writer); a != "after!" || b != "after!" {
		t.Errorf("read %q and %q", a, b)
	}
}

func TestReadersShare(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	mustWrite(t, path, "x")
	f, err := Open(path, os.O_RDONLY)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if s := receive(t, opened(t, path, os.O_RDONLY)); s != "x" {
		t.Errorf("second reader: %q", s)
	}
}

// Who waited for a file that was replaced meanwhile must get the new one, or its writing is lost.
func TestOpenFollowsReplacement(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	mustWrite(t, path, "old")
	f, err := Open(path, os.O_RDWR)
	if err != nil {
		t.Fatal(err)
	}
	waiting := opened(t, path, os.O_RDWR)
	mustWrite(t, filepath.Join(dir, "new"), "new")
	if err := os.Rename(filepath.Join(dir, "new"), path); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if s := receive(t, waiting); s != "new" {
		t.Errorf("read %q", s)
	}
}

func TestReplaceTakesTheLinksPlace(t *testing.T) {
	dir := t.TempDir()
	victim, link := filepath.Join(dir, "victim"), filepath.Join(dir, "link")
	mustWrite(t, victim, "precious")
	if err := os.Symlink(victim, link); err != nil {
		t.Fatal(err)
	}
	if err := Replace(link, []byte("ours")); err != nil {
		t.Fatal(err)
	}
	v, _ := os.ReadFile(victim)
	l, _ := os.ReadFile(link)
	if st, err := os.Lstat(link); string(v) != "precious" || string(l) != "ours" || err != nil || st.Mode() != 0o600 {
		t.Errorf("victim %q, link %q, %v, %v", v, l, st.Mode(), err)
	}
	if err := Replace(filepath.Join(dir, "none", "f"), nil); err == nil {
		t.Error("a directory that is not there")
	}
}

func TestReadAllIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	mustWrite(t, path, "")
	if err := os.Truncate(path, sizeMax+1); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := ReadAll(f); err == nil {
		t.Error("read more than it may")
	}
}
