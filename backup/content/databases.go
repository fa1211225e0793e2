package content

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/pgobj/pgobj/backup"
	"github.com/pgobj/pgobj/backup/datadir"
	"github.com/pgobj/pgobj/catalog"
)

// firstNormalOID: databases with lower ones are made by initdb: the templates, and postgres (FirstNormalObjectId).
const firstNormalOID = 16384

// Databases are those that a restore brings back when it is not all of them; nil: it is. Of the others it makes
// files of zeros that take no room. Recovery needs their files to be there, and replays their WAL onto them.
type Databases struct {
	keep   map[uint32]bool
	Others []string // names of those that are left out, as far as they are known
}

// OnlyDatabases resolves what was asked for: names, or OIDs.
func OnlyDatabases(b *catalog.Backup, wanted []string) (*Databases, error) {
	if len(wanted) == 0 {
		return nil, nil
	}
	d := &Databases{keep: map[uint32]bool{}}
	for _, name := range wanted {
		i := slices.IndexFunc(b.Databases, func(db catalog.Database) bool { return db.Name == name })
		if i >= 0 {
			d.keep[b.Databases[i].OID] = true
			continue
		}
		oid, err := strconv.ParseUint(name, 10, 32)
		known := len(b.Databases) == 0 || slices.ContainsFunc(b.Databases, func(db catalog.Database) bool { return uint64(db.OID) == oid })
		switch {
		case err == nil && known:
			d.keep[uint32(oid)] = true
		case len(b.Databases) == 0:
			return nil, fmt.Errorf("%w: --only-database %s: backup %s does not list the names of its databases: give the OID, which is the name of the directory in base/", backup.ErrRequest, name, b.ID)
		default:
			var names []string
			for _, db := range b.Databases {
				names = append(names, db.Name)
			}
			return nil, fmt.Errorf("%w: --only-database %s: backup %s has no such database (it has %s)", backup.ErrRequest, name, b.ID, strings.Join(names, ", "))
		}
	}
	for _, db := range b.Databases {
		if db.Template || db.Name == "postgres" { // what new ones are made from, and where everybody connects
			d.keep[db.OID] = true
		}
		if db.OID >= firstNormalOID && !d.keep[db.OID] {
			d.Others = append(d.Others, db.Name)
		}
	}
	return d, nil
}

// LeavesOut says whether a file gets no content: one of another database, but for the file that shows the server
// that the directory is a database.
func (d *Databases) LeavesOut(p string) bool {
	if d == nil || path.Base(p) == "PG_VERSION" {
		return false
	}
	oid, ok := datadir.DatabaseOf(p)
	return ok && oid >= firstNormalOID && !d.keep[oid]
}

func QuoteIdents(names []string) string {
	var quoted []string
	for _, n := range names {
		quoted = append(quoted, `"`+strings.ReplaceAll(n, `"`, `""`)+`"`)
	}
	return strings.Join(quoted, "; DROP DATABASE ")
}
