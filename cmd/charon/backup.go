package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	"google.golang.org/protobuf/proto"

	"github.com/charon-kdc/charon/node"
	"github.com/charon-kdc/charon/node/backup"
	"github.com/charon-kdc/charon/node/pki"
	adminv1 "github.com/charon-kdc/charon/proto/charon/admin/v1"
	backupv1 "github.com/charon-kdc/charon/proto/charon/backup/v1"
)

func newBackupCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "backup", Short: "the whole realm in one encrypted file"}
	cmd.AddCommand(backupSave(), backupVerify(), backupRestore())
	return cmd
}

func backupSave() *cobra.Command {
	var req adminv1.SaveBackupRequest
	cmd := &cobra.Command{
		Use: "save DIRECTORY|FILE|-", Short: "write a backup, made and encrypted on a node", Args: cobra.ExactArgs(1),
		Long: `Asks a node for a backup of everything it has applied, as of one index of its log. The node opens every key, then encrypts the file to the
recovery kit that charon init printed; no key leaves it in clear. In a directory the file is called charon-INDEX.cbk.`,
		Example: "  charon backup save /mnt/backup/\n  charon backup save - | ssh vault 'cat > realm.cbk'",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := connect(cmd)
			if err != nil {
				return err
			}
			defer c.Close()
			ctx, cancel := backupLimit(cmd)
			defer cancel()
			return saveBackup(ctx, cmd, c, &req, args[0])
		},
	}
	cmd.Flags().StringSliceVar(&req.Recipients, "recipient", nil, "encrypt to this age public key as well; may be given more than once. Needs the right to extract keys")
	cmd.Flags().BoolVar(&req.OnlyRecipients, "only-recipients", false, "leave out the recovery kit and the recipients of the node's configuration")
	return cmd
}

// backupLimit is no limit, unless the user sets one: a large realm takes its time, and a node that stops sending is noticed.
func backupLimit(cmd *cobra.Command) (context.Context, context.CancelFunc) {
	if !cmd.Flags().Changed("timeout") {
		return context.WithCancel(cmd.Context())
	}
	return timeLimit(cmd)
}

func saveBackup(ctx context.Context, cmd *cobra.Command, c *connection, req *adminv1.SaveBackupRequest, target string) error {
	begun := time.Now()
	var done *adminv1.BackupSummary
	stream := func(w io.Writer) (sum *backup.Summary, err error) {
		done, err = receiveBackup(ctx, c, req, w)
		if err != nil {
			return nil, err
		}
		return &backup.Summary{
			Header: &backupv1.Header{Index: done.GetIndex(), ClusterId: done.GetClusterId()}, Bytes: done.GetBytes(), SHA256: [32]byte(done.GetSha256()),
		}, nil
	}
	path, out := "", cmd.OutOrStdout()
	if target == "-" {
		if f, ok := out.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
			return usage(cmd, "a backup is no text for a terminal; name a directory or a file")
		}
		if _, err := stream(out); err != nil {
			return err
		}
		out = cmd.ErrOrStderr()
	} else {
		var err error
		if path, _, err = backup.WriteFile(target, stream); err != nil {
			return fileError(err)
		}
		if _, err := c.backups().ConfirmBackup(ctx, &adminv1.ConfirmBackupRequest{Sha256: done.GetSha256()}); err != nil {
			fmt.Fprintf(cmd.ErrOrStderr(), "the backup is good; the cluster could not be told of it: %s\n", describe(err))
		}
	}
	if done.GetWithoutLeader() {
		fmt.Fprintf(cmd.ErrOrStderr(), "node %s found no leader: this is its own state, last heard of by one %v ago\n", done.GetNode(), time.Duration(done.GetContactMs())*time.Millisecond)
	}
	f, err := outputFormat(cmd)
	if err != nil {
		return err
	}
	return showBackup(out, f, done, func(w io.Writer) {
		fmt.Fprintf(w, "index %d  %d principals  %s  sha256 %x  %.1f s  %s\n", done.GetIndex(), done.GetPrincipals(), size(done.GetBytes()), done.GetSha256(),
			time.Since(begun).Seconds(), path)
	})
}

// receiveBackup writes the parts of one backup to w, and believes it only once its end has come and its hash is right.
func receiveBackup(ctx context.Context, c *connection, req *adminv1.SaveBackupRequest, w io.Writer) (*adminv1.BackupSummary, error) {
	var errs []error
	for range c.conns {
		done, err := receiveFrom(ctx, c, req, w)
		if !neverSent(err) || ctx.Err() != nil {
			return done, err
		}
		errs = append(errs, fmt.Errorf("%s: %w", c.addrs[c.at], err))
		c.next()
	}
	return nil, &unreachableError{c.addrs, errors.Join(errs...)}
}

func receiveFrom(ctx context.Context, c *connection, req *adminv1.SaveBackupRequest, w io.Writer) (*adminv1.BackupSummary, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.backups().SaveBackup(ctx, req)
	if err != nil {
		return nil, err
	}
	sum, n := sha256.New(), uint64(0)
	var done *adminv1.BackupSummary
	for {
		m, err := stream.Recv()
		switch {
		case err == io.EOF && done != nil && done.GetBytes() == n && bytes.Equal(done.GetSha256(), sum.Sum(nil)):
			return done, nil
		case err == io.EOF:
			return nil, errors.New("the backup did not arrive whole; nothing was written")
		case err != nil:
			return nil, err
		}
		if m.GetDone() != nil {
			done = m.GetDone()
		}
		if _, err := w.Write(m.GetData()); err != nil {
			return nil, fmt.Errorf("writing the backup: %w", err)
		}
		sum.Write(m.GetData())
		n += uint64(len(m.GetData()))
	}
}

func showBackup(w io.Writer, f format, m *adminv1.BackupSummary, human func(w io.Writer)) error {
	if f == formatTable || f == formatWide {
		human(w)
		return nil
	}
	return showAs(w, f, []proto.Message{m}, false, nil)
}

// size in the unit that leaves three digits or so.
func size(n uint64) string {
	v, unit := float64(n), "B"
	for _, u := range []string{"kB", "MB", "GB", "TB"} {
		if v < 1000 {
			break
		}
		v, unit = v/1000, u
	}
	if unit == "B" {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", v, unit)
}

// fileError gives what is about a file its exit code.
func fileError(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return coded(exitNotFound, "%v", err)
	case errors.Is(err, fs.ErrExist):
		return coded(exitConflict, "%v", err)
	}
	return err
}

// kitFlags say where the key that opens a backup comes from.
type kitFlags struct{ kit, identity string }

func (k *kitFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&k.kit, "kit-file", "", "file that holds the recovery kit (else it is asked for)")
	c.Flags().StringVar(&k.identity, "identity", "", "age identity file (AGE-SECRET-KEY-...) of a recipient, in place of the recovery kit")
	c.MarkFlagsMutuallyExclusive("kit-file", "identity")
}

const kitMax = 64 << 10

// identities are the keys to try.
func (k *kitFlags) identities(cmd *cobra.Command) ([]backup.Identity, error) {
	if k.identity != "" {
		text, err := readSmall(k.identity)
		if err != nil {
			return nil, err
		}
		ids, err := backup.ParseIdentities(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", k.identity, err)
		}
		return ids, nil
	}
	text := ""
	var err error
	if k.kit != "" {
		text, err = readSmall(k.kit)
	} else {
		text, err = askPassword(cmd, "Recovery kit: ", "--kit-file or --identity")
	}
	if err != nil {
		return nil, err
	}
	id, err := node.ParseRecoveryKit(text)
	if err != nil {
		return nil, err
	}
	return []backup.Identity{id}, nil
}

func readSmall(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fileError(err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, kitMax))
	return string(b), err
}

// openBackup opens a file, or standard input for "-".
func openBackup(cmd *cobra.Command, path string) (io.ReadCloser, error) {
	if path == "-" {
		return io.NopCloser(cmd.InOrStdin()), nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fileError(err)
	}
	return f, nil
}

func backupVerify() *cobra.Command {
	var key kitFlags
	cmd := &cobra.Command{
		Use: "verify FILE|-", Short: "open a backup, and every key in it", Args: cobra.ExactArgs(1),
		Long: `Reads a backup to its end, opens every key in it and counts. It needs the recovery kit, and no node. Nothing is written.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			in, err := openBackup(cmd, args[0])
			if err != nil {
				return err
			}
			defer in.Close()
			ids, err := key.identities(cmd)
			if err != nil {
				return err
			}
			r, err := backup.Verify(in, ids...)
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			h := r.Header
			f, err := outputFormat(cmd)
			if err != nil {
				return err
			}
			return showBackup(cmd.OutOrStdout(), f, summaryOf(r), func(w io.Writer) {
				fmt.Fprintf(w, "realm %s  cluster %s  index %d  made %s by %s (%s)  feature level %d\n", h.GetRealm(), pki.ClusterText([16]byte(h.GetClusterId())),
					h.GetIndex(), when(h.GetCreatedAt()), h.GetNode(), h.GetVersion(), h.GetFeatureLevel())
				fmt.Fprintf(w, "ok: %d principals, %d keys and %d secrets of the cluster; every one opens\n", h.GetPrincipals(), r.Keys, r.Secrets)
			})
		},
	}
	key.add(cmd)
	return cmd
}

func summaryOf(r *backup.Report) *adminv1.BackupSummary {
	h := r.Header
	return &adminv1.BackupSummary{
		Node: h.GetNode(), ClusterId: h.GetClusterId(), Realm: h.GetRealm(), Index: h.GetIndex(), Principals: h.GetPrincipals(), Keys: r.Keys,
		CreatedAt: h.GetCreatedAt(), Recipients: h.GetRecipients(),
	}
}

func backupRestore() *cobra.Command {
	var key kitFlags
	var place addressFlags
	var name string
	var newCluster, newKit, noEpoch bool
	cmd := &cobra.Command{
		Use: "restore FILE|- --new-cluster", Short: "make a new cluster of a backup, on this host", Args: cobra.ExactArgs(1),
		Long: `Makes this host the first node of a new cluster that has the realm of the backup: passwords, keytabs, kvnos and tickets go on working. Nodes,
join tokens, node and admin certificates and the master key of the lost cluster are void; other nodes join as they did at first. Every node of the lost
cluster must be off for good: two clusters with one realm's keys would go apart.

The data directory must be empty. So that no authenticator is accepted twice, service tickets are given only some minutes after the restore.`,
		Example: "  sudo charon backup restore charon-10482.cbk --new-cluster",
		RunE: func(cmd *cobra.Command, args []string) error {
			if !newCluster {
				return usage(cmd, "a backup is restored into a new cluster only: say so by --new-cluster; to undo single changes, use the changes' own commands")
			}
			cfg, path, fresh, err := place.configure()
			if err != nil {
				return err
			}
			in, err := openBackup(cmd, args[0])
			if err != nil {
				return err
			}
			defer in.Close()
			ids, err := key.identities(cmd)
			if err != nil {
				return err
			}
			r, err := node.Restore(cmd.Context(), node.RestoreOptions{
				Backup: in, Identities: ids, Name: name, Config: cfg, Version: version, NewKit: newKit, NoEpoch: noEpoch, Logger: quietLogger(cmd.ErrOrStderr()),
			})
			if err != nil {
				return restoreError(args[0], err)
			}
			if err := finishPlacement(cfg, path, fresh); err != nil {
				return err
			}
			printRestore(cmd.OutOrStdout(), r, cfg, path)
			return nil
		},
	}
	key.add(cmd)
	cmd.Flags().BoolVar(&newCluster, "new-cluster", false, "make a new cluster; there is no other way to restore")
	cmd.Flags().StringVar(&name, "name", defaultNodeName(), "name of this node")
	cmd.Flags().BoolVar(&newKit, "new-kit", false, "make a new recovery kit; the old one opens no later backup")
	cmd.Flags().BoolVar(&noEpoch, "no-replay-epoch", false, "give service tickets at once; authenticators that the lost cluster accepted can then be replayed")
	place.add(cmd)
	return cmd
}

func restoreError(file string, err error) error {
	if _, ok := errors.AsType[*node.LockedError](err); ok || errors.Is(err, node.ErrExists) {
		return coded(exitConflict, "%v", err)
	}
	return fmt.Errorf("%s: nothing was restored: %w", file, err)
}

func printRestore(w io.Writer, r *node.RestoreResult, cfg *node.Config, path string) {
	h, flag := r.Header, ""
	if path != "" && path != node.FindConfig() {
		flag = " --config " + path
	}
	fmt.Fprintf(w, "Realm %s restored on node %s, as of index %d, %s.\n\n", h.GetRealm(), r.Name, h.GetIndex(), when(h.GetCreatedAt()))
	fmt.Fprintf(w, "  %-15s %-20s %-15s sha256:%s...%s\n", "cluster id", pki.ClusterText(r.ClusterID), "CA fingerprint", r.CAPin[:4], r.CAPin[len(r.CAPin)-4:])
	fmt.Fprintf(w, "  %-15s %d, with %d keys\n", "principals", h.GetPrincipals(), r.Keys)
	fmt.Fprintf(w, "  %-15s %s (new)\n", "master key", r.MasterKey)
	fmt.Fprintf(w, "  %-15s %s (new; certificates of the lost cluster's admins are void)\n", "admin client", r.AdminDir)
	if !r.Epoch.IsZero() {
		fmt.Fprintf(w, "  %-15s from %s on (a replay epoch; tickets and TGTs stay good)\n", "service tickets", r.Epoch.UTC().Format("2006-01-02 15:04:05Z"))
	}
	if r.Recovery != "" {
		fmt.Fprintf(w, "\n  Recovery kit (new, shown once: print it, lock it away):\n    %s\n", r.Recovery)
	}
	fmt.Fprintf(w, "\n  Start it        charon server%s\n", flag)
	if socket := "unix://" + cfg.SocketPath(); socket != "unix://"+socketDefault {
		fmt.Fprintf(w, "  Talk to it      export CHARON_ADDR=%s\n", socket)
	}
	fmt.Fprintf(w, "  Add a node      charon token create NAME\n  DNS records     charon dns-records     (the old nodes' addresses are gone)\n")
}
