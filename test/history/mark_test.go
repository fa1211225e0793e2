package history

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/pgobj/pgobj/test/pgtest"
)

// mark is a moment of which all contents are known, and that a restore can have for its target.
type mark struct {
	name     string
	timeline int
	at, end  lsn    // end is after the transaction that PostgreSQL recognizes a target time by
	time     string // no transaction ended between the look and this time
	xid      string // of the transaction after it, which changes nothing that is compared
	contents *contents
}

// stretch is a range of WAL in which nothing changed.
type stretch struct {
	timeline int
	from, to lsn // to is 0 as long as nothing has
	contents *contents
}

// mark looks at everything.
func (h *history) mark() *mark {
	h.Helper()
	now := h.look(h.primary.Cluster)
	if last := h.last(); last != nil {
		if diff := now.differs(last.contents, true); diff != "" {
			h.Fatalf("since the last look nothing was done, but\n%s", diff)
		}
	}
	name := h.name("mark")
	row := strings.Split(h.sql("postgres", fmt.Sprintf(`SELECT pg_create_restore_point('%[1]s'), pg_create_restore_point('%[1]s is over'),
		to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') || '+00'`, name)), "|")
	m := &mark{name: name, timeline: h.timeline, at: h.lsn(row[0]), time: row[2], contents: now}
	m.xid = h.sql("postgres", `INSERT INTO public.history_tick VALUES (1) RETURNING txid_current() % (2::bigint ^ 32)::bigint`)
	m.end = h.position()
	h.marks = append(h.marks, m)
	h.closeQuiet(m.at)
	h.quiet = append(h.quiet, &stretch{h.timeline, m.at, 0, now})
	h.note("%s at %v, %s, transaction %s", name, m.at, m.time, m.xid)
	return m
}

// last is the stretch that goes on, if one does.
func (h *history) last() *stretch {
	if len(h.quiet) == 0 {
		return nil
	}
	if s := h.quiet[len(h.quiet)-1]; s.contents != nil && s.to == 0 {
		return s
	}
	return nil
}

// disturb ends the stretch: something is going to change.
func (h *history) disturb() {
	h.Helper()
	if h.last() != nil {
		h.closeQuiet(h.position())
	}
}

// closeQuiet ends the stretch at a place that is known to belong to it; 0: only where it began.
func (h *history) closeQuiet(at lsn) {
	if s := h.last(); s != nil {
		s.to = max(at, s.from)
	}
}

// at is what was there at a place, if that is known.
func (h *history) at(timeline int, at lsn) *contents {
	for _, s := range h.quiet {
		if s.contents != nil && s.timeline == timeline && s.from <= at && (s.to == 0 || at <= s.to) {
			return s.contents
		}
	}
	return nil
}

func (h *history) look(c *pgtest.Cluster) *contents {
	h.Helper()
	ctx, cancel := context.WithTimeout(h.Context(), generous)
	defer cancel()
	x, err := look(ctx, c)
	if err != nil {
		h.Fatalf("read all contents: %v", err)
	}
	if i := slices.IndexFunc(x.lines, func(l string) bool { return strings.Contains(l, " DIFFERS: ") }); i >= 0 {
		h.Fatalf("an index does not lead to the rows of its table: %s", x.lines[i])
	}
	return x
}

// compare holds a restored server against what was there.
func (h *history) compare(what string, c *pgtest.Cluster, was *contents, kept bool) {
	h.Helper()
	if diff := h.look(c).differs(was, kept); diff != "" {
		h.Fatalf("%s has other contents than it should:\n%s\nits log:\n%s", what, diff, lastLines(c.Log(), 25))
	}
	h.restored++
	h.sum.add(&h.sum.restores)
}
