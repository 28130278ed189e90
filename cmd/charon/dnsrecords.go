package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/spf13/cobra"

	adminv1 "github.com/charon-kdc/charon/proto/charon/admin/v1"
)

func newDNSRecordsCommand() *cobra.Command {
	var local bool
	cmd := &cobra.Command{
		Use: "dns-records", Short: "print the DNS records by which clients find every node", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withConnection(cmd, func(ctx context.Context, c *connection) error {
				r, err := c.cluster().GetRealm(ctx, &adminv1.GetRealmRequest{Consistency: consistency(local)})
				if err != nil {
					return err
				}
				return writeDNSRecords(cmd.OutOrStdout(), r)
			})
		},
	}
	localFlag(cmd, &local)
	return cmd
}

// writeDNSRecords prints the SRV records of RFC 4120 section 7.2.3.2 and the URI records that MIT clients prefer, in zone file syntax. A node
// with a bare IP address gets a name of its own, since SRV needs one.
func writeDNSRecords(w io.Writer, r *adminv1.GetRealmResponse) error {
	domain := strings.ToLower(r.GetRealm().GetName()) + "."
	var b strings.Builder
	fmt.Fprintf(&b, "_kerberos.%s 3600 IN TXT %q\n", domain, r.GetRealm().GetName())
	named := map[string]bool{}
	for _, n := range r.GetNodes() {
		for _, rec := range []struct{ service, addr string }{{"_kerberos._udp", n.GetKdcAddress()}, {"_kerberos._tcp", n.GetKdcAddress()}, {"_kpasswd._udp", n.GetKpasswdAddress()}, {"_kpasswd._tcp", n.GetKpasswdAddress()}} {
			host, port, err := net.SplitHostPort(rec.addr)
			if err != nil || host == "" || net.ParseIP(host).IsUnspecified() {
				continue
			}
			target := strings.TrimSuffix(host, ".") + "."
			if ip := net.ParseIP(host); ip != nil {
				target = n.GetName() + "." + domain
				if !named[target] {
					named[target] = true
					kind := "A"
					if ip.To4() == nil {
						kind = "AAAA"
					}
					fmt.Fprintf(&b, "%s 3600 IN %s %s\n", target, kind, ip)
				}
			}
			fmt.Fprintf(&b, "%s.%s 3600 IN SRV 0 0 %s %s\n", rec.service, domain, port, target)
			service, transport, _ := strings.Cut(rec.service, "._")
			fmt.Fprintf(&b, "%s.%s 3600 IN URI 10 1 \"krb5srv::%s:%s\"\n", service, domain, transport, net.JoinHostPort(host, port))
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}
