package server

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/pgobj/pgobj/backup/datadir"
	"github.com/pgobj/pgobj/walstore/segment"
	"github.com/pgobj/pgobj/walstore/timeline"
)

const (
	// maxSummaryBlocks bounds what Changes holds (16 MB). With 32 GB of changed blocks, reading is as good.
	maxSummaryBlocks = 4 << 20
	// summarizerWait is how long the summarizer may stand still before it is given up: half of what
	// pg_basebackup --incremental allows it.
	summarizerWait = 30 * time.Second
)

// Changes reads the summaries of the given WAL, oldest stretch first, and waits for the summarizer to come
// that far. Any gap in them is ErrNoSummaries.
//
// The first stretch begins at a checkpoint's redo point. There the summarizer ends one summary and begins the next
// (SummarizeWAL in walsummarizer.c). So when none begins there, this server has not been through that checkpoint: it was
// copied, or set back to a snapshot, before, and has another history on the same timeline.
func (s *Session) Changes(ctx context.Context, wal timeline.Path) (*datadir.Changes, error) {
	c := &datadir.Changes{Forks: map[datadir.ForkID]*datadir.ForkChanges{}, Databases: map[[2]uint32]bool{}}
	for i, w := range wal {
		summaries, err := s.cover(ctx, w)
		if err != nil {
			return nil, err
		}
		if i == 0 && len(summaries) > 0 && summaries[0].Begin != w.Begin {
			return nil, fmt.Errorf("%w: no summary of timeline %d begins at %s, so the last backup may belong to another history", datadir.ErrNoSummaries, w.Timeline, w.Begin)
		}
		for _, x := range summaries {
			if err := s.readSummary(ctx, c, x); err != nil {
				return nil, err
			}
		}
	}
	for _, f := range c.Forks {
		slices.Sort(f.Blocks)
		f.Blocks = slices.Compact(f.Blocks)
	}
	return c, nil
}

// cover finds summaries that cover w without a gap, waiting while the summarizer moves.
func (s *Session) cover(ctx context.Context, w timeline.Span) ([]timeline.Span, error) {
	if w.Begin >= w.End {
		return nil, nil
	}
	state, moved := "", time.Now()
	for {
		rows, err := s.query(ctx, `SELECT start_lsn, end_lsn FROM pg_available_wal_summaries() WHERE tli = $1::bigint AND end_lsn > $2::pg_lsn AND start_lsn < $3::pg_lsn ORDER BY start_lsn, end_lsn`,
			strconv.FormatUint(uint64(w.Timeline), 10), w.Begin.String(), w.End.String())
		if err != nil {
			return nil, fmt.Errorf("list WAL summaries: %w", inDoubt(err))
		}
		at, found := w.Begin, []timeline.Span(nil)
		for _, r := range rows {
			var from, to segment.LSN
			if err := scan(r, &from, &to); err != nil {
				return nil, fmt.Errorf("list WAL summaries: %w", err)
			}
			if from > at {
				return nil, fmt.Errorf("%w: there is no summary of timeline %d from %s to %s", datadir.ErrNoSummaries, w.Timeline, at, from)
			}
			if to > at {
				at, found = to, append(found, timeline.Span{Timeline: w.Timeline, Begin: from, End: to})
			}
		}
		if at >= w.End {
			return found, nil
		}
		before := state
		if err := s.row(ctx, `SELECT summarized_tli::text || '/' || summarized_lsn || '/' || pending_lsn FROM pg_get_wal_summarizer_state()`, &state); err != nil {
			return nil, fmt.Errorf("ask for the WAL summarizer: %w", inDoubt(err))
		}
		if state != before {
			moved = time.Now()
		}
		if time.Since(moved) > summarizerWait {
			return nil, fmt.Errorf("%w: the summarizer stopped at %s, before %s", datadir.ErrNoSummaries, state, w.End)
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// readSummary adds what one summary says.
func (s *Session) readSummary(ctx context.Context, c *datadir.Changes, x timeline.Span) error {
	rows, err := s.query(ctx, `
		SELECT reltablespace, reldatabase, relfilenode, relforknumber, is_limit_block,
		       CASE WHEN is_limit_block THEN min(relblocknumber)::text ELSE string_agg(relblocknumber::text, ',') END
		FROM pg_wal_summary_contents($1::bigint, $2::pg_lsn, $3::pg_lsn) GROUP BY 1, 2, 3, 4, 5`,
		strconv.FormatUint(uint64(x.Timeline), 10), x.Begin.String(), x.End.String())
	if err != nil {
		return fmt.Errorf("read the WAL summary from %s to %s: %w", x.Begin, x.End, inDoubt(err))
	}
	for _, r := range rows {
		var n [4]uint32
		err := scan(r, &n[0], &n[1], &n[2], &n[3])
		if err == nil {
			err = c.Add(n, r[4] == "t", r[5])
		}
		if err != nil {
			return fmt.Errorf("read the WAL summary from %s to %s: %w", x.Begin, x.End, err)
		}
	}
	if c.Blocks > maxSummaryBlocks {
		return fmt.Errorf("%w: more than %d blocks; reading all files is not slower", datadir.ErrNoSummaries, maxSummaryBlocks)
	}
	return nil
}

// inDoubt makes of what the server says of its summaries, that one is damaged for instance or was removed just now, that
// they do not tell. That must not cost a backup; that the session is lost does.
func inDoubt(err error) error {
	if declined(err) {
		return fmt.Errorf("%w: %w", datadir.ErrNoSummaries, err)
	}
	return err
}
