package masterkey

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func keyFile(t *testing.T) *File {
	t.Helper()
	r := ring(t)
	f := NewFile(filepath.Join(t.TempDir(), "master.key"), r, "")
	if err := r.WriteFile(f.Path()); err != nil {
		t.Fatal(err)
	}
	return f
}

// onDisk is the versions that a restart would have.
func onDisk(t *testing.T, f *File) string {
	t.Helper()
	r, err := Load(f.Path())
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(r.Versions())
}

func TestFilePut(t *testing.T) {
	f := keyFile(t)
	two, other := bytes.Repeat([]byte{2}, 32), bytes.Repeat([]byte{9}, 32)
	for _, c := range []struct {
		version uint32
		key     []byte
		text    string
		has     string
	}{
		{0, two, "above 0", "[1]"}, {2, two[:31], "32 bytes", "[1]"}, {1, two, "in use", "[1]"},
		{2, other, "", "[1 2]"}, {2, two, "", "[1 2]"}, {2, two, "", "[1 2]"}, {5, other, "", "[1 2 5]"},
	} {
		err := f.Put(c.version, c.key)
		if (err == nil) != (c.text == "") || err != nil && !strings.Contains(err.Error(), c.text) {
			t.Errorf("version %d: %v, want %q", c.version, err, c.text)
		}
		if disk := onDisk(t, f); disk != c.has || fmt.Sprint(f.Ring().Versions()) != c.has {
			t.Errorf("version %d: on disk %s, in memory %v, want %s", c.version, disk, f.Ring().Versions(), c.has)
		}
	}
	if k, err := f.Ring().Key(2); err != nil || !bytes.Equal(k, two) {
		t.Errorf("version 2: %v", err)
	}
	// Until the realm is at the new version, nothing is sealed under it.
	if f.Ring().Current() != 1 {
		t.Errorf("in use: %d", f.Ring().Current())
	}
	if err := f.Ring().Use(3); !errors.Is(err, ErrNoVersion) || f.Ring().Current() != 1 {
		t.Errorf("using what is not there: %v", err)
	}
	if err := f.Drop(2); err == nil {
		t.Error("the version in use was dropped")
	}
	if r, err := Parse(f.Ring().TextInUse()); err != nil || fmt.Sprint(r.Versions()) != "[1]" {
		t.Errorf("for a joiner: %v", err)
	}
	if err := f.Ring().Use(2); err != nil {
		t.Fatal(err)
	}
	if err := f.Put(2, other); err == nil {
		t.Error("the version in use was replaced")
	}
	if err := f.Drop(2); err != nil || onDisk(t, f) != "[2 5]" {
		t.Errorf("dropped: %v, %s", err, onDisk(t, f))
	}
	f.Ring().UseNone()
	if _, err := f.Ring().Seal(rand.Reader, AAD{}, nil); !errors.Is(err, ErrNoVersion) {
		t.Errorf("sealed under no version: %v", err)
	}
	if err := f.Ring().Use(2); err != nil {
		t.Fatal(err)
	}
	for v := uint32(6); v < 6+versionsMax-2; v++ {
		if err := f.Put(v, two); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Put(1000, two); err == nil || !strings.Contains(err.Error(), "charon master-key retire") {
		t.Errorf("one version too many: %v", err)
	}
}

// A ring must not have what the disk has not.
func TestFileThatCanNotBeWritten(t *testing.T) {
	f := keyFile(t)
	fixed := NewFile(f.Path(), f.Ring(), "it is a systemd credential")
	if err := fixed.Put(2, make([]byte, 32)); err == nil || !strings.Contains(err.Error(), "systemd") {
		t.Errorf("a fixed file: %v", err)
	}
	if err := os.RemoveAll(filepath.Dir(f.Path())); err != nil {
		t.Fatal(err)
	}
	if err := f.Put(2, make([]byte, 32)); err == nil {
		t.Error("no error without a directory")
	}
	if fmt.Sprint(f.Ring().Versions()) != "[1]" {
		t.Errorf("the ring has %v", f.Ring().Versions())
	}
}

func TestCheck(t *testing.T) {
	r := ring(t)
	a, err := r.Check([]byte("cluster"), 1)
	if err != nil {
		t.Fatal(err)
	}
	key, _ := r.Key(1)
	if !bytes.Equal(a, Check([]byte("cluster"), 1, key)) || bytes.Equal(a, Check([]byte("cluster"), 2, key)) || bytes.Equal(a, Check([]byte("other"), 1, key)) || bytes.Contains(a, key[:8]) {
		t.Error("the check is not of cluster, version and key, or gives the key away")
	}
	if _, err := r.Check(nil, 2); !errors.Is(err, ErrNoVersion) {
		t.Errorf("%v", err)
	}
}

// Values sealed while versions come and go open all the same.
func TestRotatingWhileServing(t *testing.T) {
	f := keyFile(t)
	aad := SecretAAD([]byte("c"), "x")
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				s, err := f.Ring().Seal(rand.Reader, aad, []byte("v"))
				if err == nil {
					_, err = f.Ring().Open(aad, s)
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for v := uint32(2); v < 20; v++ {
		key := make([]byte, 32)
		if _, err := rand.Read(key); err != nil {
			t.Fatal(err)
		}
		if err := f.Put(v, key); err != nil {
			t.Fatal(err)
		}
		if err := f.Ring().Use(v); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	wg.Wait()
}
