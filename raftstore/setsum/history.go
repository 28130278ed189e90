package setsum

import (
	"crypto/sha256"
	"encoding/hex"
	"sync"
)

// Hash stands for a whole state at one index.
type Hash [16]byte

// HashOf is the hash of a state's encoded header, its Sum included.
func HashOf(b []byte) Hash {
	d := sha256.Sum256(b)
	return Hash(d[:16])
}

func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// Point is a state's hash after the log entry of an index.
type Point struct {
	Index uint64
	Hash  Hash
}

// How much of its past a History keeps: the last recentMax points, and of each run of so many indexes the last point, marksMax of them.
const (
	recentMax = 1024
	marksMax  = 64
)

var strides = [...]uint64{64, 1024}

// How many of these Tell tells.
const (
	tellRecent = 8
	tellMarks  = 16
)

// History remembers a state's hash at the last indexes and, further back, at fixed ones: the last entry of every 64 and every 1024 indexes. Two
// replicas that both have a point of an index have it after the same entry. It is safe for concurrent use.
type History struct {
	mu     sync.Mutex
	at     map[uint64]Hash // of all points below
	uses   map[uint64]int
	recent []Point
	marks  [len(strides)][]Point
}

// Reset forgets all but p: the state was replaced.
func (h *History) Reset(p Point) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.at, h.uses, h.recent, h.marks = nil, nil, nil, [len(strides)][]Point{}
	h.add(p)
}

// Add notes the points of further entries, whose indexes rise.
func (h *History) Add(ps ...Point) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range ps {
		h.add(p)
	}
}

func (h *History) add(p Point) {
	if h.at == nil {
		h.at, h.uses = map[uint64]Hash{}, map[uint64]int{}
	}
	if n := len(h.recent); n > 0 {
		last := h.recent[n-1]
		for i, stride := range strides {
			if last.Index/stride != p.Index/stride {
				h.marks[i] = h.push(h.marks[i], last, marksMax)
			}
		}
	}
	h.recent = h.push(h.recent, p, recentMax)
}

func (h *History) push(list []Point, p Point, limit int) []Point {
	h.at[p.Index] = p.Hash
	h.uses[p.Index]++
	if len(list) == limit {
		old := list[0].Index
		if h.uses[old]--; h.uses[old] == 0 {
			delete(h.uses, old)
			delete(h.at, old)
		}
		list = list[1:]
	}
	return append(list, p)
}

// At is the hash after the entry of an index.
func (h *History) At(index uint64) (Hash, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	v, ok := h.at[index]
	return v, ok
}

// Last is the newest point; zero before the first.
func (h *History) Last() Point {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.recent) == 0 {
		return Point{}
	}
	return h.recent[len(h.recent)-1]
}

// Tell is what to show another replica: the newest points, and fixed ones that it will have, too. At most 40.
func (h *History) Tell() []Point {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []Point
	for _, list := range h.marks {
		out = append(out, list[max(0, len(list)-tellMarks):]...)
	}
	return append(out, h.recent[max(0, len(h.recent)-tellRecent):]...)
}
