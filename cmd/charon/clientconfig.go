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

func newClientConfigCommand() *cobra.Command {
	var local bool
	cmd := &cobra.Command{
		Use: "client-config", Short: "print a krb5.conf that names every node", Args: cobra.NoArgs,
		Example: "  charon client-config > /etc/krb5.conf",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withConnection(cmd, func(ctx context.Context, c *connection) error {
				r, err := c.cluster().GetRealm(ctx, &adminv1.GetRealmRequest{Consistency: consistency(local)})
				if err != nil {
					return err
				}
				return writeClientConfig(cmd.OutOrStdout(), r)
			})
		},
	}
	localFlag(cmd, &local)
	return cmd
}

func writeClientConfig(w io.Writer, r *adminv1.GetRealmResponse) error {
	realm := r.GetRealm().GetName()
	var b strings.Builder
	fmt.Fprintf(&b, "[libdefaults]\n\tdefault_realm = %s\n\tdns_lookup_realm = false\n\tdns_lookup_kdc = false\n\tdns_canonicalize_hostname = false\n\trdns = false\n\tforwardable = true\n\n[realms]\n\t%s = {\n", realm, realm)
	for _, n := range r.GetNodes() {
		if a := confAddress(n.GetKdcAddress(), "88"); a != "" {
			fmt.Fprintf(&b, "\t\tkdc = %s\n", a)
		}
	}
	for _, n := range r.GetNodes() {
		if a := confAddress(n.GetKpasswdAddress(), "464"); a != "" {
			fmt.Fprintf(&b, "\t\tkpasswd_server = %s\n", a)
		}
	}
	b.WriteString("\t}\n")
	if domain := strings.ToLower(realm); strings.Contains(domain, ".") {
		fmt.Fprintf(&b, "\n[domain_realm]\n\t.%s = %s\n\t%s = %s\n", domain, realm, domain, realm)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// confAddress is an address for krb5.conf, without the port that is assumed anyway; "" for one that leads nowhere.
func confAddress(addr, portDefault string) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil || host == "" || net.ParseIP(host).IsUnspecified() {
		return ""
	}
	if port == portDefault {
		if strings.Contains(host, ":") {
			return "[" + host + "]"
		}
		return host
	}
	return net.JoinHostPort(host, port)
}
