package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// mit is Debian's krb5kdc with a realm of its own: DB2, the only module packaged, without the writes of lockout and last success,
// which cost it an fsync for each AS exchange. It is krb5kdc's fastest configuration there. It logs to a file, as Charon audits to one.
type mit struct {
	label string
	dir   string
	pin   pinning
	addr  string
	p     *process
}

const kdcConf = `[kdcdefaults]
 kdc_listen = %[2]s
 kdc_tcp_listen = %[2]s
[realms]
 %[3]s = {
  database_module = db2
  key_stash_file = %[1]s/stash
  max_life = 10h
  max_renewable_life = 7d
  supported_enctypes = aes256-sha2:normal aes128-sha2:normal aes256-sha1:normal aes128-sha1:normal
  default_principal_flags = +preauth
  disable_pac = %[4]t
 }
[dbmodules]
 db2 = {
  db_library = db2
  database_name = %[1]s/principal
  disable_last_success = true
  disable_lockout = true
 }
[logging]
 kdc = FILE:%[1]s/kdc.log
`

const krb5Conf = `[libdefaults]
 default_realm = %[2]s
 dns_lookup_kdc = false
 dns_lookup_realm = false
 rdns = false
[realms]
 %[2]s = {
  kdc = %[1]s
 }
`

func makeMIT(ctx context.Context, o *options, pin pinning, name, dir string, noPAC bool) (*mit, error) {
	for _, tool := range []string{"krb5kdc", "kdb5_util", "kadmin.local"} {
		if _, err := exec.LookPath(tool); err != nil {
			return nil, fmt.Errorf("%w (apt-get install krb5-kdc krb5-admin-server)", err)
		}
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	m := &mit{label: name, dir: dir, pin: pin, addr: fmt.Sprintf("127.0.0.1:%d", port)}
	files := map[string]string{
		"kdc.conf":  fmt.Sprintf(kdcConf, dir, m.addr, realm, noPAC),
		"krb5.conf": fmt.Sprintf(krb5Conf, m.addr, realm),
	}
	for file, text := range files {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
			return nil, err
		}
	}
	if _, err := output(ctx, m.env(), "kdb5_util", "create", "-s", "-r", realm, "-P", "master"); err != nil {
		return nil, err
	}
	return m, m.addPrincipals(ctx, o.users)
}

func (m *mit) env() []string {
	return []string{"KRB5_CONFIG=" + m.dir + "/krb5.conf", "KRB5_KDC_PROFILE=" + m.dir + "/kdc.conf"}
}

// addPrincipals makes the service and the users with random keys, and the users' keytab, in one kadmin.local.
func (m *mit) addPrincipals(ctx context.Context, users int) error {
	var in bytes.Buffer
	fmt.Fprintf(&in, "addprinc -randkey %s\n", service)
	for i := range users {
		fmt.Fprintf(&in, "addprinc -randkey %s\nktadd -norandkey -k %s %[1]s\n", userName(i), m.keytab())
	}
	cmd := exec.CommandContext(ctx, "kadmin.local", "-r", realm)
	cmd.Env = append(os.Environ(), m.env()...)
	cmd.Stdin = &in
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("kadmin.local: %w\n%s", err, out[max(0, len(out)-1000):])
	}
	if _, err := os.Stat(m.keytab()); err != nil {
		return fmt.Errorf("kadmin.local wrote no keytab: %w", err)
	}
	return nil
}

func userName(i int) string { return fmt.Sprintf("user%d", i) }

func (m *mit) name() string      { return m.label }
func (m *mit) kdcs() []string    { return []string{m.addr} }
func (m *mit) pids() []int       { return []int{m.p.pid()} }
func (m *mit) metrics() []string { return nil }
func (m *mit) keytab() string    { return filepath.Join(m.dir, "users.keytab") }

func (m *mit) start(ctx context.Context) (err error) {
	argv := append(append([]string(nil), m.pin.server...), "krb5kdc", "-n", "-r", realm, "-P", filepath.Join(m.dir, "pid"))
	if m.p, err = spawn(filepath.Join(m.dir, "krb5kdc.out"), m.env(), argv...); err != nil {
		return err
	}
	err = waitFor(ctx, "krb5kdc to listen", []*process{m.p}, func() bool {
		c, err := net.DialTimeout("tcp", m.addr, time.Second)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	if err != nil {
		m.p.kill()
	}
	return err
}

func (m *mit) stop() error { return m.p.end() }
