package doctor

import "time"

// Clock is a node's clock against those of the others.
type Clock struct {
	// Offset from the median of all that answer; Others: how many that were beside it.
	Offset time.Duration
	Others int
	// Out: the node has left service for it.
	Out bool
}

const (
	clockNotice = 200 * time.Millisecond
	clockLimit  = 500 * time.Millisecond
	clockAlarm  = 5 * time.Second
)

func clockSkew(f *NodeFacts) []Finding {
	c := f.Clock
	if c == nil || c.Others == 0 {
		return nil
	}
	fix := "chrony on " + nameOf(f)
	switch d := c.Offset.Abs(); {
	case c.Out:
		return fail(fix, "%s is %s off the median, and has left service for it", nameOf(f), span(d))
	case d >= clockAlarm:
		return fail(fix, "%s is %s off the median; limit %s, at 30 s it leaves service", nameOf(f), span(d), span(clockLimit))
	case d >= clockNotice:
		return warn(fix, "%s is %s off the median; limit %s", nameOf(f), span(d), span(clockLimit))
	default:
		return good("%s is %s off the median", nameOf(f), span(d))
	}
}
