package interop

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/charon-kdc/charon/test/realm"
)

// java logs in with Krb5LoginModule by password, makes a mutually authenticated JGSS context with a service that has its keytab, and sends a message through it.
func java(t *testing.T, r *realm.Realm) {
	keytab := r.Keytab(t, "HTTP/web.example.com")
	source, err := filepath.Abs("testdata/Login.java")
	if err != nil {
		t.Fatal(err)
	}
	eachNode(t, r, func(t *testing.T, s *realm.Session) {
		out := s.OK("", "java", "-Djava.security.krb5.conf="+s.Conf, source, "alice@EXAMPLE.COM", password, "HTTP/web.example.com@EXAMPLE.COM", keytab)
		if !strings.Contains(out, "alice@EXAMPLE.COM mutual=true message=over the river") {
			t.Errorf("Java said:\n%s", out)
		}
		if out, err := s.Run("", "java", "-Djava.security.krb5.conf="+s.Conf, source, "alice@EXAMPLE.COM", "wrong", "HTTP/web.example.com@EXAMPLE.COM", keytab); err == nil || !strings.Contains(out, "LoginException") {
			t.Errorf("Java with a wrong password: %v\n%s", err, out)
		}
	})
}
