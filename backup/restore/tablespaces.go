package restore

import (
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/pgobj/pgobj/backup/datadir"
	"github.com/pgobj/pgobj/catalog"
)

// warnTablespaces speaks of tablespaces that were made after the backup: recovery makes them where they were made first,
// whatever is mapped. It is no more than a warning, as nobody knows here whether recovery comes that far, and whether
// they are on its timeline at all; wal-fetch does.
func (p *Plan) warnTablespaces() (warned bool) {
	for _, m := range p.target.Left {
		p.warn("%s, in %s, was made after the backup: what is in it is removed, and recovery makes it there again if it comes that far", m.Name, m.Location)
	}
	if p.Recovery.TargetImmediate || p.Backup.Offline() && len(p.Path) == 0 {
		return false
	}
	warn := func(whose, dir string) {
		for _, location := range newTablespaces(dir, p.Backup) {
			what := "If recovery reaches its creation, it stops there as long as that directory has files"
			if !p.Recovery.OwnCommand {
				what = "If recovery reaches its creation, PostgreSQL overwrites the files in that directory, unless restore_command has wal-fetch's --new-tablespaces=free"
			}
			warned = true
			p.warn("%s has a tablespace in %s that the backup does not have. %s: restore a newer backup (pgobj backup-push takes one), or recover to a point before that", whose, location, what)
		}
	}
	if p.target.Delta && p.target.Left == nil {
		warn("what is in "+p.target.Dir, p.target.Dir)
	}
	servers, _ := datadir.Servers() // no /proc: wal-fetch has to do
	for _, dir := range servers {
		if c, _, err := datadir.ReadControl(dir); err == nil && c.SystemID == p.Backup.SystemID && dir != p.target.Dir {
			warn("the server that runs in "+dir, dir)
		}
	}
	return warned
}

// newTablespaces are the locations of a data directory's tablespaces that a backup does not have.
func newTablespaces(dir string, b *catalog.Backup) (locations []string) {
	names, _ := datadir.ReadDir(filepath.Join(dir, "pg_tblspc")) // what cannot be read is no tablespace of ours
	for _, name := range names {
		location, err := os.Readlink(filepath.Join(dir, "pg_tblspc", name))
		if err == nil && path.IsAbs(location) && !slices.ContainsFunc(b.Tablespaces, func(ts catalog.Tablespace) bool { return strconv.FormatUint(uint64(ts.OID), 10) == name }) {
			locations = append(locations, location)
		}
	}
	return locations
}
