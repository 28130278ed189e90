package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/charon-kdc/charon/kdc/krb5"
	"github.com/charon-kdc/charon/kdc/krb5/ccache"
	"github.com/charon-kdc/charon/kdc/krb5/client"
	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
	"github.com/charon-kdc/charon/kdc/krb5/keytab"
)

// kinitFlags are MIT kinit's.
type kinitFlags struct {
	life, start, renewLife               string
	forwardable, notForwardable          bool
	proxiable, notProxiable              bool
	addresses, noAddresses               bool
	validate, renew, useKeytab           bool
	canonicalize, verbose, stdin         bool
	keytabFile, cache, service, password string
}

func newKinitCommand() *cobra.Command {
	var o kinitFlags
	cmd := &cobra.Command{
		Use: "kinit [PRINCIPAL]", Short: "get a ticket-granting ticket", Args: cobra.MaximumNArgs(1),
		Long: "Takes MIT kinit's options. The password is asked for on a terminal, and read from standard input elsewhere.",
		RunE: func(cmd *cobra.Command, args []string) error {
			doing := "getting initial credentials"
			switch {
			case o.renew:
				doing = "renewing credentials"
			case o.validate:
				doing = "validating credentials"
			}
			err := kinit(cmd, &o, args)
			if e, ok := errors.AsType[*krb5.Error](err); ok && e.Code == krb5.ErrPreauthFailed && (o.useKeytab || o.keytabFile != "") {
				err = coded(exitError, "Preauthentication failed") // nobody has typed a password
			}
			return krb5Failed(cmd, "kinit", err, doing)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&o.life, "lifetime", "l", "", "how long the ticket is to be good, as 10h")
	f.StringVarP(&o.start, "start", "s", "", "when it is to begin: a delay as 1h, or a date")
	f.StringVarP(&o.renewLife, "renewable", "r", "", "how long it is to be renewable, as 7d")
	f.BoolVarP(&o.forwardable, "forwardable", "f", false, "forwardable")
	f.BoolVarP(&o.notForwardable, "not-forwardable", "F", false, "not forwardable")
	f.BoolVarP(&o.proxiable, "proxiable", "p", false, "proxiable")
	f.BoolVarP(&o.notProxiable, "not-proxiable", "P", false, "not proxiable")
	f.BoolVarP(&o.addresses, "addresses", "a", false, "good from this machine's addresses only")
	f.BoolVarP(&o.noAddresses, "no-addresses", "A", false, "good from everywhere")
	f.BoolVarP(&o.validate, "validate", "v", false, "make the postdated ticket in the cache valid")
	f.BoolVarP(&o.renew, "renew", "R", false, "renew the ticket in the cache")
	f.BoolVarP(&o.useKeytab, "keytab", "k", false, "take the key from a keytab")
	f.StringVarP(&o.keytabFile, "keytab-file", "t", "", "which keytab (implies -k)")
	f.StringVarP(&o.cache, "cache", "c", "", "the credential cache to write")
	f.StringVarP(&o.service, "service", "S", "", "for this service instead of the ticket-granting service")
	f.BoolVarP(&o.canonicalize, "canonicalize", "C", false, "let the KDC change the name")
	f.BoolVarP(&o.verbose, "verbose", "V", false, "say what is used")
	f.BoolVar(&o.stdin, "password-stdin", false, "read the password from standard input")
	f.StringVar(&o.password, "password", "", "the password; everybody on this machine can read it while the command runs")
	cmd.MarkFlagsMutuallyExclusive("forwardable", "not-forwardable")
	cmd.MarkFlagsMutuallyExclusive("proxiable", "not-proxiable")
	cmd.MarkFlagsMutuallyExclusive("addresses", "no-addresses")
	cmd.MarkFlagsMutuallyExclusive("validate", "renew")
	return cmd
}

func kinit(cmd *cobra.Command, o *kinitFlags, args []string) error {
	ctx, cancel := timeLimit(cmd)
	defer cancel()
	conf, err := client.LoadConfig()
	if err != nil {
		return err
	}
	path, err := cachePath(o.cache, conf)
	if err != nil {
		return err
	}
	if o.renew || o.validate {
		return kinitAgain(ctx, o, conf, path)
	}
	who, err := kinitPrincipal(o, conf, path, args)
	if err != nil {
		return err
	}
	if o.verbose {
		fmt.Fprintf(cmd.OutOrStdout(), "Using default cache: %s\nUsing principal: %s\n", path, who)
	}
	req, err := kinitRequest(cmd, o, conf, who)
	if err != nil {
		return err
	}
	cred, err := client.AS(ctx, req)
	if e, ok := errors.AsType[*krb5.Error](err); ok && e.Code == krb5.ErrCPrincipalUnknown {
		return inMITsWords("Client '%s' not found in Kerberos database", who)
	}
	if err != nil {
		return err
	}
	if err := storeAlone(path, cred); err != nil {
		return err
	}
	if o.verbose {
		fmt.Fprintln(cmd.OutOrStdout(), "Authenticated to Kerberos v5")
	}
	if !cred.KeyExpiration.IsZero() && time.Until(cred.KeyExpiration) < 7*24*time.Hour {
		fmt.Fprintf(cmd.ErrOrStderr(), "Warning: Your password will expire on %s\n", cred.KeyExpiration.Local().Format("Mon Jan 02 15:04:05 2006"))
	}
	return nil
}

// storeAlone makes the cache anew with one credential.
func storeAlone(path string, cred *client.Credential) error {
	c, err := cred.Cred()
	if err != nil {
		return err
	}
	return (&ccache.CCache{Default: c.Client, Creds: []ccache.Cred{c}}).WriteFile(path)
}

// cachePath is the cache of -c, of KRB5CCNAME, of krb5.conf, or /tmp/krb5cc_UID.
func cachePath(flag string, conf *client.Config) (string, error) {
	if flag != "" {
		return ccache.ParseName(flag)
	}
	if os.Getenv("KRB5CCNAME") == "" && conf != nil && conf.DefaultCCache != "" {
		expanded := strings.NewReplacer("%{uid}", fmt.Sprint(os.Getuid()), "%{euid}", fmt.Sprint(os.Geteuid()), "%{TEMP}", os.TempDir()).Replace(conf.DefaultCCache)
		return ccache.ParseName(expanded)
	}
	return ccache.DefaultName()
}

func keytabPath(flag string, conf *client.Config) string {
	for _, p := range []string{flag, os.Getenv("KRB5_KTNAME"), conf.DefaultKeytab} {
		if p != "" {
			return strings.TrimPrefix(strings.TrimPrefix(p, "WRFILE:"), "FILE:")
		}
	}
	return "/etc/krb5.keytab"
}

// kinitPrincipal is the one named, or host/HOSTNAME with a keytab, or the cache's, or the user's name.
func kinitPrincipal(o *kinitFlags, conf *client.Config, path string, args []string) (ccache.Principal, error) {
	text := ""
	switch cc, err := ccache.Read(path); {
	case len(args) == 1:
		text = args[0]
	case o.useKeytab || o.keytabFile != "":
		host, err := os.Hostname()
		if err != nil {
			return ccache.Principal{}, err
		}
		text = "host/" + strings.ToLower(host)
	case err == nil:
		return cc.Default, nil
	default:
		u, err := user.Current()
		if err != nil {
			return ccache.Principal{}, err
		}
		text = u.Username
	}
	n, realm, err := krb5.ParsePrincipal(text, conf.DefaultRealm)
	if err == nil && realm == "" {
		err = inMITsWords("Configuration file does not specify default realm")
	}
	return ccache.Principal{Realm: realm, Name: n}, err
}

// via says how to reach the realm's KDCs.
func via(conf *client.Config, realm string) (client.Via, error) {
	kdcs, err := conf.KDCs(realm)
	return client.Via{KDCs: kdcs, Skew: conf.ClockSkew, Exchange: client.ExchangeOptions{UDPMax: conf.UDPPreferenceLimit}}, err
}

func kinitRequest(cmd *cobra.Command, o *kinitFlags, conf *client.Config, who ccache.Principal) (r client.ASRequest, err error) {
	now := time.Now()
	if r.Via, err = via(conf, who.Realm); err != nil {
		return r, err
	}
	r.Realm, r.Client = who.Realm, who.Name
	r.Life, r.RenewLife = conf.TicketLifetime, conf.RenewLifetime
	if o.life != "" {
		if r.Life, err = krbDuration("lifetime", o.life); err != nil {
			return r, err
		}
	}
	if o.renewLife != "" {
		if r.RenewLife, err = krbDuration("renewable lifetime", o.renewLife); err != nil {
			return r, err
		}
	}
	if o.start != "" {
		if r.Start, err = startTime(o.start, now); err != nil {
			return r, err
		}
	}
	if o.service != "" {
		if r.Server, _, err = krb5.ParsePrincipal(o.service, who.Realm); err != nil {
			return r, err
		}
	}
	r.Options = kinitOptions(o, conf)
	if o.addresses || !conf.NoAddresses && !o.noAddresses {
		if r.Addresses, err = client.LocalAddresses(); err != nil {
			return r, err
		}
	}
	r.ETypes = tktETypes(conf)
	r.Secret, err = kinitSecret(cmd, o, conf, who)
	return r, err
}

func tktETypes(conf *client.Config) []kcrypto.EType {
	if conf.TktETypes != nil {
		return conf.TktETypes
	}
	return conf.PermittedETypes
}

func kinitOptions(o *kinitFlags, conf *client.Config) krb5.KDCOptions {
	out := krb5.KDCOptRenewableOK
	if o.forwardable || conf.Forwardable && !o.notForwardable {
		out |= krb5.KDCOptForwardable
	}
	if o.proxiable || conf.Proxiable && !o.notProxiable {
		out |= krb5.KDCOptProxiable
	}
	if o.canonicalize {
		out |= krb5.KDCOptCanonicalize
	}
	return out
}

func krbDuration(what, text string) (time.Duration, error) {
	n, ok := deltaSeconds(text)
	if !ok {
		return 0, coded(exitUsage, "Bad %s value %s", what, text)
	}
	return time.Duration(n) * time.Second, nil
}

// startTime is a delay from now, or a date.
func startTime(text string, now time.Time) (time.Time, error) {
	if n, ok := deltaSeconds(text); ok && len(text) < 12 {
		return now.Add(time.Duration(n) * time.Second), nil
	}
	for _, layout := range []string{"20060102150405", "060102150405", "200601021504", "0601021504"} {
		if t, err := time.ParseInLocation(layout, text, now.Location()); err == nil {
			return t, nil
		}
	}
	t, err := parseDate(text, now)
	if err != nil || t.IsZero() {
		return time.Time{}, coded(exitUsage, "Bad start time value %s", text)
	}
	return t, nil
}

func kinitSecret(cmd *cobra.Command, o *kinitFlags, conf *client.Config, who ccache.Principal) (client.Secret, error) {
	if o.useKeytab || o.keytabFile != "" {
		path := keytabPath(o.keytabFile, conf)
		kt, err := keytab.Read(path)
		if err != nil {
			return nil, err
		}
		secret := client.Keytab(kt)
		if len(secret.ETypes(who.Realm, who.Name)) == 0 {
			return nil, inMITsWords("Keytab contains no suitable keys for %s", who)
		}
		return secret, nil
	}
	if cmd.Flags().Changed("password") {
		return client.Password(o.password), nil
	}
	return client.PasswordPrompt(func() (string, error) {
		if _, ok := terminal(cmd.InOrStdin()); ok && !o.stdin {
			return askPassword(cmd, fmt.Sprintf("Password for %s: ", who), "--password-stdin")
		}
		return passwordFromStdin(cmd)
	}), nil
}

// kinitAgain renews or validates the cache's ticket-granting ticket (or that for -S), which is then alone in the cache.
func kinitAgain(ctx context.Context, o *kinitFlags, conf *client.Config, path string) error {
	cc, err := readCache(path)
	if err != nil {
		return err
	}
	server := ccache.Principal{Realm: cc.Default.Realm, Name: krb5.TGSName(cc.Default.Realm)}
	if o.service != "" {
		if server.Name, server.Realm, err = krb5.ParsePrincipal(o.service, cc.Default.Realm); err != nil {
			return err
		}
	}
	have := cc.Find(server)
	if have == nil {
		return inMITsWords("Matching credential not found (filename: %s)", path)
	}
	cred, err := client.FromCred(have)
	if err != nil {
		return err
	}
	v, err := via(conf, cred.ServerRealm)
	if err != nil {
		return err
	}
	again := client.Renew
	if o.validate {
		again = client.Validate
	}
	fresh, err := again(ctx, v, cred)
	if err != nil {
		return err
	}
	return storeAlone(path, fresh)
}

// readCache reads a cache, with MIT's words when there is none.
func readCache(path string) (*ccache.CCache, error) {
	cc, err := ccache.Read(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, inMITsWords("No credentials cache found (filename: %s)", path)
	}
	return cc, err
}

// krb5Texts are MIT's words for what a KDC says (lib/krb5/error_tables/krb5_err.et).
var krb5Texts = map[krb5.ErrorCode]string{
	krb5.ErrSPrincipalUnknown: "Server not found in Kerberos database", krb5.ErrNameExp: "Client's entry in database has expired", krb5.ErrServiceExp: "Server's entry in database has expired",
	krb5.ErrCannotPostdate: "Ticket is ineligible for postdating", krb5.ErrNeverValid: "Requested effective lifetime is negative or too short",
	krb5.ErrPolicy: "KDC policy rejects request", krb5.ErrBadOption: "KDC can't fulfill requested option",
	krb5.ErrEtypeNoSupp: "KDC has no support for encryption type", krb5.ErrClientRevoked: "Client's credentials have been revoked",
	krb5.ErrServiceRevoked: "Credentials for server have been revoked", krb5.ErrKeyExpired: "Password has expired",
	krb5.ErrPreauthFailed: "Password incorrect", krb5.ErrPreauthRequired: "Additional pre-authentication required",
	krb5.ErrSvcUnavailable: "A service is not available that is required to process the request",
	krb5.ErrBadIntegrity:   "Password incorrect", krb5.ErrTktExpired: "Ticket expired", krb5.ErrTktNYV: "Ticket not yet valid",
	krb5.ErrRepeat: "Request is a replay", krb5.ErrSkew: "Clock skew too great", krb5.ErrBadAddr: "Incorrect net address",
	krb5.ErrGeneric: "Generic error (see e-text)",
}

// krb5Failed prints an error of the client side in MIT's form, "kinit: what happened while doing".
func krb5Failed(cmd *cobra.Command, program string, err error, doing string) error {
	if err == nil {
		return nil
	}
	text := err.Error()
	if e, ok := errors.AsType[*krb5.Error](err); ok {
		if t := krb5Texts[e.Code]; t != "" {
			text = t
		}
	}
	if e, ok := errors.AsType[*client.UnreachableError](err); ok {
		text = "Cannot contact any KDC for the realm (" + e.Error() + ")"
	}
	code := exitError
	if c, ok := errors.AsType[*codedError](err); ok {
		code, text = c.code, c.text
	}
	if text != "" {
		fmt.Fprintf(cmd.ErrOrStderr(), "%s: %s while %s\n", program, strings.ReplaceAll(text, "\n", "; "), doing)
	}
	return quiet(code)
}
