package lists

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/cmd/cli/app"
	"github.com/pgobj/pgobj/cmd/cli/show"
)

// CatalogLog shows the log of a server. Times are those of the writers' clocks; the order is that of the numbers.
type CatalogLog struct {
	Since string `name:"since" placeholder:"TIME" help:"Only records from this time on, such as '2026-11-21 14:05:00+01', by the clocks of the hosts that wrote them."`
	Limit int64  `name:"limit" placeholder:"N" help:"Only the newest N records."`
	JSON  bool   `name:"json" help:"Print JSON: an array of the records as catalog/FORMAT.md describes them; a record that is not sound has a member problem."`
}

func (c *CatalogLog) Run(ctx context.Context, a *app.App) error {
	var since time.Time
	var err error
	if c.Since != "" {
		if since, err = app.ParseTime("--since", c.Since); err != nil {
			return err
		}
	}
	if c.Limit < 0 {
		return app.Usagef("--limit %d: give the number of records to show", c.Limit)
	}
	r, err := a.LoadKnown(ctx)
	if err != nil {
		return err
	}
	records, err := c.read(ctx, r.Cat, r.State.N, since)
	if err != nil {
		return err
	}
	if c.JSON {
		return logJSON(a, records)
	}
	if len(records) == 0 {
		fmt.Fprintf(a.Err, "the catalog of server %s in %s has no such record\n", a.Server, r.Store)
		return nil
	}
	return logTable(a, records)
}

// read goes back from the newest record until there are enough. Clocks of several hosts are not quite in order, so a whole
// block has to be older than since. When one that cannot be read was written, nobody knows.
func (c *CatalogLog) read(ctx context.Context, cat *catalog.Catalog, newest int64, since time.Time) ([]catalog.Logged, error) {
	oldest := int64(1)
	if c.Limit > 0 {
		oldest = max(oldest, newest-c.Limit+1)
	}
	var blocks [][]catalog.Logged
	for block, err := range cat.Records(ctx, oldest, newest) {
		if err != nil {
			return nil, err
		}
		block = slices.DeleteFunc(block, func(l catalog.Logged) bool {
			at := l.Record.Time
			return at.Before(since) && !at.IsZero()
		})
		if len(block) == 0 {
			break
		}
		blocks = append(blocks, block)
	}
	slices.Reverse(blocks)
	return slices.Concat(blocks...), nil
}

func logJSON(a *app.App, records []catalog.Logged) error {
	out := make([]any, len(records))
	for i, l := range records {
		if l.Problem == "" {
			out[i] = l.Stored
			continue
		}
		members := members(l.Stored)
		members["n"], members["problem"] = l.N, l.Problem
		out[i] = members
	}
	return show.JSON(a.Out, out)
}

func logTable(a *app.App, records []catalog.Logged) error {
	w := tabwriter.NewWriter(a.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "N\tTIME (UTC)\tBY\tWHAT")
	for _, l := range records {
		at, what := "", logText(l)
		if !l.Record.Time.IsZero() {
			at = l.Record.Time.UTC().Format(time.DateTime)
		}
		if l.Problem != "" {
			what = strings.TrimRight("NOT SOUND, "+l.Problem+": "+what, ": ")
		}
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\n", l.N, at, l.Record.By, what)
	}
	return w.Flush()
}

// logText tells a record in one line. One of a kind that this version does not know is shown as it is.
func logText(l catalog.Logged) string {
	switch r := l.Record; {
	case r.Server != nil:
		return fmt.Sprintf("the server is PostgreSQL %s with system identifier %d, WAL segments of %s", show.PGVersion(r.Server.PGVersion), r.Server.SystemID, show.Size(int64(r.Server.SegmentSize)))
	case r.Begin != nil:
		return "backup " + r.Begin.Backup + " begins" + and(", may reuse ", r.Begin.Reuses)
	case r.Commit != nil:
		s := r.Commit.Summary
		text := fmt.Sprintf("backup %s is complete: %s, stored %s", r.Commit.Backup, show.Size(s.Size), show.Size(s.Stored))
		if s.From != "offline" { // which needs none
			text += ", needs WAL " + span(s.FirstWAL, s.LastWAL)
		}
		if n := note(app.Listed{Summary: &s}); n != "" {
			text += "; " + n
		}
		return text
	case r.Abort != nil:
		reason, _, _ := strings.Cut(r.Abort.Reason, "\n")
		return "backup " + r.Abort.Backup + " failed: " + reason
	case r.Pin != nil:
		return "backup " + r.Pin.Backup + " is " + (&app.Pin{Until: r.Pin.Until}).String()
	case r.Unpin != nil:
		return "backup " + r.Unpin.Backup + " is not pinned any more"
	case r.Drill != nil:
		return "backup " + r.Drill.Backup + " was " + drillText(r.Drill)
	case r.Delete != nil:
		return deletionText(r.Delete)
	case r.Rebuilt != nil:
		return "the catalog was rebuilt, and lists " + show.Number(len(r.Rebuilt.State.Committed), "backup") + " from here on"
	case r.Purged != nil:
		return fmt.Sprintf("what record %d deleted is gone from the storage", r.Purged.Of)
	}
	members := members(l.Stored)
	for _, known := range []string{"version", "n", "prev", "self", "time", "by", "type"} {
		delete(members, known)
	}
	if len(members) == 0 {
		return l.Record.Type
	}
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(members) // it has been decoded from JSON
	return strings.TrimSpace(l.Record.Type + " " + text.String())
}

func deletionText(d *catalog.Delete) string {
	var goes []string
	if len(d.Backups) > 0 {
		goes = append(goes, and(show.Plural(len(d.Backups), "backup")+" ", d.Backups))
	}
	if parts := countParts(d.Parts); parts > 0 {
		goes = append(goes, show.Number(parts, "part")+and(" of ", slices.Sorted(maps.Keys(d.Parts))))
	}
	for _, w := range d.WAL {
		goes = append(goes, fmt.Sprintf("WAL %s .. %s", w.First, w.Last))
	}
	return "deleted: " + strings.Join(goes, "; ")
}

func countParts(parts map[string]catalog.Ranges) (n int) {
	for _, ranges := range parts {
		for _, r := range ranges {
			n += r.Last - r.First + 1
		}
	}
	return n
}

// and is a list in words, the first few of it, after others; nothing for none.
func and(before string, names []string) string {
	const few = 3
	switch n := len(names); {
	case n == 0:
		return ""
	case n > few:
		return fmt.Sprintf("%s%s and %d more", before, strings.Join(names[:few], ", "), n-few)
	}
	return before + strings.Join(names, ", ")
}

// members of a JSON object.
func members(data []byte) map[string]any {
	m := map[string]any{}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	if d.Decode(&m) != nil || m == nil {
		return map[string]any{} // what is no object has none
	}
	return m
}
