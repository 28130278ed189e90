package node

import (
	"cmp"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/charon-kdc/charon/adminapi"
	"github.com/charon-kdc/charon/node/wallclock"
	"github.com/charon-kdc/charon/raftstore"
)

// What is done to the data directory of a stopped node. Each takes the directory's lock.

// Survivors, Recovered and Compacted are raftstore's.
type (
	Survivors = raftstore.Survivors
	Recovered = raftstore.Recovered
	Compacted = raftstore.Compacted
)

// offline runs f while no node can run on the directory.
func (c *Config) offline(f func() error) error {
	if err := checkNode(c.Dir); err != nil {
		return err
	}
	lock, err := lockDir(c.Dir)
	if err != nil {
		return err
	}
	return errors.Join(f(), lock.Close())
}

// AddSurvivor puts the stopped node of c into the list of survivors of a lost quorum, in the place of what the list had of it. list may be nil: a new one.
func AddSurvivor(c *Config, list *Survivors) (*Survivors, error) {
	out := new(Survivors)
	return out, c.offline(func() error {
		cluster, own, err := raftstore.ReadSurvivor(c.raftPath())
		if err != nil {
			return err
		}
		if own.PeerAddress, err = c.advertised(); err != nil {
			return err
		}
		out.Cluster = cluster
		if list != nil {
			if list.Cluster != cluster {
				return fmt.Errorf("the list is of cluster %.8s, this node is of %.8s", list.Cluster, cluster)
			}
			for _, v := range list.Survivors {
				if v.ID != own.ID {
					out.Survivors = append(out.Survivors, v)
				}
			}
		}
		out.Survivors = append(out.Survivors, own)
		return nil
	})
}

// Recover makes a cluster of the survivors out of the stopped node of c (raftstore.Recover), and audits it.
func Recover(c *Config, list *Survivors, waiveEpoch bool) (*Recovered, error) {
	var out *Recovered
	err := c.offline(func() (err error) {
		out, err = raftstore.Recover(raftstore.Recovery{
			Dir: c.raftPath(), Survivors: list, WaiveEpoch: waiveEpoch, ClockSkew: c.KDC.ClockSkew.Duration, Now: wallclock.Now,
		})
		return errors.Join(err, c.auditRecovery(list, out, waiveEpoch, err))
	})
	return out, err
}

// auditRecovery writes one line: who is left, who was given up, and whether the replay cache's new epoch was waived.
func (c *Config) auditRecovery(list *Survivors, r *Recovered, waived bool, failed error) error {
	id, _, err := raftstore.Prepare(c.raftPath())
	if err != nil {
		return err
	}
	own := ""
	names := make([]string, len(list.Survivors))
	for i, v := range list.Survivors {
		names[i] = v.Name
		if v.ID == hex.EncodeToString(id[:]) {
			own = v.Name
		}
	}
	e := adminapi.AuditEvent{Time: wallclock.Now(), Method: "recover", Caller: fmt.Sprintf("uid:%d", os.Geteuid()), Target: strings.Join(names, " "), Code: "OK"}
	switch {
	case failed != nil:
		e.Code, e.Reason = "FAILED", failed.Error()
	case waived:
		e.Reason = "REPLAY_EPOCH_WAIVED"
	default:
		e.Reason = "REPLAY_EPOCH until " + r.TicketsFrom.UTC().Format(time.RFC3339)
	}
	if r != nil && len(r.Lost) > 0 {
		e.Reason += "; lost: " + strings.Join(r.Lost, " ")
	}
	w, err := c.openAudit(own, slog.New(slog.DiscardHandler))
	if w == nil || err != nil {
		return err
	}
	w.Admin(e)
	return w.Close(auditBudget)
}

// NoteMoves tells the stopped node of c where others are now (raftstore.NoteMoves).
func NoteMoves(c *Config, to map[string]string) error {
	for name, addr := range to {
		if err := checkKind("advertise", addr); err != nil || addr == "" {
			return fmt.Errorf("the address of %s, %q: %w", name, addr, cmp.Or(err, errors.New("must be host:port")))
		}
	}
	return c.offline(func() error { return raftstore.NoteMoves(c.raftPath(), to) })
}

// CompactLogs makes the log files of the stopped node of c as small as what is in them.
func CompactLogs(c *Config) (out []Compacted, err error) {
	err = c.offline(func() error {
		out, err = raftstore.CompactLogs(c.raftPath())
		return err
	})
	return out, err
}

// ReadSurvivors reads a list of survivors from a file.
func ReadSurvivors(path string) (*Survivors, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the list of survivors: %w", err)
	}
	list, err := raftstore.ParseSurvivors(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Base(path), err)
	}
	return list, nil
}

// SurvivorsText is a list as a file.
func SurvivorsText(list *Survivors) ([]byte, error) {
	b, err := json.MarshalIndent(list, "", "  ")
	return append(b, '\n'), err
}
