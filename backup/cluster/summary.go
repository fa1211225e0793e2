package cluster

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pgobj/pgobj/walstore/segment"
)

// ErrNoSummaries says that the WAL summaries do not tell what has changed; files have to be read then.
var ErrNoSummaries = errors.New("the server's WAL summaries do not tell what has changed")

const (
	// maxSummaryBlocks bounds what Changes holds (16 MB). With 32 GB of changed blocks, reading is as good.
	maxSummaryBlocks = 4 << 20
	// summarizerWait is how long the summarizer may stand still before it is given up: half of what
	// pg_basebackup --incremental allows it.
	summarizerWait = 30 * time.Second
)

// Stretch is a piece of WAL on one timeline, from From up to To.
type Stretch struct {
	Timeline segment.Timeline
	From, To segment.LSN
}

// Changes are the blocks that some WAL has changed, by PostgreSQL's own summaries of it (17 and later, with
// summarize_wal). Rules: GetFileBackupMethod in PostgreSQL's basebackup_incremental.c.
type Changes struct {
	forks     map[forkID]*forkChanges
	databases map[[2]uint32]bool // tablespace and database: all of it may have changed
	blocks    int
}

type forkID struct {
	space, database, relation uint32
	fork                      string
}

type forkChanges struct {
	limit  uint32 // the fork was truncated to this many blocks, or created
	blocks []uint32
}

// Changes reads the summaries of the given WAL, oldest stretch first, and waits for the summarizer to come
// that far. Any hole in them is ErrNoSummaries.
//
// The first stretch begins at a checkpoint's redo point. There the summarizer ends one summary and begins the next
// (SummarizeWAL in walsummarizer.c). So when none begins there, this server has not been through that checkpoint: it was
// copied, or set back to a snapshot, before, and has another history on the same timeline.
func (s *Session) Changes(ctx context.Context, wal []Stretch) (*Changes, error) {
	c := &Changes{forks: map[forkID]*forkChanges{}, databases: map[[2]uint32]bool{}}
	for i, w := range wal {
		summaries, err := s.cover(ctx, w)
		if err != nil {
			return nil, err
		}
		if i == 0 && len(summaries) > 0 && summaries[0].From != w.From {
			return nil, fmt.Errorf("%w: of timeline %d none begins at %s, so the last backup may be of another history", ErrNoSummaries, w.Timeline, w.From)
		}
		for _, x := range summaries {
			if err := s.readSummary(ctx, c, x); err != nil {
				return nil, err
			}
		}
	}
	for _, f := range c.forks {
		slices.Sort(f.blocks)
		f.blocks = slices.Compact(f.blocks)
	}
	return c, nil
}

// cover finds summaries that cover w without a hole, waiting while the summarizer moves.
func (s *Session) cover(ctx context.Context, w Stretch) ([]Stretch, error) {
	if w.From >= w.To {
		return nil, nil
	}
	state, moved := "", time.Now()
	for {
		rows, err := s.query(ctx, `SELECT start_lsn, end_lsn FROM pg_available_wal_summaries() WHERE tli = $1::bigint AND end_lsn > $2::pg_lsn AND start_lsn < $3::pg_lsn ORDER BY start_lsn, end_lsn`,
			strconv.FormatUint(uint64(w.Timeline), 10), w.From.String(), w.To.String())
		if err != nil {
			return nil, fmt.Errorf("list WAL summaries: %w", inDoubt(err))
		}
		at, found := w.From, []Stretch(nil)
		for _, r := range rows {
			from, err1 := segment.ParseLSN(r[0])
			to, err2 := segment.ParseLSN(r[1])
			if err1 != nil || err2 != nil {
				return nil, fmt.Errorf("list WAL summaries: %w", errors.Join(err1, err2))
			}
			if from > at {
				return nil, fmt.Errorf("%w: there is none of timeline %d from %s to %s", ErrNoSummaries, w.Timeline, at, from)
			}
			if to > at {
				at, found = to, append(found, Stretch{w.Timeline, from, to})
			}
		}
		if at >= w.To {
			return found, nil
		}
		rows, err = s.query(ctx, `SELECT summarized_tli::text || '/' || summarized_lsn || '/' || pending_lsn FROM pg_get_wal_summarizer_state()`)
		if err != nil {
			return nil, fmt.Errorf("ask for the WAL summarizer: %w", inDoubt(err))
		}
		if rows[0][0] != state {
			state, moved = rows[0][0], time.Now()
		}
		if time.Since(moved) > summarizerWait {
			return nil, fmt.Errorf("%w: the summarizer has stopped at %s, short of %s", ErrNoSummaries, state, w.To)
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// readSummary adds what one summary says.
func (s *Session) readSummary(ctx context.Context, c *Changes, x Stretch) error {
	rows, err := s.query(ctx, `
		SELECT reltablespace, reldatabase, relfilenode, relforknumber, is_limit_block,
		       CASE WHEN is_limit_block THEN min(relblocknumber)::text ELSE string_agg(relblocknumber::text, ',') END
		FROM pg_wal_summary_contents($1::bigint, $2::pg_lsn, $3::pg_lsn) GROUP BY 1, 2, 3, 4, 5`,
		strconv.FormatUint(uint64(x.Timeline), 10), x.From.String(), x.To.String())
	if err != nil {
		return fmt.Errorf("read the WAL summary from %s to %s: %w", x.From, x.To, inDoubt(err))
	}
	for _, r := range rows {
		var n [4]uint32
		for i := range n {
			v, err := strconv.ParseUint(r[i], 10, 32)
			if err != nil {
				return fmt.Errorf("read the WAL summary from %s to %s: %w", x.From, x.To, err)
			}
			n[i] = uint32(v)
		}
		if err := c.add(n, r[4] == "t", r[5]); err != nil {
			return fmt.Errorf("read the WAL summary from %s to %s: %w", x.From, x.To, err)
		}
	}
	if c.blocks > maxSummaryBlocks {
		return fmt.Errorf("%w: more than %d blocks, which are as well read", ErrNoSummaries, maxSummaryBlocks)
	}
	return nil
}

// inDoubt makes of what the server says of its summaries, that one is damaged for instance or was removed just now, that
// they do not tell. That must not cost a backup; that the session is lost does.
func inDoubt(err error) error {
	if declined(err) {
		return fmt.Errorf("%w: %w", ErrNoSummaries, err)
	}
	return err
}

func (c *Changes) add(n [4]uint32, limit bool, numbers string) error {
	if n[2] == 0 {
		c.databases[[2]uint32{n[0], n[1]}] = true
		return nil
	}
	forks := [...]string{"", "fsm", "vm", "init"}
	if int(n[3]) >= len(forks) {
		return fmt.Errorf("%w: fork number %d is unknown", ErrNoSummaries, n[3])
	}
	id := forkID{n[0], n[1], n[2], forks[n[3]]}
	f := c.forks[id]
	if f == nil {
		f = &forkChanges{limit: math.MaxUint32}
		c.forks[id] = f
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
		f.blocks = append(f.blocks, uint32(v))
		c.blocks++
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
	if !ok || e.Fork == "fsm" || e.Fork == "vm" || c.databases[[2]uint32{id.space, id.database}] {
		return nil, false
	}
	f := c.forks[id]
	if f == nil {
		return nil, true
	}
	first, end := uint64(e.Segno)*uint64(fileBlocks), uint64(e.Segno+1)*uint64(fileBlocks)
	if uint64(f.limit) < end && f.limit != math.MaxUint32 {
		return nil, false // truncated or made anew somewhere in this file or before it
	}
	for _, b := range f.blocks {
		if first <= uint64(b) && uint64(b) < end {
			blocks = append(blocks, b-uint32(first))
		}
	}
	return blocks, true
}

// forkOf finds the fork that a relation file belongs to from its path.
func forkOf(e Entry) (id forkID, ok bool) {
	const defaultSpace, globalSpace = 1663, 1664 // pg_tablespace.dat
	parts := strings.Split(e.Path, "/")
	number := func(s string) uint32 {
		v, err := strconv.ParseUint(s, 10, 32)
		ok = ok && err == nil && v > 0
		return uint32(v)
	}
	ok = e.Relation
	switch {
	case len(parts) == 2 && parts[0] == "global":
		id.space = globalSpace
	case len(parts) == 3 && parts[0] == "base":
		id.space, id.database = defaultSpace, number(parts[1])
	case len(parts) == 5 && parts[0] == "pg_tblspc":
		id.space, id.database = number(parts[1]), number(parts[3])
	default:
		return id, false
	}
	name, _, _ := strings.Cut(parts[len(parts)-1], ".")
	name, _, _ = strings.Cut(name, "_")
	id.relation, id.fork = number(name), e.Fork
	return id, ok
}
