package datadir

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

func (c *Changes) Add(n [4]uint32, limit bool, numbers string) error {
	if n[2] == 0 {
		c.Databases[[2]uint32{n[0], n[1]}] = true
		return nil
	}
	forks := [...]string{"", "fsm", "vm", "init"}
	if int(n[3]) >= len(forks) {
		return fmt.Errorf("%w: fork number %d is unknown", ErrNoSummaries, n[3])
	}
	id := ForkID{n[0], n[1], n[2], forks[n[3]]}
	f := c.Forks[id]
	if f == nil {
		f = &ForkChanges{limit: math.MaxUint32}
		c.Forks[id] = f
	}
	for s := range strings.SplitSeq(numbers, ",") {
		v, err := strconv.ParseUint(s, 10, 32)
		if err != nil {
			return err
		}
		if limit {
			f.limit = min(f.limit, uint32(v))
			continue
		}
		f.Blocks = append(f.Blocks, uint32(v))
		c.Blocks++
	}
	return nil
}

// Of returns the blocks of a file that have changed, numbered within the file, in order. known is false
// when the summaries do not tell about it, and it has to be read. fileBlocks is the number of blocks in
// one file of a relation.
//
// It speaks only of files that were there with the same path before the WAL began: the caller sees to that.
func (c *Changes) Of(e Entry, fileBlocks uint32) (blocks []uint32, known bool) {
	id, ok := forkOf(e)
	// The free space map is not properly WAL-logged, so nobody knows of its changes. Bits of the visibility map are
	// cleared by the records of the heap's changes, which do not name its pages: so the summaries miss that, and a
	// map that is older than its heap makes index-only scans return what is not there. Both are small.
	if !ok || e.Fork == "fsm" || e.Fork == "vm" || c.Databases[[2]uint32{id.space, id.database}] {
		return nil, false
	}
	f := c.Forks[id]
	if f == nil {
		return nil, true
	}
	first, end := uint64(e.Segno)*uint64(fileBlocks), uint64(e.Segno+1)*uint64(fileBlocks)
	if uint64(f.limit) < end && f.limit != math.MaxUint32 {
		return nil, false // truncated or created again somewhere in this file or before it
	}
	for _, b := range f.Blocks {
		if first <= uint64(b) && uint64(b) < end {
			blocks = append(blocks, b-uint32(first))
		}
	}
	return blocks, true
}
