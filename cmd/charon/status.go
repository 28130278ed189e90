package main

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	adminv1 "github.com/charon-kdc/charon/proto/charon/admin/v1"
)

func newStatusCommand() *cobra.Command {
	var watch bool
	cmd := &cobra.Command{
		Use: "status", Short: "the cluster at a glance", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := connect(cmd)
			if err != nil {
				return err
			}
			defer c.Close()
			if watch {
				return watchStatus(cmd, c)
			}
			ctx, cancel := timeLimit(cmd)
			defer cancel()
			st, err := c.cluster().GetStatus(ctx, &adminv1.GetStatusRequest{})
			if err != nil {
				return err
			}
			return show(cmd, st, func(w io.Writer, _ bool) error { return printStatus(w, st, time.Now()) })
		},
	}
	cmd.Flags().BoolVar(&watch, "watch", false, "one line an event until ^C: lost, back, leader, quorum lost, healed, promoted, removed, and so on; -o json for lines of JSON")
	return cmd
}

func printStatus(w io.Writer, st *adminv1.GetStatusResponse, now time.Time) error {
	quorum := fmt.Sprintf("quorum ok (tolerates %d)", st.GetTolerates())
	up, degraded, cutOff := 0, 0, 0
	for _, n := range st.GetNodes() {
		switch n.GetHealth() {
		case "ok":
			up++
		case "degraded":
			up, degraded = up+1, degraded+1
		case "cut-off":
			cutOff++
		}
	}
	switch {
	case !st.GetQuorum() && degraded > 0:
		quorum = "NO QUORUM: changes are refused, tickets are served degraded"
	case !st.GetQuorum() && cutOff > 0:
		quorum = "NO QUORUM: changes and tickets are refused"
	case !st.GetQuorum():
		quorum = "NO QUORUM: changes are refused"
	case degraded > 0:
		quorum = "REPLAY CACHE WITHOUT QUORUM: served degraded"
	case cutOff > 0:
		quorum = "REPLAY CACHE WITHOUT QUORUM: service tickets are refused"
	}
	fmt.Fprintf(w, "Realm %s   %d/%d nodes   %s   version %s   feature level %d\n", st.GetRealm(), up, len(st.GetNodes()), quorum, st.GetVersion(), st.GetFeatureLevel())
	var rows [][]string
	for _, n := range st.GetNodes() {
		rows = append(rows, statusRow(n, now))
	}
	if err := table(w, "NODE ROLE HEALTH LAG AS/s TGS/s P99 UP CLOCK CERT", rows); err != nil {
		return err
	}
	if from := st.GetTicketsFrom(); from != 0 {
		fmt.Fprintf(w, "NO SERVICE TICKETS until %s: the replay cache began anew; logins work\n", time.UnixMilli(from).UTC().Format("15:04:05Z"))
	}
	for _, n := range st.GetNodes() {
		if silent := time.Duration(n.GetSilentMs()) * time.Millisecond; n.GetHealth() == "down" && silent >= time.Minute {
			fmt.Fprintf(w, "%s has not been heard of for %s; if it is lost for good: charon node remove %[1]s\n", n.GetNode().GetName(), age(silent))
		}
	}
	printUnshared(w, st)
	printStates(w, st)
	if st.GetCounted() {
		fmt.Fprintf(w, "Principals %d   locked %d   expiring in 30 d %d   RC4 allowed %d   ", st.GetPrincipals(), st.GetLocked(), st.GetExpiring_30D(), st.GetRc4Allowed())
	}
	fmt.Fprintln(w, lastBackup(st.GetLastBackup(), now))
	for _, n := range st.GetNodes() {
		if why := n.GetStats().GetBackupError(); why != "" {
			fmt.Fprintf(w, "BACKUP FAILS on %s: %s\n", n.GetNode().GetName(), why)
		}
	}
	return nil
}

// printStates tells of states that differ.
func printStates(w io.Writer, st *adminv1.GetStatusResponse) {
	for _, n := range st.GetNodes() {
		if why := n.GetDiverged(); why != "" {
			fmt.Fprintf(w, "STATE DIFFERS on %s, which serves no more: %s; there: charon server --rebuild\n", n.GetNode().GetName(), why)
		}
	}
	if what := st.GetStateDispute(); what != "" {
		fmt.Fprintf(w, "STATES DIFFER: %s (docs/integrity.md)\n", what)
	}
}

// lastBackup is when the newest backup was written, and whether what is on the disk was read again since.
func lastBackup(b *adminv1.LastBackup, now time.Time) string {
	if b == nil {
		return "no backup is known"
	}
	ago := func(ms int64) string { return age(now.Sub(time.UnixMilli(ms))) + " ago" }
	text := "last backup " + ago(b.GetAt())
	switch {
	case b.GetVerified() && b.GetCheckedAt() > b.GetAt():
		text += " (verified " + ago(b.GetCheckedAt()) + ": nothing new since)"
	case b.GetVerified():
		text += " (verified)"
	}
	return text
}

// printUnshared tells of what nodes answered without the others, now and found out afterwards.
func printUnshared(w io.Writer, st *adminv1.GetStatusResponse) {
	if r := st.GetServiceReason(); r != "" {
		fmt.Fprintf(w, "%s: %s\n", st.GetMeta().GetNode(), r)
	}
	for _, n := range st.GetNodes() {
		if n.GetJournal() > 0 {
			fmt.Fprintf(w, "%s has %d records of what it accepted alone to hand in\n", n.GetNode().GetName(), n.GetJournal())
		}
	}
	if n := st.GetDoubleAccepts(); n > 0 {
		fmt.Fprintf(w, "DOUBLE ACCEPTS %d: authenticators that two nodes accepted in different requests, last found out %s; see: docs/quorum.md\n",
			n, time.UnixMilli(st.GetLastDoubleAccept()).UTC().Format("2006-01-02 15:04:05Z"))
	}
}

func statusRow(n *adminv1.NodeStatus, now time.Time) []string {
	lag := "-"
	if n.GetRole() != "leader" && n.GetHealth() != "down" {
		lag = fmt.Sprint(n.GetLag())
		if n.GetContactMs() >= 0 {
			lag += fmt.Sprintf(" (%d ms)", n.GetContactMs())
		}
	}
	row := []string{n.GetNode().GetName(), n.GetRole(), n.GetHealth(), lag, "", "", "", "", "", ""}
	if n.GetHealth() != "down" {
		row[8] = offset(time.Duration(n.GetClockOffsetUs()) * time.Microsecond)
	}
	if s := n.GetStats(); s != nil {
		row[4], row[5] = fmt.Sprintf("%.0f", s.GetAsPerSecond()), fmt.Sprintf("%.0f", s.GetTgsPerSecond())
		row[6] = fmt.Sprintf("%.1f ms", float64(s.GetP99Us())/1000)
		if s.GetStartedAt() != 0 {
			row[7] = age(now.Sub(time.UnixMilli(s.GetStartedAt())))
		}
		if s.GetCertExpiresAt() != 0 {
			row[9] = age(time.UnixMilli(s.GetCertExpiresAt()).Sub(now))
		}
	}
	return row
}

// offset of a clock, with its sign: in ms below 10 s, else as a duration in whole seconds.
func offset(d time.Duration) string {
	if d.Abs() < 10*time.Second {
		return fmt.Sprintf("%+d ms", d.Milliseconds())
	}
	sign := "+"
	if d < 0 {
		sign = "-"
	}
	return sign + d.Abs().Truncate(time.Second).String()
}

// age in its largest whole unit.
func age(d time.Duration) string {
	switch {
	case d >= 24*time.Hour:
		return fmt.Sprintf("%d d", d/(24*time.Hour))
	case d >= time.Hour:
		return fmt.Sprintf("%d h", d/time.Hour)
	case d >= time.Minute:
		return fmt.Sprintf("%d min", d/time.Minute)
	}
	return fmt.Sprintf("%d s", max(0, d/time.Second))
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}
