package restore

import (
	"fmt"
	"strings"

	"github.com/pgobj/pgobj/backup/content"
)

// warnDatabases says what a restore of some databases leaves to do.
func (p *Plan) warnDatabases() {
	d := p.only
	if d == nil {
		return
	}
	if len(d.Others) > 0 {
		p.warn("nobody can connect to the databases that are left out. Drop them after the recovery: DROP DATABASE %s", content.QuoteIdents(d.Others))
	}
	p.warn("with --only-database, pg_verifybackup reports the files that are left out as wrong, and a backup of this server would store them empty")
	switch {
	case p.Backup.Offline():
	case p.Backup.PGVersion < 130000:
		p.warn("if the recovery ends with \"WAL contains references to invalid pages\", VACUUM ran in a database that is left out: restore all databases")
	default:
		p.warn("ignore_invalid_pages is on, so that recovery does not stop at the databases that are left out. After the recovery: ALTER SYSTEM RESET ignore_invalid_pages, and restart the server")
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
		p.warn("subscriptions run in the copy as soon as it is open (--keep-archiving), and consume the changes of the original's replication slots: %s. Make sure that the original never runs again, or set max_logical_replication_workers = 0 before the start", what)
	default:
		p.warn("subscriptions do not run in the copy (max_logical_replication_workers = 0), because they would take changes away from the original: %s. Before you enable subscriptions there, run for each of these: ALTER SUBSCRIPTION … DISABLE, then SET (slot_name = NONE), then DROP SUBSCRIPTION", what)
	}
}
