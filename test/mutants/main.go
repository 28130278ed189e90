// Command mutants plants every bug of internal/mutant, one at a time, and shows that it is found: by the state machines' seeded runs, by the simulation, by chaos
// with real processes, or, where none of these can by its nature, by a named test. A bug that survives is a missing check, and ends it with status 1.
//
// It owns the table of who finds what. It must not know how a bug is planted.
package main

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"time"

	"github.com/charon-kdc/charon/internal/mutant"
)

var (
	only    = flag.String("only", "", "regular expression: plant no other bugs than those whose names match")
	by      = flag.String("by", "", "regular expression: try no other finders than those whose kind (replicas, sim, chaos, test) matches")
	seed    = flag.Uint64("seed", 1, "seed of the simulation and of chaos")
	control = flag.Bool("control", true, "run each finder without a bug before it is believed: it must find nothing")
	keep    = flag.String("keep", "", "directory for the outputs of the finders")
)

func main() {
	flag.Parse()
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1)
	}
}

func run() error {
	names, err := chosen()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "charon-mutants-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	b := &bench{dir: dir, sound: map[string]error{}}
	survivors := 0
	for _, n := range names {
		begun := time.Now()
		found, notes := b.hunt(n)
		if found == "" {
			found = "SURVIVES"
			survivors++
		}
		fmt.Printf("%-28s %-6s %s\n", n.Short(), time.Since(begun).Round(time.Second), found)
		for _, s := range notes {
			fmt.Printf("%-28s        %s\n", "", s)
		}
	}
	fmt.Printf("%d planted, %d found, %d survive\n", len(names), len(names)-survivors, survivors)
	if survivors > 0 {
		return fmt.Errorf("%d bugs survive", survivors)
	}
	return nil
}

// chosen are the names to plant. All of them must have a line in the table, whatever -only says.
func chosen() (out []mutant.Name, err error) {
	match, err := regexp.Compile(*only)
	if err != nil {
		return nil, err
	}
	for _, n := range mutant.Names {
		if len(table[n]) == 0 {
			return nil, fmt.Errorf("nobody is to find %s", n.Short())
		}
		if match.MatchString(n.Short()) {
			out = append(out, n)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("no bug matches %q", *only)
	}
	return out, nil
}
