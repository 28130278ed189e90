package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/charon-kdc/charon/kdc/krb5"
	adminv1 "github.com/charon-kdc/charon/proto/charon/admin/v1"
)

const (
	usageAttributes = "\tattributes are:\n\t\tallow_postdated allow_forwardable allow_tgs_req allow_renewable\n\t\tallow_proxiable allow_dup_skey allow_tix requires_preauth\n" +
		"\t\trequires_hwauth needchange allow_svr password_changing_service\n\t\tok_as_delegate ok_to_auth_as_delegate no_auth_data_required\n\t\tlockdown_keys"
	usageAddPrincipal = "add_principal [options] principal\n\toptions are:\n\t\t[-randkey|-nokey] [-x db_princ_args]* [-expire expdate] [-pwexpire pwexpdate] [-maxlife maxtixlife]\n" +
		"\t\t[-kvno kvno] [-policy policy] [-clearpolicy]\n\t\t[-pw password] [-maxrenewlife maxrenewlife]\n\t\t[-e keysaltlist]\n\t\t[{+|-}attribute]\n" + usageAttributes
	usageModifyPrincipal = "modify_principal [options] principal\n\toptions are:\n\t\t[-x db_princ_args]* [-expire expdate] [-pwexpire pwexpdate] [-maxlife maxtixlife]\n" +
		"\t\t[-kvno kvno] [-policy policy] [-clearpolicy]\n\t\t[-maxrenewlife maxrenewlife] [-unlock] [{+|-}attribute]\n" + usageAttributes
	usageChangePassword = "change_password [-randkey] [-keepold] [-e keysaltlist] [-pw password] principal"
)

// full is a name with its realm, as MIT's output has it.
func (k *kadmin) full(text string) (string, error) {
	n, realm, err := krb5.ParsePrincipal(text, k.realm)
	if err != nil {
		return "", err
	}
	return krb5.FormatPrincipal(n, realm), nil
}

// princArgs is what addprinc, modprinc and cpw take.
type princArgs struct {
	name                           string
	update                         adminv1.UpdatePrincipalRequest
	password                       *string
	randkey, nokey, keepold, noPol bool
	zeroRenew                      bool // a renewable life of zero: in MIT, none at all
	keysalts                       []*adminv1.KeySalt
}

// parsePrincArgs reads options and the name. A nil result without error asks for the usage.
func (k *kadmin) parsePrincArgs(args []string, allowed string) (*princArgs, error) {
	p := &princArgs{}
	for i := 0; i < len(args); i++ {
		opt := args[i]
		if i == len(args)-1 && opt != "" && opt[0] != '-' && opt[0] != '+' {
			name, err := k.full(opt)
			p.name = name
			if p.zeroRenew {
				notRenewable(&p.update)
			}
			return p, err
		}
		word := " " + opt + " "
		if !strings.Contains(allowed, word) {
			if strings.Contains(allowed, " attributes ") && len(opt) > 1 {
				set, clear, err := parseAttributes([]string{opt})
				if err == nil && (opt[0] == '+' || opt[0] == '-') {
					p.update.SetAttributes = p.update.GetSetAttributes()&^clear | set
					p.update.ClearAttributes = p.update.GetClearAttributes()&^set | clear
					continue
				}
			}
			return nil, nil
		}
		takes := strings.Contains(" -expire -pwexpire -maxlife -maxrenewlife -kvno -policy -pw -e -x ", word)
		value := ""
		if takes {
			if i++; i >= len(args)-1 {
				return nil, nil
			}
			value = args[i]
		}
		if err := k.princOption(p, opt, value); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

func (k *kadmin) princOption(p *princArgs, opt, value string) (err error) {
	date := func() *int64 {
		ms, dateErr := dateMillis(value, k.now())
		if dateErr != nil {
			err = inMITsWords("Invalid date specification \"%s\".", value)
		}
		return &ms
	}
	life := func() *int64 {
		s, lifeErr := parseLife(value, k.now())
		if lifeErr != nil {
			err = inMITsWords("Invalid date specification \"%s\".", value)
		}
		return &s
	}
	switch opt {
	case "-expire":
		p.update.Expiration = date()
	case "-pwexpire":
		p.update.PasswordExpiration = date()
	case "-maxlife":
		p.update.MaxLife = life()
	case "-maxrenewlife":
		p.update.MaxRenewableLife = life()
		p.zeroRenew = p.update.GetMaxRenewableLife() == 0 && !unbounded(value)
	case "-kvno":
		n, numErr := strconv.ParseUint(value, 10, 31)
		if numErr != nil {
			return inMITsWords("Invalid kvno %q", value)
		}
		v := uint32(n)
		p.update.Kvno = &v
	case "-policy":
		p.update.Policy = &value
	case "-clearpolicy":
		empty := ""
		p.update.Policy, p.noPol = &empty, true
	case "-pw":
		p.password = &value
	case "-randkey":
		p.randkey = true
	case "-nokey":
		p.nokey = true
	case "-keepold":
		p.keepold = true
	case "-unlock":
		p.update.Unlock = true
	case "-e":
		p.keysalts, err = parseKeysalts(value)
	}
	return err
}

// keys says where new keys come from, asking for a password if no option does.
func (k *kadmin) keys(p *princArgs) (*adminv1.NewKeys, error) {
	out := &adminv1.NewKeys{Keysalts: p.keysalts}
	switch {
	case p.randkey:
		out.Source = &adminv1.NewKeys_Random{Random: true}
	case p.nokey:
		out.Source = &adminv1.NewKeys_None{None: true}
	case p.password != nil:
		out.Source = &adminv1.NewKeys_Password{Password: *p.password}
	default:
		pw, err := k.newPassword(p.name)
		if err != nil {
			return nil, err
		}
		out.Source = &adminv1.NewKeys_Password{Password: pw}
	}
	return out, nil
}

// badArgs prints what is wrong with a command's arguments.
func (k *kadmin) badArgs(request string, err error, usageText string) error {
	if err == nil {
		return k.usage(usageText)
	}
	fmt.Fprintf(k.errOut, "%s: %v\n", request, err)
	return quiet(exitUsage)
}

func (k *kadmin) addPrincipal(ctx context.Context, args []string) error {
	p, err := k.parsePrincArgs(args, " -expire -pwexpire -maxlife -maxrenewlife -kvno -policy -clearpolicy -pw -randkey -nokey -e -x attributes ")
	if p == nil || err != nil {
		return k.badArgs("add_principal", err, usageAddPrincipal)
	}
	k.tellPolicy(ctx, p)
	keys, err := k.keys(p)
	if err != nil {
		return k.fail("add_principal", err, "while reading password for \"%s\".", p.name)
	}
	req := createRequest(p.name, keys, &p.update, p.noPol)
	r, err := mutate(ctx, k.cmd, func(ctx context.Context, id []byte) (*adminv1.CreatePrincipalResponse, error) {
		req.RequestId = id
		return k.conn.principals().CreatePrincipal(ctx, req)
	})
	if err != nil {
		return k.fail("add_principal", err, "while creating \"%s\".", p.name)
	}
	fmt.Fprintf(k.out, "Principal \"%s\" created.\n", r.GetPrincipal().GetName())
	return nil
}

// tellPolicy says, as MIT does before it creates a principal, which policy it will have. Who may not read policies is told nothing.
func (k *kadmin) tellPolicy(ctx context.Context, p *princArgs) {
	name := "default"
	if p.update.Policy != nil {
		name = p.update.GetPolicy()
	}
	if name == "" {
		return
	}
	_, err := k.conn.policies().GetPolicy(ctx, &adminv1.GetPolicyRequest{Name: name, Consistency: k.read})
	missing := status.Code(err) == codes.NotFound
	switch {
	case err != nil && !missing:
	case p.update.Policy != nil && missing:
		k.warnPolicy(p)
	case p.update.Policy != nil:
	case missing:
		fmt.Fprintf(k.errOut, "No policy specified for %s; defaulting to no policy\n", p.name)
	default:
		fmt.Fprintf(k.errOut, "No policy specified for %s; assigning \"default\"\n", p.name)
	}
}

func (k *kadmin) warnPolicy(p *princArgs) {
	fmt.Fprintf(k.errOut, "WARNING: policy \"%s\" does not exist\n", p.update.GetPolicy())
}

func (k *kadmin) modifyPrincipal(ctx context.Context, args []string) error {
	p, err := k.parsePrincArgs(args, " -expire -pwexpire -maxlife -maxrenewlife -kvno -policy -clearpolicy -unlock -x attributes ")
	if p == nil || err != nil {
		return k.badArgs("modify_principal", err, usageModifyPrincipal)
	}
	p.update.Name = p.name
	r, err := mutate(ctx, k.cmd, func(ctx context.Context, id []byte) (*adminv1.UpdatePrincipalResponse, error) {
		p.update.RequestId = id
		return k.conn.principals().UpdatePrincipal(ctx, &p.update)
	})
	if status.Code(err) == codes.NotFound {
		return k.fail("modify_principal", err, "while getting \"%s\".", p.name)
	}
	if err != nil {
		return k.fail("modify_principal", err, "while modifying \"%s\".", p.name)
	}
	if p.update.GetPolicy() != "" && !r.GetPrincipal().GetPolicyExists() {
		k.warnPolicy(p)
	}
	fmt.Fprintf(k.out, "Principal \"%s\" modified.\n", r.GetPrincipal().GetName())
	return nil
}

func (k *kadmin) changePassword(ctx context.Context, args []string) error {
	p, err := k.parsePrincArgs(args, " -pw -randkey -keepold -e -x ")
	if p == nil || err != nil {
		return k.badArgs("change_password", err, usageChangePassword)
	}
	keys, err := k.keys(p)
	if err != nil {
		return k.fail("change_password", err, "while reading password for \"%s\".", p.name)
	}
	_, err = mutate(ctx, k.cmd, func(ctx context.Context, id []byte) (*adminv1.SetPasswordResponse, error) {
		return k.conn.principals().SetPassword(ctx, &adminv1.SetPasswordRequest{RequestId: id, Name: p.name, Keys: keys, KeepOld: p.keepold})
	})
	switch {
	case err != nil && p.randkey:
		return k.fail("change_password", err, "while randomizing key for \"%s\".", p.name)
	case err != nil:
		return k.fail("change_password", err, "while changing password for \"%s\".", p.name)
	case p.randkey:
		fmt.Fprintf(k.out, "Key for \"%s\" randomized.\n", p.name)
	default:
		fmt.Fprintf(k.out, "Password for \"%s\" changed.\n", p.name)
	}
	return nil
}

// forced takes -force off the front.
func forced(args []string) ([]string, bool) {
	if len(args) > 0 && args[0] == "-force" {
		return args[1:], true
	}
	return args, false
}

func (k *kadmin) deletePrincipal(ctx context.Context, args []string) error {
	args, force := forced(args)
	if len(args) != 1 {
		return k.usage("delete_principal [-force] principal")
	}
	name, err := k.full(args[0])
	if err != nil {
		return k.badArgs("delete_principal", err, "")
	}
	if !force && !k.yes("Are you sure you want to delete the principal \"%s\"?", name) {
		fmt.Fprintf(k.errOut, "Principal \"%s\" not deleted\n", name)
		return quiet(exitError)
	}
	if _, err := mutate(ctx, k.cmd, func(ctx context.Context, id []byte) (*adminv1.DeletePrincipalResponse, error) {
		return k.conn.principals().DeletePrincipal(ctx, &adminv1.DeletePrincipalRequest{RequestId: id, Name: name})
	}); err != nil {
		return k.fail("delete_principal", err, "while deleting principal \"%s\"", name)
	}
	fmt.Fprintf(k.out, "Principal \"%s\" deleted.\nMake sure that you have removed this principal from all ACLs before reusing.\n", name)
	return nil
}

func (k *kadmin) renamePrincipal(ctx context.Context, args []string) error {
	args, force := forced(args)
	if len(args) != 2 {
		return k.usage("rename_principal [-force] old_principal new_principal")
	}
	from, err := k.full(args[0])
	if err != nil {
		return k.badArgs("rename_principal", err, "")
	}
	to, err := k.full(args[1])
	if err != nil {
		return k.badArgs("rename_principal", err, "")
	}
	if !force && !k.yes("Are you sure you want to rename the principal \"%s\" to \"%s\"?", from, to) {
		fmt.Fprintf(k.errOut, "Principal \"%s\" not renamed\n", from)
		return quiet(exitError)
	}
	if _, err := mutate(ctx, k.cmd, func(ctx context.Context, id []byte) (*adminv1.RenamePrincipalResponse, error) {
		return k.conn.principals().RenamePrincipal(ctx, &adminv1.RenamePrincipalRequest{RequestId: id, Name: from, NewName: to})
	}); err != nil {
		return k.fail("rename_principal", err, "while renaming principal \"%s\" to \"%s\"", from, to)
	}
	fmt.Fprintf(k.out, "Principal \"%s\" renamed to \"%s\".\nMake sure that you have removed the old principal from all ACLs before reusing.\n", from, to)
	return nil
}

func (k *kadmin) getPrincipal(ctx context.Context, args []string) error {
	terse := len(args) == 2 && args[0] == "-terse"
	if len(args) != 1 && !terse {
		return k.usage("get_principal [-terse] principal")
	}
	name, err := k.full(args[len(args)-1])
	if err != nil {
		return k.badArgs("get_principal", err, "")
	}
	r, err := k.conn.principals().GetPrincipal(ctx, &adminv1.GetPrincipalRequest{Name: name, Consistency: k.read})
	if err == nil {
		err = k.effective(ctx, r.GetPrincipal())
	}
	if err != nil {
		return k.fail("get_principal", err, "while retrieving \"%s\".", name)
	}
	if terse {
		mitPrincipalTerse(k.out, r.GetPrincipal())
	} else {
		mitPrincipal(k.out, r.GetPrincipal())
	}
	return nil
}

// effective puts the realm's bounds where a principal has none of its own, as MIT's kadmin does when it makes one; and zero where there
// are no renewable tickets.
func (k *kadmin) effective(ctx context.Context, p *adminv1.Principal) error {
	if p.GetMaxLife() != 0 && p.GetMaxRenewableLife() != 0 || p.GetMaxLife() != 0 && zeroRenewable(p) {
		return nil
	}
	_, realm, err := krb5.ParsePrincipal(p.GetName(), k.realm)
	if err != nil {
		return err
	}
	r, err := k.conn.cluster().GetRealm(ctx, &adminv1.GetRealmRequest{Name: realm, Consistency: k.read})
	if err != nil {
		return err
	}
	if p.GetMaxRenewableLife() == 0 && !zeroRenewable(p) {
		p.MaxRenewableLife = r.GetRealm().GetMaxRenewableLife()
	}
	if p.GetMaxLife() == 0 {
		p.MaxLife = r.GetRealm().GetMaxLife()
	}
	return nil
}

func (k *kadmin) listPrincipals(ctx context.Context, args []string) error {
	if len(args) > 1 {
		return k.usage("get_principals [expression]")
	}
	names, err := k.names(ctx, strings.Join(args, ""))
	if err != nil {
		return k.fail("get_principals", err, "while retrieving list.")
	}
	for _, n := range names {
		fmt.Fprintln(k.out, n)
	}
	return nil
}

// names are the principals that a glob matches.
func (k *kadmin) names(ctx context.Context, filter string) ([]string, error) {
	list, _, err := listPrincipals(ctx, k.conn, &adminv1.ListPrincipalsRequest{Filter: filter, Realm: k.realm, NamesOnly: true, Consistency: k.read}, 10_000_000)
	var out []string
	for _, p := range list {
		out = append(out, p.GetName())
	}
	return out, err
}

func (k *kadmin) purgeKeys(ctx context.Context, args []string) error {
	const text = "purgekeys [-all|-keepkvno oldest_kvno_to_keep] principal"
	req := &adminv1.PurgeKeysRequest{}
	for len(args) > 1 {
		switch {
		case args[0] == "-all":
			req.All, args = true, args[1:]
		case args[0] == "-keepkvno" && len(args) > 2:
			n, err := strconv.ParseUint(args[1], 10, 31)
			if err != nil {
				return k.usage(text)
			}
			req.KeepKvno, args = uint32(n), args[2:]
		default:
			return k.usage(text)
		}
	}
	if len(args) != 1 {
		return k.usage(text)
	}
	name, err := k.full(args[0])
	if err != nil {
		return k.badArgs("purgekeys", err, "")
	}
	req.Name = name
	if _, err := mutate(ctx, k.cmd, func(ctx context.Context, id []byte) (*adminv1.PurgeKeysResponse, error) {
		req.RequestId = id
		return k.conn.principals().PurgeKeys(ctx, req)
	}); err != nil {
		return k.fail("purgekeys", err, "while purging keys for principal \"%s\"", name)
	}
	if req.GetAll() {
		fmt.Fprintf(k.out, "All keys for principal \"%s\" removed.\n", name)
	} else {
		fmt.Fprintf(k.out, "Old keys for principal \"%s\" purged.\n", name)
	}
	return nil
}

func (k *kadmin) getStrings(ctx context.Context, args []string) error {
	if len(args) != 1 {
		return k.usage("get_strings principal")
	}
	name, err := k.full(args[0])
	if err != nil {
		return k.badArgs("get_strings", err, "")
	}
	r, err := k.conn.principals().GetPrincipal(ctx, &adminv1.GetPrincipalRequest{Name: name, Consistency: k.read})
	if err != nil {
		return k.fail("get_strings", err, "while getting attributes for principal \"%s\"", name)
	}
	all := r.GetPrincipal().GetStrings()
	if len(all) == 0 {
		fmt.Fprintln(k.out, "(No string attributes.)")
	}
	for _, key := range slices.Sorted(maps.Keys(all)) {
		fmt.Fprintf(k.out, "%s: %s\n", key, all[key])
	}
	return nil
}

func (k *kadmin) setString(ctx context.Context, args []string) error {
	if len(args) != 3 {
		return k.usage("set_string principal key value")
	}
	return k.updateStrings(ctx, "set_string", args[0], &adminv1.UpdatePrincipalRequest{SetStrings: map[string]string{args[1]: args[2]}},
		"while setting attribute on principal \"%s\"", "Attribute set for principal \"%s\".\n")
}

func (k *kadmin) deleteString(ctx context.Context, args []string) error {
	if len(args) != 2 {
		return k.usage("del_string principal key")
	}
	return k.updateStrings(ctx, "del_string", args[0], &adminv1.UpdatePrincipalRequest{DeleteStrings: []string{args[1]}},
		"while deleting attribute from principal \"%s\"", "Attribute removed from principal \"%s\".\n")
}

func (k *kadmin) updateStrings(ctx context.Context, request, text string, req *adminv1.UpdatePrincipalRequest, doing, done string) error {
	name, err := k.full(text)
	if err != nil {
		return k.badArgs(request, err, "")
	}
	req.Name = name
	if _, err := mutate(ctx, k.cmd, func(ctx context.Context, id []byte) (*adminv1.UpdatePrincipalResponse, error) {
		req.RequestId = id
		return k.conn.principals().UpdatePrincipal(ctx, req)
	}); err != nil {
		return k.fail(request, err, doing, name)
	}
	fmt.Fprintf(k.out, done, name)
	return nil
}

// getPrivileges prints MIT's four words for what the caller may do somewhere.
func (k *kadmin) getPrivileges(ctx context.Context, args []string) error {
	if len(args) != 0 {
		return k.usage("get_privs")
	}
	r, err := k.conn.roles().GetPrivileges(ctx, &adminv1.GetPrivilegesRequest{Consistency: k.read})
	if err != nil {
		return k.fail("get_privs", err, "while retrieving privileges")
	}
	fmt.Fprint(k.out, "current privileges:")
	for _, p := range []struct{ verb, word string }{{"inquire", "INQUIRE"}, {"add", "ADD"}, {"modify", "MODIFY"}, {"delete", "DELETE"}} {
		if r.GetRoot() || slices.ContainsFunc(r.GetRoles(), func(role *adminv1.Role) bool {
			return slices.Contains(role.GetVerbs(), "*") || slices.Contains(role.GetVerbs(), p.verb)
		}) {
			fmt.Fprint(k.out, " "+p.word)
		}
	}
	fmt.Fprintln(k.out)
	return nil
}
