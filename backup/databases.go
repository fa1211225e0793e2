package backup

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/pgobj/pgobj/backup/cluster"
	"github.com/pgobj/pgobj/catalog"
)

// firstNormalOID: databases with lower ones are made by initdb: the templates, and postgres (FirstNormalObjectId).
const firstNormalOID = 16384

// databases are those that a restore brings back when it is not all of them; nil: it is. Of the others it makes
// files of zeros that take no room. Recovery needs their files to be there, and replays their WAL onto them.
type databases struct {
	keep   map[uint32]bool
	others []string // names of those that are left out, as far as they are known
}

// onlyDatabases resolves what was asked for: names, or OIDs.
func onlyDatabases(b *catalog.Backup, wanted []string) (*databases, error) {
	if len(wanted) == 0 {
		return nil, nil
	}
	d := &databases{keep: map[uint32]bool{}}
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
			return nil, fmt.Errorf("%w: --only-database %s: backup %s does not tell the names of its databases: give the OID, the name of its folder in base/", ErrRequest, name, b.ID)
		default:
			var names []string
			for _, db := range b.Databases {
				names = append(names, db.Name)
			}
			return nil, fmt.Errorf("%w: --only-database %s: backup %s has no such database (it has %s)", ErrRequest, name, b.ID, strings.Join(names, ", "))
		}
	}
	for _, db := range b.Databases {
		if db.Template || db.Name == "postgres" { // what new ones are made from, and where everybody connects
			d.keep[db.OID] = true
		}
		if db.OID >= firstNormalOID && !d.keep[db.OID] {
			d.others = append(d.others, db.Name)
		}
	}
	return d, nil
}

// leavesOut says whether a file gets no content: one of another database, but for the file that shows the server
// that the folder is a database.
func (d *databases) leavesOut(p string) bool {
	if d == nil || path.Base(p) == "PG_VERSION" {
		return false
	}
	oid, ok := cluster.DatabaseOf(p)
	return ok && oid >= firstNormalOID && !d.keep[oid]
}

// warnDatabases says what a restore of some databases leaves to do.
func (p *Plan) warnDatabases() {
	d := p.only
	if d == nil {
		return
	}
	if len(d.others) > 0 {
		p.warn("nobody can connect to the databases that are left out. When the recovery is over, drop them: DROP DATABASE %s", quoteIdents(d.others))
	}
	p.warn("with --only-database pg_verifybackup finds the files that are left out to be wrong, and a backup of this server would keep what is in them: nothing")
	switch {
	case p.Backup.Offline():
	case p.Backup.PGVersion < 130000:
		p.warn("if the recovery ends with \"WAL contains references to invalid pages\", VACUUM has been at work in a database that is left out: restore all of them")
	default:
		p.warn("ignore_invalid_pages is on, so that recovery gets over the databases that are left out; when it is over: ALTER SYSTEM RESET ignore_invalid_pages, and restart the server")
	}
}

// warnSubscriptions says what becomes of the original's subscriptions, which it would lose changes to.
func (p *Plan) warnSubscriptions() {
	var names []string
	for _, s := range p.Backup.Subscriptions {
		names = append(names, fmt.Sprintf("%q in database %q", s.Name, s.Database))
	}
	what, r := strings.Join(names, ", "), p.Recovery
	switch {
	case len(names) == 0 || r.Standby:
	case r.KeepArchiving:
		p.warn("subscriptions run in the copy as soon as it is open (--keep-archiving), and take the changes from the original's replication slots: %s. Make sure that the original never runs again, or set max_logical_replication_workers = 0 before the start", what)
	default:
		p.warn("subscriptions do not run in the copy (max_logical_replication_workers = 0), because they would take changes away from the original: %s. Before any is to run there: ALTER SUBSCRIPTION … DISABLE, then SET (slot_name = NONE), then DROP SUBSCRIPTION, for each of these", what)
	}
}

func quoteIdents(names []string) string {
	var quoted []string
	for _, n := range names {
		quoted = append(quoted, `"`+strings.ReplaceAll(n, `"`, `""`)+`"`)
	}
	return strings.Join(quoted, "; DROP DATABASE ")
}
