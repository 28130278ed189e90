package adminapi

import (
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
)

// callsMax bounds the calls at work that came in by one door: root on this host always finds room, whatever comes over the network.
const callsMax = 256

// calls counts them.
type calls struct{ atWork [DoorPeer + 1]atomic.Int64 }

// begin takes a place, which end gives back, or refuses the call, of which nothing was done.
func (c *calls) begin(door Door) (end func(), err error) {
	n := &c.atWork[door]
	if n.Add(1) > callsMax {
		n.Add(-1)
		return nil, refuse(codes.ResourceExhausted, "TOO_MANY_CALLS", "more than %d calls are at work on this node; nothing was done", callsMax).
			with("outcome", "not_applied").after(time.Second)
	}
	return func() { n.Add(-1) }, nil
}
