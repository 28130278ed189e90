package doctor

import (
	"cmp"
	"fmt"
	"time"
)

// Certs are a node's certificates on disk.
type Certs struct {
	Node   Cert
	Admins []Cert // of admin clients whose keys lie in the data directory
	// Err is why the node's own can't be used, if so.
	Err string
}

// Cert is one certificate.
type Cert struct {
	Name      string // whose; for a file, its path
	From, To  time.Time
	Authority bool
}

const (
	certWarn      = 14 * 24 * time.Hour // a node certificate is renewed long before
	authorityWarn = 180 * 24 * time.Hour
)

func certNode(f *NodeFacts) []Finding {
	switch c := f.Certs; {
	case c == nil:
		return nil
	case c.Err != "":
		return fail("give it a new one: "+recertify(f), "%s can't use its certificate: %s", nameOf(f), c.Err)
	default:
		return life(nameOf(f)+"'s certificate", c.Node, f.Now, certWarn,
			"see in its log why it was not renewed; if it has expired: "+recertify(f),
			"check the node's clock: the certificate is not valid yet")
	}
}

// recertify is how a node that stays a member comes by a new key and certificate.
func recertify(f *NodeFacts) string {
	return fmt.Sprintf("charon token create %s --recertify on another node, then charon node recertify on this one", cmp.Or(f.Name, "NAME"))
}

func certAdmin(f *NodeFacts) (out []Finding) {
	if f.Certs == nil {
		return nil
	}
	for _, c := range f.Certs.Admins {
		out = append(out, life("the admin client certificate "+c.Name, c, f.Now, certWarn, "make another: docs/cluster.md, \"Admin clients\"; root on a node needs none",
			"check the node's clock: the certificate is not valid yet")...)
	}
	return out
}

func certAuthority(f *ClusterFacts) (out []Finding) {
	if f.Realm == nil {
		return nil
	}
	for _, c := range f.Realm.Authorities {
		out = append(out, life("the authority "+c.Name, c, f.Now, authorityWarn, "plan its replacement: docs/rotation.md", "check the clocks: the authority is not valid yet")...)
	}
	return out
}

// life judges a certificate's dates.
func life(what string, c Cert, now time.Time, soon time.Duration, fix, early string) []Finding {
	switch left := c.To.Sub(now); {
	case now.Before(c.From):
		return fail(early, "%s is valid from %s only", what, c.From.UTC().Format(time.RFC3339))
	case left <= 0:
		return fail(fix, "%s expired %s ago", what, span(left))
	case left < soon:
		return warn(fix, "%s expires in %s", what, span(left))
	default:
		return good("%s is valid for %s", what, span(left))
	}
}

// nameOf is how a text calls the node.
func nameOf(f *NodeFacts) string {
	if f.Name == "" {
		return "this node"
	}
	return f.Name
}
