package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/charon-kdc/charon/kdc/kdb"
	"github.com/charon-kdc/charon/kdc/krb5"
	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
	adminv1 "github.com/charon-kdc/charon/proto/charon/admin/v1"
)

func newPrincipalCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "principal", Aliases: []string{"princ"}, Short: "users, hosts and services"}
	cmd.AddCommand(principalAdd(), principalShow(), principalList(), principalSet(), principalRename(), principalAlias(),
		principalLock(), principalUnlock(), principalPassword(), principalDelete())
	return cmd
}

// keyFlags say where new keys come from.
type keyFlags struct {
	password        string
	stdin           bool
	random, none    bool
	oneTime         bool
	keysalts        string
	hasPasswordFlag func() bool
}

func (k *keyFlags) add(cmd *cobra.Command, withNone bool) {
	f := cmd.Flags()
	f.StringVar(&k.password, "password", "", "the password; everybody on this machine can read it while the command runs")
	f.BoolVar(&k.stdin, "password-stdin", false, "read the password from the first line of standard input")
	f.BoolVar(&k.random, "random", false, "random keys: for services, see keytab ensure")
	f.BoolVar(&k.oneTime, "one-time", false, "the password must be changed before it gives tickets, by an administrator: users cannot until there is a kpasswd service")
	f.StringVarP(&k.keysalts, "keysalts", "e", "", "keys to make, as aes256-sha2:normal,aes128-sha1:normal; default: the policy's or the realm's")
	exclusive := []string{"password", "password-stdin", "random"}
	if withNone {
		f.BoolVar(&k.none, "nokey", false, "no keys at all: nobody can log in as it")
		exclusive = append(exclusive, "nokey")
	}
	cmd.MarkFlagsMutuallyExclusive(exclusive...)
	k.hasPasswordFlag = func() bool { return f.Changed("password") }
}

// warning says what a one-time password cannot do yet.
func (k *keyFlags) warning() string {
	if !k.oneTime {
		return ""
	}
	return "The user cannot change this password: there is no kpasswd service (port 464) yet. It gives no tickets until an administrator sets one without --one-time.\n"
}

// keys asks for the password if no flag says where the keys come from.
func (k *keyFlags) keys(ctx context.Context, cmd *cobra.Command, c *connection, name string) (*adminv1.NewKeys, error) {
	out := &adminv1.NewKeys{}
	var err error
	if out.Keysalts, err = parseKeysalts(k.keysalts); err != nil {
		return nil, usage(cmd, "%v", err)
	}
	switch {
	case k.random:
		out.Source = &adminv1.NewKeys_Random{Random: true}
		return out, nil
	case k.none:
		out.Source = &adminv1.NewKeys_None{None: true}
		return out, nil
	case k.hasPasswordFlag():
		out.Source = &adminv1.NewKeys_Password{Password: k.password}
		return out, nil
	}
	var p string
	if k.stdin {
		p, err = passwordFromStdin(cmd)
	} else {
		if name, err = fullName(ctx, c, name); err != nil {
			return nil, err
		}
		p, err = askNewPassword(cmd, "Password for "+name+": ", "Again: ", "--password-stdin, --random or --nokey")
	}
	out.Source = &adminv1.NewKeys_Password{Password: p}
	return out, err
}

// fullName is a name with its realm, for whoever is to type a password for it. That no node answers is told before he does.
func fullName(ctx context.Context, c *connection, text string) (string, error) {
	r, err := c.cluster().GetRealm(ctx, &adminv1.GetRealmRequest{Consistency: adminv1.Consistency_CONSISTENCY_LOCAL})
	if err != nil {
		return "", err
	}
	n, realm, err := krb5.ParsePrincipal(text, r.GetRealm().GetName())
	if err != nil {
		return "", err
	}
	return krb5.FormatPrincipal(n, realm), nil
}

// parseKeysalts reads MIT's list: etype:salt, separated by commas or blanks.
func parseKeysalts(text string) ([]*adminv1.KeySalt, error) {
	var out []*adminv1.KeySalt
	for _, part := range strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' }) {
		etype, salt, _ := strings.Cut(part, ":")
		e, err := kcrypto.ParseEType(etype)
		if err != nil {
			return nil, err
		}
		out = append(out, &adminv1.KeySalt{Etype: int32(e), Salt: salt})
	}
	return out, nil
}

// principalFlags are the fields of a principal that add and set share.
type principalFlags struct {
	attrs              []string
	maxLife, maxRenew  string
	expires, pwExpires string
	policy             string
	noPolicy           bool
	strings            map[string]string
}

func (p *principalFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringSliceVar(&p.attrs, "attr", nil, "attributes by MIT's names: +requires_preauth,-allow_tix ...")
	f.StringVar(&p.maxLife, "max-life", "", "longest ticket, as 10h; unlimited: the realm's bound alone")
	f.StringVar(&p.maxRenew, "max-renewable-life", "", "longest renewable ticket, as 7d; 0: none (sets disallow_renewable); unlimited: the realm's bound alone")
	f.StringVar(&p.expires, "expires", "", "when the principal ends: a date, +90 days, never")
	f.StringVar(&p.pwExpires, "password-expires", "", "when the password ends: a date, +90 days, never")
	f.StringVar(&p.policy, "policy", "", "password policy")
	f.BoolVar(&p.noPolicy, "no-policy", false, "no password policy")
	f.StringToStringVar(&p.strings, "string", nil, "string attributes: name=value")
	cmd.MarkFlagsMutuallyExclusive("policy", "no-policy")
}

// update is what the flags say, those that were given.
func (p *principalFlags) update(cmd *cobra.Command, now time.Time) (*adminv1.UpdatePrincipalRequest, error) {
	out := &adminv1.UpdatePrincipalRequest{SetStrings: p.strings}
	changed := cmd.Flags().Changed
	for _, f := range []struct {
		flag, text string
		dst        **int64
		parse      func(string, time.Time) (int64, error)
	}{
		{"max-life", p.maxLife, &out.MaxLife, parseLife}, {"max-renewable-life", p.maxRenew, &out.MaxRenewableLife, parseLife},
		{"expires", p.expires, &out.Expiration, dateMillis}, {"password-expires", p.pwExpires, &out.PasswordExpiration, dateMillis},
	} {
		if !changed(f.flag) {
			continue
		}
		v, err := f.parse(f.text, now)
		if err != nil {
			return nil, usage(cmd, "--%s: %v", f.flag, err)
		}
		*f.dst = &v
	}
	if changed("policy") || p.noPolicy {
		out.Policy = &p.policy
	}
	var err error
	if out.SetAttributes, out.ClearAttributes, err = parseAttributes(p.attrs); err != nil {
		return nil, usage(cmd, "--attr: %v", err)
	}
	if out.MaxLife != nil && out.GetMaxLife() == 0 && !unbounded(p.maxLife) {
		return nil, usage(cmd, "--max-life 0 would be no ticket at all: for the realm's bound alone say unlimited, to give no tickets charon principal lock")
	}
	if out.MaxRenewableLife != nil && out.GetMaxRenewableLife() == 0 && !unbounded(p.maxRenew) {
		notRenewable(out)
	}
	return out, nil
}

// notRenewable is a renewable life of zero. In a record zero leaves it to the realm, so it is the attribute that says no; the API takes
// it back when a life is given.
func notRenewable(u *adminv1.UpdatePrincipalRequest) {
	u.SetAttributes |= uint32(kdb.DisallowRenewable)
	u.ClearAttributes &^= uint32(kdb.DisallowRenewable)
}

// zeroRenewable tells that p is as notRenewable leaves it: the attribute, and no life of its own.
func zeroRenewable(p *adminv1.Principal) bool {
	return p.GetMaxRenewableLife() == 0 && kdb.Attributes(p.GetAttributes()).Has(kdb.DisallowRenewable)
}

// parseAttributes turns [+|-]names into bits to set and to clear.
func parseAttributes(names []string) (set, clear uint32, err error) {
	for _, n := range names {
		on, err := kdb.Attributes(0).ParseAttribute(n)
		if err != nil {
			return 0, 0, err
		}
		off, err := kdb.Attributes(^uint32(0)).ParseAttribute(n)
		if err != nil {
			return 0, 0, err
		}
		set, clear = set&uint32(off)|uint32(on), clear&^uint32(on)|^uint32(off)
	}
	return set, clear, nil
}

func principalAdd() *cobra.Command {
	var keys keyFlags
	var fields principalFlags
	cmd := &cobra.Command{
		Use: "add NAME", Short: "add a principal; asks for its password", Args: cobra.ExactArgs(1),
		Example: "  charon principal add alice\n  charon principal add alice --password-stdin --one-time < secret",
		RunE: func(cmd *cobra.Command, args []string) error {
			u, err := fields.update(cmd, time.Now())
			if err != nil {
				return err
			}
			return withConnection(cmd, func(ctx context.Context, c *connection) error {
				source, err := keys.keys(ctx, cmd, c, args[0])
				if err != nil {
					return err
				}
				req := createRequest(args[0], source, u, fields.noPolicy)
				if keys.oneTime {
					req.SetAttributes |= uint32(kdb.RequiresPWChange)
				}
				r, err := mutate(ctx, cmd, func(ctx context.Context, id []byte) (*adminv1.CreatePrincipalResponse, error) {
					req.RequestId = id
					return c.principals().CreatePrincipal(ctx, req)
				})
				if err != nil {
					return err
				}
				return show(cmd, r.GetPrincipal(), func(w io.Writer, _ bool) error {
					_, err := fmt.Fprint(w, createdLine(r.GetPrincipal())+"\n"+keys.warning())
					return err
				})
			})
		},
	}
	keys.add(cmd, true)
	fields.add(cmd)
	return cmd
}

func createRequest(name string, keys *adminv1.NewKeys, u *adminv1.UpdatePrincipalRequest, noPolicy bool) *adminv1.CreatePrincipalRequest {
	return &adminv1.CreatePrincipalRequest{
		Name: name, Keys: keys, SetAttributes: u.GetSetAttributes(), ClearAttributes: u.GetClearAttributes(),
		MaxLife: u.GetMaxLife(), MaxRenewableLife: u.GetMaxRenewableLife(), Expiration: u.GetExpiration(), PasswordExpiration: u.GetPasswordExpiration(),
		Policy: u.GetPolicy(), NoPolicy: noPolicy, Strings: u.GetSetStrings(), Kvno: u.GetKvno(),
	}
}

// createdLine is "alice@R created  kvno 1  aes256-sha2,...  policy default".
func createdLine(p *adminv1.Principal) string {
	out := p.GetName() + " created"
	if len(p.GetKeys()) == 0 {
		out += "  no keys"
	} else {
		out += fmt.Sprintf("  kvno %d  %s", p.GetKvno(), etypeList(p.GetKeys(), p.GetKvno()))
	}
	if p.GetPolicy() != "" {
		out += "  policy " + p.GetPolicy()
	}
	return out
}

// etypeList are the short names of one kvno's enctypes.
func etypeList(keys []*adminv1.KeyInfo, kvno uint32) string {
	var out []string
	for _, k := range keys {
		if k.GetKvno() == kvno {
			out = append(out, kcrypto.EType(k.GetEtype()).Short())
		}
	}
	return strings.Join(out, ",")
}

func principalShow() *cobra.Command {
	var local bool
	cmd := &cobra.Command{
		Use: "show NAME", Short: "show one principal", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withConnection(cmd, func(ctx context.Context, c *connection) error {
				r, err := c.principals().GetPrincipal(ctx, &adminv1.GetPrincipalRequest{Name: args[0], Consistency: consistency(local)})
				if err != nil {
					return err
				}
				return show(cmd, r.GetPrincipal(), func(w io.Writer, wide bool) error { return printPrincipal(w, r.GetPrincipal(), wide) })
			})
		},
	}
	localFlag(cmd, &local)
	return cmd
}

func localFlag(cmd *cobra.Command, local *bool) {
	cmd.Flags().BoolVar(local, "local", false, "what the asked node has applied, without asking the leader; works without quorum")
}

func consistency(local bool) adminv1.Consistency {
	if local {
		return adminv1.Consistency_CONSISTENCY_LOCAL
	}
	return adminv1.Consistency_CONSISTENCY_LINEARIZABLE
}

func printPrincipal(w io.Writer, p *adminv1.Principal, wide bool) error {
	line := func(label, format string, args ...any) {
		fmt.Fprintf(w, "%-18s %s\n", label, fmt.Sprintf(format, args...))
	}
	line("principal", "%s", p.GetName())
	for _, a := range p.GetAliases() {
		line("alias", "%s", a)
	}
	state := "ok"
	switch {
	case kdb.Attributes(p.GetAttributes()).Has(kdb.DisallowAllTix):
		state = "locked by an administrator; to unlock: charon principal unlock"
	case p.GetLockedOut():
		state = fmt.Sprintf("locked out after %d failures; to unlock: charon principal unlock", p.GetFailures())
	case p.GetExpiration() != 0 && p.GetExpiration() < time.Now().UnixMilli():
		state = "expired"
	}
	line("state", "%s", state)
	for _, k := range p.GetKeys() {
		line("key", "%s", keyLine(k))
	}
	policy := p.GetPolicy()
	if policy == "" {
		policy = "none"
	} else if !p.GetPolicyExists() {
		policy += " (does not exist)"
	}
	line("policy", "%s", policy)
	line("attributes", "%s", kdb.Attributes(p.GetAttributes()))
	line("max life", "%s  renewable %s", ownLife(p.GetMaxLife()), renewableText(p))
	line("expires", "%s", when(p.GetExpiration()))
	line("password", "set %s  expires %s", when(p.GetLastPasswordChange()), when(p.GetPasswordExpiration()))
	line("last login", "%s  last failure %s  failures %d", when(p.GetLastSuccess()), when(p.GetLastFailure()), p.GetFailures())
	for _, k := range slices.Sorted(maps.Keys(p.GetStrings())) {
		line("string", "%s=%s", k, p.GetStrings()[k])
	}
	line("changed", "%s by %s", when(p.GetModifiedAt()), p.GetModifiedBy())
	if wide {
		line("created", "%s by %s", when(p.GetCreatedAt()), p.GetCreatedBy())
		line("id", "%x", p.GetId())
		line("revision", "%d", p.GetRevision())
	}
	return nil
}

// ownLife is a principal's bound on tickets.
func ownLife(seconds int64) string {
	if seconds == 0 {
		return "the realm's"
	}
	return span(seconds)
}

func renewableText(p *adminv1.Principal) string {
	if kdb.Attributes(p.GetAttributes()).Has(kdb.DisallowRenewable) {
		return "no"
	}
	return ownLife(p.GetMaxRenewableLife())
}

func keyLine(k *adminv1.KeyInfo) string {
	out := fmt.Sprintf("kvno %d  %s", k.GetKvno(), kcrypto.EType(k.GetEtype()))
	switch k.GetState() {
	case adminv1.KeyState_KEY_STATE_STAGED:
		out += "  staged"
	case adminv1.KeyState_KEY_STATE_RETIRING:
		out += "  opens only"
		if k.GetRetireAt() != 0 {
			out += ", until " + when(k.GetRetireAt())
		}
	}
	return out
}

func principalList() *cobra.Command {
	var local bool
	var expiring, realm string
	var limit int
	cmd := &cobra.Command{
		Use: "list [GLOB]", Short: "list principals", Args: cobra.MaximumNArgs(1),
		Example: "  charon principal list 'HTTP/*' -o wide --expiring 30d",
		RunE: func(cmd *cobra.Command, args []string) error {
			req := &adminv1.ListPrincipalsRequest{Realm: realm, Consistency: consistency(local)}
			if len(args) == 1 {
				req.Filter = args[0]
			}
			if expiring != "" {
				now := time.Now()
				d, err := parseLife(expiring, now)
				if err != nil {
					return usage(cmd, "--expiring: %v", err)
				}
				req.ExpiringBefore = now.Add(time.Duration(d) * time.Second).UnixMilli()
			}
			return withConnection(cmd, func(ctx context.Context, c *connection) error {
				list, more, err := listPrincipals(ctx, c, req, limit)
				if err != nil {
					return err
				}
				if more {
					fmt.Fprintf(cmd.ErrOrStderr(), "the first %d; for more: --limit\n", limit)
				}
				return showList(cmd, list, func(w io.Writer, wide bool) error { return principalTable(w, list, wide) })
			})
		},
	}
	localFlag(cmd, &local)
	cmd.Flags().StringVar(&expiring, "expiring", "", "only those that expire, or whose password does, within this time, as 30d")
	cmd.Flags().StringVar(&realm, "realm", "", "the realm; default: the default realm")
	cmd.Flags().IntVar(&limit, "limit", 100_000, "how many at most")
	return cmd
}

// listPrincipals reads all pages, up to limit.
func listPrincipals(ctx context.Context, c *connection, req *adminv1.ListPrincipalsRequest, limit int) (list []*adminv1.Principal, more bool, err error) {
	for {
		r, err := c.principals().ListPrincipals(ctx, req)
		if err != nil {
			return nil, false, err
		}
		list = append(list, r.GetPrincipals()...)
		if len(list) > limit {
			return list[:limit], true, nil
		}
		if req.PageToken = r.GetNextPageToken(); req.PageToken == "" {
			return list, false, nil
		}
	}
}

func principalTable(w io.Writer, list []*adminv1.Principal, wide bool) error {
	heading := "PRINCIPAL KVNO POLICY EXPIRES PASSWORD-EXPIRES STATE"
	if wide {
		heading += " ENCTYPES LAST-LOGIN CHANGED BY REVISION"
	}
	var rows [][]string
	for _, p := range list {
		state := "ok"
		if kdb.Attributes(p.GetAttributes()).Has(kdb.DisallowAllTix) || p.GetLockedOut() {
			state = "locked"
		}
		row := []string{p.GetName(), fmt.Sprint(p.GetKvno()), p.GetPolicy(), when(p.GetExpiration()), when(p.GetPasswordExpiration()), state}
		if wide {
			row = append(row, etypeList(p.GetKeys(), p.GetKvno()), when(p.GetLastSuccess()), when(p.GetModifiedAt()), p.GetModifiedBy(), fmt.Sprint(p.GetRevision()))
		}
		rows = append(rows, row)
	}
	return table(w, heading, rows)
}

// updatePrincipal makes one update and prints a line of it.
func updatePrincipal(cmd *cobra.Command, req *adminv1.UpdatePrincipalRequest, line func(*adminv1.Principal) string) error {
	return withConnection(cmd, func(ctx context.Context, c *connection) error {
		r, err := mutate(ctx, cmd, func(ctx context.Context, id []byte) (*adminv1.UpdatePrincipalResponse, error) {
			req.RequestId = id
			return c.principals().UpdatePrincipal(ctx, req)
		})
		if err != nil {
			return err
		}
		return show(cmd, r.GetPrincipal(), func(w io.Writer, _ bool) error {
			_, err := fmt.Fprintln(w, line(r.GetPrincipal()))
			return err
		})
	})
}

func principalSet() *cobra.Command {
	var fields principalFlags
	var deleteStrings []string
	var revision uint64
	cmd := &cobra.Command{
		Use: "set NAME", Short: "change a principal's fields", Args: cobra.ExactArgs(1),
		Example: "  charon principal set alice --expires '+90 days' --attr -allow_forwardable",
		RunE: func(cmd *cobra.Command, args []string) error {
			req, err := fields.update(cmd, time.Now())
			if err != nil {
				return err
			}
			req.Name, req.ExpectedRevision, req.DeleteStrings = args[0], revision, deleteStrings
			return updatePrincipal(cmd, req, func(p *adminv1.Principal) string {
				return fmt.Sprintf("%s changed  revision %d", p.GetName(), p.GetRevision())
			})
		},
	}
	fields.add(cmd)
	cmd.Flags().StringSliceVar(&deleteStrings, "delete-string", nil, "string attributes to delete")
	revisionFlag(cmd, &revision)
	return cmd
}

func revisionFlag(cmd *cobra.Command, revision *uint64) {
	cmd.Flags().Uint64Var(revision, "expected-revision", 0, "only if the record still has this revision")
}

func principalRename() *cobra.Command {
	var revision uint64
	cmd := &cobra.Command{
		Use: "rename NAME NEW-NAME", Short: "rename a principal; its keys and password stay", Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withConnection(cmd, func(ctx context.Context, c *connection) error {
				r, err := mutate(ctx, cmd, func(ctx context.Context, id []byte) (*adminv1.RenamePrincipalResponse, error) {
					return c.principals().RenamePrincipal(ctx, &adminv1.RenamePrincipalRequest{RequestId: id, Name: args[0], NewName: args[1], ExpectedRevision: revision})
				})
				if err != nil {
					return err
				}
				return show(cmd, r.GetPrincipal(), func(w io.Writer, _ bool) error {
					_, err := fmt.Fprintf(w, "%s is now %s\n", args[0], r.GetPrincipal().GetName())
					return err
				})
			})
		},
	}
	revisionFlag(cmd, &revision)
	return cmd
}

func principalAlias() *cobra.Command {
	var remove bool
	cmd := &cobra.Command{
		Use: "alias NAME ALIAS...", Short: "give a principal other names, or take them away", Args: cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			req := &adminv1.UpdatePrincipalRequest{Name: args[0]}
			if remove {
				req.RemoveAliases = args[1:]
			} else {
				req.AddAliases = args[1:]
			}
			return updatePrincipal(cmd, req, func(p *adminv1.Principal) string {
				if len(p.GetAliases()) == 0 {
					return p.GetName() + " has no aliases"
				}
				return p.GetName() + " has the aliases " + strings.Join(p.GetAliases(), ", ")
			})
		},
	}
	cmd.Flags().BoolVar(&remove, "remove", false, "take the aliases away")
	return cmd
}

func principalLock() *cobra.Command {
	return &cobra.Command{
		Use: "lock NAME", Short: "no tickets for or to this principal, on any node, from now on", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return updatePrincipal(cmd, &adminv1.UpdatePrincipalRequest{Name: args[0], SetAttributes: uint32(kdb.DisallowAllTix)},
				func(p *adminv1.Principal) string { return p.GetName() + " locked" })
		},
	}
}

func principalUnlock() *cobra.Command {
	return &cobra.Command{
		Use: "unlock NAME", Short: "undo a lock and forget failed logins", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return updatePrincipal(cmd, &adminv1.UpdatePrincipalRequest{Name: args[0], ClearAttributes: uint32(kdb.DisallowAllTix), Unlock: true},
				func(p *adminv1.Principal) string { return p.GetName() + " unlocked" })
		},
	}
}

func principalPassword() *cobra.Command {
	var keys keyFlags
	var keepOld bool
	var revision uint64
	cmd := &cobra.Command{
		Use: "password NAME", Aliases: []string{"passwd"}, Short: "set a password; asks for it", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withConnection(cmd, func(ctx context.Context, c *connection) error {
				source, err := keys.keys(ctx, cmd, c, args[0])
				if err != nil {
					return err
				}
				r, err := mutate(ctx, cmd, func(ctx context.Context, id []byte) (*adminv1.SetPasswordResponse, error) {
					return c.principals().SetPassword(ctx, &adminv1.SetPasswordRequest{
						RequestId: id, Name: args[0], Keys: source, KeepOld: keepOld, OneTime: keys.oneTime, ExpectedRevision: revision,
					})
				})
				if err != nil {
					return err
				}
				return show(cmd, r, func(w io.Writer, _ bool) error {
					_, err := fmt.Fprintf(w, "%s  kvno %d, in force on every node\n%s", args[0], r.GetKvno(), keys.warning())
					return err
				})
			})
		},
	}
	keys.add(cmd, false)
	cmd.Flags().BoolVar(&keepOld, "keep-old", false, "earlier keys go on opening tickets, until keytab or kadmin purgekeys removes them")
	revisionFlag(cmd, &revision)
	return cmd
}

func principalDelete() *cobra.Command {
	var force bool
	var revision uint64
	cmd := &cobra.Command{
		Use: "delete NAME...", Short: "delete principals", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 && cmd.Flags().Changed("request-id") {
				return usage(cmd, "--request-id goes with one name")
			}
			if err := confirm(cmd, force, "Delete "+strings.Join(args, ", ")+"?"); err != nil {
				return err
			}
			return withConnection(cmd, func(ctx context.Context, c *connection) error {
				for _, name := range args {
					if _, err := mutate(ctx, cmd, func(ctx context.Context, id []byte) (*adminv1.DeletePrincipalResponse, error) {
						return c.principals().DeletePrincipal(ctx, &adminv1.DeletePrincipalRequest{RequestId: id, Name: name, ExpectedRevision: revision})
					}); err != nil {
						return err
					}
					fmt.Fprintln(cmd.OutOrStdout(), name+" deleted")
				}
				return nil
			})
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "do not ask")
	revisionFlag(cmd, &revision)
	return cmd
}
