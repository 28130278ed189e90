// Package interop runs other people's Kerberos clients and servers, unchanged, against a realm on three nodes.
package interop

import (
	"testing"

	"github.com/charon-kdc/charon/test/realm"
)

const password = "correct horse"

// TestInterop starts one realm for all clients: starting one takes longer than most of them need.
func TestInterop(t *testing.T) {
	r := realm.Start(t, 3, "--principal", "alice="+password, "--principal", "bob="+password,
		"--service", "HTTP/localhost", "--service", "host/localhost", "--service", "HTTP/web.example.com")
	r.Ready(t)
	for _, c := range []struct {
		name string
		test func(*testing.T, *realm.Realm)
	}{
		{"MIT/password", mitPassword},
		{"MIT/keytab", mitKeytab},
		{"MIT/lifetime", mitLifetime},
		{"MIT/renew", mitRenew},
		{"MIT/postdated", mitPostdated},
		{"MIT/flags", mitFlags},
		{"MIT/addresses", mitAddresses},
		{"MIT/user-to-user", mitUserToUser},
		{"MIT/dead KDC first", mitDeadKDCFirst},
		{"MIT/TCP", mitTCP},
		{"MIT/refused", mitRefused},
		{"MIT/skewed clock", mitSkewedClock},
		{"MIT/weak enctypes", mitWeakEnctypes},
		{"MIT/RC4 by choice", mitRC4},
		{"Heimdal", heimdal},
		{"Java", java},
		{"OpenSSH", openSSH},
		{"Apache", apache},
		{"charon", charonClient},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, r) })
	}
}

// eachNode runs f with a session that knows only one node, for every node.
func eachNode(t *testing.T, r *realm.Realm, f func(t *testing.T, s *realm.Session), libdefaults ...string) {
	t.Helper()
	for _, n := range r.Nodes {
		t.Run(n.Name, func(t *testing.T) { f(t, r.Session(t, []string{n.KDC}, libdefaults...)) })
	}
}
