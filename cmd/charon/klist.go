package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/charon-kdc/charon/kdc/krb5"
	"github.com/charon-kdc/charon/kdc/krb5/ccache"
	"github.com/charon-kdc/charon/kdc/krb5/client"
	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
	"github.com/charon-kdc/charon/kdc/krb5/keytab"
)

// klistFlags are MIT klist's.
type klistFlags struct {
	etypes, flags, addresses, numeric, all, list bool
	config, silent, keytab, times, keys          bool
	cache                                        string
}

func newKlistCommand() *cobra.Command {
	var o klistFlags
	cmd := &cobra.Command{
		Use: "klist [CACHE|KEYTAB]", Short: "list tickets, or a keytab's keys", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name := strings.Join(args, "")
			if name == "" {
				name = o.cache
			}
			conf, err := client.LoadConfig()
			if err != nil {
				conf = &client.Config{}
			}
			if o.keytab {
				return klistKeytab(cmd, &o, keytabPath(name, conf))
			}
			return klistCache(cmd, &o, name, conf)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&o.etypes, "etypes", "e", false, "show enctypes")
	f.BoolVarP(&o.flags, "flags", "f", false, "show ticket flags")
	f.BoolVarP(&o.addresses, "addresses", "a", false, "show addresses")
	f.BoolVarP(&o.numeric, "numeric", "n", false, "addresses as numbers, which is how they are shown anyway")
	f.BoolVarP(&o.all, "all", "A", false, "all caches: with FILE caches, the one")
	f.BoolVarP(&o.list, "list", "l", false, "list caches")
	f.BoolVarP(&o.config, "config", "C", false, "show the cache's settings")
	f.BoolVarP(&o.silent, "silent", "s", false, "print nothing; exit 1 if there is no valid ticket")
	f.BoolVarP(&o.keytab, "keytab", "k", false, "list a keytab")
	f.BoolVarP(&o.times, "times", "t", false, "show a keytab's times")
	f.BoolVarP(&o.keys, "keys", "K", false, "show a keytab's keys themselves")
	f.StringVarP(&o.cache, "cache", "c", "", "the credential cache")
	return cmd
}

// klistTime is how MIT prints times where the locale has none of its own.
func klistTime(t time.Time) string { return t.Local().Format("01/02/2006 15:04:05") }

func klistKeytab(cmd *cobra.Command, o *klistFlags, path string) error {
	w := cmd.OutOrStdout()
	kt, err := keytab.Read(path)
	if errors.Is(err, fs.ErrNotExist) {
		fmt.Fprintf(cmd.ErrOrStderr(), "klist: Key table file '%s' not found while starting keytab scan\n", path)
		return quiet(exitError)
	}
	if err != nil {
		return krb5Failed(cmd, "klist", err, "starting keytab scan")
	}
	fmt.Fprintf(w, "Keytab name: FILE:%s\n", path)
	if o.times {
		fmt.Fprintf(w, "KVNO Timestamp           Principal\n---- ------------------- %s\n", strings.Repeat("-", 54))
	} else {
		fmt.Fprintf(w, "KVNO Principal\n---- %s\n", strings.Repeat("-", 74))
	}
	for _, e := range kt.Entries {
		fmt.Fprintf(w, "%4d ", e.KVNO)
		if o.times {
			fmt.Fprint(w, klistTime(e.Timestamp)+" ")
		}
		fmt.Fprint(w, krb5.FormatPrincipal(e.Name, e.Realm))
		if o.etypes {
			fmt.Fprintf(w, " (%s) ", mitEType(e.Key.EType()))
		}
		if o.keys {
			fmt.Fprintf(w, " (0x%s)", hex.EncodeToString(e.Key.Bytes()))
		}
		fmt.Fprintln(w)
	}
	return nil
}

// mitEType has MIT's mark for enctypes that are out of favour.
func mitEType(e kcrypto.EType) string {
	if e == kcrypto.RC4HMAC {
		return "DEPRECATED:arcfour-hmac"
	}
	return e.String()
}

func klistCache(cmd *cobra.Command, o *klistFlags, name string, conf *client.Config) error {
	path, err := cachePath(name, conf)
	if err != nil {
		return krb5Failed(cmd, "klist", err, "resolving ccache")
	}
	cc, err := ccache.Read(path)
	switch {
	case o.silent && (err != nil || !usable(cc, time.Now())):
		return quiet(exitError)
	case o.silent:
		return nil
	case errors.Is(err, fs.ErrNotExist):
		fmt.Fprintf(cmd.ErrOrStderr(), "klist: No credentials cache found (filename: %s)\n", path)
		return quiet(exitError)
	case err != nil:
		return krb5Failed(cmd, "klist", err, "retrieving principal name")
	}
	w := cmd.OutOrStdout()
	if o.list {
		fmt.Fprintf(w, "%-30s %s\n%-30s %s\n%-30s FILE:%s", "Principal name", "Cache name", "--------------", "----------", cc.Default, path)
		if !usable(cc, time.Now()) {
			fmt.Fprint(w, " (Expired)")
		}
		fmt.Fprintln(w)
		return nil
	}
	printCache(w, o, path, cc)
	return nil
}

// usable tells whether the cache's own realm's ticket-granting ticket has not ended; in a cache without one, whether any ticket has not.
func usable(cc *ccache.CCache, now time.Time) bool {
	if tgt := cc.Find(ccache.Principal{Realm: cc.Default.Realm, Name: krb5.TGSName(cc.Default.Realm)}); tgt != nil {
		return now.Before(tgt.EndTime)
	}
	for _, c := range cc.Creds {
		if now.Before(c.EndTime) {
			return true
		}
	}
	return false
}

func printCache(w io.Writer, o *klistFlags, path string, cc *ccache.CCache) {
	fmt.Fprintf(w, "Ticket cache: FILE:%s\nDefault principal: %s\n\n", path, cc.Default)
	fmt.Fprintf(w, "%-19s  %-19s  Service principal\n", "Valid starting", "Expires")
	if o.config {
		for _, c := range cc.Config {
			key := c.Key
			if c.Principal != "" {
				key += "(" + c.Principal + ")"
			}
			fmt.Fprintf(w, "config: %s = %s\n", key, c.Value)
		}
	}
	for i := range cc.Creds {
		printCred(w, o, cc.Default, &cc.Creds[i])
	}
}

func printCred(w io.Writer, o *klistFlags, owner ccache.Principal, c *ccache.Cred) {
	start := c.StartTime
	if start.IsZero() {
		start = c.AuthTime
	}
	fmt.Fprintf(w, "%s  %s  %s\n", klistTime(start), klistTime(c.EndTime), c.Server)
	var extra []string
	if !c.Client.Equal(owner) {
		extra = append(extra, "for client "+c.Client.String())
	}
	if !c.RenewTill.IsZero() {
		extra = append(extra, "renew until "+klistTime(c.RenewTill))
	}
	if letters := flagLetters(c.Flags); o.flags && letters != "" {
		extra = append(extra, "Flags: "+letters)
	}
	if len(extra) > 0 {
		fmt.Fprintln(w, "\t"+strings.Join(extra, ", "))
	}
	if o.etypes {
		tkt := "unknown"
		if t, err := krb5.DecodeTicket(c.Ticket); err == nil {
			tkt = mitEType(t.EncPart.EType)
		}
		fmt.Fprintf(w, "\tEtype (skey, tkt): %s, %s \n", mitEType(c.EType()), tkt)
	}
	if o.addresses {
		list := "(none)"
		if len(c.Addresses) > 0 {
			var all []string
			for _, a := range c.Addresses {
				if ip, ok := a.IP(); ok {
					all = append(all, ip.String())
				} else {
					all = append(all, fmt.Sprintf("unknown addrtype %d", a.AddrType))
				}
			}
			list = strings.Join(all, ", ")
		}
		fmt.Fprintln(w, "\tAddresses: "+list)
	}
}

// flagLetters are MIT klist's, in its order.
func flagLetters(f krb5.TicketFlags) string {
	var out strings.Builder
	for _, l := range []struct {
		flag   krb5.TicketFlags
		letter byte
	}{
		{krb5.FlagForwardable, 'F'}, {krb5.FlagForwarded, 'f'}, {krb5.FlagProxiable, 'P'}, {krb5.FlagProxy, 'p'}, {krb5.FlagMayPostdate, 'D'},
		{krb5.FlagPostdated, 'd'}, {krb5.FlagInvalid, 'i'}, {krb5.FlagRenewable, 'R'}, {krb5.FlagInitial, 'I'}, {krb5.FlagHWAuthent, 'H'},
		{krb5.FlagPreAuthent, 'A'}, {krb5.FlagTransitedPolicyChecked, 'T'}, {krb5.FlagOKAsDelegate, 'O'}, {krb5.FlagAnonymous, 'a'},
	} {
		if f.Has(l.flag) {
			out.WriteByte(l.letter)
		}
	}
	return out.String()
}
