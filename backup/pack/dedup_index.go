package pack

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/pgobj/pgobj/backup/content"
	"github.com/pgobj/pgobj/backup/manifest"
	"github.com/pgobj/pgobj/backup/part"
	"github.com/pgobj/pgobj/backup/readback"
	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/storage"
)

const (
	// MinLiveShare: a part of whose content less than one in thin bytes is still referred to is not reused. What
	// it holds is at hand on this host, so storing it again costs no download, and it bounds what dead
	// bytes the repository keeps and a restore reads: no part is kept for less than a quarter.
	MinLiveShare = 4
	// maxPatchedShare: a chunk of which more than one page in patchedMost has been stored apart from the
	// rest is stored whole again, and so is one whose pages lie in more than framesMost frames: each
	// frame is up to 1 MiB to fetch and expand for the sake of some pages.
	maxPatchedShare   = 4
	maxFramesPerChunk = 8
	// extentsMost bounds how many extents the chunks of one line get: with that many, of some 200 bytes each, it is no longer
	// than a section may be. Then chunks of which pages have changed are stored whole.
	extentsMost = 4096
	// MaxKnownChunks bounds the table of content known by its hash, at about 250 bytes each: 16 MB, which covers
	// 64 GB of whole chunks. More content than that is still reused at its own path.
	MaxKnownChunks = 65536
	// indexesMost is how many parts' indexes are kept to compare pages: changed chunks come in the order
	// in which they were stored, so a few do.
	indexesMost = 8
	// adopters read the indexes of parts that a failed run has left: each needs some 10 MB while it does.
	adopters = 4
	// listers look for the parts of so many backups at the same time.
	listers = 16
)

// DedupIndex is what earlier backups offer to this one: the manifest of the last backup, as a stream that is
// merged with the walk; a table of known contents; and the page hashes of the parts that the manifest
// refers to. The zero value offers nothing.
type DedupIndex struct {
	Store storage.Store
	Files *content.Files
	Lines *manifest.Reader
	next  *manifest.File // the line that the merge has come to

	sections     map[part.Hash]Piece // of the manifest
	Seen         *readback.Seen      // of them, those that the merge has read
	Parts        map[string]catalog.Part
	OrphanParts  map[string]catalog.Part // parts that runs without a commit left behind
	damagedFiles map[string]bool         // files with damaged pages: they are read again each time
	Lost         []string                // parts that are not in the storage as they were stored
	Sealed       []string                // parts that cannot be read as they are stored, the first with the reason
	closed       sync.Map                // names of parts of which that was found out later

	mu      sync.Mutex
	Known   map[part.Hash]Piece
	indexes []*pageIndex // newest last
}

// OpenDedupIndex reads what backup b offers; of contents that are known by their hash, so many.
func OpenDedupIndex(ctx context.Context, s storage.Store, b *catalog.Backup, known int) (*DedupIndex, error) {
	p := &DedupIndex{Store: s, Parts: map[string]catalog.Part{}, OrphanParts: map[string]catalog.Part{}, Known: map[part.Hash]Piece{}, damagedFiles: map[string]bool{}, sections: map[part.Hash]Piece{}}
	if b == nil {
		return p, nil
	}
	for _, d := range b.Damaged {
		p.damagedFiles[d.Path] = true
	}
	g, both := errgroup.WithContext(ctx)
	g.Go(func() error { return p.findParts(both, b.Parts) })
	g.Go(func() (err error) {
		p.Files, err = content.FetchManifest(both, s, b)
		return err
	})
	err := g.Wait()
	if err != nil {
		p.Close()
		return nil, err
	}
	for _, x := range p.Files.Sections[:min(len(p.Files.Sections), MaxKnownChunks)] {
		if p.usable([]manifest.Extent{x.Extent}) {
			p.sections[x.SHA256] = stored(x.Extent)
		}
	}
	if err := p.learn(known); err != nil {
		p.Close()
		return nil, err
	}
	sections := make([]readback.Stored, len(p.Files.Sections))
	for i, x := range p.Files.Sections {
		sections[i] = readback.Stored{SHA256: x.SHA256, Lines: p.Files.Lines[i]}
	}
	p.Seen = readback.NewSeen(sections)
	p.Lines, err = p.Files.Read()
	return p, err
}

// findParts offers the parts that are worth keeping, of those that are in the storage as they were stored. A part that
// was lost would otherwise spoil every backup from then on, each of which refers to it and looks complete.
func (p *DedupIndex) findParts(ctx context.Context, parts []catalog.Part) error {
	want := map[string]map[string]int64{} // sizes by the backup that stored them, and name
	for _, x := range parts {
		backup, _, err := part.ParseName(x.Name)
		if err != nil {
			return fmt.Errorf("%w: the last backup's description: %w", manifest.ErrDamaged, err)
		}
		if want[backup] == nil {
			want[backup] = map[string]int64{}
		}
		want[backup][x.Name] = x.Size
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(listers)
	for backup, sizes := range want {
		g.Go(func() error { return p.findPartsOf(ctx, backup, sizes) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for _, x := range parts {
		backup, _, _ := strings.Cut(x.Name, "/")
		if _, lost := want[backup][x.Name]; lost {
			p.Lost = append(p.Lost, x.Name)
		} else if _, sealed := p.closed.Load(x.Name); !sealed && x.Live >= x.Raw/MinLiveShare {
			p.Parts[x.Name] = x
		}
	}
	return nil
}

// findPartsOf takes those parts of one backup out of sizes that are in the storage as they were stored, and notes which
// cannot be read. What has been archived a listing tells. That a key cannot be used shows only when something is read: one
// part speaks for all that the backup has stored, as they have one key.
func (p *DedupIndex) findPartsOf(ctx context.Context, backup string, sizes map[string]int64) error {
	var found []part.Stored
	for x, err := range part.List(ctx, p.Store, backup) {
		if err != nil {
			return err
		}
		if size, ok := sizes[x.Name]; !ok || size != x.Size {
			continue
		}
		delete(sizes, x.Name)
		if x.Class != "" {
			p.seal(x.Name, "it is in storage class "+x.Class)
		} else {
			found = append(found, x)
		}
	}
	if len(found) == 0 {
		return nil
	}
	err := part.Probe(ctx, p.Store, found[0].Name, found[0].Size)
	if errors.Is(err, storage.ErrUnreadable) {
		for _, x := range found {
			p.seal(x.Name, err.Error())
		}
		return nil
	}
	if errors.Is(err, storage.ErrNotFound) || errors.Is(err, part.ErrDamaged) { // that is for others to tell
		return nil
	}
	return err
}

// seal notes that a part cannot be read, and reports whether that is new.
func (p *DedupIndex) seal(name, why string) bool {
	if _, known := p.closed.LoadOrStore(name, why); known {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.Sealed) == 0 {
		name += " (" + why + ")"
	}
	p.Sealed = append(p.Sealed, name)
	return true
}

func (p *DedupIndex) Close() {
	if p.Files != nil {
		p.Files.Close()
	}
}

// learn reads the manifest once for the contents that it knows, up to a number of them.
func (p *DedupIndex) learn(most int) error {
	for f, err := range p.Files.All() {
		if err != nil || len(p.Known) >= most {
			return err
		}
		for _, c := range f.Chunks {
			if len(c.Extents) == 1 && c.SHA256 != (part.Hash{}) && p.usable(c.Extents) {
				p.Known[c.SHA256] = stored(c.Extents[0])
			}
		}
	}
	return nil
}

// seek finds the line of a path from offset at in the previous manifest; nil when there is none. The calls
// come in the order of the manifest.
func (p *DedupIndex) seek(path string, at int64) (*manifest.File, error) {
	for p.Lines != nil {
		if p.next == nil {
			f, err := p.Lines.Next()
			if err == io.EOF || err == nil && slices.Contains(manifest.Tail, f.RawPath()) {
				p.Lines = nil
				return nil, nil
			}
			if err != nil {
				return nil, err
			}
			p.Seen.Line(f)
			p.next = f
		}
		switch c := cmp.Or(cmp.Compare(p.next.RawPath(), path), cmp.Compare(p.next.At, at)); {
		case c == 0:
			f := p.next
			p.next = nil
			return f, nil
		case c > 0:
			return nil, nil
		}
		p.next = nil
	}
	return nil, nil
}

// usable says whether all of the extents are in parts that are worth keeping.
func (p *DedupIndex) usable(extents []manifest.Extent) bool {
	for _, x := range extents {
		if _, sealed := p.closed.Load(x.Part); sealed {
			return false
		}
		if _, ok := p.Part(x.Part); !ok {
			return false
		}
	}
	return len(extents) > 0
}

// Part is a part that another run has stored, and that is worth keeping.
func (p *DedupIndex) Part(name string) (catalog.Part, bool) {
	x, ok := p.Parts[name]
	if !ok {
		x, ok = p.OrphanParts[name]
	}
	return x, ok
}

// lookup finds content of n bytes by its hash.
func (p *DedupIndex) lookup(sum part.Hash, n int) (Piece, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	k, ok := p.Known[sum]
	return k, ok && k.len == n
}

// remember makes content known to those that come after it; false when there is no room for it.
func (p *DedupIndex) remember(sum part.Hash, k Piece) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	room := len(p.Known) < MaxKnownChunks
	if room {
		p.Known[sum] = k
	}
	return room
}

// room says whether there is any in the table of known contents.
func (p *DedupIndex) room() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.Known) < MaxKnownChunks
}

// Reclaim makes known what the parts hold that a run without a commit has left behind, as far as there is room for it, and
// returns how many bytes that is. A part whose index cannot be read is passed over: its run may have been killed or the
// part be gone.
func (p *DedupIndex) Reclaim(ctx context.Context, backup string) (int64, error) {
	var bytes atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(adopters)
	for x, err := range part.List(ctx, p.Store, backup) {
		if err != nil {
			return 0, errors.Join(g.Wait(), err)
		}
		if !p.room() {
			break
		}
		g.Go(func() error {
			if lines, sum, err := part.ReadIndex(ctx, p.Store, x.Name, x.Size, part.Hash{}); err == nil {
				bytes.Add(p.adoptPart(catalog.Part{Name: x.Name, Size: x.Size, Index: sum.String()}, lines))
			}
			return nil
		})
	}
	err := g.Wait()
	return bytes.Load(), err
}

// adoptPart makes known what one part holds.
func (p *DedupIndex) adoptPart(spare catalog.Part, lines []part.IndexLine) (bytes int64) {
	for _, l := range lines {
		frame := &part.Frame{Part: spare.Name, Off: l.Off, Size: l.Size, SHA256: l.SHA256}
		for _, m := range l.Members {
			spare.Raw += int64(m.Len)
			if p.remember(m.SHA256, Piece{frame, m.Skip, m.Len}) {
				bytes += int64(m.Len)
			}
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.OrphanParts[spare.Name] = spare
	return bytes
}

// pageIndex has the page hashes of one part.
type pageIndex struct {
	name  string
	once  sync.Once
	lines []part.IndexLine
	err   error
}

// Hashes returns the page hashes of the content that x refers to; nil when the part keeps none of it.
func (p *DedupIndex) Hashes(ctx context.Context, x manifest.Extent) (part.PageHashes, error) {
	i := p.index(x.Part)
	i.once.Do(func() {
		about := p.Parts[x.Part]
		var want part.Hash
		if i.err = want.UnmarshalText([]byte(about.Index)); i.err == nil {
			i.lines, _, i.err = part.ReadIndex(ctx, p.Store, x.Part, about.Size, want)
		}
	})
	if i.err != nil {
		return nil, i.err
	}
	n, ok := slices.BinarySearchFunc(i.lines, x.Off, func(l part.IndexLine, off int64) int { return cmp.Compare(l.Off, off) })
	if !ok {
		return nil, fmt.Errorf("%w: part %s has no frame at %d", part.ErrDamaged, x.Part, x.Off)
	}
	for _, m := range i.lines[n].Members {
		off := x.Skip - m.Skip
		if off < 0 || off >= m.Len {
			continue
		}
		first, count := off/part.PageSize, x.Len/part.PageSize
		if off%part.PageSize != 0 || x.Len%part.PageSize != 0 || first+count > len(m.Pages) {
			return nil, nil
		}
		return m.Pages[first : first+count], nil
	}
	return nil, nil
}

func (p *DedupIndex) index(name string) *pageIndex {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := slices.IndexFunc(p.indexes, func(i *pageIndex) bool { return i.name == name })
	i := &pageIndex{name: name}
	if n >= 0 {
		i = p.indexes[n]
		p.indexes = slices.Delete(p.indexes, n, n+1)
	} else if len(p.indexes) >= indexesMost {
		p.indexes = slices.Delete(p.indexes, 0, 1)
	}
	p.indexes = append(p.indexes, i)
	return i
}
