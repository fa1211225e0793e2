package pack

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/pgobj/pgobj/backup"
	"github.com/pgobj/pgobj/backup/datadir"
	"github.com/pgobj/pgobj/backup/manifest"
	"github.com/pgobj/pgobj/backup/part"
	"github.com/pgobj/pgobj/backup/readback"
	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/walstore/segment"
)

// ManifestBuilder writes the lines of the manifest and, beside it, PostgreSQL's own backup_manifest. Sections of the
// manifest go into parts, unless they are in some already; backup_manifest goes to a spool file without a
// name: so memory does not grow with the number of files.
type ManifestBuilder struct {
	prev     *DedupIndex
	parts    *part.Writer
	lines    *manifest.Writer
	size     int64 // of the manifest so far
	entries  int64
	sums     []part.Hash // of the sections
	sections []Piece
	extents  []manifest.Extent // of the sections, in the end

	NativeSpool *os.File
	Native      *datadir.ManifestWriter // nil before PostgreSQL 13
	crc         uint32                  // of the file whose lines are coming
	unread      bool                    // it has chunks without a checksum
	meant       *readback.Meant
}

// NewManifestBuilder is for a server of a major version with a system identifier. w is the writer that sections go through; meant
// is told every line.
func NewManifestBuilder(prev *DedupIndex, w *part.Writer, meant *readback.Meant, major int, systemID uint64) (*ManifestBuilder, error) {
	l := &ManifestBuilder{prev: prev, parts: w, meant: meant}
	l.lines = manifest.NewWriter(l.keep)
	var err error
	if l.NativeSpool, err = manifest.TempFile(); err != nil {
		return nil, err
	}
	switch {
	case major >= 17:
		l.Native = datadir.NewManifestWriter(l.NativeSpool, 2, systemID)
	case major >= 13:
		l.Native = datadir.NewManifestWriter(l.NativeSpool, 1, systemID)
	}
	return l, nil
}

func (l *ManifestBuilder) Close() { l.NativeSpool.Close() }

// keep stores a section of the manifest, or finds it stored already.
func (l *ManifestBuilder) keep(section []byte, lines int) error {
	l.meant.Section(lines)
	sum := part.Sum(section)
	x, ok := l.prev.sections[sum]
	if !ok {
		frame, skip, err := l.parts.Add(part.Content{Path: manifest.SectionPath, At: l.size, Data: section, SHA256: sum, CRC32C: part.Checksum(section), Mode: 0o600})
		if err != nil {
			return err
		}
		x = Piece{Frame: frame, skip: skip, len: len(section)}
	}
	l.size += int64(len(section))
	l.sums, l.sections = append(l.sums, sum), append(l.sections, x)
	return nil
}

// End completes the manifest; the list of its sections is stored by store.
func (l *ManifestBuilder) End(u *uploader) (err error) {
	if l.entries, err = l.lines.Close(); err != nil {
		return err
	}
	if err := l.parts.Close(); err != nil {
		return err
	}
	if l.extents, err = resolve(context.Background(), l.sections, 0); err != nil { // all frames are sealed
		return err
	}
	u.Refer(l.extents)
	return nil
}

// Add writes one line.
func (l *ManifestBuilder) Add(f *manifest.File) error {
	l.meant.Line(f)
	if err := l.lines.Add(f); err != nil {
		return fmt.Errorf("write the manifest: %w", err)
	}
	if f.Type != manifest.TypeFile {
		return nil
	}
	if f.At == 0 {
		l.crc, l.unread = 0, false
	}
	at := f.At
	for _, c := range f.Chunks {
		n := min(part.ChunkSize, f.Size-at)
		l.crc = part.CombineCRC(l.crc, uint32(c.CRC32C), n)
		l.unread = l.unread || c.SHA256 == part.Hash{}
		at += n
	}
	path := f.RawPath()
	if l.Native == nil || at < f.Size || path == "backup_manifest" || path == datadir.ControlPath || strings.HasPrefix(path, "pg_wal/") {
		return nil // pg_control is in it already: see endNative; WAL is never listed
	}
	if l.unread {
		return l.Native.FileWithoutChecksum(path, f.Size, f.Mtime)
	}
	return l.Native.File(path, f.Size, f.Mtime, l.crc)
}

// EndNative completes backup_manifest and returns its size. pg_control is in it before it is added as a
// file, as it is the last file of all. The WAL that the backup needs is that of one timeline from start to stop.
func (l *ManifestBuilder) EndNative(now time.Time, control []byte, tli segment.Timeline, start, stop segment.LSN) (int64, error) {
	if err := l.Native.File(datadir.ControlPath, int64(len(control)), now, part.Checksum(control)); err != nil {
		return 0, err
	}
	if err := l.Native.WALRange(tli, start, stop); err != nil {
		return 0, err
	}
	if err := l.Native.Close(); err != nil {
		return 0, fmt.Errorf("write backup_manifest: %w", err)
	}
	return l.NativeSpool.Seek(0, io.SeekCurrent)
}

// Store puts the list of sections into the repository: from then on there is a manifest.
func (l *ManifestBuilder) Store(ctx context.Context, s storage.Store, backup string, progress *backup.Progress) (catalog.Object, error) {
	sections := make([]manifest.Section, len(l.extents))
	for i, x := range l.extents {
		sections[i] = manifest.Section{SHA256: l.sums[i], Extent: x}
	}
	data, err := manifest.WriteList(backup, sections, l.entries)
	if err != nil {
		return catalog.Object{}, fmt.Errorf("write the manifest: %w", err)
	}
	if err := storage.PutOwn(ctx, s, catalog.ManifestKey(backup), bytes.NewReader(data), int64(len(data))); err != nil {
		return catalog.Object{}, fmt.Errorf("store the manifest: %w", err)
	}
	progress.Stored.Add(int64(len(data)))
	return catalog.Object{Size: int64(len(data)), SHA256: part.Sum(data).String()}, nil
}
