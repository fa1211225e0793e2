package lists

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pgobj/pgobj/backup/recovery"
	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/cmd/cli/app"
	"github.com/pgobj/pgobj/cmd/cli/show"
	"github.com/pgobj/pgobj/retention"
	"github.com/pgobj/pgobj/retention/sweep"
	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/walstore/segment"
)

type BackupShow struct {
	Backup string `arg:"" help:"Id of the backup or its beginning, latest or last, oldest or first."`
	JSON   bool   `name:"json" help:"Print JSON: one object."`
	retentionFlag
	limitFlags
}

// Shown is a backup as --json prints it. Sizes are in bytes.
type Shown struct {
	Server string `json:"server"`
	app.Listed
	PGVersionText string               `json:"pg_version_text"`
	Host          string               `json:"host"`
	PGDATA        string               `json:"pgdata"`
	Owner         string               `json:"owner"` // of PGDATA, as USER:GROUP
	Checksums     bool                 `json:"data_checksums"`
	Compression   string               `json:"compression"`
	Tool          string               `json:"tool"`
	SegmentSize   int64                `json:"wal_segment_size"`
	StartOffset   int64                `json:"start_offset"` // of start_lsn within first_wal
	StopOffset    int64                `json:"stop_offset"`  // of stop_lsn within last_wal
	Tablespaces   []catalog.Tablespace `json:"tablespaces"`
	ConfigFiles   []string             `json:"config_files"` // from outside of PGDATA
	Damaged       []catalog.Damaged    `json:"damaged"`      // pages whose checksum does not hold
	Warnings      []string             `json:"warnings"`
	Previous      string               `json:"previous,omitempty"` // complete backup
	Next          string               `json:"next,omitempty"`
	WAL           *shownWAL            `json:"wal,omitempty"`
	Parts         int                  `json:"parts"` // that the backup refers to
	Raw           int64                `json:"raw"`   // content of these, before compression
	Space         *sweep.Space         `json:"space,omitempty"`
	Retention     *shownRetention      `json:"retention,omitempty"` // when a policy is set
	Problems      []string             `json:"problems,omitempty"`  // why something is not told
}

// shownWAL is the WAL from this backup on, up to where the next one begins that recovery comes by.
type shownWAL struct {
	First    string      `json:"first"`
	Last     string      `json:"last,omitempty"`
	Segments int         `json:"segments"`
	Stored   int64       `json:"stored"`
	End      segment.LSN `json:"end_lsn"` // all before it is there
	Archived time.Time   `json:"archived,omitzero"`
	Next     string      `json:"next,omitempty"`    // that backup; none: it goes to the end of the archive
	Missing  string      `json:"missing,omitempty"` // there is a gap from this segment on
	Deleted  bool        `json:"missing_deleted,omitempty"`
	Needed   bool        `json:"missing_needed,omitempty"` // the backup cannot be restored without it
}

// shownRetention is what the policy says.
type shownRetention struct {
	Policy  string   `json:"policy"`
	Keep    bool     `json:"keep"`
	Reasons []string `json:"reasons"`
	Alone   bool     `json:"own_wal_only,omitempty"`
}

func (c *BackupShow) Run(ctx context.Context, a *app.App) error {
	policy, set, err := c.policy()
	if err == nil {
		err = c.check()
	}
	if err != nil {
		return err
	}
	r, e, err := a.Find(ctx, c.Backup)
	if err != nil {
		return err
	}
	s := &Shown{Server: a.Server, Listed: a.Listed(e), Problems: r.State.Problems}
	b, broken := r.Cat.Parts(ctx, e, func(p catalog.Part) {
		s.Parts++
		s.Raw += p.Raw
	})
	if broken != nil && !errors.Is(broken, catalog.ErrDamaged) && !errors.Is(broken, catalog.ErrNewer) {
		return broken
	}
	if broken != nil { // the log still tells the most of it
		b = &catalog.Backup{ID: e.ID, Summary: e.Commit.Summary, SegmentSize: segmentSize(r.State, e)}
		s.Parts, s.Raw = 0, 0
		s.Problems = append(s.Problems, broken.Error())
	}
	s.describe(r.State, b)
	if err := s.trail(ctx, r.Store, r.State, b); err != nil {
		return err
	}
	if broken == nil {
		o := retention.Order{Minimum: c.Minimum, Running: c.RunningLimit}
		if set {
			o.Kind, o.Policy = retention.ByPolicy, policy
		}
		if err := s.measureSizes(ctx, sweep.Request{Store: r.Store, Catalog: r.Cat, Order: o, Now: a.Now, Log: a.Log}, r.State, b); err != nil {
			return err
		}
	}
	if c.JSON {
		err = show.JSON(a.Out, s)
	} else {
		printShown(a, s)
	}
	if err == nil {
		err = broken
	}
	return err
}

// segmentSize is that of the incarnation that a backup is of.
func segmentSize(state *catalog.State, e *catalog.Entry) int64 {
	for _, s := range state.Servers {
		if s.SystemID == e.Commit.Summary.SystemID {
			return int64(s.SegmentSize)
		}
	}
	return 0
}

// describe fills in what backup.json and the log tell.
func (s *Shown) describe(state *catalog.State, b *catalog.Backup) {
	s.PGVersionText, s.Host, s.PGDATA, s.Owner = b.PGVersionText, b.Host, b.PGDATA, b.Owner
	s.Checksums, s.Compression, s.Tool, s.SegmentSize = b.Checksums, b.Compression, b.Tool, b.SegmentSize
	s.Tablespaces, s.Damaged, s.Warnings = show.NotNil(b.Tablespaces), show.NotNil(b.Damaged), show.NotNil(b.Warnings)
	s.ConfigFiles = []string{}
	for _, f := range b.ConfigFiles {
		s.ConfigFiles = append(s.ConfigFiles, f.Path)
	}
	if size := segment.Size(b.SegmentSize); size.Valid() {
		s.StartOffset = offset(b.StartLSN, b.FirstWAL, size)
		s.StopOffset = offset(b.StopLSN, b.LastWAL, size)
	}
	complete := state.Complete()
	i := slices.IndexFunc(complete, func(e *catalog.Entry) bool { return e.ID == b.ID })
	if i > 0 {
		s.Previous = complete[i-1].ID
	}
	if i < len(complete)-1 {
		s.Next = complete[i+1].ID
	}
}

// offset of a location within a segment; the whole size when it is just after it.
func offset(lsn segment.LSN, name string, size segment.Size) int64 {
	seg, err := segment.ParseName(name, size)
	if err != nil {
		return 0
	}
	return int64(lsn - seg.Start(size))
}

func (s *Shown) trail(ctx context.Context, store storage.Store, state *catalog.State, b *catalog.Backup) error {
	if !segment.Size(b.SegmentSize).Valid() {
		return nil
	}
	t, err := recovery.FindWAL(ctx, recovery.WALRequest{Store: store, State: state, Backup: b})
	if err != nil {
		return err
	}
	if t.First != "" {
		s.WAL = &shownWAL{First: t.First, Last: t.Last, Segments: t.Segments, Stored: t.Bytes, End: t.End, Archived: t.Archived, Next: t.Next,
			Missing: t.Missing, Deleted: t.Deleted, Needed: t.Needed}
	}
	return nil
}

func (s *Shown) measureSizes(ctx context.Context, r sweep.Request, state *catalog.State, b *catalog.Backup) error {
	if err := state.Writable(); err != nil {
		s.Problems = append(s.Problems, "the effect of a deletion is unknown: "+err.Error())
		return nil
	}
	w, err := sweep.Weigh(ctx, r, state, b)
	if errors.Is(err, catalog.ErrDamaged) {
		s.Problems = append(s.Problems, "the effect of a deletion is unknown: "+err.Error())
		return nil
	}
	if err != nil {
		return err
	}
	s.Space = &w.Space
	if d := w.Policy; d != nil {
		s.Retention = &shownRetention{Policy: r.Order.Policy.String(), Keep: d.Keep, Reasons: d.Reasons, Alone: d.Alone}
	}
	return nil
}

// printShown is for somebody who is asked at night what this backup is good for.
func printShown(a *app.App, s *Shown) {
	out := &show.Columns{W: a.Out, Width: 14}
	out.Row("backup", "%s of server %s, %s", s.Backup, s.Server, s.Status)
	for _, p := range s.Problems {
		out.Row("PROBLEM", "%s", p)
	}
	if len(s.Labels) > 0 {
		out.Row("labels", "%s", labelText(s.Labels))
	}
	switch at := s.Consistent.UTC().Format("2006-01-02 15:04:05.999999"); {
	case s.Tool == "":
		out.Row("restorable", "NO, its description cannot be read; it was consistent at %s UTC", at)
	case s.WAL != nil && s.WAL.Needed:
		out.Row("restorable", "NO, because WAL is missing; it was consistent at %s UTC", at)
	default:
		out.Row("restorable", "from %s UTC on (%s ago)", at, show.Age(a.Now().Sub(s.Consistent)))
	}
	s.printWAL(out)
	s.printDamage(out)
	out.Row("drill", "%s", drillText(s.Drill))
	for _, w := range s.Warnings {
		out.Row("warning", "%s", w)
	}
	took := s.Finished.Sub(s.Started)
	out.Row("taken", "%s to %s UTC, in %s", s.Started.UTC().Format(time.DateTime), s.Finished.UTC().Format(time.DateTime), took.Round(100*time.Millisecond))
	if s.Host != "" {
		out.Row("", "from %s on %s, %s (%s)", where(s.Summary), s.Host, s.PGDATA, s.Owner)
	}
	if s.Tool != "" {
		out.Row("", "by pgobj %s, %s", s.Tool, s.Compression)
	}
	out.Row("server", "PostgreSQL %s, system identifier %d, timeline %d", show.PGVersion(s.PGVersion), s.SystemID, s.Timeline)
	for _, t := range s.Tablespaces {
		out.Row("tablespace", "%s (%d) %s", t.Name, t.OID, cmp.Or(t.Location, "in place"))
	}
	for _, f := range s.ConfigFiles {
		out.Row("config file", "%s", f)
	}
	s.printSize(out, took)
	s.printKept(out)
	out.Row("previous", "%s", cmp.Or(s.Previous, "none"))
	out.Row("next", "%s", cmp.Or(s.Next, "none"))
}

// drillText tells of a drill in one line.
func drillText(d *catalog.Drill) string {
	if d == nil {
		return "none on record"
	}
	text := "drilled on " + d.Host + " at " + d.Started.UTC().Format(time.DateTime) + " UTC, to " + d.Goal
	if !d.OK {
		reason, _, _ := strings.Cut(d.Reason, "\n")
		return text + ": FAILED: " + reason
	}
	return text + ": recovered in " + show.Words(time.Duration(d.Recovery*float64(time.Second)))
}

// span is a range of WAL segments in words.
func span(first, last string) string {
	if first == last {
		return first
	}
	return first + " to " + last
}

// where says what kind of server a backup is of.
func where(b *catalog.Summary) string {
	if b.From == "offline" {
		return "a stopped server"
	}
	return "a " + b.From
}

func (s *Shown) printWAL(out *show.Columns) {
	if s.From == "offline" {
		out.Row("needs WAL", "none from the archive: the server was stopped")
		out.Row("", "it was shut down in %s, timeline %d", s.FirstWAL, s.Timeline)
	} else {
		out.Row("needs WAL", "%s, timeline %d", span(s.FirstWAL, s.LastWAL), s.Timeline)
	}
	out.Row("", "from %s (byte %d of the first) to %s (byte %d of the last)", s.StartLSN, s.StartOffset, s.StopLSN, s.StopOffset)
	w := s.WAL
	if w == nil {
		return
	}
	until := "the end of the archive"
	if w.Next != "" {
		until = "where backup " + w.Next + " begins"
	}
	switch {
	case w.Segments == 0 && w.Missing == "":
		out.Row("WAL", "the archive has none from here on")
	case w.Needed:
		out.Row("WAL", "MISSING: %s, WITHOUT WHICH THIS BACKUP CANNOT BE RESTORED", w.Missing)
	case w.Missing != "" && w.Deleted:
		out.Row("WAL", "%s, %s, to %s (%s); what follows was deleted", show.Number(w.Segments, "segment"), show.Size(w.Stored), w.Last, w.End)
	case w.Missing != "":
		out.Row("WAL", "%s, %s, to %s (%s)", show.Number(w.Segments, "segment"), show.Size(w.Stored), w.Last, w.End)
		out.Row("", "GAP: %s IS MISSING; recovery from this backup cannot get past it", w.Missing)
	default:
		out.Row("WAL", "%s, %s, to %s (%s): up to %s", show.Number(w.Segments, "segment"), show.Size(w.Stored), w.Last, w.End, until)
	}
	if span := w.Archived.Sub(s.Consistent); !w.Archived.IsZero() {
		rate := ""
		if span >= time.Minute {
			rate = fmt.Sprintf(", about %s a day", show.Size(int64(float64(w.Segments)*float64(s.SegmentSize)*float64(24*time.Hour)/float64(span))))
		}
		out.Row("", "the last of it archived at %s UTC%s", w.Archived.UTC().Format(time.DateTime), rate)
	}
}

// manyFiles and manyBlocks bound what is printed of damage; --json has all.
const manyFiles, manyBlocks = 20, 10

func (s *Shown) printDamage(out *show.Columns) {
	switch {
	case s.Tool == "" && s.DamagedPages == 0: // it would tell whether the server has checksums
	case !s.Checksums && s.DamagedPages == 0:
		out.Row("checksums", "the server has none, so damaged pages are not detected")
	case s.DamagedPages == 0:
		out.Row("checksums", "all pages were sound")
	default:
		out.Row("checksums", "%s", strings.ToUpper(show.Number(s.DamagedPages, "damaged page")))
	}
	for i, d := range s.Damaged {
		if i == manyFiles {
			out.Row("", "… and in %s (--json)", show.Number(len(s.Damaged)-i, "more file"))
			return
		}
		blocks := strings.Trim(fmt.Sprint(d.Blocks[:min(len(d.Blocks), manyBlocks)]), "[]")
		if n := len(d.Blocks) - manyBlocks; n > 0 {
			blocks += fmt.Sprintf(" and %d more", n)
		}
		out.Row("", "%s: block %s", d.Path, blocks)
	}
}

func (s *Shown) printSize(out *show.Columns, took time.Duration) {
	speed := ""
	if took > 0 {
		speed = fmt.Sprintf(", %s/s", show.Size(int64(float64(s.Size)/took.Seconds())))
	}
	out.Row("size", "%s in %s%s", show.Size(s.Size), show.Number(s.Files, "file"), speed)
	out.Row("", "read %s, reused %s (%s), stored %s", show.Size(s.Read), show.Size(s.Reused), show.Percent(s.Reused, s.Size), show.Size(s.Stored))
	w := s.Space
	if w == nil {
		return
	}
	out.Row("", "refers to %s of %s; %s of that is used by no other backup", show.Number(s.Parts, "part"), show.Size(w.Refers), show.Size(w.Alone))
	if w.Refused != "" {
		out.Row("deletion", "%s", w.Refused)
	} else {
		out.Row("deletion", "would free %s of parts and WAL", show.Size(w.Frees))
	}
}

func (s *Shown) printKept(out *show.Columns) {
	if s.Pin != nil {
		out.Row("pin", "%s", s.Pin)
	}
	r := s.Retention
	switch {
	case r == nil && s.Space != nil:
		out.Row("retention", "no policy is set (--retention, PGOBJ_RETENTION)")
	case r != nil:
		out.Row("retention", "%s: %s", verdict(r.Keep), strings.Join(r.Reasons, "; "))
		out.Row("", "by the policy: %s", r.Policy)
		if r.Alone {
			out.Row("", "with the WAL that makes it consistent, but no later WAL")
		}
	}
}
