package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	adminv1 "github.com/charon-kdc/charon/proto/charon/admin/v1"
)

func newPolicyCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "policy", Short: "password and lockout policies"}
	cmd.AddCommand(policyAdd(), policyShow(), policyList(), policySet(), policyDelete())
	return cmd
}

// policyFlags are a policy's fields.
type policyFlags struct {
	minLength, minClasses, history, maxFailures uint32
	minLife, maxLife, lockout, window           string
	keysalts                                    string
}

func (p *policyFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.Uint32Var(&p.minLength, "min-length", 0, "characters a password must have")
	f.Uint32Var(&p.minClasses, "min-classes", 0, "kinds of characters, of lower case, upper case, digits, punctuation, others")
	f.Uint32Var(&p.history, "history", 0, "passwords that can't be used again, the current one included")
	f.StringVar(&p.minLife, "min-life", "", "how long a password must be kept, as 1d")
	f.StringVar(&p.maxLife, "max-life", "", "how long a password is good, as 90d; unlimited")
	f.Uint32Var(&p.maxFailures, "max-failures", 0, "failed logins in a row that lock; 0: none does")
	f.StringVar(&p.lockout, "lockout", "", "how long a lockout lasts, as 15m; 0: until an administrator unlocks")
	f.StringVar(&p.window, "failure-window", "", "failures further apart do not add up, as 30m; 0: they always do")
	f.StringVar(&p.keysalts, "keysalts", "", "the only keys that may be made, as aes256-sha2:normal,aes128-sha2:normal; - for any")
}

// update is what the flags say, those that were given.
func (p *policyFlags) update(cmd *cobra.Command, now time.Time) (*adminv1.UpdatePolicyRequest, error) {
	out := &adminv1.UpdatePolicyRequest{}
	changed := cmd.Flags().Changed
	for _, f := range []struct {
		flag  string
		value uint32
		dst   **uint32
	}{
		{"min-length", p.minLength, &out.MinLength}, {"min-classes", p.minClasses, &out.MinClasses},
		{"history", p.history, &out.History}, {"max-failures", p.maxFailures, &out.MaxFailures},
	} {
		if changed(f.flag) {
			*f.dst = &f.value
		}
	}
	for _, f := range []struct {
		flag, text string
		dst        **int64
	}{
		{"min-life", p.minLife, &out.MinLife}, {"max-life", p.maxLife, &out.MaxLife},
		{"lockout", p.lockout, &out.LockoutDuration}, {"failure-window", p.window, &out.FailureWindow},
	} {
		if !changed(f.flag) {
			continue
		}
		v, err := parseLife(f.text, now)
		if err != nil {
			return nil, usage(cmd, "--%s: %v", f.flag, err)
		}
		*f.dst = &v
	}
	if changed("keysalts") {
		out.AllowedKeysalts, out.ClearAllowedKeysalts = splitKeysalts(p.keysalts), true
	}
	return out, nil
}

// splitKeysalts are the parts of MIT's list; "-" is none.
func splitKeysalts(text string) []string {
	if text == "-" {
		return nil
	}
	return strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' })
}

// policyOf makes a new policy of an update.
func policyOf(name string, u *adminv1.UpdatePolicyRequest) *adminv1.Policy {
	return &adminv1.Policy{
		Name: name, MinLength: u.GetMinLength(), MinClasses: u.GetMinClasses(), History: u.GetHistory(), MinLife: u.GetMinLife(), MaxLife: u.GetMaxLife(),
		MaxFailures: u.GetMaxFailures(), LockoutDuration: u.GetLockoutDuration(), FailureWindow: u.GetFailureWindow(), AllowedKeysalts: u.GetAllowedKeysalts(),
	}
}

func policyAdd() *cobra.Command {
	var fields policyFlags
	cmd := &cobra.Command{
		Use: "add NAME", Short: "add a policy; the one named default is given to new principals", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			u, err := fields.update(cmd, time.Now())
			if err != nil {
				return err
			}
			return withConnection(cmd, func(ctx context.Context, c *connection) error {
				r, err := mutate(ctx, cmd, func(ctx context.Context, id []byte) (*adminv1.CreatePolicyResponse, error) {
					return c.policies().CreatePolicy(ctx, &adminv1.CreatePolicyRequest{RequestId: id, Policy: policyOf(args[0], u)})
				})
				if err != nil {
					return err
				}
				return show(cmd, r.GetPolicy(), func(w io.Writer, _ bool) error {
					_, err := fmt.Fprintf(w, "policy %s created\n", r.GetPolicy().GetName())
					return err
				})
			})
		},
	}
	fields.add(cmd)
	return cmd
}

func policyShow() *cobra.Command {
	var local bool
	cmd := &cobra.Command{
		Use: "show NAME", Short: "show one policy", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withConnection(cmd, func(ctx context.Context, c *connection) error {
				r, err := c.policies().GetPolicy(ctx, &adminv1.GetPolicyRequest{Name: args[0], Consistency: consistency(local)})
				if err != nil {
					return err
				}
				return show(cmd, r.GetPolicy(), func(w io.Writer, wide bool) error { return printPolicy(w, r.GetPolicy()) })
			})
		},
	}
	localFlag(cmd, &local)
	return cmd
}

func printPolicy(w io.Writer, p *adminv1.Policy) error {
	line := func(label, format string, args ...any) {
		fmt.Fprintf(w, "%-18s %s\n", label, fmt.Sprintf(format, args...))
	}
	line("policy", "%s", p.GetName())
	line("password", "at least %d characters of %d kinds, %d remembered", p.GetMinLength(), p.GetMinClasses(), p.GetHistory())
	line("password life", "%s to %s", span(p.GetMinLife()), span(p.GetMaxLife()))
	if p.GetMaxFailures() == 0 {
		line("lockout", "never")
	} else {
		line("lockout", "after %d failures, %s; %s", p.GetMaxFailures(), lockoutText(p.GetLockoutDuration()), windowText(p.GetFailureWindow()))
	}
	if len(p.GetAllowedKeysalts()) > 0 {
		line("keysalts", "%s", strings.Join(p.GetAllowedKeysalts(), ","))
	}
	line("changed", "%s by %s", when(p.GetModifiedAt()), p.GetModifiedBy())
	line("revision", "%d", p.GetRevision())
	return nil
}

func lockoutText(seconds int64) string {
	if seconds == 0 {
		return "until an administrator unlocks"
	}
	return "for " + span(seconds)
}

func windowText(seconds int64) string {
	if seconds == 0 {
		return "failures always add up"
	}
	return "failures further apart than " + span(seconds) + " do not add up"
}

func policyList() *cobra.Command {
	var local bool
	cmd := &cobra.Command{
		Use: "list [GLOB]", Short: "list policies", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withConnection(cmd, func(ctx context.Context, c *connection) error {
				list, err := listPolicies(ctx, c, strings.Join(args, ""), consistency(local))
				if err != nil {
					return err
				}
				return showList(cmd, list, func(w io.Writer, _ bool) error {
					var rows [][]string
					for _, p := range list {
						rows = append(rows, []string{p.GetName(), fmt.Sprint(p.GetMinLength()), fmt.Sprint(p.GetMinClasses()), fmt.Sprint(p.GetHistory()),
							span(p.GetMinLife()), span(p.GetMaxLife()), fmt.Sprint(p.GetMaxFailures()), span(p.GetLockoutDuration())})
					}
					return table(w, "POLICY LENGTH CLASSES HISTORY MIN-LIFE MAX-LIFE FAILURES LOCKOUT", rows)
				})
			})
		},
	}
	localFlag(cmd, &local)
	return cmd
}

// listPolicies reads all pages.
func listPolicies(ctx context.Context, c *connection, filter string, how adminv1.Consistency) (list []*adminv1.Policy, err error) {
	req := &adminv1.ListPoliciesRequest{Filter: filter, Consistency: how}
	for {
		r, err := c.policies().ListPolicies(ctx, req)
		if err != nil {
			return nil, err
		}
		list = append(list, r.GetPolicies()...)
		if req.PageToken = r.GetNextPageToken(); req.PageToken == "" {
			return list, nil
		}
	}
}

func policySet() *cobra.Command {
	var fields policyFlags
	var revision uint64
	cmd := &cobra.Command{
		Use: "set NAME", Short: "change a policy", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			req, err := fields.update(cmd, time.Now())
			if err != nil {
				return err
			}
			req.Name, req.ExpectedRevision = args[0], revision
			return withConnection(cmd, func(ctx context.Context, c *connection) error {
				r, err := mutate(ctx, cmd, func(ctx context.Context, id []byte) (*adminv1.UpdatePolicyResponse, error) {
					req.RequestId = id
					return c.policies().UpdatePolicy(ctx, req)
				})
				if err != nil {
					return err
				}
				return show(cmd, r.GetPolicy(), func(w io.Writer, _ bool) error {
					_, err := fmt.Fprintf(w, "policy %s changed  revision %d\n", r.GetPolicy().GetName(), r.GetPolicy().GetRevision())
					return err
				})
			})
		},
	}
	fields.add(cmd)
	revisionFlag(cmd, &revision)
	return cmd
}

func policyDelete() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use: "delete NAME", Short: "delete a policy", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := confirm(cmd, force, "Delete policy "+args[0]+"?"); err != nil {
				return err
			}
			return withConnection(cmd, func(ctx context.Context, c *connection) error {
				if _, err := mutate(ctx, cmd, func(ctx context.Context, id []byte) (*adminv1.DeletePolicyResponse, error) {
					return c.policies().DeletePolicy(ctx, &adminv1.DeletePolicyRequest{RequestId: id, Name: args[0]})
				}); err != nil {
					return err
				}
				_, err := fmt.Fprintf(cmd.OutOrStdout(), "policy %s deleted\n", args[0])
				return err
			})
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "do not ask")
	return cmd
}
