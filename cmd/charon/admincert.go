package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	adminv1 "github.com/charon-kdc/charon/proto/charon/admin/v1"
)

func newAdminCertCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "admin-cert", Short: "certificates of admin clients"}
	cmd.AddCommand(adminCertIssue())
	return cmd
}

func adminCertIssue() *cobra.Command {
	var dir string
	var replace bool
	cmd := &cobra.Command{
		Use: "issue NAME", Short: "make an admin client's key and certificate, good for a year",
		Long: `Makes a key here, has it certified as NAME, and writes NAME.key, NAME.crt and ca.crt. What the client may do is what roles grant: charon role grant
cert:NAME. It takes the rights "cluster" and "role"; a client may have its own name certified again before its certificate ends.`,
		Example: "  charon admin-cert issue ops --out /etc/charon/admin && charon role grant cert:ops add modify list inquire\n" +
			"  charon admin-cert issue root --out /var/lib/charon/admin --replace    # once a year",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name := args[0]
			if filepath.Base(name) != name || name == "." || name == ".." {
				return usage(cmd, "%q is not the name of a client", name)
			}
			if _, err := os.Stat(filepath.Join(dir, name+".crt")); err == nil && !replace {
				return usage(cmd, "%s is there; to put a new one in its place: --replace", filepath.Join(dir, name+".crt"))
			}
			key, csr, err := newAdminKey(name)
			if err != nil {
				return err
			}
			return withConnection(cmd, func(ctx context.Context, c *connection) error {
				r, err := c.cluster().IssueAdminCertificate(ctx, &adminv1.IssueAdminCertificateRequest{Name: name, Csr: csr})
				if err != nil {
					return err
				}
				if err := writeAdminCert(dir, name, key, r); err != nil {
					return err
				}
				return show(cmd, r, func(w io.Writer, _ bool) error {
					_, err := fmt.Fprintf(w, "%s is certified until %s: %s\n", name, when(r.GetExpiresAt()), filepath.Join(dir, name+".crt"))
					return err
				})
			})
		},
	}
	cmd.Flags().StringVar(&dir, "out", ".", "directory for the files")
	cmd.Flags().BoolVar(&replace, "replace", false, "put them in the place of those that are there")
	return cmd
}

func newAdminKey(name string) (keyPEM, csr []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	csr, err = x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: name}}, key)
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), csr, err
}

// writeAdminCert writes each file beside its place, then all into place.
func writeAdminCert(dir, name string, key []byte, r *adminv1.IssueAdminCertificateResponse) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	cert := func(der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}) }
	files := []struct {
		name string
		text []byte
		mode os.FileMode
	}{
		{name + ".key", key, 0o600}, {name + ".crt", cert(r.GetCertificate()), 0o644}, {"ca.crt", cert(r.GetNodeAuthority()), 0o644},
	}
	for _, f := range files {
		if err := os.WriteFile(filepath.Join(dir, f.name+".new"), f.text, f.mode); err != nil {
			return fmt.Errorf("writing the certificate: %w", err)
		}
	}
	var errs []error
	for _, f := range files {
		errs = append(errs, os.Rename(filepath.Join(dir, f.name+".new"), filepath.Join(dir, f.name)))
	}
	return errors.Join(errs...)
}
