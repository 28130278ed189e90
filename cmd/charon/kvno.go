package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/charon-kdc/charon/kdc/krb5"
	"github.com/charon-kdc/charon/kdc/krb5/ccache"
	"github.com/charon-kdc/charon/kdc/krb5/client"
	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
	"github.com/charon-kdc/charon/kdc/krb5/keytab"
)

// kvnoFlags are MIT kvno's.
type kvnoFlags struct {
	cache, etype, keytab, u2u, sname string
	quiet, cachedOnly, noStore       bool
}

func newKvnoCommand() *cobra.Command {
	var o kvnoFlags
	cmd := &cobra.Command{
		Use: "kvno SERVICE...", Short: "get service tickets, and tell their key versions", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			k, err := newKvno(&o)
			if err != nil {
				return krb5Failed(cmd, "kvno", err, "getting client principal name")
			}
			failed := false
			for _, service := range args {
				if err := k.service(cmd, service); err != nil {
					failed = true
				}
			}
			if failed {
				return quiet(exitError)
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVarP(&o.cache, "cache", "c", "", "the credential cache")
	f.StringVarP(&o.etype, "etype", "e", "", "the session key's enctype to ask for")
	f.StringVarP(&o.keytab, "keytab", "k", "", "open the tickets with this keytab's keys")
	f.StringVar(&o.u2u, "u2u", "", "user-to-user: a ticket under the session key of the ticket-granting ticket in this cache")
	f.StringVarP(&o.sname, "sname", "S", "", "the arguments are host names of this service")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "print nothing but errors")
	f.BoolVar(&o.cachedOnly, "cached-only", false, "ask no KDC")
	f.BoolVar(&o.noStore, "no-store", false, "do not add tickets to the cache")
	return cmd
}

// kvno is one run: a cache, and what the flags say.
type kvno struct {
	o      *kvnoFlags
	conf   *client.Config
	path   string
	cc     *ccache.CCache
	kt     *keytab.Keytab
	second *krb5.Ticket
	etypes []kcrypto.EType
}

func newKvno(o *kvnoFlags) (*kvno, error) {
	k := &kvno{o: o}
	var err error
	if k.conf, err = client.LoadConfig(); err != nil {
		return nil, err
	}
	if k.path, err = cachePath(o.cache, k.conf); err != nil {
		return nil, err
	}
	if k.cc, err = readCache(k.path); err != nil {
		return nil, err
	}
	if k.conf.TGSETypes != nil {
		k.etypes = k.conf.TGSETypes
	} else {
		k.etypes = k.conf.PermittedETypes
	}
	if o.etype != "" {
		e, err := kcrypto.ParseEType(o.etype)
		if err != nil {
			return nil, err
		}
		k.etypes = []kcrypto.EType{e}
	}
	if o.keytab != "" {
		if k.kt, err = keytab.Read(keytabPath(o.keytab, k.conf)); err != nil {
			return nil, err
		}
	}
	if o.u2u != "" {
		k.second, err = tgtOf(o.u2u)
	}
	return k, err
}

// tgtOf is the ticket-granting ticket in another user's cache.
func tgtOf(cache string) (*krb5.Ticket, error) {
	path, err := ccache.ParseName(cache)
	if err != nil {
		return nil, err
	}
	cc, err := readCache(path)
	if err != nil {
		return nil, err
	}
	tgt := cc.Find(ccache.Principal{Realm: cc.Default.Realm, Name: krb5.TGSName(cc.Default.Realm)})
	if tgt == nil {
		return nil, fmt.Errorf("no ticket-granting ticket in %s", cache)
	}
	return krb5.DecodeTicket(tgt.Ticket)
}

// service gets one ticket and prints its line.
func (k *kvno) service(cmd *cobra.Command, text string) error {
	if k.o.sname != "" {
		text = k.o.sname + "/" + text
	}
	n, realm, err := krb5.ParsePrincipal(text, k.cc.Default.Realm)
	if err != nil {
		return krb5Failed(cmd, "kvno", err, "parsing principal name "+text)
	}
	server := ccache.Principal{Realm: realm, Name: n}
	ctx, cancel := timeLimit(cmd)
	defer cancel()
	ticket, err := k.ticket(ctx, server)
	if err != nil {
		if e, ok := errors.AsType[*krb5.Error](err); ok && e.Code == krb5.ErrSPrincipalUnknown {
			err = inMITsWords("Server %s not found in Kerberos database", server)
		}
		return krb5Failed(cmd, "kvno", err, "getting credentials for "+server.String())
	}
	verdict := ""
	if k.kt != nil {
		verdict = ", keytab entry valid"
		if err := openWith(k.kt, server, ticket); err != nil {
			fmt.Fprintf(cmd.OutOrStdout(), "%s: kvno = %d, keytab entry invalid\n", server, ticket.EncPart.KVNO)
			return krb5Failed(cmd, "kvno", err, "decrypting ticket for "+server.String())
		}
	}
	if !k.o.quiet {
		fmt.Fprintf(cmd.OutOrStdout(), "%s: kvno = %d%s\n", server, ticket.EncPart.KVNO, verdict)
	}
	return nil
}

func openWith(kt *keytab.Keytab, server ccache.Principal, t *krb5.Ticket) error {
	key, _, ok := kt.Find(server.Realm, server.Name, t.EncPart.KVNO, t.EncPart.EType)
	if !ok {
		return inMITsWords("No key table entry found for %s kvno %d with enctype %s", server, t.EncPart.KVNO, t.EncPart.EType)
	}
	if _, err := krb5.OpenTicket(key, t); err != nil {
		return inMITsWords("Decrypt integrity check failed")
	}
	return nil
}

// ticket takes one from the cache, or asks the KDC for it and stores it.
func (k *kvno) ticket(ctx context.Context, server ccache.Principal) (*krb5.Ticket, error) {
	if k.second == nil && k.o.etype == "" {
		if have := k.cc.Find(server); have != nil && time.Now().Before(have.EndTime) {
			return krb5.DecodeTicket(have.Ticket)
		}
	}
	if k.o.cachedOnly {
		return nil, inMITsWords("Matching credential not found")
	}
	tgtCred := k.cc.Find(ccache.Principal{Realm: k.cc.Default.Realm, Name: krb5.TGSName(k.cc.Default.Realm)})
	if tgtCred == nil {
		return nil, inMITsWords("Matching credential not found (filename: %s)", k.path)
	}
	if !time.Now().Before(tgtCred.EndTime) {
		return nil, &krb5.Error{Code: krb5.ErrTktExpired}
	}
	tgt, err := client.FromCred(tgtCred)
	if err != nil {
		return nil, err
	}
	v, err := via(k.conf, tgt.ServerRealm)
	if err != nil {
		return nil, err
	}
	req := client.TGSRequest{Via: v, TGT: tgt, Realm: server.Realm, Server: server.Name, Options: client.Inherited(tgt.Flags), RenewTill: tgt.RenewTill, ETypes: k.etypes, SecondTicket: k.second}
	if k.second != nil {
		req.Options |= krb5.KDCOptEncTktInSKey
	}
	cred, err := client.TGS(ctx, req)
	if err != nil {
		return nil, err
	}
	if k.o.noStore {
		return &cred.Ticket, nil
	}
	c, err := cred.Cred()
	if err != nil {
		return nil, err
	}
	return &cred.Ticket, ccache.Append(k.path, c)
}
