package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/charon-kdc/charon/kdc/krb5"
	"github.com/charon-kdc/charon/kdc/krb5/keytab"
	adminv1 "github.com/charon-kdc/charon/proto/charon/admin/v1"
)

const (
	usageKtadd    = "ktadd [-k[eytab] keytab] [-q] [-e keysaltlist] [-norandkey] [principal | -glob princ-exp] [...]"
	usageKtremove = "ktremove [-k[eytab] keytab] [-q] principal [kvno|\"all\"|\"old\"]"
)

// ktArgs are the options that ktadd and ktremove share, and what is left.
type ktArgs struct {
	path, shown string
	quiet       bool
	norandkey   bool
	keysalts    []*adminv1.KeySalt
	rest        []string
}

// parseKtArgs returns nil without error to ask for the usage.
func parseKtArgs(args []string, add bool) (*ktArgs, error) {
	k := &ktArgs{}
	var err error
	name := ""
	for len(args) > 0 && len(args[0]) > 1 && args[0][0] == '-' && args[0] != "-glob" {
		opt := args[0]
		takes := opt == "-k" || opt == "-keytab" || add && opt == "-e"
		if takes && len(args) < 2 {
			return nil, nil
		}
		switch {
		case opt == "-k" || opt == "-keytab":
			name = args[1]
		case opt == "-q":
			k.quiet = true
		case add && opt == "-e":
			k.keysalts, err = parseKeysalts(args[1])
		case add && opt == "-norandkey":
			k.norandkey = true
		default:
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		args = args[1:]
		if takes {
			args = args[1:]
		}
	}
	k.rest = args
	k.path, k.shown, err = keytabName(name)
	return k, err
}

func (k *kadmin) ktadd(ctx context.Context, args []string) error {
	a, err := parseKtArgs(args, true)
	if a == nil || err != nil || len(a.rest) == 0 {
		return k.badArgs("ktadd", err, usageKtadd)
	}
	if a.norandkey && a.keysalts != nil {
		fmt.Fprintln(k.errOut, "cannot specify keysaltlist when not changing key")
		return quiet(exitUsage)
	}
	var failed error
	for i := 0; i < len(a.rest); i++ {
		names := []string{a.rest[i]}
		if a.rest[i] == "-glob" {
			if i++; i == len(a.rest) {
				return k.usage(usageKtadd)
			}
			if names, err = k.names(ctx, a.rest[i]); err != nil {
				return k.fail("ktadd", err, "while expanding expression \"%s\".", a.rest[i])
			}
		}
		for _, n := range names {
			if err := k.ktaddOne(ctx, a, n); err != nil {
				failed = err
			}
		}
	}
	return failed
}

// ktaddOne makes new keys that replace the old ones, or takes those there are, and adds them to the keytab.
func (k *kadmin) ktaddOne(ctx context.Context, a *ktArgs, text string) error {
	name, err := k.full(text)
	if err != nil {
		return k.badArgs("ktadd", err, "")
	}
	var canonical string
	var keys []*adminv1.ExtractedKey
	if a.norandkey {
		var r *adminv1.GetKeytabResponse
		r, err = k.conn.keytabs().GetKeytab(ctx, &adminv1.GetKeytabRequest{Name: name, All: true, Consistency: k.read})
		canonical, keys = r.GetName(), r.GetKeys()
	} else {
		var r *adminv1.RotateKeytabResponse
		r, err = mutate(ctx, k.cmd, func(ctx context.Context, id []byte) (*adminv1.RotateKeytabResponse, error) {
			return k.conn.keytabs().RotateKeytab(ctx, &adminv1.RotateKeytabRequest{RequestId: id, Name: name, DropOld: true, Keysalts: a.keysalts})
		})
		canonical, keys = r.GetName(), r.GetKeys()
	}
	if status.Code(err) == codes.NotFound {
		fmt.Fprintf(k.errOut, "kadmin: Principal %s does not exist.\n", text)
		return quiet(exitNotFound)
	}
	if err != nil {
		return k.fail("kadmin", err, "while changing %s's key", text)
	}
	list, err := entries(canonical, keys, k.now())
	if err == nil {
		_, err = addToKeytab(a.path, list)
	}
	if err != nil {
		return k.fail("kadmin", err, "while adding key to keytab")
	}
	for _, e := range list {
		if !a.quiet {
			fmt.Fprintf(k.out, "Entry for principal %s with kvno %d, encryption type %s added to keytab %s.\n", text, e.KVNO, e.Key.EType(), a.shown)
		}
	}
	return nil
}

// ktremove takes entries away: of one kvno, all, all but the newest ("old"), or the newest.
func (k *kadmin) ktremove(_ context.Context, args []string) error {
	a, err := parseKtArgs(args, false)
	if a == nil || err != nil || len(a.rest) < 1 || len(a.rest) > 2 {
		return k.badArgs("ktremove", err, usageKtremove)
	}
	n, realm, err := krb5.ParsePrincipal(a.rest[0], k.realm)
	if err != nil {
		return k.badArgs("ktremove", err, "")
	}
	kt, err := keytab.Read(a.path)
	if errors.Is(err, fs.ErrNotExist) {
		fmt.Fprintf(k.errOut, "kadmin: Keytab %s does not exist.\n", a.shown)
		return quiet(exitNotFound)
	}
	if err != nil {
		return k.fail("kadmin", err, "while opening keytab %s", a.shown)
	}
	mine := func(e keytab.Entry) bool { return e.Realm == realm && e.Name.Equal(n) }
	newest, found := uint32(0), false
	for _, e := range kt.Entries {
		if mine(e) {
			newest, found = max(newest, e.KVNO), true
		}
	}
	if !found {
		fmt.Fprintf(k.errOut, "kadmin: No entry for principal %s exists in keytab %s\n", a.rest[0], a.shown)
		return quiet(exitNotFound)
	}
	chosen := func(e keytab.Entry) bool { return e.KVNO == newest }
	if len(a.rest) == 2 {
		switch which := a.rest[1]; which {
		case "all":
			chosen = func(keytab.Entry) bool { return true }
		case "old":
			chosen = func(e keytab.Entry) bool { return e.KVNO != newest }
		default:
			kvno, err := strconv.ParseUint(which, 10, 32)
			if err != nil {
				return k.usage(usageKtremove)
			}
			chosen = func(e keytab.Entry) bool { return e.KVNO == uint32(kvno) }
		}
	}
	return k.ktremoveChosen(kt, a, func(e keytab.Entry) bool { return mine(e) && chosen(e) })
}

func (k *kadmin) ktremoveChosen(kt *keytab.Keytab, a *ktArgs, chosen func(keytab.Entry) bool) error {
	var gone []uint32
	kt.Entries = slices.DeleteFunc(kt.Entries, func(e keytab.Entry) bool {
		if chosen(e) {
			gone = append(gone, e.KVNO)
			return true
		}
		return false
	})
	if len(gone) == 0 {
		which := "There is only one entry for principal %s in keytab %s\n"
		if len(a.rest) == 2 && a.rest[1] != "old" {
			which = "No entry for principal %s with kvno " + a.rest[1] + " exists in keytab %s\n"
		}
		fmt.Fprintf(k.errOut, "kadmin: "+which, a.rest[0], a.shown)
		return quiet(exitNotFound)
	}
	if err := kt.WriteFile(a.path); err != nil {
		return k.fail("kadmin", err, "while removing entries from keytab %s", a.shown)
	}
	for _, kvno := range gone {
		if !a.quiet {
			fmt.Fprintf(k.out, "Entry for principal %s with kvno %d removed from keytab %s.\n", a.rest[0], kvno, a.shown)
		}
	}
	return nil
}
