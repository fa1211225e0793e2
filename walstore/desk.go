package walstore

import (
	"crypto/sha256"
	"hash"
	"slices"
	"sync"

	"github.com/pgobj/pgobj/storage/sha256x2"
)

// mayWait is how many pieces of a stream may lie on the desk: each is memory, and each is a chance that a piece of
// another stream comes before it must be hashed.
const mayWait = 2

// desk is where the streams of several pushes are hashed two at a time, which takes the time of one. Pieces wait there
// for those of other streams, but nobody waits with them: who brought one goes on with other work.
type desk struct {
	mu      sync.Mutex
	hashed  *sync.Cond
	streams []*stream // whose content has not come to its end
	free    func(piece []byte)
}

// stream is one content. Its pieces are brought one after the other.
type stream struct {
	sum     hash.Hash
	waiting [][]byte // in order
	busy    bool     // somebody hashes its next piece
}

func newDesk(free func([]byte)) *desk {
	d := &desk{free: free}
	d.hashed = sync.NewCond(&d.mu)
	return d
}

func (d *desk) open() *stream {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := &stream{sum: sha256.New()}
	d.streams = append(d.streams, s)
	return s
}

// bring adds a piece to s. It is hashed, and freed, now or later; now where no other stream is open.
func (d *desk) bring(s *stream, piece []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s.waiting = append(s.waiting, piece)
	if len(d.streams) == 1 {
		d.hash(s, 0)
	} else {
		d.hash(s, mayWait)
	}
}

// close hashes what is left of s and returns the sum.
func (d *desk) close(s *stream) [sha256.Size]byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.hash(s, 0)
	d.streams = slices.DeleteFunc(d.streams, func(o *stream) bool { return o == s })
	return [sha256.Size]byte(s.sum.Sum(nil))
}

// hash hashes pieces of s as long as there is one of another stream to go with it, or more than so many wait. Where
// somebody else is at one of s, and too many wait, it waits for that.
func (d *desk) hash(s *stream, most int) {
	for len(s.waiting) > 0 || s.busy {
		other := d.partner(s)
		switch {
		case s.busy && len(s.waiting)+1 > most:
			d.hashed.Wait()
		case s.busy || other == nil && len(s.waiting) <= most:
			return
		default:
			d.hashNext(s, other)
		}
	}
}

// partner is the stream with the most pieces to be hashed together with one of s, or nil.
func (d *desk) partner(s *stream) (best *stream) {
	for _, o := range d.streams {
		if o != s && !o.busy && len(o.waiting) > 0 && (best == nil || len(o.waiting) > len(best.waiting)) {
			best = o
		}
	}
	return best
}

// hashNext hashes the next piece of s and, if it is not nil, of other, while the desk is free for everybody else.
func (d *desk) hashNext(s, other *stream) {
	a, b := s.take(), []byte(nil)
	if other != nil {
		b = other.take()
	}
	d.mu.Unlock()
	if other != nil {
		sha256x2.Write2(s.sum, other.sum, a, b)
		d.free(b)
	} else {
		s.sum.Write(a)
	}
	d.free(a)
	d.mu.Lock()
	s.busy = false
	if other != nil {
		other.busy = false
	}
	d.hashed.Broadcast()
}

func (s *stream) take() []byte {
	piece := s.waiting[0]
	s.waiting, s.busy = s.waiting[1:], true
	return piece
}
