package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/charon-kdc/charon/kdc/krb5"
	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
	"github.com/charon-kdc/charon/kdc/krb5/keytab"
	adminv1 "github.com/charon-kdc/charon/proto/charon/admin/v1"
)

func newKeytabCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "keytab", Short: "keys of services, as files"}
	cmd.AddCommand(keytabEnsure(), keytabGet(), keytabRotate(), keytabActivate(), keytabShow())
	return cmd
}

// entries are extracted keys as keytab entries.
func entries(name string, keys []*adminv1.ExtractedKey, now time.Time) ([]keytab.Entry, error) {
	pn, realm, err := krb5.ParsePrincipal(name, "")
	if err != nil {
		return nil, err
	}
	var out []keytab.Entry
	for _, k := range keys {
		key, err := kcrypto.NewKey(kcrypto.EType(k.GetEtype()), k.GetKey())
		if err != nil {
			return nil, err
		}
		out = append(out, keytab.Entry{Realm: realm, Name: pn, Timestamp: now, KVNO: k.GetKvno(), Key: key})
	}
	return out, nil
}

// addToKeytab appends those entries that the file does not hold, and tells how many.
func addToKeytab(path string, list []keytab.Entry) (int, error) {
	have, err := keytab.Read(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, err
	}
	var missing []keytab.Entry
	for _, e := range list {
		if have == nil || !slices.ContainsFunc(have.Entries, func(h keytab.Entry) bool { return sameEntry(h, e) }) {
			missing = append(missing, e)
		}
	}
	if len(missing) == 0 {
		return 0, nil
	}
	return len(missing), keytab.Append(path, missing...)
}

func sameEntry(a, b keytab.Entry) bool {
	return a.Realm == b.Realm && a.Name.Equal(b.Name) && a.KVNO == b.KVNO && a.Key != nil && a.Key.Equal(b.Key)
}

func outFlag(cmd *cobra.Command, out *string) {
	cmd.Flags().StringVar(out, "out", "", "the keytab file to add to (mode 0600 when new)")
	cmd.MarkFlagRequired("out")
}

func keysaltFlag(cmd *cobra.Command, text *string) {
	cmd.Flags().StringVarP(text, "keysalts", "e", "", "keys to make, as aes256-sha2,aes128-sha2; default: one for each enctype of the realm")
}

func keytabEnsure() *cobra.Command {
	var out, keysalts string
	cmd := &cobra.Command{
		Use: "ensure NAME", Short: "make sure that the service exists and that the file holds its keys", Args: cobra.ExactArgs(1),
		Example: "  charon keytab ensure HTTP/web1.example.com --out /etc/httpd/http.keytab",
		RunE: func(cmd *cobra.Command, args []string) error {
			ks, err := parseKeysalts(keysalts)
			if err != nil {
				return usage(cmd, "%v", err)
			}
			return withConnection(cmd, func(ctx context.Context, c *connection) error {
				r, err := mutate(ctx, cmd, func(ctx context.Context, id []byte) (*adminv1.EnsureKeytabResponse, error) {
					return c.keytabs().EnsureKeytab(ctx, &adminv1.EnsureKeytabRequest{RequestId: id, Name: args[0], Keysalts: ks})
				})
				if err != nil {
					return err
				}
				n, err := writeKeys(out, r.GetName(), r.GetKeys())
				if err != nil {
					return err
				}
				return showKeytab(cmd, r.GetName(), r.GetKvno(), n, ensureLine(r, n))
			})
		},
	}
	outFlag(cmd, &out)
	keysaltFlag(cmd, &keysalts)
	return cmd
}

func ensureLine(r *adminv1.EnsureKeytabResponse, written int) string {
	switch {
	case r.GetCreated():
		return fmt.Sprintf("created principal, wrote kvno %d (%d enctypes).", r.GetKvno(), written)
	case written > 0:
		return fmt.Sprintf("wrote kvno %d (%d enctypes).", r.GetKvno(), written)
	}
	return "unchanged"
}

func writeKeys(path, name string, keys []*adminv1.ExtractedKey) (int, error) {
	list, err := entries(name, keys, time.Now())
	if err != nil {
		return 0, err
	}
	return addToKeytab(path, list)
}

// showKeytab prints the line, or what it says as an object. Keys go into the file and nowhere else.
func showKeytab(cmd *cobra.Command, name string, kvno uint32, written int, line string) error {
	return show(cmd, &adminv1.GetKeytabResponse{Name: name, Kvno: kvno}, func(w io.Writer, _ bool) error {
		_, err := fmt.Fprintln(w, line)
		return err
	})
}

func keytabGet() *cobra.Command {
	var out string
	var kvno uint32
	var all, local bool
	cmd := &cobra.Command{
		Use: "get NAME", Short: "write a service's keys to a file, without changing them", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withConnection(cmd, func(ctx context.Context, c *connection) error {
				r, err := c.keytabs().GetKeytab(ctx, &adminv1.GetKeytabRequest{Name: args[0], Kvno: kvno, All: all, Consistency: consistency(local)})
				if err != nil {
					return err
				}
				n, err := writeKeys(out, r.GetName(), r.GetKeys())
				if err != nil {
					return err
				}
				line := "unchanged"
				if n > 0 {
					line = fmt.Sprintf("wrote %d keys of %s.", n, r.GetName())
				}
				return showKeytab(cmd, r.GetName(), r.GetKvno(), n, line)
			})
		},
	}
	outFlag(cmd, &out)
	localFlag(cmd, &local)
	cmd.Flags().Uint32Var(&kvno, "kvno", 0, "of this kvno; default: the current one")
	cmd.Flags().BoolVar(&all, "all", false, "of every kvno")
	cmd.MarkFlagsMutuallyExclusive("kvno", "all")
	return cmd
}

func keytabRotate() *cobra.Command {
	var out, keysalts, retireAfter string
	var stage, dropOld bool
	cmd := &cobra.Command{
		Use: "rotate NAME", Short: "make new keys: at once, or staged until the keytab is delivered", Args: cobra.ExactArgs(1),
		Example: "  charon keytab rotate HTTP/web1.example.com --stage --out new.keytab",
		RunE: func(cmd *cobra.Command, args []string) error {
			ks, err := parseKeysalts(keysalts)
			if err != nil {
				return usage(cmd, "%v", err)
			}
			retire, err := retireSeconds(cmd, retireAfter)
			if err != nil {
				return err
			}
			return withConnection(cmd, func(ctx context.Context, c *connection) error {
				r, err := mutate(ctx, cmd, func(ctx context.Context, id []byte) (*adminv1.RotateKeytabResponse, error) {
					return c.keytabs().RotateKeytab(ctx, &adminv1.RotateKeytabRequest{RequestId: id, Name: args[0], Stage: stage, DropOld: dropOld, RetireAfter: retire, Keysalts: ks})
				})
				if err != nil {
					return err
				}
				n, err := writeKeys(out, r.GetName(), r.GetKeys())
				if err != nil {
					return err
				}
				line := fmt.Sprintf("kvno %d is active. Earlier keys still open tickets.", r.GetKvno())
				switch {
				case stage:
					line = fmt.Sprintf("kvno %d staged (no ticket uses it yet). Deliver the keytab, then: charon keytab activate %s", r.GetKvno(), args[0])
				case dropOld:
					line = fmt.Sprintf("kvno %d is active. Earlier keys are gone: tickets issued before are of no use.", r.GetKvno())
				}
				return showKeytab(cmd, r.GetName(), r.GetKvno(), n, line)
			})
		},
	}
	outFlag(cmd, &out)
	keysaltFlag(cmd, &keysalts)
	f := cmd.Flags()
	f.BoolVar(&stage, "stage", false, "no ticket uses the new keys until keytab activate")
	f.BoolVar(&dropOld, "drop-old", false, "remove earlier keys at once")
	f.StringVar(&retireAfter, "retire-after", "", "earlier keys go on opening tickets for this long, as 12h; default: until purged")
	cmd.MarkFlagsMutuallyExclusive("stage", "drop-old", "retire-after")
	return cmd
}

func retireSeconds(cmd *cobra.Command, text string) (int64, error) {
	if text == "" {
		return 0, nil
	}
	n, err := parseLife(text, time.Now())
	if err != nil {
		return 0, usage(cmd, "--retire-after: %v", err)
	}
	return n, nil
}

func keytabActivate() *cobra.Command {
	var retireAfter string
	cmd := &cobra.Command{
		Use: "activate NAME", Short: "use staged keys", Args: cobra.ExactArgs(1),
		Example: "  charon keytab activate HTTP/web1.example.com --retire-after 12h",
		RunE: func(cmd *cobra.Command, args []string) error {
			retire, err := retireSeconds(cmd, retireAfter)
			if err != nil {
				return err
			}
			return withConnection(cmd, func(ctx context.Context, c *connection) error {
				r, err := mutate(ctx, cmd, func(ctx context.Context, id []byte) (*adminv1.ActivateKeytabResponse, error) {
					return c.keytabs().ActivateKeytab(ctx, &adminv1.ActivateKeytabRequest{RequestId: id, Name: args[0], RetireAfter: retire})
				})
				if err != nil {
					return err
				}
				return show(cmd, r, func(w io.Writer, _ bool) error {
					_, err := fmt.Fprintln(w, activateLine(r))
					return err
				})
			})
		},
	}
	cmd.Flags().StringVar(&retireAfter, "retire-after", "", "earlier keys go on opening tickets for this long, as 12h; default: until purged")
	return cmd
}

func activateLine(r *adminv1.ActivateKeytabResponse) string {
	out := fmt.Sprintf("kvno %d active on %d/%d nodes.", r.GetKvno(), r.GetNodes(), r.GetMembers())
	switch {
	case r.GetPreviousKvno() == 0:
	case r.GetRetireAt() == 0:
		out += fmt.Sprintf(" kvno %d still opens tickets until it is purged.", r.GetPreviousKvno())
	default:
		out += fmt.Sprintf(" kvno %d still opens tickets until %s, then it is removed.", r.GetPreviousKvno(), when(r.GetRetireAt()))
	}
	return out
}

func keytabShow() *cobra.Command {
	var file string
	var local bool
	cmd := &cobra.Command{
		Use: "show NAME", Short: "show a service's keys by state; with --file, a keytab file's entries", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if (file == "") == (len(args) == 0) {
				return usage(cmd, "give NAME or --file")
			}
			if file != "" {
				return keytabFileShow(cmd, file)
			}
			return withConnection(cmd, func(ctx context.Context, c *connection) error {
				r, err := c.principals().GetPrincipal(ctx, &adminv1.GetPrincipalRequest{Name: args[0], Consistency: consistency(local)})
				if err != nil {
					return err
				}
				return showList(cmd, r.GetPrincipal().GetKeys(), func(w io.Writer, _ bool) error {
					var rows [][]string
					for _, k := range r.GetPrincipal().GetKeys() {
						state, until := "active", ""
						switch k.GetState() {
						case adminv1.KeyState_KEY_STATE_STAGED:
							state = "staged"
						case adminv1.KeyState_KEY_STATE_RETIRING:
							state, until = "opens only", when(k.GetRetireAt())
						}
						rows = append(rows, []string{fmt.Sprint(k.GetKvno()), kcrypto.EType(k.GetEtype()).String(), state, until})
					}
					return table(w, "KVNO ENCTYPE STATE UNTIL", rows)
				})
			})
		},
	}
	cmd.Flags().StringVar(&file, "file", "", "a keytab file")
	localFlag(cmd, &local)
	return cmd
}

func keytabFileShow(cmd *cobra.Command, path string) error {
	kt, err := keytab.Read(path)
	if err != nil {
		return err
	}
	list := make([]*adminv1.GetKeytabResponse, 0, len(kt.Entries))
	var rows [][]string
	for _, e := range kt.Entries {
		name := krb5.FormatPrincipal(e.Name, e.Realm)
		list = append(list, &adminv1.GetKeytabResponse{Name: name, Kvno: e.KVNO})
		rows = append(rows, []string{fmt.Sprint(e.KVNO), e.Key.EType().String(), e.Timestamp.UTC().Format("2006-01-02 15:04Z"), name})
	}
	return showList(cmd, list, func(w io.Writer, _ bool) error { return table(w, "KVNO ENCTYPE WRITTEN PRINCIPAL", rows) })
}
