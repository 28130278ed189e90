//go:build charon_mutants

package mutant

import (
	"fmt"
	"os"
	"slices"
	"sync/atomic"
)

// Built tells whether bugs can be planted in this binary.
const Built = true

// Env names the bug that is on from the start, without the prefix: "ack-before-commit".
const Env = "CHARON_MUTANT"

var planted atomic.Pointer[Name]

func init() {
	name := os.Getenv(Env)
	if name == "" {
		return
	}
	if err := Plant(Name(prefix + name)); err != nil {
		panic(err)
	}
}

// Plant turns name on and every other bug off; "" turns all off. It fails for a name that does not exist.
func Plant(name Name) error {
	if name != "" && !slices.Contains(Names, name) {
		return fmt.Errorf("there is no planted bug %q", name.Short())
	}
	planted.Store(&name)
	return nil
}

// On tells whether the bug is planted.
func On(name Name) bool {
	p := planted.Load()
	return p != nil && *p == name
}
