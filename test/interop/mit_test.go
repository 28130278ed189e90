package interop

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/charon-kdc/charon/test/realm"
)

func mitPassword(t *testing.T, r *realm.Realm) {
	eachNode(t, r, func(t *testing.T, s *realm.Session) {
		s.OK(password+"\n", "kinit", "alice")
		s.OK("", "kvno", "HTTP/web.example.com")
		out := s.OK("", "klist", "-e")
		for _, want := range []string{"Default principal: alice@EXAMPLE.COM", "krbtgt/EXAMPLE.COM@EXAMPLE.COM", "HTTP/web.example.com@EXAMPLE.COM", "aes256-cts-hmac-sha384-192"} {
			if !strings.Contains(out, want) {
				t.Errorf("klist -e lacks %q:\n%s", want, out)
			}
		}
		s.OK("", "kdestroy")
		if _, err := os.Stat(s.Cache); !os.IsNotExist(err) {
			t.Errorf("kdestroy left %s: %v", s.Cache, err)
		}
	})
}

func mitKeytab(t *testing.T, r *realm.Realm) {
	keytab := r.Keytab(t, "HTTP/web.example.com")
	eachNode(t, r, func(t *testing.T, s *realm.Session) {
		s.OK("", "kinit", "-k", "-t", keytab, "HTTP/web.example.com")
		// The service opens a ticket for itself with its keytab: kvno -k decrypts it.
		s.OK("", "kvno", "-k", keytab, "HTTP/web.example.com")
	})
}

// times parses klist's start, end and renew-until of the ticket for server.
func times(t *testing.T, klist, server string) (start, end, renew time.Time) {
	t.Helper()
	const stamp = `(\d\d/\d\d/\d\d(?:\d\d)? \d\d:\d\d:\d\d)`
	m := regexp.MustCompile(stamp + `  ` + stamp + `  ` + regexp.QuoteMeta(server) + `\n(?:\trenew until ` + stamp + `)?`).FindStringSubmatch(klist)
	if m == nil {
		t.Fatalf("klist has no ticket for %s:\n%s", server, klist)
	}
	parse := func(s string) time.Time {
		if s == "" {
			return time.Time{}
		}
		layout := "01/02/06 15:04:05"
		if len(s) == len("01/02/2006 15:04:05") {
			layout = "01/02/2006 15:04:05"
		}
		v, err := time.Parse(layout, s)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	return parse(m[1]), parse(m[2]), parse(m[3])
}

const tgt = "krbtgt/EXAMPLE.COM@EXAMPLE.COM"

func mitLifetime(t *testing.T, r *realm.Realm) {
	eachNode(t, r, func(t *testing.T, s *realm.Session) {
		begun := time.Now()
		s.OK(password+"\n", "kinit", "-l", "17m", "alice")
		took := time.Since(begun)
		start, end, _ := times(t, s.OK("", "klist"), tgt)
		// kinit asks for an end, 17 minutes from when it begins; the KDC begins the ticket when it gets the last request. Both count whole seconds.
		if got := end.Sub(start); got > 17*time.Minute || got < 17*time.Minute-took-time.Second {
			t.Errorf("a ticket of %s, asked for 17m", got)
		}
		s.OK("", "kvno", "HTTP/web.example.com")
		if _, e, _ := times(t, s.OK("", "klist"), "HTTP/web.example.com@EXAMPLE.COM"); e.After(end) {
			t.Errorf("the service ticket ends at %s, after the TGT at %s", e, end)
		}
	})
}

func mitRenew(t *testing.T, r *realm.Realm) {
	eachNode(t, r, func(t *testing.T, s *realm.Session) {
		s.OK(password+"\n", "kinit", "-l", "1h", "-r", "2d", "alice")
		_, end, renew := times(t, s.OK("", "klist"), tgt)
		if got := renew.Sub(end); got < 46*time.Hour || got > 48*time.Hour {
			t.Errorf("renewable %s past its end, asked for 2d in all", got)
		}
		before, err := os.ReadFile(s.Cache)
		if err != nil {
			t.Fatal(err)
		}
		s.OK("", "kinit", "-R")
		after, err := os.ReadFile(s.Cache)
		if err != nil {
			t.Fatal(err)
		}
		if string(before) == string(after) {
			t.Error("kinit -R changed nothing")
		}
		if _, _, r2 := times(t, s.OK("", "klist"), tgt); !r2.Equal(renew) {
			t.Errorf("renew-till moved from %s to %s", renew, r2)
		}
		s.OK("", "kvno", "HTTP/web.example.com")

		s.OK(password+"\n", "kinit", "-l", "1h", "alice")
		s.Refused("KDC can't fulfill requested option", "", "kinit", "-R")
	})
}

func mitPostdated(t *testing.T, r *realm.Realm) {
	eachNode(t, r, func(t *testing.T, s *realm.Session) {
		s.OK(password+"\n", "kinit", "-s", "1h", "alice")
		if out := s.OK("", "klist", "-f"); !regexp.MustCompile(`Flags: \w*d\w*i`).MatchString(out) {
			t.Errorf("a postdated ticket must be invalid (flags d and i):\n%s", out)
		}
		s.Refused("Ticket not yet valid", "", "kinit", "-v")
		if out, err := s.Run("", "kvno", "HTTP/web.example.com"); err == nil {
			t.Errorf("an invalid ticket got a service ticket:\n%s", out)
		}
		s.OK(password+"\n", "kinit", "-s", "2s", "alice")
		realm.Eventually(t, 30*time.Second, "validation to succeed once the start time is past", func() bool {
			_, err := s.Run("", "kinit", "-v")
			return err == nil
		})
		s.OK("", "kvno", "HTTP/web.example.com")
	})
}

func mitFlags(t *testing.T, r *realm.Realm) {
	flags := regexp.MustCompile(`Flags: (\w+)`)
	eachNode(t, r, func(t *testing.T, s *realm.Session) {
		for _, c := range []struct{ opt, has, hasNot string }{
			{"-f", "FIA", "P"}, {"-F", "IA", "FP"}, {"-p", "PIA", "F"}, {"-P", "IA", "P"},
		} {
			args := []string{"kinit", c.opt}
			s.OK(password+"\n", append(args, "alice")...)
			m := flags.FindStringSubmatch(s.OK("", "klist", "-f"))
			if m == nil || !containsAll(m[1], c.has) || strings.ContainsAny(m[1], c.hasNot) {
				t.Errorf("kinit %s: flags %v, want %s without any of %s", c.opt, m, c.has, c.hasNot)
			}
		}
	})
}

func containsAll(s, chars string) bool {
	for _, c := range chars {
		if !strings.ContainsRune(s, c) {
			return false
		}
	}
	return true
}

func mitAddresses(t *testing.T, r *realm.Realm) {
	eachNode(t, r, func(t *testing.T, s *realm.Session) {
		s.OK(password+"\n", "kinit", "-a", "alice")
		if out := s.OK("", "klist", "-a"); strings.Contains(out, "Addresses: (none)") {
			t.Errorf("kinit -a got a ticket without addresses:\n%s", out)
		}
	}, "noaddresses = false", "extra_addresses = 127.0.0.1")
}

func mitUserToUser(t *testing.T, r *realm.Realm) {
	eachNode(t, r, func(t *testing.T, s *realm.Session) {
		bob := s.Cache + ".bob"
		s.OK(password+"\n", "kinit", "-c", bob, "bob")
		s.OK(password+"\n", "kinit", "alice")
		s.OK("", "kvno", "--u2u", bob, "bob")
		if out := s.OK("", "klist"); !strings.Contains(out, "bob@EXAMPLE.COM") {
			t.Errorf("no user-to-user ticket:\n%s", out)
		}
	})
}

func mitDeadKDCFirst(t *testing.T, r *realm.Realm) {
	dead := fmt.Sprintf("127.0.0.1:%d", realm.FreePort(t))
	s := r.Session(t, append([]string{dead}, r.KDCs()...))
	s.OK(password+"\n", "kinit", "alice")
	s.OK("", "kvno", "HTTP/web.example.com")
}

func mitTCP(t *testing.T, r *realm.Realm) {
	eachNode(t, r, func(t *testing.T, s *realm.Session) {
		s.OK(password+"\n", "kinit", "alice")
		s.OK("", "kvno", "HTTP/web.example.com")
	}, "udp_preference_limit = 1")
}

func mitRefused(t *testing.T, r *realm.Realm) {
	for _, q := range []string{
		"addprinc -pw secret -expire 2020-01-01 expired", "addprinc -pw secret -allow_tix locked",
		"addprinc -pw secret -pwexpire 2020-01-01 stale", "addprinc -pw secret +needchange fresh",
		"addprinc -randkey -allow_svr HTTP/nosvr.example.com", "addprinc -randkey -allow_tgs_req HTTP/initial.example.com",
		"addprinc -randkey +requires_hwauth HTTP/hw.example.com",
	} {
		r.Kadmin(t, q)
	}
	eachNode(t, r, func(t *testing.T, s *realm.Session) {
		await(t, s, "locked", "revoked")
		await(t, s, "HTTP/hw.example.com", "")
		s.Refused("Password incorrect", "wrong\n", "kinit", "alice")
		s.Refused("not found in Kerberos database", "x\n", "kinit", "nobody")
		s.Refused("Client's entry in database has expired", "secret\n", "kinit", "expired")
		s.Refused("credentials have been revoked", "secret\n", "kinit", "locked")
		s.Refused("Password expired.  You must change it now.", "secret\n", "kinit", "stale")
		s.Refused("Password expired.  You must change it now.", "secret\n", "kinit", "fresh")
		s.OK(password+"\n", "kinit", "alice")
		s.Refused("not found in Kerberos database", "", "kvno", "HTTP/nowhere.example.com")
		s.Refused("Server principal valid for user2user only", "", "kvno", "HTTP/nosvr.example.com")
		s.Refused("KDC policy rejects request", "", "kvno", "HTTP/initial.example.com")
		s.Refused("NO HW PREAUTH", "", "kvno", "HTTP/hw.example.com")
	})
}

// await waits until a node has applied what was just written through another.
func await(t *testing.T, s *realm.Session, principal, text string) {
	t.Helper()
	realm.Eventually(t, 10*time.Second, principal+" on this node", func() bool {
		out, _ := s.Run("x\n", "kinit", "-c", s.Cache+".await", principal)
		return !strings.Contains(out, "not found") && strings.Contains(out, text)
	})
}

func mitSkewedClock(t *testing.T, r *realm.Realm) {
	eachNode(t, r, func(t *testing.T, s *realm.Session) {
		s.Refused("Clock skew too great", password+"\n", "faketime", "-f", "+20m", "kinit", "alice")
		s.OK(password+"\n", "faketime", "-f", "+2m", "kinit", "alice")
		s.OK(password+"\n", "kinit", "alice")
		s.Refused("Clock skew too great", "", "faketime", "-f", "-20m", "kvno", "HTTP/web.example.com")
	}, "kdc_timesync = 0")
}

func mitWeakEnctypes(t *testing.T, r *realm.Realm) {
	for _, etypes := range []string{"rc4-hmac", "des3-cbc-sha1", "des-cbc-crc"} {
		s := r.Session(t, nil, "allow_weak_crypto = true", "allow_rc4 = true", "allow_des3 = true",
			"default_tkt_enctypes = "+etypes, "default_tgs_enctypes = "+etypes, "permitted_enctypes = "+etypes)
		out, err := s.Run(password+"\n", "kinit", "alice")
		// libkrb5 1.20 has no single DES: it refuses before it asks.
		if err == nil || !(strings.Contains(out, "KDC has no support for encryption type") || etypes == "des-cbc-crc" && strings.Contains(out, "No supported encryption types")) {
			t.Errorf("kinit with %s only: err %v\n%s", etypes, err, out)
		}
	}
}

func mitRC4(t *testing.T, r *realm.Realm) {
	r.Kadmin(t, "addprinc -pw secret -e rc4-hmac:normal oldbox")
	s := r.Session(t, nil, "allow_weak_crypto = true", "allow_rc4 = true", "permitted_enctypes = aes256-sha2 aes256-cts rc4-hmac")
	await(t, s, "oldbox", "")
	s.OK("secret\n", "kinit", "oldbox")
	out := s.OK("", "klist", "-e")
	if !strings.Contains(out, "aes256-cts-hmac-sha384-192") {
		t.Errorf("the TGT itself must stay AES:\n%s", out)
	}
}

// charonClient is our own client side, for machines that have no other.
func charonClient(t *testing.T, r *realm.Realm) {
	bin := realm.Binary(t)
	keytab := r.Keytab(t, "HTTP/web.example.com")
	eachNode(t, r, func(t *testing.T, s *realm.Session) {
		s.OK(password+"\n", bin, "kinit", "--password-stdin", "alice")
		s.OK("", bin, "kvno", "HTTP/web.example.com")
		if ours, mit := s.OK("", bin, "klist"), s.OK("", "klist"); !strings.Contains(ours, "HTTP/web.example.com@EXAMPLE.COM") || !strings.Contains(mit, "HTTP/web.example.com@EXAMPLE.COM") {
			t.Errorf("charon klist:\n%s\nMIT klist of the same cache:\n%s", ours, mit)
		}
		s.OK("", bin, "kdestroy")
		s.OK("", bin, "kinit", "-k", "-t", keytab, "HTTP/web.example.com")
		if _, err := os.Stat(filepath.Clean(s.Cache)); err != nil {
			t.Error(err)
		}
	})
}
