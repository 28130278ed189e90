package interop

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/charon-kdc/charon/test/realm"
)

// heimdalDir holds Heimdal's clients, unpacked beside MIT's (`make deps`).
func heimdalDir(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("CHARON_HEIMDAL")
	if dir == "" {
		dir = filepath.Join("..", "..", "bin", "heimdal")
	}
	if _, err := os.Stat(filepath.Join(dir, "usr/bin/kgetcred")); err != nil {
		t.Fatalf("Heimdal's clients are missing: %v; run make deps", err)
	}
	return filepath.Join(dir, "usr/bin")
}

func heimdal(t *testing.T, r *realm.Realm) {
	bin := heimdalDir(t)
	kinit, tools, kgetcred, kdestroy := filepath.Join(bin, "kinit.heimdal"), filepath.Join(bin, "heimtools"), filepath.Join(bin, "kgetcred"), filepath.Join(bin, "kdestroy.heimdal")
	keytab := r.Keytab(t, "HTTP/web.example.com")
	eachNode(t, r, func(t *testing.T, s *realm.Session) {
		secret := filepath.Join(filepath.Dir(s.Conf), "secret")
		if err := os.WriteFile(secret, []byte(password+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		s.OK("", kinit, "--password-file="+secret, "alice@EXAMPLE.COM")
		s.OK("", kgetcred, "HTTP/web.example.com@EXAMPLE.COM")
		if out := s.OK("", tools, "klist"); !strings.Contains(out, "HTTP/web.example.com@EXAMPLE.COM") {
			t.Errorf("heimtools klist:\n%s", out)
		}
		s.OK("", kinit, "--password-file="+secret, "--renewable", "--forwardable", "alice@EXAMPLE.COM")
		s.OK("", kinit, "--renew")
		s.OK("", kdestroy)
		s.OK("", kinit, "-k", "-t", keytab, "HTTP/web.example.com@EXAMPLE.COM")

		if err := os.WriteFile(secret, []byte("wrong\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		s.Refused("Password incorrect", "", kinit, "--password-file="+secret, "alice@EXAMPLE.COM")
	})
}
