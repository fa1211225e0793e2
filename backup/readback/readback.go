// Package readback reads the manifest of a backup that is about to be committed, as a restore will read it, and compares it
// with what the backup meant. It owns what is remembered for that while the backup runs, and the comparison. It refuses the
// storage: whoever calls it brings the sections as they are stored.
//
// A section that the last backup has, too, and all lines of which were read in this run when the two were merged, is not
// decoded a second time: its bytes have the same hash. So a backup of a database that has not changed costs no second
// reading of its manifest. Of such a section only the order at its borders is checked.
package readback

import (
	"errors"
	"fmt"
	"slices"

	"github.com/pgobj/pgobj/backup/manifest"
	"github.com/pgobj/pgobj/backup/part"
)

// ErrRefused is the cause of every error that says that a finished backup is not what was meant, so that it must not be
// committed.
var ErrRefused = errors.New("the finished backup is not what was read from the server")

// Check holds the sections of one manifest, which come in order, against what was meant.
type Check struct {
	meant  *Meant
	frames *Frames
	lines  *manifest.Reader
	next   int // number of the next section
}

// NewCheck begins with the first section of a backup's manifest. entries is what its list says. The manifest's
// sections have to be as many as were meant.
func NewCheck(backup string, sections int, entries int64, meant *Meant, frames *Frames) (*Check, error) {
	if sections != len(meant.sections) || entries != meant.lines {
		return nil, refused("its manifest has %d entries in %d sections, expected were %d in %d", entries, sections, meant.lines, len(meant.sections))
	}
	if end := manifest.Tail[len(manifest.Tail)-1]; meant.first != manifest.Root || meant.last != end {
		return nil, refused("its names go from %q to %q instead of from %s to %s", meant.first, meant.last, manifest.Root, end)
	}
	if missing := meant.missing(); len(missing) > 0 {
		return nil, refused("it does not have %q", missing)
	}
	return &Check{meant: meant, frames: frames, lines: manifest.NewReader(nil, backup, entries)}, nil
}

// Section checks the next section by its lines.
func (c *Check) Section(data []byte) error {
	var got sum
	err := c.lines.Section(data, func(f *manifest.File) error {
		got.add(f)
		for _, chunk := range f.Chunks {
			for _, x := range chunk.Extents {
				if err := c.frames.hold(x); err != nil {
					return fmt.Errorf("%q: %w", f.RawPath(), err)
				}
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if want := c.meant.sections[c.next]; got != want {
		return refused("section %d of its manifest has unexpected lines", c.next+1)
	}
	c.next++
	return nil
}

// Known passes over the next section, which was read in this run as one of the last backup.
func (c *Check) Known(e Edges) error {
	if want := c.meant.sections[c.next]; e.lines != want.lines {
		return refused("section %d of its manifest has %d lines instead of %d", c.next+1, e.lines, want.lines)
	}
	c.next++
	return c.lines.Pass(e.first, e.last, e.lines)
}

// End is called when all sections have come.
func (c *Check) End() error {
	if c.next != len(c.meant.sections) {
		return refused("%d sections of its manifest were read instead of %d", c.next, len(c.meant.sections))
	}
	return c.lines.End()
}

func refused(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrRefused, fmt.Sprintf(format, args...))
}

// Meant is what the manifest should say. Lines are added as the backup hands them to the manifest's writer, and
// sections as that makes them.
type Meant struct {
	Files, Bytes int64 // that the lines list

	lines       int64
	first, last string
	pending     []sum // of the lines that are in no section yet
	sections    []sum
	required    map[string]bool // false: it has not come yet
}

// Require names files, by their paths in the data directory, without which the backup cannot be restored.
func (m *Meant) Require(paths ...string) {
	if m.required == nil {
		m.required = map[string]bool{}
	}
	for _, p := range paths {
		if _, known := m.required[p]; !known {
			m.required[p] = false
		}
	}
}

// Line adds a line, before it is given to the manifest's writer.
func (m *Meant) Line(f *manifest.File) {
	var s sum
	s.add(f)
	m.pending = append(m.pending, s)
	m.last = f.RawPath()
	if m.lines++; m.lines == 1 {
		m.first = m.last
	}
	if f.Type == manifest.TypeFile && f.At == 0 {
		m.Files++
		m.Bytes += f.Size
	}
	if _, ok := m.required[m.last]; ok && f.Type == manifest.TypeFile {
		m.required[m.last] = true
	}
}

// Section says that the next n lines make a section.
func (m *Meant) Section(n int) {
	var s sum
	for _, line := range m.pending[:n] {
		s.join(line)
	}
	m.sections = append(m.sections, s)
	m.pending = append(m.pending[:0], m.pending[n:]...)
}

func (m *Meant) missing() (paths []string) {
	for p, there := range m.required {
		if !there {
			paths = append(paths, p)
		}
	}
	slices.Sort(paths)
	return paths
}

// Seen finds out which sections of the last backup's manifest are read to their ends in this run.
type Seen struct {
	sections []Stored
	next     int // the section that is being read
	read     int // lines of it
	first    manifest.Place
	edges    map[part.Hash]Edges
}

// Stored is a section as it is fetched: its hash and the number of its lines.
type Stored struct {
	SHA256 part.Hash
	Lines  int
}

// Edges are the first and the last line of a section.
type Edges struct {
	first, last manifest.Place
	lines       int
}

// NewSeen begins before the first line of these sections.
func NewSeen(sections []Stored) *Seen {
	return &Seen{sections: sections, edges: map[part.Hash]Edges{}}
}

// Line is called with each line that is read, in order.
func (s *Seen) Line(f *manifest.File) {
	if s.next == len(s.sections) {
		return
	}
	if s.read == 0 {
		s.first = f.Place()
	}
	if s.read++; s.read == s.sections[s.next].Lines {
		s.edges[s.sections[s.next].SHA256] = Edges{s.first, f.Place(), s.read}
		s.next, s.read = s.next+1, 0
	}
}

// Edges are those of a section all lines of which were read.
func (s *Seen) Edges(sum part.Hash) (Edges, bool) {
	if s == nil {
		return Edges{}, false
	}
	e, ok := s.edges[sum]
	return e, ok
}
