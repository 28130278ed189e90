package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	adminv1 "github.com/charon-kdc/charon/proto/charon/admin/v1"
)

func newKadminCommand() *cobra.Command {
	var query, realm, principal string
	var local bool
	cmd := &cobra.Command{
		Use:   "kadmin [-q QUERY] [COMMAND ARG...]",
		Short: "MIT kadmin's commands, options and output",
		Long: "Takes MIT kadmin's commands and options: with -q one command, with arguments one command, else a prompt.\n" +
			"Unlike MIT's, it tells by its exit code when a command failed. -maxrenewlife 0 sets DISALLOW_RENEWABLE, since a record's zero leaves the\n" +
			"life to the realm; a later -maxrenewlife takes it away again, unless a life stood beside it. getprinc shows the lives that hold.",
		Example: "  charon kadmin -q 'addprinc -pw x +requires_preauth bob'\n  charon kadmin getprinc bob",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := connect(cmd)
			if err != nil {
				return err
			}
			defer c.Close()
			k := &kadmin{cmd: cmd, conn: c, in: bufio.NewReader(cmd.InOrStdin()), out: cmd.OutOrStdout(), errOut: cmd.ErrOrStderr(), now: time.Now, realm: realm, read: consistency(local)}
			switch {
			case query != "":
				return k.line(query)
			case len(args) > 0:
				return k.request(args)
			}
			return k.interactive()
		},
	}
	f := cmd.Flags()
	f.StringVarP(&query, "query", "q", "", "run one command")
	f.StringVarP(&realm, "realm", "r", "", "the realm of names without one")
	localFlag(cmd, &local)
	f.StringVarP(&principal, "principal", "p", "", "taken for MIT's sake: who you are is decided by the admin address")
	// What follows the command's name is the command's: "+attr" and "-randkey" are no flags of ours.
	f.SetInterspersed(false)
	return cmd
}

// kadmin is one session.
type kadmin struct {
	cmd         *cobra.Command
	conn        *connection
	in          *bufio.Reader
	out, errOut io.Writer
	now         func() time.Time
	realm       string
	read        adminv1.Consistency
}

// kadminRequest is one of MIT's commands with its aliases; the first name is the one that errors begin with.
type kadminRequest struct {
	names []string
	help  string
	run   func(k *kadmin, ctx context.Context, args []string) error
}

// kadminRequests is in MIT's order. A function, since help lists it.
func kadminRequests() []kadminRequest {
	return []kadminRequest{
		{[]string{"add_principal", "addprinc", "ank"}, "Add principal", (*kadmin).addPrincipal},
		{[]string{"delete_principal", "delprinc"}, "Delete principal", (*kadmin).deletePrincipal},
		{[]string{"modify_principal", "modprinc"}, "Modify principal", (*kadmin).modifyPrincipal},
		{[]string{"rename_principal", "renprinc"}, "Rename principal", (*kadmin).renamePrincipal},
		{[]string{"change_password", "cpw"}, "Change password", (*kadmin).changePassword},
		{[]string{"get_principal", "getprinc"}, "Get principal", (*kadmin).getPrincipal},
		{[]string{"list_principals", "listprincs", "get_principals", "getprincs"}, "List principals", (*kadmin).listPrincipals},
		{[]string{"add_policy", "addpol"}, "Add policy", (*kadmin).addPolicy},
		{[]string{"modify_policy", "modpol"}, "Modify policy", (*kadmin).modifyPolicy},
		{[]string{"delete_policy", "delpol"}, "Delete policy", (*kadmin).deletePolicy},
		{[]string{"get_policy", "getpol"}, "Get policy", (*kadmin).getPolicy},
		{[]string{"list_policies", "listpols", "get_policies", "getpols"}, "List policies", (*kadmin).listPolicies},
		{[]string{"get_privs", "getprivs"}, "Get privileges", (*kadmin).getPrivileges},
		{[]string{"ktadd", "xst"}, "Add entry(s) to a keytab", (*kadmin).ktadd},
		{[]string{"ktremove", "ktrem"}, "Remove entry(s) from a keytab", (*kadmin).ktremove},
		{[]string{"purgekeys"}, "Purge previously retained old keys from a principal", (*kadmin).purgeKeys},
		{[]string{"get_strings", "getstrs"}, "Show string attributes on a principal", (*kadmin).getStrings},
		{[]string{"set_string", "setstr"}, "Set a string attribute on a principal", (*kadmin).setString},
		{[]string{"del_string", "delstr"}, "Delete a string attribute on a principal", (*kadmin).deleteString},
		{[]string{"list_requests", "lr", "?"}, "List available requests.", (*kadmin).help},
		{[]string{"quit", "exit", "q"}, "Exit program.", func(*kadmin, context.Context, []string) error { return errQuit }},
	}
}

var errQuit = errors.New("quit")

// quiet is an error that was printed in MIT's form already.
func quiet(code int) error { return &codedError{code: code} }

// interactive reads commands until quit or the end of input. Its exit code is that of MIT's: a failed command does not end it.
func (k *kadmin) interactive() error {
	_, prompt := terminal(k.cmd.InOrStdin())
	for {
		if prompt {
			fmt.Fprint(k.out, "kadmin:  ")
		}
		line, err := readLine(k.in, 64<<10)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		switch err := k.line(line); {
		case errors.Is(err, errQuit):
			return nil
		case err != nil && describe(err) != "":
			fmt.Fprintln(k.errOut, "kadmin: "+describe(err))
		}
		if k.cmd.Context().Err() != nil {
			return nil
		}
	}
}

// line runs one command line.
func (k *kadmin) line(line string) error {
	args, err := splitArgs(line)
	if err != nil {
		fmt.Fprintln(k.errOut, "kadmin: "+err.Error())
		return quiet(exitUsage)
	}
	if len(args) == 0 {
		return nil
	}
	err = k.request(args)
	if errors.Is(err, errQuit) && k.cmd.Flags().Changed("query") {
		return nil
	}
	return err
}

func (k *kadmin) request(args []string) error {
	ctx, cancel := timeLimit(k.cmd)
	defer cancel()
	for _, r := range kadminRequests() {
		for _, n := range r.names {
			if n != args[0] {
				continue
			}
			if n != "?" && r.names[0] != "quit" && r.names[0] != "list_requests" {
				if err := k.learnRealm(ctx); err != nil {
					return err
				}
			}
			if err := r.run(k, ctx, args[1:]); err != nil {
				return err
			}
			k.conn.tellLocal(k.cmd)
			return nil
		}
	}
	fmt.Fprintf(k.errOut, "kadmin: Command not found %s\n", args[0])
	return quiet(exitUsage)
}

// learnRealm asks for the default realm, which MIT's output adds to every name.
func (k *kadmin) learnRealm(ctx context.Context) error {
	if k.realm != "" {
		return nil
	}
	r, err := k.conn.cluster().GetRealm(ctx, &adminv1.GetRealmRequest{Consistency: adminv1.Consistency_CONSISTENCY_LOCAL})
	if err != nil {
		return err
	}
	k.realm = r.GetRealm().GetName()
	return nil
}

// splitArgs cuts a line as MIT's ss library does: at blanks, with "..." around an argument that holds some, and "" inside for one quote.
func splitArgs(line string) ([]string, error) {
	var out []string
	var b strings.Builder
	inArg, quoted := false, false
	for i := 0; i < len(line); i++ {
		c := line[i]
		switch {
		case c == '"' && quoted && i+1 < len(line) && line[i+1] == '"':
			b.WriteByte('"')
			i++
		case c == '"':
			inArg, quoted = true, !quoted
		case (c == ' ' || c == '\t') && !quoted:
			if inArg {
				out = append(out, b.String())
				b.Reset()
				inArg = false
			}
		default:
			inArg = true
			b.WriteByte(c)
		}
	}
	if quoted {
		return nil, inMITsWords("Unbalanced quotes in command line")
	}
	if inArg {
		out = append(out, b.String())
	}
	return out, nil
}

func (k *kadmin) help(context.Context, []string) error {
	fmt.Fprintln(k.out, "Available kadmin requests:")
	fmt.Fprintln(k.out)
	for _, r := range kadminRequests() {
		names := strings.Join(r.names, ", ")
		if len(names) > 24 {
			fmt.Fprintf(k.out, "%s\n%25s%s\n", names, "", r.help)
			continue
		}
		fmt.Fprintf(k.out, "%-25s%s\n", names, r.help)
	}
	return nil
}

// fail prints an error as MIT does, "add_principal: what happened while doing", and keeps its exit code.
func (k *kadmin) fail(request string, err error, doing string, args ...any) error {
	fmt.Fprintf(k.errOut, "%s: %s %s\n", request, mitText(err), fmt.Sprintf(doing, args...))
	return quiet(exitCode(err))
}

func (k *kadmin) usage(text string) error {
	fmt.Fprintln(k.errOut, "usage: "+text)
	return quiet(exitUsage)
}

// mitTexts are MIT's words (lib/kadm5/kadm_err.et and chpass_util_strings.et) for the API's reasons.
var mitTexts = map[string]string{
	"EXISTS":                   "Principal or policy already exists",
	"PASSWORD_TOO_SHORT":       "Password is too short",
	"PASSWORD_TOO_FEW_CLASSES": "Password does not contain enough character classes",
	"PASSWORD_REUSED":          "Cannot reuse password",
	"PASSWORD_TOO_SOON":        "Current password's minimum life has not expired",
	"PASSWORD_EMPTY":           "Empty passwords are not allowed",
	"PASSWORD_IS_NAME":         "Password may not match principal name",
}

var mitPrivileges = map[string]string{"add": "add", "modify": "modify", "delete": "delete", "inquire": "get", "list": "list", "changepw": "change-password", "extract": "extract-keys"}

func apiMessage(err error) string {
	st, _ := statusOf(err)
	return st.Message()
}

func mitText(err error) string {
	info := details(err)
	switch r := info.GetReason(); {
	case mitTexts[r] != "":
		return mitTexts[r]
	case r == "PERMISSION_DENIED" && mitPrivileges[info.GetMetadata()["verb"]] != "":
		return "Operation requires ``" + mitPrivileges[info.GetMetadata()["verb"]] + "'' privilege"
	case r == "NOT_FOUND" && strings.HasPrefix(apiMessage(err), "policy "):
		return "Policy does not exist"
	case r == "NOT_FOUND" && status.Code(err) == codes.NotFound:
		return "Principal does not exist"
	}
	return describe(err)
}

// yes asks as MIT does, on standard input whatever it is; no answer is no.
func (k *kadmin) yes(question string, args ...any) bool {
	fmt.Fprintf(k.out, question+" (yes/no): ", args...)
	a, _ := readLine(k.in, 64)
	return a == "yes"
}

// newPassword asks twice on a terminal; from a pipe it reads two lines, as MIT's does.
func (k *kadmin) newPassword(name string) (string, error) {
	if _, ok := terminal(k.cmd.InOrStdin()); ok {
		return askNewPassword(k.cmd, fmt.Sprintf("Enter password for principal %q: ", name), fmt.Sprintf("Re-enter password for principal %q: ", name), "-pw")
	}
	first, err := readLine(k.in, passwordMax)
	if err != nil {
		return "", inMITsWords("Cannot read password")
	}
	second, err := readLine(k.in, passwordMax)
	if err != nil {
		return "", inMITsWords("Cannot read password")
	}
	if first != second {
		return "", inMITsWords("Password mismatch")
	}
	return first, nil
}

// keytabName is a keytab's path and the name that MIT prints for it.
func keytabName(text string) (path, shown string, err error) {
	switch kind, rest, ok := strings.Cut(text, ":"); {
	case text == "":
		if env := os.Getenv("KRB5_KTNAME"); env != "" {
			return keytabName(env)
		}
		return "/etc/krb5.keytab", "FILE:/etc/krb5.keytab", nil
	case strings.HasPrefix(text, "/") || !ok:
		return text, "WRFILE:" + text, nil
	case kind == "FILE" || kind == "WRFILE":
		return rest, text, nil
	default:
		return "", "", fmt.Errorf("keytab type %s is not supported; FILE is", kind)
	}
}
