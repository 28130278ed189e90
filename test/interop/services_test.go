package interop

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/charon-kdc/charon/test/realm"
)

// daemon starts argv in the foreground with env, waits until it listens on port, and ends it with the test.
func daemon(t *testing.T, port int, env []string, argv ...string) {
	t.Helper()
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env, cmd.Stdout, cmd.Stderr = env, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		cmd.Wait()
		log.Close()
		if t.Failed() {
			out, _ := os.ReadFile(log.Name())
			t.Logf("%s said:\n%s", argv[0], out)
		}
	})
	realm.Eventually(t, 30*time.Second, argv[0]+" to listen", func() bool {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			return false
		}
		c.Close()
		return true
	})
}

func write(t *testing.T, path, text string, mode os.FileMode) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

// openSSH logs in to a real sshd with GSSAPIAuthentication and nothing else.
func openSSH(t *testing.T, r *realm.Realm) {
	keytab := r.Keytab(t, "host/localhost")
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
		t.Fatal(err)
	}
	eachNode(t, r, func(t *testing.T, s *realm.Session) {
		dir, port := filepath.Dir(s.Conf), realm.FreePort(t)
		s.OK("", "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, "hostkey"))
		conf := write(t, filepath.Join(dir, "sshd_config"), fmt.Sprintf(`Port %d
ListenAddress 127.0.0.1
HostKey %s/hostkey
PidFile none
UsePAM no
StrictModes no
PermitRootLogin yes
PasswordAuthentication no
PubkeyAuthentication no
GSSAPIAuthentication yes
GSSAPIStrictAcceptorCheck no
`, port, dir), 0o600)
		daemon(t, port, append(s.Env, "KRB5_KTNAME=FILE:"+keytab), "/usr/sbin/sshd", "-D", "-e", "-f", conf)
		ssh := []string{"ssh", "-F", "none", "-p", fmt.Sprint(port), "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "GlobalKnownHostsFile=/dev/null",
			"-o", "BatchMode=yes", "-o", "GSSAPIAuthentication=yes", "-o", "PreferredAuthentications=gssapi-with-mic", "localhost", "echo", "across"}
		if out, err := s.Run("", ssh...); err == nil {
			t.Fatalf("ssh without a ticket got in:\n%s", out)
		}
		s.OK(password+"\n", "kinit", "alice")
		if out := s.OK("", ssh...); !strings.Contains(out, "across") {
			t.Errorf("ssh said:\n%s", out)
		}
		s.OK(password+"\n", "kinit", "bob") // bob is nobody here
		if out, err := s.Run("", ssh...); err == nil {
			t.Errorf("ssh let bob in as alice's user:\n%s", out)
		}
	})
}

// apache serves a page behind mod_auth_gssapi to curl --negotiate.
func apache(t *testing.T, r *realm.Realm) {
	keytab := r.Keytab(t, "HTTP/localhost")
	if err := os.Chmod(keytab, 0o644); err != nil { // for Apache's own user; the directory is this test's
		t.Fatal(err)
	}
	eachNode(t, r, func(t *testing.T, s *realm.Session) {
		dir, port := filepath.Dir(s.Conf), realm.FreePort(t)
		if err := os.Mkdir(filepath.Join(dir, "htdocs"), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, "htdocs", "index.html"), "the far bank\n", 0o644)
		conf := write(t, filepath.Join(dir, "httpd.conf"), fmt.Sprintf(`ServerRoot %[1]s
ServerName localhost
Listen 127.0.0.1:%[2]d
PidFile %[1]s/httpd.pid
ErrorLog %[1]s/error.log
LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
LoadModule authn_core_module /usr/lib/apache2/modules/mod_authn_core.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
LoadModule authz_user_module /usr/lib/apache2/modules/mod_authz_user.so
LoadModule auth_gssapi_module /usr/lib/apache2/modules/mod_auth_gssapi.so
LoadModule dir_module /usr/lib/apache2/modules/mod_dir.so
User www-data
Group www-data
DocumentRoot %[1]s/htdocs
DirectoryIndex index.html
<Directory />
  AllowOverride None
</Directory>
<Location />
  AuthType GSSAPI
  AuthName "Styx"
  GssapiCredStore keytab:%[3]s
  Require user alice@EXAMPLE.COM
</Location>
`, dir, port, keytab), 0o644)
		daemon(t, port, append(s.Env, "KRB5_KTNAME=FILE:"+keytab), "/usr/sbin/apache2", "-D", "FOREGROUND", "-f", conf)
		curl := []string{"curl", "-sS", "--max-time", "20", "--negotiate", "-u", ":", "-w", "%{http_code}", fmt.Sprintf("http://localhost:%d/", port)}
		if out, _ := s.Run("", curl...); !strings.HasSuffix(out, "401") {
			t.Fatalf("curl without a ticket: %s", out)
		}
		s.OK(password+"\n", "kinit", "alice")
		if out := s.OK("", curl...); !strings.Contains(out, "the far bank") || !strings.HasSuffix(out, "200") {
			t.Errorf("curl --negotiate said: %s", out)
		}
		s.OK(password+"\n", "kinit", "bob")
		if out, _ := s.Run("", curl...); strings.Contains(out, "the far bank") {
			t.Errorf("bob saw alice's page: %s", out)
		}
	})
}
