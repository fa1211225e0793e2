package backup

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/pgobj/pgobj/backup/cluster"
	"github.com/pgobj/pgobj/backup/manifest"
)

// settled is how old a file's ctime has to be when it is read, so that a later change is sure to show in
// it: the clocks of file systems tick in steps of up to two seconds.
const settled = 2 * time.Second

// copy stores every file of the cluster, ends the backup in PostgreSQL and stores the manifest.
func (p *push) copy(ctx context.Context) error {
	if err := p.remember(); err != nil {
		return err
	}
	u := newUploader(ctx, p.Store, p.backup.ID, p.Codec, p.Workers, p.prev, p.frames, p.Progress)
	writers, err := u.writers(p.Workers + 1)
	if err != nil {
		return err
	}
	l, err := newLister(p.prev, writers[p.Workers], p.meant, p.info.Major(), p.info.SystemID)
	if err != nil {
		return err
	}
	defer l.close()
	c := packerConfig{pageSize: p.info.BlockSize, fileBlocks: p.control.SegmentBlocks, progress: p.Progress, prev: p.prev, changes: p.changes, reread: p.Reread, now: p.Now, warn: p.warn}
	if p.info.DataChecksums {
		c.verify = p.start.LSN
		if p.info.Shutdown != nil {
			c.verify = math.MaxUint64 // nothing is being written, and nothing will be replayed
		}
	}
	c.emit = func(f *manifest.File) error {
		for _, c := range f.Chunks {
			u.refer(c.Extents)
		}
		return l.add(f)
	}
	pk := newPacker(u.ctx, writers[:p.Workers], c)
	pk.group.Go(func() error { return p.count(pk.ctx) })
	err = p.pack(u.ctx, pk, l)
	if e := pk.close(); e != nil {
		err = e // pack only saw what follows from it
	}
	if err == nil {
		err = l.end(u)
	}
	if e := u.wait(); e != nil {
		err = e
	}
	if err != nil {
		return err
	}
	p.damage(pk.damaged)
	p.backup.Size, p.backup.Files, p.backup.Read = p.meant.Bytes, p.meant.Files, p.Progress.Read.Load()
	p.backup.Reused, p.backup.Repeated = p.Progress.Reused.Load(), p.Progress.Repeated.Load()
	for _, name := range slices.Sorted(maps.Keys(u.parts)) {
		used := u.parts[name].used()
		p.backup.Parts = append(p.backup.Parts, used)
		if _, ok := p.prev.spares[name]; ok {
			p.backup.Adopted += used.Live
		}
	}
	if p.backup.Manifest, err = l.store(ctx, p.Store, p.backup.ID, p.Progress); err != nil {
		return err
	}
	p.backup.Stored = p.Progress.Stored.Load()
	return nil
}

// pack gives all files to the packer, in the manifest's order.
func (p *push) pack(ctx context.Context, pk *packer, l *lister) error {
	root, err := os.Stat(p.PGDATA)
	if err != nil {
		return err
	}
	st := root.Sys().(*syscall.Stat_t)
	dir := manifest.File{Type: manifest.TypeDir, Mode: manifest.Mode(root.Mode().Perm()), UID: int(st.Uid), GID: int(st.Gid), Mtime: dated(root.ModTime())}
	if err := pk.add(cluster.Entry{Path: manifest.Root}, dir, nil); err != nil {
		return err
	}
	for e, err := range cluster.Walk(p.PGDATA, p.walkOptions(p.warn)) {
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if e.Type == cluster.TypeTablespace || e.Unseen != "" {
			p.meet(e)
		}
		if err := pk.add(e, describe(e, p.Now()), p.ownWAL(e)); err != nil {
			return err
		}
	}
	if err := pk.drain(); err != nil {
		return err
	}
	return p.tail(ctx, pk, l, dir)
}

// count walks ahead of the workers, so that the progress can tell how much there is in all.
func (p *push) count(ctx context.Context) error {
	var files, bytes int64
	for e, err := range cluster.Walk(p.PGDATA, p.walkOptions(nil)) {
		if err != nil || ctx.Err() != nil {
			return nil // the walk that matters reports its errors
		}
		if e.Type == cluster.TypeFile {
			files, bytes = files+1, bytes+e.Size
		}
	}
	p.Progress.TotalFiles.Store(files)
	p.Progress.TotalBytes.Store(bytes)
	return nil
}

func (p *push) walkOptions(warn func(path, reason string)) cluster.WalkOptions {
	return cluster.WalkOptions{Major: p.info.Major(), CatalogVersion: p.control.CatalogVersion, StatsTempDir: p.info.StatsTempDirectory, Shutdown: p.info.Shutdown, Warn: warn}
}

// describe turns a directory entry into a manifest line.
func describe(e cluster.Entry, now time.Time) manifest.File {
	f := manifest.File{Mode: manifest.Mode(e.Mode.Perm()), UID: e.UID, GID: e.GID, Mtime: dated(e.Mtime)}
	f.SetLink(e.Link)
	switch e.Type {
	case cluster.TypeDir:
		f.Type = manifest.TypeDir
	case cluster.TypeFile:
		f.Type, f.Size = manifest.TypeFile, e.Size
		f.Ctime, f.Ino, f.Dev = dated(e.Ctime), e.Ino, e.Dev
		f.Hot = now.Sub(e.Ctime) < settled
	default:
		f.Type, f.Mode = manifest.TypeLink, 0
	}
	return f
}

// dated is a time as the manifest can have it: RFC 3339 has no year of five digits, as a file may. The zero time stands for
// those, and means nothing to a restore.
func dated(t time.Time) time.Time {
	if t = t.UTC(); t.Year() < 1 || t.Year() > 9999 {
		return time.Time{}
	}
	return t
}

// tail ends the backup in PostgreSQL and adds the files that are made or read last.
func (p *push) tail(ctx context.Context, pk *packer, l *lister, like manifest.File) error {
	// pg_control is read after all other files: on recovery its checkpoint and minimum recovery point
	// must not be older than what is in them.
	c, control, err := cluster.ReadControl(p.PGDATA)
	if err != nil {
		return err
	}
	if p.info.Shutdown == nil { // there is a backup_label to start from
		if control, err = cluster.WithoutCheckpoint(control); err != nil {
			return err
		}
	}
	if p.stop, err = p.Session.Stop(ctx); err != nil {
		return err
	}
	switch {
	case p.stop.Timeline != p.start.Timeline:
		return fmt.Errorf("%w: the backup would need WAL of two timelines, %d and %d, because the standby followed its primary from one to the other: run CHECKPOINT on the primary, wait until the standby has replayed it, and run the command again", ErrServer, p.start.Timeline, p.stop.Timeline)
	case p.start.InRecovery && c.MinRecoveryPoint > p.stop.LSN:
		return fmt.Errorf("%w: %s is not the data directory of the standby that answered: it has replayed WAL up to %s, which that one has not at %s", ErrServer, p.PGDATA, c.MinRecoveryPoint, p.stop.LSN)
	}
	p.describeWAL()
	if err := p.listTablespaces(); err != nil {
		return err
	}
	now := p.Now().UTC()
	add := func(path string, data io.ReaderAt, size int64) error {
		p.meant.Require(path)
		f := manifest.File{Type: manifest.TypeFile, Mode: like.Mode & 0o660, UID: like.UID, GID: like.GID, Mtime: now, Size: size}
		return pk.add(cluster.Entry{Path: path}, f, data)
	}
	if n := len(p.stop.Label); n > 0 {
		if err := add("backup_label", bytes.NewReader(p.stop.Label), int64(n)); err != nil {
			return err
		}
	}
	if n := len(p.stop.TablespaceMap); n > 0 {
		if err := add("tablespace_map", bytes.NewReader(p.stop.TablespaceMap), int64(n)); err != nil {
			return err
		}
	}
	if l.native != nil {
		if err := pk.drain(); err != nil {
			return err
		}
		size, err := l.endNative(now, control, p.start.Timeline, p.start.LSN, p.stop.LSN)
		if err != nil {
			return err
		}
		if err := add("backup_manifest", l.nativeSpool, size); err != nil {
			return err
		}
	}
	return add("global/pg_control", bytes.NewReader(control), int64(len(control)))
}

// describeWAL enters where the backup begins and ends in the WAL.
func (p *push) describeWAL() {
	b, size := &p.backup, p.info.SegmentSize
	first, last := p.walRange()
	b.Consistent = p.stop.Time.UTC()
	b.Timeline, b.StartLSN, b.StopLSN = p.start.Timeline, p.start.LSN, p.stop.LSN
	b.FirstWAL, b.LastWAL = first.Name(size), last.Name(size)
}
