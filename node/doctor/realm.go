package doctor

import "time"

// Realm is what the replicated state says.
type Realm struct {
	Name string
	// RC4 principals have a key of RC4, or may use it; Counted is false where there are too many principals to look at.
	RC4     int
	Counted bool
	// KrbtgtAt is when the realm's own key was made; KrbtgtLife how old it may become; zero: unknown, 90 days.
	KrbtgtAt    time.Time
	KrbtgtLife  time.Duration
	Authorities []Cert
}

// krbtgtLife is how old the realm's key becomes before it should be another.
const krbtgtLife = 90 * 24 * time.Hour

func keysRC4(f *ClusterFacts) []Finding {
	r := f.Realm
	switch {
	case r == nil || !r.Counted:
		return nil
	case r.RC4 > 0:
		return warn("give them new keys: charon principal list -o wide shows enctypes", "%d principals have RC4 keys, which are broken by guessing", r.RC4)
	}
	return good("no principal has an RC4 key")
}

func keysKrbtgt(f *ClusterFacts) []Finding {
	r := f.Realm
	if r == nil || r.KrbtgtAt.IsZero() {
		return nil
	}
	limit := r.KrbtgtLife
	if limit == 0 {
		limit = krbtgtLife
	}
	age := f.Now.Sub(r.KrbtgtAt)
	// The schedule rotates at the limit; a week later it evidently has not.
	if age > limit+7*24*time.Hour {
		return warn("charon krbtgt rotate", "krbtgt/%s is %s old; it opens every ticket of the realm", r.Name, span(age))
	}
	return good("krbtgt/%s is %s old", r.Name, span(max(age, 0)))
}
