package lists

import (
	"context"
	"fmt"
	"strings"

	"github.com/pgobj/pgobj/backup/part"
	"github.com/pgobj/pgobj/backup/recovery"
	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/cmd/cli/app"
	"github.com/pgobj/pgobj/cmd/cli/show"
	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/walstore"
	"github.com/pgobj/pgobj/walstore/object"
	"github.com/pgobj/pgobj/walstore/segment"
)

// BackupFiles lists keys as they are below --storage, the server's directory in front: what rsync and rclone take
// with --files-from, and what comes after the bucket's URL.
type BackupFiles struct {
	Backup string `arg:"" help:"Id of the backup or its beginning, latest or last, oldest or first."`
	Target string `name:"target" enum:"data,standalone,wal,full" default:"standalone" help:"data: the backup itself; standalone: with the WAL that makes it consistent; wal: the WAL from its start to the start of the next backup, or to the end of the archive; full: data and wal."`
	URL    bool   `name:"url" help:"Print whole URLs instead of paths below --storage."`
	Null   bool   `name:"null" short:"0" help:"End each with a zero byte instead of a newline."`
	JSON   bool   `name:"json" help:"Print JSON: an array of objects with key, kind and size."`
}

// ListedFile is an object as --json prints it.
type ListedFile struct {
	Key  string `json:"key"`  // below --storage, or with --url the whole URL
	Kind string `json:"kind"` // backup (its backup.json), manifest, part, wal or history
	Size int64  `json:"size"` // as stored
}

func (c *BackupFiles) Run(ctx context.Context, a *app.App) error {
	r, e, err := a.Find(ctx, c.Backup)
	if err != nil {
		return err
	}
	b, err := r.Cat.Backup(ctx, e)
	if err != nil {
		return err
	}
	files := []ListedFile{}
	if c.Target != "wal" {
		if files, err = dataFiles(ctx, r.Store, b); err != nil {
			return err
		}
	}
	var gap error
	if c.Target != "data" {
		var wal []ListedFile
		if wal, gap, err = c.wal(ctx, r.Store, r.State, b); err != nil {
			return err
		}
		files = append(files, wal...)
	}
	if err := c.print(a, r.Store, files); err != nil {
		return err
	}
	return gap
}

// dataFiles are the objects of a backup: what describes it goes last, as when it is made.
func dataFiles(ctx context.Context, store storage.Store, b *catalog.Backup) ([]ListedFile, error) {
	files := []ListedFile{}
	for _, p := range b.Parts {
		files = append(files, ListedFile{part.Key(p.Name), "part", p.Size})
	}
	files = append(files, ListedFile{catalog.ManifestKey(b.ID), "manifest", b.Manifest.Size})
	info, err := store.Stat(ctx, catalog.BackupKey(b.ID))
	if err != nil {
		return nil, fmt.Errorf("look up the description of backup %s: %w", b.ID, err)
	}
	return append(files, ListedFile{catalog.BackupKey(b.ID), "backup", info.Size}), nil
}

// wal lists the WAL. What is missing of it is an error of its own: what is there is still worth to be listed, unless
// the backup cannot be restored with it.
func (c *BackupFiles) wal(ctx context.Context, store storage.Store, state *catalog.State, b *catalog.Backup) (files []ListedFile, gap, err error) {
	t, err := recovery.FindWAL(ctx, recovery.WALRequest{Store: store, State: state, Backup: b, Alone: c.Target == "standalone", Each: func(o object.Object) {
		kind := "wal"
		switch o.Type {
		case segment.History:
			kind = "history"
		case segment.Noted:
			kind = "note"
		}
		files = append(files, ListedFile{o.Key, kind, o.Size})
	}})
	switch {
	case err != nil:
	case t.Needed:
		err = fmt.Errorf("%w: %s, which backup %s needs to be consistent, is not in the archive", walstore.ErrGap, t.Missing, b.ID)
	case t.Missing != "" && !t.Deleted:
		gap = fmt.Errorf("%w: the list ends with %s, because the archive has no %s, although it has %s", walstore.ErrGap, t.Last, t.Missing, t.Beyond)
	}
	return files, gap, err
}

func (c *BackupFiles) print(a *app.App, store storage.Store, files []ListedFile) error {
	before := a.Server + "/"
	if c.URL {
		before = strings.TrimSuffix(store.String(), "/") + "/"
	}
	for i := range files {
		files[i].Key = before + files[i].Key
	}
	if c.JSON {
		return show.JSON(a.Out, files)
	}
	out, end := a.Out, "\n"
	if c.Null {
		out, end = a.Raw, "\x00"
	}
	for _, f := range files {
		if _, err := fmt.Fprint(out, f.Key, end); err != nil {
			return err
		}
	}
	return nil
}
