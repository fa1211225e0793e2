package spool

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/cespare/xxhash/v2"
)

// Markers say which files of a pg_wal are in the archive already. A marker is believed only for the scope it
// was written in (repository, server, system identifier), for a file of the same name, inode, device, size,
// mtime and ctime, and when what the file holds now has the hash of what was archived.
type Markers struct {
	dir, scope string
	now        func() time.Time
}

// markerLife is how long a marker is believed: PostgreSQL asks for the file within seconds, and an archive
// that was emptied or replaced meanwhile must not be taken for the old one for long.
const markerLife = time.Hour

const markerPrefix = "pushed-"

// NewMarkers are those of a scope in a directory, which need not exist yet.
func NewMarkers(dir, scope string) *Markers { return &Markers{dir, scope, time.Now} }

// Archived is what is known of a file that was archived.
type Archived struct {
	Identity
	SHA256 string `json:"sha256"` // of the content
	XXHash uint64 `json:"xxhash"` // of the content, to be compared again in a few milliseconds
	// Warnings are for people, who can be told when PostgreSQL asks.
	Warnings []string `json:"warnings,omitempty"`
}

type marker struct {
	Scope string    `json:"scope"`
	Name  string    `json:"name"`
	Time  time.Time `json:"time"`
	Archived
}

func (m *Markers) path(name string) string {
	return filepath.Join(m.dir, markerPrefix+m.scope+"-"+name)
}

// Add marks a file as archived. It is called only after the archive has acknowledged it. It makes no directory: the data
// directory may have been removed meanwhile, and must not come back.
func (m *Markers) Add(name string, a Archived) error {
	if err := seal(m.path(name), marker{m.scope, name, m.now().UTC(), a}); err != nil {
		return fmt.Errorf("mark %s as archived: %w", name, err)
	}
	return nil
}

// read returns the marker of a name if it can be believed as far as that can be told without the file.
func (m *Markers) read(name string) (marker, bool) {
	var k marker
	if !unseal(m.path(name), &k) || k.Scope != m.scope || k.Name != name {
		return marker{}, false
	}
	age := m.now().Sub(k.Time)
	return k, age > -time.Minute && age < markerLife
}

// Likely says whether there is a marker for the file as it is, without reading the file.
func (m *Markers) Likely(path string) bool {
	k, ok := m.read(filepath.Base(path))
	if !ok {
		return false
	}
	info, err := os.Lstat(path)
	if err != nil {
		return false
	}
	id, ok := IdentityOf(info)
	return ok && id == k.Identity
}

// Find returns what is known of the file if it is archived: there is a marker for it as it is, and its content, which
// is read again, has the marker's hash.
func (m *Markers) Find(path string) (Archived, bool) {
	k, ok := m.read(filepath.Base(path))
	if !ok {
		return Archived{}, false
	}
	f, err := os.Open(path)
	if err != nil {
		return Archived{}, false
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return Archived{}, false
	}
	if id, ok := IdentityOf(info); !ok || id != k.Identity || !info.Mode().IsRegular() {
		return Archived{}, false
	}
	sum := xxhash.New()
	n, err := io.CopyBuffer(sum, struct{ io.Reader }{f}, make([]byte, 256<<10))
	return k.Archived, err == nil && n == k.Size && sum.Sum64() == k.XXHash
}

// Tidy removes the markers of this scope that keep says nobody will ask for, and everybody's that are too
// old to be believed; and windows of recoveries that are over.
func (m *Markers) Tidy(keep func(name string) bool) {
	entries, err := os.ReadDir(m.dir)
	if err != nil {
		return // nothing is there
	}
	Sweep(m.dir)
	for _, e := range entries {
		old := false
		if info, err := e.Info(); err == nil {
			age := m.now().Sub(info.ModTime())
			old = age > markerLife && !strings.HasPrefix(e.Name(), admittedPrefix) || age > AdmittedLife
		}
		name, ours := strings.CutPrefix(e.Name(), markerPrefix+m.scope+"-")
		spoolFile := strings.HasPrefix(e.Name(), markerPrefix) || strings.HasPrefix(e.Name(), pushingPrefix) ||
			strings.HasPrefix(e.Name(), admittedPrefix) || strings.HasPrefix(e.Name(), ".new-")
		if spoolFile && old || ours && !keep(name) {
			os.Remove(filepath.Join(m.dir, e.Name()))
		}
	}
}
