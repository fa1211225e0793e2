package pack

import (
	"time"

	"github.com/pgobj/pgobj/backup/datadir"
	"github.com/pgobj/pgobj/backup/manifest"
)

// settled is how old a file's ctime has to be when it is read, so that a later change is sure to show in
// it: the clocks of file systems tick in steps of up to two seconds.
const settled = 2 * time.Second

// Describe turns a directory entry into a manifest line.
func Describe(e datadir.Entry, now time.Time) manifest.File {
	f := manifest.File{Mode: manifest.Mode(e.Mode.Perm()), UID: e.UID, GID: e.GID, Mtime: Dated(e.Mtime)}
	f.SetLink(e.Link)
	switch e.Type {
	case datadir.TypeDir:
		f.Type = manifest.TypeDir
	case datadir.TypeFile:
		f.Type, f.Size = manifest.TypeFile, e.Size
		f.Ctime, f.Ino, f.Dev = Dated(e.Ctime), e.Ino, e.Dev
		f.Hot = now.Sub(e.Ctime) < settled
	default:
		f.Type, f.Mode = manifest.TypeLink, 0
	}
	return f
}

// Dated is a time as the manifest can have it: RFC 3339 has no year of five digits, as a file may. The zero time stands for
// those, and means nothing to a restore.
func Dated(t time.Time) time.Time {
	if t = t.UTC(); t.Year() < 1 || t.Year() > 9999 {
		return time.Time{}
	}
	return t
}
