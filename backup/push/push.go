// Package push takes a backup: it walks the data directory between start and stop of the backup, packs, uploads, lists,
// and commits. It refuses flags and printing.
package push

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/user"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/pgobj/pgobj/backup"
	"github.com/pgobj/pgobj/backup/archiving"
	"github.com/pgobj/pgobj/backup/content"
	"github.com/pgobj/pgobj/backup/datadir"
	"github.com/pgobj/pgobj/backup/manifest"
	"github.com/pgobj/pgobj/backup/pack"
	"github.com/pgobj/pgobj/backup/part"
	"github.com/pgobj/pgobj/backup/readback"
	"github.com/pgobj/pgobj/backup/server"
	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/storage/codec"
	"github.com/pgobj/pgobj/walstore/segment"
	"github.com/pgobj/pgobj/walstore/timeline"
)

// Cluster is what a backup needs of PostgreSQL: a server.Session, or a server.Stopped.
type Cluster interface {
	Info(ctx context.Context) (server.Info, error)
	Start(ctx context.Context, label string, fast bool) (server.StartPoint, error)
	Stop(ctx context.Context) (server.StopPoint, error)
	Watch(ctx context.Context) (watched context.Context, stop func())
	archiving.Server
	Changes(ctx context.Context, wal timeline.Path) (*datadir.Changes, error)
}

// Request says which backup to take.
type Request struct {
	Store          storage.Store // rooted at the server's directory
	StorageDir     string        // of a storage that is a directory of this host
	Catalog        *catalog.Catalog
	State          *catalog.State // as it was a moment ago; nil: it is read
	Session        Cluster
	PGDATA         string // empty: where the server says that it is
	Codec          codec.Codec
	Workers        int
	Spread         bool // wait for a spread checkpoint instead of an immediate one
	Labels         map[string]string
	Full           bool          // store everything again
	Reread         bool          // read every file, whatever its attributes say
	NewIncarnation bool          // accept another system identifier than the catalog's last one
	WALTimeout     time.Duration // how long to wait for the last WAL segment to be archived
	// Primary is told to end its WAL segment when the backup is of its standby. nil: the standby's backup waits until it does so
	// by itself.
	Primary  *server.Primary
	Tool     string // version of pgobj, for the catalog
	Now      func() time.Time
	Progress *backup.Progress
	Log      *slog.Logger
}

// push is a backup in the making.
type push struct {
	Request
	info            server.Info
	control         datadir.Control
	state           *catalog.State
	prev            *pack.DedupIndex
	base            *catalog.Backup // the backup that prev is made of, or nil
	changes         *datadir.Changes
	seenTablespaces map[uint32]datadir.Entry // tablespaces that the walk came to
	backup          catalog.Backup
	start           server.StartPoint
	stop            server.StopPoint
	meant           *readback.Meant
	frames          *readback.Frames
	archive         *archiving.Watch // nil: nobody knows who archives, or it does not matter
	warning         sync.Mutex       // workers warn too
}

// Push takes a base backup and returns what the catalog then says of it. When it fails, no backup has been
// added, and older ones are as they were.
func Push(ctx context.Context, r Request) (*catalog.Backup, error) {
	p := &push{Request: r, seenTablespaces: map[uint32]datadir.Entry{}}
	if err := p.check(ctx); err != nil {
		return nil, err
	}
	if err := p.recordBegin(ctx); err != nil {
		return nil, err
	}
	defer p.prev.Close()
	defer p.forget()
	err := p.run(ctx)
	for _, odd := range []error{readback.ErrRefused, backup.ErrReplaces, storage.ErrNotFound} {
		if errors.Is(err, odd) {
			err = cmp.Or(p.ended(ctx), err)
		}
	}
	if err != nil {
		p.abort(ctx, err)
		return nil, fmt.Errorf("backup %s: %w", p.backup.ID, err)
	}
	return &p.backup, nil
}

// recordBegin enters the backup in the catalog.
func (p *push) recordBegin(ctx context.Context) (err error) {
	if p.state = p.State; p.state == nil {
		if p.state, err = p.Catalog.Load(ctx); err != nil {
			return err
		}
	}
	if err := p.incarnation(ctx); err != nil {
		return err
	}
	begin := catalog.Begin{SystemID: p.info.SystemID, Timeline: p.control.Timeline, LSN: p.control.Redo}
	for {
		before := p.state.N
		if begin.Reuses, err = p.loadBase(ctx); err == nil {
			if err = p.appendBegin(ctx, begin); !errors.Is(err, errReuseGone) {
				p.warnOfLost()
				return err
			}
			p.prev.Close()
		}
		// A deletion may have taken what was looked at. Then the log has gone on, and there is another last backup.
		reason := err
		if p.state, err = p.Catalog.Load(ctx); err != nil {
			return err
		}
		if p.state.N == before {
			return reason
		}
		p.Log.Info("the catalog changed: looking for the last backup again", "reason", reason)
	}
}

// errReuseGone tells begin that what the backup was to reuse has been deleted.
var errReuseGone = errors.New("a backup that this one reuses has been deleted")

// appendBegin writes the begin record, and what is known of the backup from the start.
func (p *push) appendBegin(ctx context.Context, begin catalog.Begin) (err error) {
	started := p.Now().UTC()
	p.state, err = p.Catalog.Append(ctx, p.state, func(s *catalog.State) (catalog.Record, error) {
		for p.backup.ID == "" || s.Entry(p.backup.ID) != nil {
			var random [2]byte
			rand.Read(random[:])
			p.backup.ID = catalog.NewID(started, random)
		}
		begin.Backup = p.backup.ID
		for _, id := range begin.Reuses {
			if e := s.Entry(id); e == nil || e.Status == catalog.Deleted {
				return catalog.Record{}, fmt.Errorf("%w: %s", errReuseGone, id)
			}
		}
		return catalog.Record{Type: "begin", Begin: &begin}, nil
	})
	if err != nil {
		return err
	}
	b := &p.backup
	b.Started, b.Labels = started, p.Labels
	b.SystemID, b.PGVersion, b.PGVersionText, b.SegmentSize = p.info.SystemID, p.info.VersionNum, p.info.Version, int64(p.info.SegmentSize)
	b.CatalogVersion, b.Checksums, b.From, b.PGDATA, b.Tool = p.control.CatalogVersion, p.info.DataChecksums, p.from(), p.PGDATA, p.Tool
	b.Compression = p.Codec.String()
	b.Owner = owner(p.PGDATA)
	b.Host, err = os.Hostname()
	b.Databases, b.Subscriptions = p.info.Databases, p.info.Subscriptions
	return err
}

// from is what the backup is taken from.
func (p *push) from() string {
	switch {
	case p.info.Shutdown != nil:
		return "offline"
	case p.info.InRecovery:
		return "standby"
	}
	return "primary"
}

// loadBase opens what earlier backups offer for reuse, and names them. The system identifier does not
// matter: what is reused is known by its content, and pg_upgrade leaves most of it as it was.
func (p *push) loadBase(ctx context.Context) (reuses []string, err error) {
	var base *catalog.Backup
	complete := p.state.Complete()
	if n := len(complete); n > 0 && !p.Full {
		if base, err = p.Catalog.Backup(ctx, complete[n-1]); errors.Is(err, catalog.ErrDamaged) || errors.Is(err, storage.ErrUnreadable) {
			p.Log.Warn("the last backup cannot be reused; everything is stored again", "error", err)
			err = nil
		}
		if err != nil {
			return nil, err
		}
	}
	known, unfinished := pack.MaxKnownChunks, p.state.Unfinished()
	if len(unfinished) > 0 {
		known /= 2 // so that there is room for what those have stored
	}
	p.prev, err = pack.OpenDedupIndex(ctx, p.Store, base, known)
	if errors.Is(err, manifest.ErrDamaged) || errors.Is(err, part.ErrDamaged) || errors.Is(err, storage.ErrUnreadable) { // a part may have lines of the manifest
		p.Log.Warn("the last backup cannot be reused; everything is stored again", "error", err)
		p.prev, err = pack.OpenDedupIndex(ctx, p.Store, nil, known)
		base = nil
	}
	if err != nil {
		return nil, err
	}
	if p.base = base; base != nil {
		reuses = append(reuses, base.ID)
	}
	if p.Full {
		return reuses, nil
	}
	for _, e := range unfinished {
		bytes, err := p.prev.Reclaim(ctx, e.ID)
		if err != nil {
			return nil, err
		}
		if bytes > 0 {
			what := "an earlier run did not finish: the parts that it stored are reused where they still fit"
			if e.Status == catalog.Running {
				what = "another backup has begun and is not complete (it runs, or was killed): the parts that it has stored are reused where they fit"
			}
			p.Log.Info(what, "backup", e.ID, "status", e.Status, "by", e.By, "bytes", bytes)
			reuses = append(reuses, e.ID)
		}
	}
	return reuses, nil
}

// warnOfLost names the parts of the last backup that cannot be reused because something happened to them.
func (p *push) warnOfLost() {
	if len(p.prev.Lost) > 0 {
		p.warn(part.Key(""), "parts of earlier backups are missing or have a different size than when they were stored: "+backup.Some(p.prev.Lost, 5)+": their content is stored again for this backup; to see which other backups are damaged: pgobj backup-verify all")
	}
	if len(p.prev.Sealed) > 0 {
		p.warn(part.Key(""), "parts of earlier backups are archived, or their encryption key cannot be used: "+backup.Some(p.prev.Sealed, 5)+": their content is stored again for this backup; to restore an older backup, restore its archived objects first, which pgobj backup-files BACKUP --target=full --url lists")
	}
}

// incarnation enters the cluster in the catalog when it is new there. Another system identifier is
// what pg_upgrade leaves; without a newer major version it is rather a second cluster whose owner forgot
// --server, and mixing the two is refused.
func (p *push) incarnation(ctx context.Context) (err error) {
	p.state, err = p.Catalog.Append(ctx, p.state, func(s *catalog.State) (catalog.Record, error) {
		this := catalog.Server{SystemID: p.info.SystemID, PGVersion: p.info.VersionNum, SegmentSize: p.info.SegmentSize}
		if n := len(s.Servers); n > 0 {
			last := s.Servers[n-1]
			if last == this || p.info.Shutdown != nil && last.SystemID == this.SystemID { // of which files tell no minor version
				return catalog.Record{}, errNothing
			}
			if last.SystemID != this.SystemID && last.PGVersion/10000 >= this.PGVersion/10000 && !p.NewIncarnation {
				return catalog.Record{}, fmt.Errorf("%w: its backups have system identifier %d, this server has %d; another server needs its own --server name; after an intended initdb, give --new-incarnation once", backup.ErrIncarnation, last.SystemID, this.SystemID)
			}
		}
		return catalog.Record{Type: "server", Server: &this}, nil
	})
	if errors.Is(err, errNothing) {
		return nil
	}
	return err
}

// errNothing tells Append that there is nothing to add.
var errNothing = errors.New("nothing to add")

// run copies the cluster between start and stop of the backup, and commits it.
func (p *push) run(ctx context.Context) error {
	p.configFiles()
	p.Log.Info(map[bool]string{true: "backup starts", false: "backup starts: waiting for a checkpoint"}[p.info.Shutdown != nil], "backup", p.backup.ID, "pgdata", p.PGDATA, "postgresql", p.info.Version)
	var err error
	if p.start, err = p.Session.Start(ctx, "pgobj "+p.backup.ID, !p.Spread); err != nil {
		return err
	}
	if err := inOrder(ctx, p.checkDirectory, p.checkStart, p.archiveHistory, p.summaries); err != nil {
		return err
	}
	watched, done := p.watch(ctx)
	err = p.copy(watched)
	if lost := context.Cause(watched); lost != nil {
		err = lost // whatever failed after it only follows
	} else if errors.Is(err, server.ErrSessionLost) {
		err = fmt.Errorf("the backup is not valid: %w", err)
	}
	done()
	if err != nil {
		return err
	}
	return inOrder(ctx, p.settle, p.checkReplay, p.warnMinimal, p.commit)
}

// inOrder takes steps up to the first that fails.
func inOrder(ctx context.Context, steps ...func(context.Context) error) error {
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (p *push) commit(ctx context.Context) error {
	b := &p.backup
	b.Finished = p.Now().UTC()
	hash, err := p.Catalog.PutBackup(ctx, b)
	if err != nil {
		return err
	}
	parts, err := content.PartNumbers(b.Parts)
	if err != nil {
		return err
	}
	commit := &catalog.Commit{Backup: b.ID, SHA256: hash, Summary: b.Summary}
	if err := p.readDescription(ctx, commit); err != nil {
		return err
	}
	p.state, err = p.Catalog.Append(ctx, p.state, func(s *catalog.State) (catalog.Record, error) {
		r := catalog.Record{Type: "commit", Commit: commit}
		return r, cmp.Or(s.CheckCommit(b.ID, parts), s.CheckWAL(b.Summary))
	})
	return err
}

// ended is why there is no backup any more: a deletion took it for dead, or something that it refers to, and may have removed
// what the storage is asked for again.
func (p *push) ended(ctx context.Context) error {
	parts, err := content.PartNumbers(p.backup.Parts)
	if err != nil {
		return err
	}
	state, err := p.Catalog.Load(ctx)
	if err != nil {
		return nil // what was met says enough
	}
	return state.CheckCommit(p.backup.ID, parts)
}

// abort notes in the catalog that the backup will not come. It is a courtesy: without it the backup stays
// "running" there, which nobody waits for.
func (p *push) abort(ctx context.Context, cause error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 4*time.Second) // a service manager kills soon after SIGTERM
	defer cancel()
	_, err := p.Catalog.Append(ctx, p.state, func(s *catalog.State) (catalog.Record, error) {
		if e := s.Entry(p.backup.ID); e != nil && e.Status != catalog.Running {
			return catalog.Record{}, errNothing
		}
		return catalog.Record{Type: "abort", Abort: &catalog.Abort{Backup: p.backup.ID, Reason: cause.Error()}}, nil
	})
	if err != nil && !errors.Is(err, errNothing) {
		p.Log.Warn("could not record in the catalog that the backup failed", "backup", p.backup.ID, "error", err)
	}
}

// warn tells the user once and keeps the warning with the backup.
func (p *push) warn(path, reason string) {
	p.Log.Warn(reason, "path", path)
	p.warning.Lock()
	defer p.warning.Unlock()
	if len(p.backup.Warnings) < 1000 {
		p.backup.Warnings = append(p.backup.Warnings, path+": "+reason)
	}
}

// damage enters what the page checksums told.
func (p *push) damage(found map[string][]uint32) {
	for _, path := range slices.Sorted(maps.Keys(found)) {
		blocks := slices.Sorted(slices.Values(found[path]))
		p.backup.Damaged = append(p.backup.Damaged, catalog.Damaged{Path: path, Blocks: blocks})
		p.backup.DamagedPages += int64(len(blocks))
	}
}

// walRange names the first and last WAL segment that the backup needs.
func (p *push) walRange() (first, last segment.Segment) {
	return segment.At(p.start.Timeline, p.start.LSN, p.info.SegmentSize), segment.Before(p.stop.Timeline, p.stop.LSN, p.info.SegmentSize)
}

// owner is the user and group of a directory, by name where there is one.
func owner(path string) string {
	st, err := os.Stat(path)
	if err != nil {
		return ""
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return ""
	}
	uid, gid := strconv.Itoa(int(sys.Uid)), strconv.Itoa(int(sys.Gid))
	if u, err := user.LookupId(uid); err == nil {
		uid = u.Username
	}
	if g, err := user.LookupGroupId(gid); err == nil {
		gid = g.Name
	}
	return uid + ":" + gid
}
