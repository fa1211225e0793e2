package rebuild

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pgobj/pgobj/backup/content"
	"github.com/pgobj/pgobj/backup/datadir"
	"github.com/pgobj/pgobj/backup/manifest"
	"github.com/pgobj/pgobj/backup/pack"
	"github.com/pgobj/pgobj/backup/part"
	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/walstore"
	"github.com/pgobj/pgobj/walstore/segment"
)

// describer rebuilds the backup.json of a backup from its manifest, the indexes of the parts that it refers to,
// and some files that it holds.
type describer struct {
	store storage.Store
	sizes map[string]int64 // of the parts that there are
	parts pack.UsedParts
	small map[string]*manifest.File // the files that tell something
	b     *catalog.Backup
}

// lostWithJSON is what only backup.json knew.
const lostWithJSON = "described again by catalog-rebuild; lost are configuration files from outside of the data directory, the list of damaged pages, labels, host and owner"

// describeAnew returns what backup.json has to say. The summary comes from the log when that still has it.
func describeAnew(ctx context.Context, s storage.Store, id string, list []byte, sizes map[string]int64, commit *catalog.Commit) (*catalog.Backup, error) {
	d := &describer{store: s, sizes: sizes, parts: pack.UsedParts{}, small: map[string]*manifest.File{}, b: &catalog.Backup{ID: id, Warnings: []string{lostWithJSON}}}
	f, err := content.FetchListed(ctx, s, id, list)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	for _, x := range f.Sections {
		d.parts.Refer([]manifest.Extent{x.Extent})
	}
	if err := d.readLines(f); err != nil {
		return nil, err
	}
	if err := d.readIndexes(ctx); err != nil {
		return nil, err
	}
	d.b.Manifest = catalog.Object{Size: int64(len(list)), SHA256: part.Sum(list).String()}
	if err := d.readFiles(ctx, commit); err != nil {
		return nil, err
	}
	return d.b, nil
}

func (d *describer) readLines(f *content.Files) error {
	for l, err := range f.All() {
		if err != nil {
			return err
		}
		for _, c := range l.Chunks {
			d.parts.Refer(c.Extents)
		}
		p := l.RawPath()
		oid, space := content.SpaceOf(l)
		switch {
		case space:
			d.b.Tablespaces = append(d.b.Tablespaces, catalog.Tablespace{OID: oid, Name: path.Base(p), Location: l.RawLink()})
		case l.Type == manifest.TypeFile && l.At == 0:
			d.b.Files++
			d.b.Size += l.Size
			if slices.Contains(manifest.Tail, p) || p == "PG_VERSION" {
				d.small[p] = l
			}
		}
	}
	return nil
}

// readIndexes completes what is known of the parts.
func (d *describer) readIndexes(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(16)
	for _, p := range d.parts {
		size, there := d.sizes[p.Name]
		if !there {
			return fmt.Errorf("%w: part %s of it is missing", part.ErrDamaged, part.Key(p.Name))
		}
		g.Go(func() error {
			lines, sum, err := part.ReadIndex(ctx, d.store, p.Name, size, part.Hash{})
			p.Size, p.Index = size, sum.String()
			for _, l := range lines {
				for _, m := range l.Members {
					p.Raw += int64(m.Len)
				}
			}
			return err
		})
	}
	err := g.Wait()
	d.b.Parts = d.parts.List()
	return err
}

// readFiles takes the rest from what PostgreSQL has written into the backup.
func (d *describer) readFiles(ctx context.Context, commit *catalog.Commit) error {
	texts := map[string][]byte{}
	for _, name := range []string{"backup_label", "PG_VERSION", datadir.ControlPath} {
		f := d.small[name]
		if f == nil {
			return fmt.Errorf("%w: the backup has no %s", manifest.ErrDamaged, name)
		}
		var err error
		if texts[name], err = content.ReadContent(ctx, d.store, f); err != nil {
			return fmt.Errorf("read %s: %w", name, err)
		}
	}
	control, err := datadir.ParseControl(texts[datadir.ControlPath])
	if err != nil {
		return err
	}
	label, err := datadir.ParseLabel(texts["backup_label"])
	if err != nil {
		return err
	}
	b := d.b
	b.SegmentSize, b.CatalogVersion, b.Checksums, b.From, b.Tool = int64(control.SegmentSize), control.CatalogVersion, control.ChecksumVersion != 0, label.From, "catalog-rebuild"
	if b.From == "master" { // PostgreSQL 10 to 13
		b.From = "primary"
	}
	if len(b.Parts) > 0 {
		if codec, err := part.CodecOf(b.Parts[0].Name); err == nil {
			b.Compression = codec.String()
		}
	}
	if b.PGVersionText = strings.TrimSpace(string(texts["PG_VERSION"])); commit != nil {
		b.Summary = commit.Summary
		return nil
	}
	major, err := strconv.Atoi(b.PGVersionText)
	if err != nil {
		return fmt.Errorf("%w: PG_VERSION says %q", manifest.ErrDamaged, b.PGVersionText)
	}
	b.SystemID, b.PGVersion, b.Timeline, b.StartLSN = control.SystemID, major*10000, label.Timeline, label.StartLSN
	return d.times(ctx, control.SegmentSize, label)
}

// times finds out where and when the backup ended.
func (d *describer) times(ctx context.Context, size segment.Size, label datadir.Label) (err error) {
	b := d.b
	if f := d.small["backup_manifest"]; f != nil {
		end := *f // the ranges are on its last lines
		end.Chunks = f.Chunks[max(0, len(f.Chunks)-2):]
		data, err := content.ReadContent(ctx, d.store, &end)
		if err != nil {
			return fmt.Errorf("read backup_manifest: %w", err)
		}
		walEnd := regexp.MustCompile(`"End-LSN": "([0-9A-F]+/[0-9A-F]+)"`)
		if found := walEnd.FindAllSubmatch(data, -1); len(found) > 0 {
			if b.StopLSN, err = segment.ParseLSN(string(found[0][1])); err != nil { // the newest timeline comes first
				return err
			}
		}
	}
	if b.StopLSN == 0 {
		if b.StopLSN, err = walstore.BackupEnd(ctx, d.store, b.SystemID, label.StartFile, label.StartLSN, size); err != nil {
			return fmt.Errorf("the end of the backup is unknown: %w", err)
		}
	}
	b.FirstWAL, b.LastWAL = label.StartFile, segment.Before(b.Timeline, b.StopLSN, size).Name(size)
	text, _, _ := strings.Cut(b.ID, "-")
	if b.Started, err = time.Parse("20060102T150405Z", text); err != nil {
		return fmt.Errorf("the backup's id is not a time: %w", err)
	}
	// The manifest was stored after the backup had ended, and so were the last of the parts: later is safe.
	info, err := d.store.Stat(ctx, catalog.ManifestKey(b.ID))
	if errors.Is(err, storage.ErrNotFound) {
		info, err = d.store.Stat(ctx, part.Key(d.last()))
	}
	b.Consistent, b.Finished = info.Created.UTC(), info.Created.UTC()
	return err
}

// last is the backup's newest part of its own.
func (d *describer) last() string {
	last := ""
	for name := range d.parts {
		if strings.HasPrefix(name, d.b.ID+"/") {
			last = max(last, name)
		}
	}
	return last
}

// rebuildList rebuilds the list of a manifest's sections from the indexes of the backup's own parts. That is possible
// when all of them were stored by this backup: what was taken over from earlier ones, no index tells.
func rebuildList(ctx context.Context, s storage.Store, id string, sizes map[string]int64) ([]byte, error) {
	var sections []manifest.Section
	for _, name := range slices.Sorted(maps.Keys(sizes)) {
		if !strings.HasPrefix(name, id+"/") {
			continue
		}
		lines, _, err := part.ReadIndex(ctx, s, name, sizes[name], part.Hash{})
		if err != nil {
			return nil, err
		}
		for _, l := range lines {
			for _, m := range l.Members {
				if m.Path == manifest.SectionPath {
					sections = append(sections, manifest.Section{SHA256: m.SHA256, Extent: manifest.Extent{At: m.At, Len: m.Len, Part: name, Off: l.Off, Size: l.Size, SHA256: l.SHA256, Skip: m.Skip}})
				}
			}
		}
	}
	slices.SortFunc(sections, func(a, b manifest.Section) int { return cmp.Compare(a.Extent.At, b.Extent.At) })
	at, entries, ended := int64(0), int64(0), false
	var extents []manifest.Extent
	for _, x := range sections {
		if x.Extent.At != at {
			break
		}
		at += int64(x.Extent.Len)
		extents = append(extents, x.Extent)
	}
	err := content.ReadExtents(ctx, s, extents, func(i int, data []byte) error {
		if part.Sum(data) != sections[i].SHA256 {
			return fmt.Errorf("%w: the hash of a manifest section in part %s does not match its index", part.ErrDamaged, extents[i].Part)
		}
		entries += int64(bytes.Count(data, []byte("\n")))
		lines := bytes.Split(bytes.TrimSpace(data), []byte("\n"))
		ended = bytes.Contains(lines[len(lines)-1], []byte(`"path":"`+datadir.ControlPath+`"`))
		return nil
	})
	if err != nil {
		return nil, err
	}
	if n := len(sections); !ended || sections[n-1].Extent.At+int64(sections[n-1].Extent.Len) != at {
		return nil, fmt.Errorf("%w: its own parts do not have all of its content; the rest is in parts of earlier backups, which only %s listed", manifest.ErrDamaged, catalog.ManifestKey(id))
	}
	return manifest.WriteList(id, sections, entries)
}
