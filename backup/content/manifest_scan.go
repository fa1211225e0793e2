package content

import (
	"path"
	"strings"

	"github.com/pgobj/pgobj/backup/datadir"
	"github.com/pgobj/pgobj/backup/manifest"
)

// SpaceOf is the OID of a tablespace's link in a manifest.
func SpaceOf(f *manifest.File) (oid uint32, ok bool) {
	p := f.RawPath()
	if f.Type != manifest.TypeLink || path.Dir(p) != "pg_tblspc" {
		return 0, false
	}
	return datadir.SpaceOID(path.Base(p))
}

// ManifestScan is what a first reading of the manifest tells. That it can be read to its end at all also shows, before
// anything is written, that every line of it makes sense.
type ManifestScan struct {
	Bytes   map[string]int64  // by tablespace (pg_tblspc/OID), by what was behind a link, and pg_wal
	LeftOut int64             // bytes of files that are made empty
	Links   map[string]Linked // what was behind a link in the original
	Entries map[string]bool   // at the top of the data directory
	Files   map[string]bool   // of these, the files
	Spaces  map[uint32]string // where tablespaces were, by OID
	Stray   []string          // links in pg_tblspc that PostgreSQL has not made
	Confs   []*manifest.File  // files with settings
	Control *manifest.File    // pg_control
}

// Linked is where a link of the original led.
type Linked struct {
	To   string
	File bool
}

const (
	maxConfSize  = 1 << 20
	maxConfFiles = 100
)

// Scan reads all lines; of databases that are not restored only the size counts.
func (m *Files) Scan(only *Databases) (*ManifestScan, error) {
	s := &ManifestScan{Bytes: map[string]int64{}, Links: map[string]Linked{}, Entries: map[string]bool{}, Files: map[string]bool{}, Spaces: map[uint32]string{}}
	for f, err := range m.All() {
		if err != nil {
			return nil, err
		}
		if f.Type == manifest.TypeFile && only.LeavesOut(f.RawPath()) {
			if f.At == 0 {
				s.LeftOut += f.Size
			}
			continue
		}
		s.Add(f)
	}
	return s, nil
}

func (s *ManifestScan) Add(f *manifest.File) {
	p := f.RawPath()
	if oid, ok := SpaceOf(f); ok {
		s.Spaces[oid] = f.RawLink()
	} else if f.Type == manifest.TypeLink && path.Dir(p) == "pg_tblspc" {
		s.Stray = append(s.Stray, p)
	}
	switch {
	case p == manifest.Root:
		return
	case f.Type != manifest.TypeLink && f.RawLink() != "":
		s.Links[p] = Linked{f.RawLink(), f.Type == manifest.TypeFile}
		s.Bytes[p] = 0
	case path.Dir(p) == "pg_tblspc", p == "pg_wal":
		s.Bytes[p] = 0
	}
	if !strings.Contains(p, "/") {
		s.Entries[p] = true
		s.Files[p] = f.Type == manifest.TypeFile
	}
	if f.Type != manifest.TypeFile || f.At > 0 {
		return
	}
	for at := p; at != "."; at = path.Dir(at) {
		if _, apart := s.Bytes[at]; apart {
			s.Bytes[at] += f.Size
			break
		}
	}
	if p == datadir.ControlPath {
		s.Control = f
	}
	if strings.HasSuffix(p, ".conf") && !datadir.IsAccess(p) && strings.Count(p, "/") <= 2 && f.Size <= maxConfSize && len(s.Confs) < maxConfFiles {
		s.Confs = append(s.Confs, f)
	}
}
