package receive

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/pgobj/pgobj/walstore/object"
	"github.com/pgobj/pgobj/walstore/partial"
)

// However a segment grows, its pieces make up all that was received, they are few, and each byte is stored only a few times.
func TestPlan(t *testing.T) {
	for what, c := range map[string]struct {
		size, most int64 // bytes of a step
		pieces     int
		amount     float64 // of what is stored, in sizes
	}{
		"trickle": {16 << 20, 8 << 10, 40, 13}, "steps": {16 << 20, 1 << 20, 16, 6}, "at once": {16 << 20, 16 << 20, 6, 3},
		"1 GB": {1 << 30, 1 << 20, 110, 8}, "1 GB at once": {1 << 30, 1 << 30, 110, 4},
	} {
		t.Run(what, func(t *testing.T) {
			s := &spooled{name: "000000010000000000000001"}
			stored := int64(0)
			for s.durable < c.size {
				to := min(c.size, s.durable+1+rand.Int64N(c.most))
				store, replaced := s.plan(to)
				for _, p := range store {
					if p.To-p.From > object.MaxPiece || p.From >= p.To {
						t.Fatalf("%+v", p)
					}
					stored += p.To - p.From
				}
				s.stored(to, store, replaced)
				chain, reach := partial.Chain(s.pieces)
				if reach != to || len(chain) != len(s.pieces) || len(chain) > c.pieces {
					t.Fatalf("%d pieces reach %d of %d: %v", len(chain), reach, to, s.pieces)
				}
			}
			if amount := float64(stored) / float64(c.size); amount > c.amount {
				t.Errorf("stored %.1f times", amount)
			} else {
				t.Logf("stored %.1f times", amount)
			}
		})
	}
}

// Pieces of receivers that were killed go as soon as one piece stands in for them; never for several that do so together.
func TestCovered(t *testing.T) {
	p := func(from, to int64) object.Piece {
		return object.Piece{Segment: "000000010000000000000001", From: from, To: to}
	}
	s := &spooled{strays: []object.Piece{p(0, 50), p(10, 100), p(90, 110), p(100, 200), p(150, 300)}}
	if gone := s.covered([]object.Piece{p(0, 100), p(100, 200)}); !slices.Equal(gone, []object.Piece{p(0, 50), p(10, 100)}) {
		t.Errorf("gone are %v", gone)
	}
	if !slices.Equal(s.strays, []object.Piece{p(90, 110), p(150, 300)}) { // 100-200 is our own now
		t.Errorf("left are %v", s.strays)
	}
}
