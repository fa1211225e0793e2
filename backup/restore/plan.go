package restore

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/pgobj/pgobj/backup"
	"github.com/pgobj/pgobj/backup/content"
	"github.com/pgobj/pgobj/backup/recovery"
	"github.com/pgobj/pgobj/backup/settings"
	"github.com/pgobj/pgobj/backup/target"
	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/walstore/segment"
	"github.com/pgobj/pgobj/walstore/survey"
	"github.com/pgobj/pgobj/walstore/timeline"
)

// Request says which backup to restore, where to, and how far to recover.
type Request struct {
	Store      storage.Store // rooted at the server's directory
	StorageDir string        // of a storage that is a directory of this host
	Catalog    *catalog.Catalog
	Target     string // directory; without Delta it must not exist, or be empty
	Backup     string // id, the beginning of one, or LATEST: the newest that fits Recovery's target
	Delta      bool   // keep what fits of the data directory that is there
	SaveWAL    string // where a delta restore puts WAL of that data directory that was never archived
	DiscardWAL bool   // or let go of it
	Layout     target.Layout
	Databases  []string // names or OIDs of those to restore; none: all. Of the others there will be empty files
	Workers    int
	Recovery   recovery.Recovery
	Progress   *backup.Progress
	Log        *slog.Logger
}

// Plan is a restore that has been thought through, and checked, and not begun. It is what --plan shows and
// what Run does.
type Plan struct {
	Backup   *catalog.Backup
	Target   string // absolute
	Delta    bool
	Recovery recovery.Recovery
	Path     timeline.Path // the timelines that recovery follows
	Forks    []string      // timelines that it does not
	Where    string        // the target is, in words, where it was looked for
	WAL      recovery.WALRange
	Fetch    int64 // bytes from the storage, about; at most, with Delta
	Places   []Place
	Settings []FileSettings
	Saved    []string // WAL of the old data directory that Run saves
	SavedIn  string   // the directory to which
	Dangers  []settings.ConfLine
	Warnings []string
	LeftOut  int64              // bytes of databases that are not restored
	Needs    []recovery.Setting // the settings without which the recovery stops, as far as the archive knows
	Begun    bool               // Run has come to change the target: when it fails, what is there is no whole cluster

	request  Request
	found    *recovery.Selection
	segments *survey.Segments
	open     openSegment          // of the data directory that is replaced
	coldEnd  segment.LSN          // of the WAL that a backup of a stopped server does not replay
	gap      bool                 // there is a gap on the path, or just after it
	changes  []segment.Parameters // of the server's settings, on the path
	minimal  segment.LSN          // where the path ends, as wal_level is minimal from there on; 0: it does not
	expected bool                 // the recovery is to get to the WAL that is saved
	target   *target.Target
	only     *content.Databases
	manifest *content.Files
	written  settings.Written
	config   placement
}

// Place is one directory that the restore writes to.
type Place struct {
	Name  string // "data directory", "tablespace NAME", or the path of a link
	Path  string
	Write int64 // bytes
	Free  int64 // of its file system
}

// FileSettings are lines that the restore writes to a file in the data directory.
type FileSettings struct {
	File  string
	Lines []string
}

// NewPlan plans a restore: which backup, whether recovery can get from it to the target, and whether
// everything has a place to go to. It reads the catalog, a listing of the WAL and the manifest, and changes nothing
// anywhere. The caller closes the plan.
func NewPlan(ctx context.Context, r Request) (_ *Plan, err error) {
	if err := r.Recovery.Check(); err != nil {
		return nil, fmt.Errorf("%w: %w", backup.ErrRequest, err)
	}
	p := &Plan{request: r, Delta: r.Delta, Recovery: r.Recovery}
	defer func() {
		if err != nil {
			p.Close()
		}
	}()
	if err := p.look(ctx); err != nil {
		return nil, err
	}
	if p.only, err = content.OnlyDatabases(p.Backup, r.Databases); err != nil {
		return nil, err
	}
	s, err := p.manifest.Scan(p.only)
	if err != nil {
		return nil, err
	}
	if p.target, err = target.New(r.Target, r.Delta, r.Layout, p.Backup, s); err != nil {
		return nil, err
	}
	if err := p.target.CheckStorage(r.StorageDir); err != nil {
		return nil, err
	}
	p.Target, p.Delta, p.target.Only = p.target.Dir, p.target.Delta, p.only
	if err := p.measure(s); err != nil {
		return nil, err
	}
	if err := p.rescue(ctx); err != nil {
		return nil, err
	}
	if err := p.expectSaved(ctx); err != nil {
		return nil, err
	}
	if err := p.readSaved(); err != nil {
		return nil, err
	}
	p.warnOffline()
	return p, p.configure(ctx, s)
}

// Owner is the user and group, by their numbers, to whom root gives the files; -1 for who is not root.
func (p *Plan) Owner() (uid, gid int) { return p.target.Uid, p.target.Gid }

// Close gives back what the plan holds on to.
func (p *Plan) Close() {
	if p.target != nil {
		p.target.Close()
	}
	if p.manifest != nil {
		p.manifest.Close()
	}
}

func (p *Plan) warn(format string, args ...any) {
	p.Warnings = append(p.Warnings, fmt.Sprintf(format, args...))
}

// look finds the backup and the path to the target, sees whether the archive has the WAL for it, and meanwhile fetches
// the manifest.
func (p *Plan) look(ctx context.Context) error {
	r := p.request
	state, err := r.Catalog.Load(ctx)
	if err != nil {
		return err
	}
	for _, problem := range state.Problems {
		r.Log.Warn("the catalog is damaged", "problem", problem)
	}
	c := &recovery.Selector{Store: r.Store, Catalog: r.Catalog, Log: r.Log, Recovery: r.Recovery}
	found, err := c.Choose(ctx, state, r.Backup)
	if len(state.Problems) > 0 && (err != nil || catalog.IsLatest(r.Backup)) {
		// What cannot be read may be the newest backup, and an older one is not what was asked for.
		return fmt.Errorf("%w: %s\nThis may hide the backup that you want. Name one that pgobj backup-list shows", catalog.ErrDamaged, strings.Join(state.Problems, "; "))
	}
	if err != nil {
		return err
	}
	if p.Backup, err = r.Catalog.Backup(ctx, found.Entry); err != nil {
		return err
	}
	fetching, stop := context.WithCancel(ctx)
	defer stop()
	fetched := make(chan error, 1)
	go func() {
		var err error
		p.manifest, err = content.FetchManifest(fetching, r.Store, p.Backup)
		fetched <- err
	}()
	p.found, p.segments = found, survey.NewSegments(r.Store, p.Backup.SystemID)
	asShutDown := p.Backup.Offline() && !p.Recovery.RollsForward()
	if asShutDown {
		asShutDown, err = p.leaveOffline(ctx)
	}
	if !asShutDown && err == nil {
		p.Forks = recovery.Forks(found.Tree, found.Timeline)
		err = p.follow(ctx, c, found, state)
	}
	if r.Recovery.NoSettings && err == nil {
		err = p.readByHand(ctx)
	}
	if err != nil {
		stop()
	}
	return cmp.Or(err, <-fetched)
}

// follow works out the path of the recovery.
func (p *Plan) follow(ctx context.Context, c *recovery.Selector, found *recovery.Selection, state *catalog.State) (err error) {
	b, r := p.Backup, p.request.Recovery
	if r.NoSettings {
		return nil
	}
	p.Path = found.Tree.Path(found.Timeline).From(b.Timeline, b.StartLSN)
	until := r.TargetLSN
	if r.TargetImmediate {
		until = b.StopLSN + 1
	}
	if p.WAL, err = recovery.WaitForRange(ctx, p.request.Store, b.SystemID, p.Path, segment.Size(b.SegmentSize), until); err != nil {
		return err
	}
	if err := p.readParameters(ctx); err != nil {
		return err
	}
	if err := p.checkMinimal(ctx, c); err != nil {
		return err
	}
	if found.At != nil {
		p.Where = recovery.Where(found.At)
	}
	w, err := p.lookForGap(ctx, until)
	if err != nil {
		return err
	}
	p.gap = w.Missing != ""
	warnings, err := c.CheckWAL(found.At != nil, b, w, state, time.Now())
	p.Warnings = append(p.Warnings, warnings...)
	if err == nil && !r.TargetTime.IsZero() {
		err = p.checkTime(ctx)
	}
	newest, latest := found.Tree.Newest(b.Timeline), found.Tree.Latest(b.Timeline)
	switch {
	case r.TargetImmediate || r.Timeline != "" && r.Timeline != "latest":
	case found.Timeline != newest:
		p.Recovery.Timeline = fmt.Sprint(found.Timeline)
		p.warn("the newest timeline is %d, but this backup cannot reach it: recovery follows timeline %d", newest, found.Timeline)
	case found.Timeline != latest:
		p.Recovery.Timeline = fmt.Sprint(found.Timeline)
		p.warn("%s is not in the archive, so PostgreSQL would not find timeline %d by itself: the settings name the timeline", segment.HistoryName(latest+1), found.Timeline)
	}
	for _, t := range found.Tree.Timelines() {
		if t > b.Timeline && found.Tree.Orphan(t) {
			p.warn("the archive has WAL of timeline %[2]d, but not %[1]s: a recovery stops with an error when it asks for that file, at the latest at its end, when it chooses a new timeline. %[3]s", segment.HistoryName(t), t, backup.WhereHistory(t))
		}
	}
	return err
}

// lookForGap completes what is known of a gap on the path, or just after the place where it ends.
func (p *Plan) lookForGap(ctx context.Context, until segment.LSN) (w recovery.WALRange, err error) {
	w = p.WAL
	b, store := p.Backup, p.request.Store
	if w.Missing == "" && until > 0 && w.End >= until {
		ahead, err := recovery.GapAhead(ctx, store, b.SystemID, p.Path, segment.Size(b.SegmentSize), until)
		if err != nil || ahead.Missing == "" {
			return w, err
		}
		ahead.Last = cmp.Or(ahead.Last, w.Last)
		w = ahead
	}
	if w.Missing == "" || w.Last == "" {
		return w, nil
	}
	last, err := p.segments.Facts(ctx, w.Last)
	if err != nil {
		p.request.Log.Debug("the last record before the gap is unknown", "error", err) // and recovery may never come there
	}
	w.Before = last.LastRecord
	return w, ctx.Err()
}

// measure tells how much goes where, and refuses what does not fit.
func (p *Plan) measure(s *content.ManifestScan) error {
	b, t := p.Backup, p.target
	for _, part := range b.Parts {
		if part.Raw > 0 {
			p.Fetch += int64(float64(part.Size) * float64(part.Live) / float64(part.Raw))
		}
	}
	p.LeftOut = s.LeftOut
	data := b.Size - p.LeftOut
	p.Fetch = int64(float64(p.Fetch) * float64(data) / float64(max(b.Size, 1)))
	for _, m := range t.Mounts {
		m.Bytes = s.Bytes[m.Path]
		data -= m.Bytes
	}
	rooms, err := t.Rooms(data)
	if err != nil {
		return err
	}
	free := map[string]int64{}
	for _, r := range rooms {
		for _, dir := range r.Dirs {
			free[dir] = r.Free
		}
		switch {
		case r.Free >= r.Need:
		case t.Delta:
			p.warn("the file system of %s has %d bytes free, and the backup has %d bytes for it: with --delta this fits only if enough of the files are there already", strings.Join(r.Dirs, ", "), r.Free, r.Need)
		default:
			return fmt.Errorf("%w: the backup has %d bytes for %s, but the file system has %d bytes free", backup.ErrTarget, r.Need, strings.Join(r.Dirs, ", "), r.Free)
		}
	}
	p.Places = append(p.Places, Place{"data directory", t.Dir, data, free[t.Dir]})
	for _, m := range t.Mounts {
		p.Places = append(p.Places, Place{m.Name, m.Location, m.Bytes, free[m.Dir()]})
	}
	for _, link := range s.Stray {
		p.warn("%s is a link that PostgreSQL did not create: if it leads out of the data directory it is left out, because the server would remove temporary and unlogged files there", link)
	}
	for path, l := range s.Links {
		if t.Mount(path) == nil {
			flag := "--link " + path
			if path == "pg_wal" {
				flag = "--waldir DIR"
			}
			p.warn("%s was a link to %s; it is restored into the data directory itself (%s restores a link)", path, l.To, flag)
		}
	}
	return nil
}

// configure decides what is written for PostgreSQL to read.
func (p *Plan) configure(ctx context.Context, s *content.ManifestScan) error {
	b, r := p.Backup, p.Recovery
	conf, err := scanConf(ctx, p.request.Store, b, s.Confs)
	if err != nil {
		return err
	}
	p.Dangers = conf.Dangerous
	if err := p.placeConfig(s, conf.Own); err != nil {
		return err
	}
	p.explainChanges()
	for i, d := range p.Dangers {
		switch {
		case d.File == settings.AutoConf && settings.IsOneOf(d.Text, nil):
			p.Dangers[i].Why = "removed in the copy"
		case strings.HasPrefix(d.Name, "archive_") && d.Name != "archive_cleanup_command" && !r.KeepArchiving && !r.Standby:
			p.Dangers[i].Why = "archiving is off in the copy"
		case d.Name == settings.Synchronous && !r.KeepArchiving && !r.Standby:
			p.Dangers[i].Why = "cleared in the copy, because its commits would wait forever: set it again when the copy has such a standby"
		}
	}
	if l := conf.Blind; l != nil && !r.ToTheEnd() && (r.TargetAction == "" || r.TargetAction == "pause") {
		p.warn("%s, line %d: %s: so the server does not pause at the target, but shuts down; give --target-action promote, or remove the setting", l.File, l.Line, l.Text)
	}
	p.command(&r, conf.Archiving)
	w := settings.SettingsFor(r, b.PGVersion/10000, conf)
	if stops := p.warnTablespaces() || p.gap; stops && w.File != "" && b.PGVersion >= 150000 {
		// Looking ahead, recovery would ask for the segment after the target's, and stop at a gap, or at what it must not replay.
		w.Recovery = append(w.Recovery, recovery.Setting{Name: "recovery_prefetch", Value: "off"})
	}
	if p.only != nil && b.PGVersion >= 130000 && (!b.Offline() || len(p.Path) > 0) {
		w.Auto = append(w.Auto, recovery.Setting{Name: "ignore_invalid_pages", Value: "on"})
	}
	if err := p.need(ctx, s, conf, &w); err != nil {
		return err
	}
	for i, d := range p.Dangers {
		if d.File != settings.AutoConf && slices.ContainsFunc(w.Recovery, func(s recovery.Setting) bool { return s.Name == d.Name }) {
			p.Dangers[i].Why = "overridden in the copy"
		}
	}
	p.written = w
	if w.Own() != "" {
		p.Settings = append(p.Settings, fileSettings(w.File, w.Recovery))
	}
	if auto := w.InAuto(); auto != nil {
		p.Settings = append(p.Settings, fileSettings(settings.AutoConf, auto))
	}
	if w.Signal != "" {
		p.Settings = append(p.Settings, FileSettings{File: w.Signal})
	}
	p.warnConfig(s)
	p.warnOrders()
	p.warnDatabases()
	p.warnSubscriptions()
	return nil
}

// command completes pgobj's own restore_command. Whoever takes the original's place must not overwrite what is left of it
// either: places that the backup knows have to be empty, too (checkMount).
func (p *Plan) command(r *recovery.Recovery, archiving []settings.ConfLine) {
	if !r.OwnCommand {
		return
	}
	r.RestoreCommand += tablespacesFlag + map[bool]string{true: "none", false: "free"}[r.NoTablespaces]
	p.received(r, archiving)
}

// received lets the recovery have what wal-receive has stored of the last segment. Not a standby, which asks again for
// a segment until it is complete, and can stream it. And not a server that archives what it has fetched (archive_mode =
// always): the segment would end up in the archive as if it were complete.
func (p *Plan) received(r *recovery.Recovery, archiving []settings.ConfLine) {
	if r.Standby || len(p.Path) == 0 {
		return
	}
	for _, l := range archiving {
		if name, value := settings.Parse(l.Text); r.KeepArchiving && name == "archive_mode" && strings.EqualFold(value, "always") {
			p.warn("%s, line %d: %s: so the incomplete last segment that wal-receive stored is not used", l.File, l.Line, l.Text)
			return
		}
	}
	timeline := fmt.Sprint(p.Path[len(p.Path)-1].Timeline)
	if r.TimelineSetting(12) == "latest" {
		timeline = "latest"
	}
	r.RestoreCommand += receivedFlag + timeline
}

const (
	receivedFlag    = " --received="
	tablespacesFlag = " --new-tablespaces="
)

func fileSettings(file string, settings []recovery.Setting) FileSettings {
	f := FileSettings{File: file}
	for _, s := range settings {
		f.Lines = append(f.Lines, s.String())
	}
	return f
}

// warnOrders speaks of what the orders, or the backup, bring along.
func (p *Plan) warnOrders() {
	b, r := p.Backup, p.Recovery
	if r.KeepArchiving && !r.Standby {
		p.warn("archiving stays as it was (--keep-archiving): after its promotion this copy writes to the original's archive. Make sure that the original never runs again, or archives to another place")
	}
	if b.DamagedPages > 0 && len(b.Damaged) > 0 {
		p.warn("the backup has %d damaged pages, which were damaged on the server: first block(s) %v of %s", b.DamagedPages, b.Damaged[0].Blocks, b.Damaged[0].Path)
	}
	if r.TargetAction == "shutdown" && !r.ToTheEnd() {
		p.warn("with --target-action shutdown the server shuts down at the target each time it is started, until you remove recovery.signal (up to version 11: recovery.conf)")
	}
}
