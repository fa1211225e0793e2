package push

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math"
	"os"
	"syscall"

	"github.com/pgobj/pgobj/backup"
	"github.com/pgobj/pgobj/backup/datadir"
	"github.com/pgobj/pgobj/backup/manifest"
	"github.com/pgobj/pgobj/backup/pack"
)

// copy stores every file of the cluster, ends the backup in PostgreSQL and stores the manifest.
func (p *push) copy(ctx context.Context) error {
	if err := p.remember(); err != nil {
		return err
	}
	u := pack.NewUploader(ctx, p.Store, p.backup.ID, p.Codec, p.Workers, p.prev, p.frames, p.Progress)
	writers, err := u.Writers(p.Workers + 1)
	if err != nil {
		return err
	}
	l, err := pack.NewManifestBuilder(p.prev, writers[p.Workers], p.meant, p.info.Major(), p.info.SystemID)
	if err != nil {
		return err
	}
	defer l.Close()
	c := pack.Config{PageSize: p.info.BlockSize, FileBlocks: p.control.SegmentBlocks, Progress: p.Progress, Prev: p.prev, Changes: p.changes, Reread: p.Reread, Now: p.Now, Warn: p.warn}
	if p.info.DataChecksums {
		c.Verify = p.start.LSN
		if p.info.Shutdown != nil {
			c.Verify = math.MaxUint64 // nothing is being written, and nothing will be replayed
		}
	}
	c.Emit = func(f *manifest.File) error {
		for _, c := range f.Chunks {
			u.Refer(c.Extents)
		}
		return l.Add(f)
	}
	pk := pack.NewPacker(u.Ctx, writers[:p.Workers], c)
	pk.Group.Go(func() error { return p.count(pk.Ctx) })
	err = p.pack(u.Ctx, pk, l)
	if e := pk.Close(); e != nil {
		err = e // pack only saw what follows from it
	}
	if err == nil {
		err = l.End(u)
	}
	if e := u.Wait(); e != nil {
		err = e
	}
	if err != nil {
		return err
	}
	p.damage(pk.Damaged)
	p.backup.Size, p.backup.Files, p.backup.Read = p.meant.Bytes, p.meant.Files, p.Progress.Read.Load()
	p.backup.Reused, p.backup.Repeated = p.Progress.Reused.Load(), p.Progress.Repeated.Load()
	p.backup.Parts = u.Used()
	for _, used := range p.backup.Parts {
		if _, ok := p.prev.OrphanParts[used.Name]; ok {
			p.backup.Adopted += used.Live
		}
	}
	if p.backup.Manifest, err = l.Store(ctx, p.Store, p.backup.ID, p.Progress); err != nil {
		return err
	}
	p.backup.Stored = p.Progress.Stored.Load()
	return nil
}

// pack gives all files to the packer, in the manifest's order.
func (p *push) pack(ctx context.Context, pk *pack.Packer, l *pack.ManifestBuilder) error {
	root, err := os.Stat(p.PGDATA)
	if err != nil {
		return err
	}
	st := root.Sys().(*syscall.Stat_t)
	dir := manifest.File{Type: manifest.TypeDir, Mode: manifest.Mode(root.Mode().Perm()), UID: int(st.Uid), GID: int(st.Gid), Mtime: pack.Dated(root.ModTime())}
	if err := pk.Add(datadir.Entry{Path: manifest.Root}, dir, nil); err != nil {
		return err
	}
	for e, err := range datadir.Walk(p.PGDATA, p.walkOptions(p.warn)) {
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if e.Type == datadir.TypeTablespace || e.Unseen != "" {
			p.noteTablespace(e)
		}
		if err := pk.Add(e, pack.Describe(e, p.Now()), p.ownWAL(e)); err != nil {
			return err
		}
	}
	if err := pk.Drain(); err != nil {
		return err
	}
	return p.tail(ctx, pk, l, dir)
}

// count walks ahead of the workers, so that the progress can tell how much there is in all.
func (p *push) count(ctx context.Context) error {
	var files, bytes int64
	for e, err := range datadir.Walk(p.PGDATA, p.walkOptions(nil)) {
		if err != nil || ctx.Err() != nil {
			return nil // the walk that matters reports its errors
		}
		if e.Type == datadir.TypeFile {
			files, bytes = files+1, bytes+e.Size
		}
	}
	p.Progress.TotalFiles.Store(files)
	p.Progress.TotalBytes.Store(bytes)
	return nil
}

func (p *push) walkOptions(warn func(path, reason string)) datadir.WalkOptions {
	return datadir.WalkOptions{Major: p.info.Major(), CatalogVersion: p.control.CatalogVersion, StatsTempDir: p.info.StatsTempDirectory, Shutdown: p.info.Shutdown, Warn: warn}
}

// tail ends the backup in PostgreSQL and adds the files that are made or read last.
func (p *push) tail(ctx context.Context, pk *pack.Packer, l *pack.ManifestBuilder, like manifest.File) error {
	// pg_control is read after all other files: on recovery its checkpoint and minimum recovery point
	// must not be older than what is in them.
	c, control, err := datadir.ReadControl(p.PGDATA)
	if err != nil {
		return err
	}
	if p.info.Shutdown == nil { // there is a backup_label to start from
		if control, err = datadir.WithoutCheckpoint(control); err != nil {
			return err
		}
	}
	if p.stop, err = p.Session.Stop(ctx); err != nil {
		return err
	}
	switch {
	case p.stop.Timeline != p.start.Timeline:
		return fmt.Errorf("%w: the backup would need WAL of two timelines, %d and %d, because the standby followed its primary to a new timeline: run CHECKPOINT on the primary, wait until the standby has replayed it, and run the command again", backup.ErrServer, p.start.Timeline, p.stop.Timeline)
	case p.start.InRecovery && c.MinRecoveryPoint > p.stop.LSN:
		return fmt.Errorf("%w: %s is not the data directory of the standby that answered: it has replayed WAL up to %s, but that server is only at %s", backup.ErrServer, p.PGDATA, c.MinRecoveryPoint, p.stop.LSN)
	}
	p.describeWAL()
	if err := p.listTablespaces(); err != nil {
		return err
	}
	now := p.Now().UTC()
	add := func(path string, data io.ReaderAt, size int64) error {
		p.meant.Require(path)
		f := manifest.File{Type: manifest.TypeFile, Mode: like.Mode & 0o660, UID: like.UID, GID: like.GID, Mtime: now, Size: size}
		return pk.Add(datadir.Entry{Path: path}, f, data)
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
	if l.Native != nil {
		if err := pk.Drain(); err != nil {
			return err
		}
		size, err := l.EndNative(now, control, p.start.Timeline, p.start.LSN, p.stop.LSN)
		if err != nil {
			return err
		}
		if err := add("backup_manifest", l.NativeSpool, size); err != nil {
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
