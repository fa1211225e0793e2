package cli

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/pgobj/pgobj/backup"
	"github.com/pgobj/pgobj/backup/archiving"
	"github.com/pgobj/pgobj/backup/conninfo"
	"github.com/pgobj/pgobj/backup/content"
	"github.com/pgobj/pgobj/backup/datadir"
	"github.com/pgobj/pgobj/backup/drill"
	"github.com/pgobj/pgobj/backup/manifest"
	"github.com/pgobj/pgobj/backup/outcome"
	"github.com/pgobj/pgobj/backup/part"
	"github.com/pgobj/pgobj/backup/readback"
	"github.com/pgobj/pgobj/backup/recovery"
	"github.com/pgobj/pgobj/backup/server"
	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/cmd/cli/app"
	"github.com/pgobj/pgobj/cmd/cli/lists"
	"github.com/pgobj/pgobj/cmd/cli/show"
	"github.com/pgobj/pgobj/cmd/instant"
	"github.com/pgobj/pgobj/retention"
	"github.com/pgobj/pgobj/retention/sweep"
	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/walstore"
	"github.com/pgobj/pgobj/walstore/admit"
	"github.com/pgobj/pgobj/walstore/object"
	"github.com/pgobj/pgobj/walstore/receive"
	"github.com/pgobj/pgobj/walstore/segment"
	"github.com/pgobj/pgobj/walstore/spool"
)

// meaning is what an error tells the user: the first entry of meanings whose error is in the chain. Without a code it
// tells what to do, and the next one whose error is in the chain has the code.
type meaning struct {
	err  error
	code int
	hint string
}

// meanings: how a command ended counts more than why, and a cause that is known closely more than its kind.
var meanings = slices.Concat(endings, causes, kinds)

var endings = []meaning{
	{sweep.ErrUnfinished, 0, "What the command deletes is off the list already: given again, it may take more (delete oldest: the next one). pgobj delete garbage --confirm removes the objects that are left."},
	{app.ErrInterrupted, app.ExitInterrupted, "Backups that are listed are as they were. Run the command again."},
	{app.ErrStopping, 0, "Nothing is lost: the files stay in pg_wal, and PostgreSQL asks again when it runs. pgobj wal-push --all PGDATA archives what waits while it does not."},
	{app.ErrTimeout, app.ExitTimeout, "What was finished is safe. Run the command again, with a longer --timeout (PGOBJ_TIMEOUT) if the time was simply too short."},
	{app.ErrOutput, app.ExitFailure, "The command has done its work; only its text is lost. See what standard output leads to (a full device, a reader who has gone), and look again: with pgobj backup-list, or by the same command where it only reports."},
}

var kinds = []meaning{
	{app.ErrUsage, app.ExitUsage, "See pgobj --help; every flag has an environment variable."},
	{instant.ErrForm, app.ExitUsage, ""},
	{catalog.ErrNewer, app.ExitNewer, "Install the newest pgobj on this host."},
	{manifest.ErrNewer, app.ExitNewer, "Install the newest pgobj on this host."},
	{app.ErrNoServer, app.ExitNotFound, "pgobj server-list shows the servers there are. Check --storage and --server. A server is there from its first wal-push or backup-push on."},
	{catalog.ErrNoBackup, app.ExitNotFound, "pgobj backup-list shows the backups there are, and says when the catalog has lost some (pgobj catalog-rebuild mends it). Check --storage and --server."},
	{app.ErrDamagedPages, app.ExitPages, "The pages were damaged on this server already. Keep the last backup without damaged pages, and repair the relations (pg_amcheck, REINDEX, or a restore)."},
	{catalog.ErrMoved, app.ExitConflict, "Run the command again when nothing else writes to the catalog."},
	{retention.ErrRefused, app.ExitRefused, "Nothing has been deleted."},
	{retention.ErrPolicy, app.ExitUsage, ""},
	{sweep.ErrChanged, app.ExitConflict, "Nothing has been deleted. Look at the plan that there is now."},
	{lists.ErrLocked, app.ExitLocked, "The catalog has the deletion: given again, the command may take more. pgobj delete garbage --confirm tries what is left again: run it when the locks have ended, or, where access is denied, with credentials that may delete."},
	{drill.ErrTablespace, app.ExitUsage, "The drill says nothing about the backup. Take a new one, which has the tablespace (pgobj backup-push), and try that; or give a target before it was made."},
	{drill.ErrPreload, app.ExitUsage, "The drill says nothing about the backup. Give those of the original's shared_preload_libraries that recovery needs (--preload); they have to be installed on this host."},
	{drill.ErrFailed, app.ExitDrill, "Try again with --keep to look at the copy, and with another backup. If that one is sound: pgobj backup-push --full."},
	{drill.ErrHost, app.ExitUsage, "The backup has not been tried. See pgobj drill --help."},
	{content.ErrNoFile, app.ExitNotFound, "Paths are relative to the data directory (base/5/1259, pg_tblspc/OID/PG_…), or absolute for configuration from outside of it."},
	{outcome.ErrNotReached, app.ExitNotReached, ""},
	{outcome.ErrRecovering, app.ExitRecovering, "Ask again later."},
	{outcome.ErrUnasked, app.ExitPostgres, "Let somebody ask it who may connect: run restore-check as the owner of the data directory, or as root; or give --dsn, PGUSER or PGDATABASE."},
	{outcome.ErrNotRestored, app.ExitUsage, "Name the data directory that pgobj backup-fetch has restored."},
	{backup.ErrServer, app.ExitPostgres, ""},
	{backup.ErrDatabaseLost, app.ExitPostgres, "No backup was entered in the catalog. Run the command again; and not while CREATE DATABASE, DROP DATABASE or ALTER DATABASE … SET TABLESPACE run, or templates change."},
	{backup.ErrUnseen, app.ExitPostgres, "No backup was entered in the catalog. Mount its volume where pgobj runs (in its container, too), at the same path, and run the command again. Of a tablespace that is lost: DROP TABLESPACE; of a stopped server, remove the link if it was left over."},
	{conninfo.ErrSettings, app.ExitUsage, "Connection strings, PG… variables, service files and ~/.pgpass are read as psql of PostgreSQL 18 reads them: does psql connect with the same settings?"},
	{server.ErrConnect, app.ExitPostgres, "Does the server run, and is this where (PGHOST, PGPORT, PGUSER, or --dsn)? A standby answers with hot_standby = on, once it is consistent. Of a stopped server: backup-push --offline."},
	{server.ErrRefused, app.ExitPostgres, "No backup was entered in the catalog."},
	{server.ErrNotStopped, app.ExitPostgres, "No backup was entered in the catalog."},
	{server.ErrSessionLost, app.ExitPostgres, "Was the server stopped, or the session ended by hand? No backup was entered in the catalog. Run the command again."},
	{server.ErrPooler, app.ExitPostgres, "A backup needs one session of the server for itself: set PGHOST and PGPORT (or --dsn) to the server's own address."},
	{server.ErrPromoted, app.ExitPostgres, "No backup was entered in the catalog. Run the command again."},
	{server.ErrVersion, app.ExitPostgres, ""},
	{datadir.ErrControl, app.ExitPostgres, "Is it the data directory of a PostgreSQL server, of version 10 or later? Is its disk in order?"},
	{backup.ErrIncarnation, app.ExitConflict, ""},
	{archiving.ErrElsewhere, app.ExitWAL, "No backup was entered in the catalog. Set archive_command = 'pgobj wal-push %p', with this storage and server, SELECT pg_reload_conf(), and run the command again."},
	{backup.ErrWALMissing, app.ExitWAL, "The backup was not entered in the catalog. See to archiving first: SELECT * FROM pg_stat_archiver, and the server's log."},
	{backup.ErrReplaces, app.ExitNoStore, "pgobj cannot be used with this storage: two servers, or one request that comes twice, could replace WAL, backups and catalog. Use another service or a newer version of it, or a directory. What was archived here may have been replaced, too."},
	{catalog.ErrWALDeleted, app.ExitWAL, "No backup was entered in the catalog, and none can be until the server is past the end of what was deleted: let a standby catch up. A primary that was set back (to a snapshot) needs a --server name of its own (PGOBJ_SERVER), in archive_command, too; or SELECT pg_switch_wal(), after something was written, once for each segment up to there."},
	{backup.ErrTarget, app.ExitTarget, ""},
	{datadir.ErrInside, app.ExitUsage, "Nothing was changed. Move the directory to another place, best on another disk, and change --storage, in archive_command, too. To restore, another directory will do."},
	{backup.ErrRequest, app.ExitUsage, "See pgobj backup-fetch --help."},
	{recovery.ErrUnreachable, app.ExitUnreachable, "Nothing was fetched or changed. With --plan you see what a restore would do."},
	{readback.ErrRefused, app.ExitFailure, "Nothing was entered in the catalog; older backups are as they were. Run the command again, with --full, which reuses nothing of what is stored. If that is refused, too, either pgobj has a fault (please report the line above) or the memory of this host has (memtest86+)."},
	{manifest.ErrDamaged, app.ExitDamaged, "Nothing of this backup can be trusted without its manifest. Restore another one: pgobj backup-list."},
	{part.ErrMispacked, app.ExitFailure, "Nothing was entered in the catalog. Either the memory or the processor of this host makes errors, or the compression does: run the command again, with --compression lz4 (or zstd) if it fails at the same file; and if another one fails, test the memory (memtest86+), or take backups on a standby, until it is in order."},
	{part.ErrDamaged, app.ExitDamaged, "Restore another backup (pgobj backup-list), or bring the named object back from a copy or an older version of the bucket. New backups reuse what is stored, and with it the damage: as long as the server has its data, pgobj backup-push --full stores everything anew."},
	{catalog.ErrDamaged, app.ExitDamaged, "Nothing was changed. Other backups may be unharmed: pgobj backup-list. If the storage keeps versions or a copy, bring the named object back from there; else see what pgobj catalog-rebuild can mend."},
	{receive.ErrRemoved, app.ExitWAL, ""},
	{receive.ErrOtherServer, app.ExitConflict, "Check --dsn (PGOBJ_DSN), or PGHOST and PGPORT. For a new cluster at the old address start wal-receive again."},
	{receive.ErrSpool, app.ExitFailure, "Check space and rights of the directory, or give another one with --spool."},
	{receive.ErrStream, app.ExitWAL, "Nothing wrong was stored. Is it PostgreSQL itself that answers at this address? Start wal-receive again, and see the server's log."},
	{server.ErrReplication, app.ExitPostgres, "The server's own words say what is missing: a slot (--create-slot), the right REPLICATION, wal_level = replica, max_replication_slots. A slot that lost its WAL (wal_status = lost) is made anew by --create-slot, or has to be dropped first."},
	{server.ErrWALRemoved, app.ExitWAL, ""},
	{datadir.ErrTablespace, app.ExitTarget, "Restore a newer backup, which has the tablespace (pgobj backup-push takes one), or on another host. If nobody needs the directory any more, move what is in it away, and start the server again. If recovery is to end before the tablespace is made, though in the same segment, take --new-tablespaces out of restore_command."},
	{object.ErrName, app.ExitUsage, "Give the path of a file of pg_wal to wal-push, as archive_command's %p, and the name of one to wal-fetch, as restore_command's %f."},
	{object.ErrSource, app.ExitWAL, "The archive was not changed. If PostgreSQL cannot read the file either, take a new base backup: recovery cannot get past it."},
	{object.ErrConflict, app.ExitConflict, "The archive was not changed. Two servers that were one (a clone, or a primary that came back after a failover) write to the same place: give one of them a --server of its own. Else see with pg_waldump where the two differ."},
	{admit.ErrForeign, app.ExitConflict, "The archive was not changed, and PostgreSQL keeps its WAL. Another server needs a --server name of its own (PGOBJ_SERVER), in archive_command, too. After pg_upgrade: pgobj backup-push enters the new cluster; after initdb on purpose: pgobj backup-push --new-incarnation. Archiving then goes on by itself."},
	{object.ErrDamaged, app.ExitDamaged, "Bring the object back from a copy or an older version of it, if the storage keeps them. If the file is still in pg_wal, delete the object and archive the file again."},
	{walstore.ErrGap, app.ExitWAL, "Recovery cannot get past the missing file. Look for it in pg_wal of the old server, and archive it with pgobj wal-push. Or recover to a time before it (pgobj pitr-windows); PostgreSQL 15 and later look ahead, and need recovery_prefetch = off for that, which backup-fetch writes when it knows of the gap."},
	{walstore.ErrUnknownArchive, app.ExitWAL, "Check --storage and --server, and that this is the data directory that was meant."},
	{walstore.ErrAbsent, app.ExitNotFound, ""},
	{spool.ErrBusy, app.ExitFailure, ""},
	{object.ErrDest, app.ExitFailure, "Check space and rights of the directory that is written to."},
	{segment.ErrHeader, app.ExitWAL, ""},
	{storage.ErrTooLarge, app.ExitDamaged, "pgobj did not write it. Bring the object back from a copy or an older version of the bucket."},
	{storage.ErrUnreadable, app.ExitUnreadable, "Nothing is damaged. Bring archived objects back (pgobj backup-files BACKUP --target full --url lists them; aws s3api restore-object brings one back), or enable the key again, and run the command again. A lifecycle rule must not archive what backups need: pgobj delete policy removes what none does."},
	{storage.ErrDenied, app.ExitDenied, "The credentials are known, and do not allow it: pgobj has to get, put and list below its prefix, and for deletions to delete."},
	{storage.ErrNoStore, app.ExitNoStore, "Check --storage and --s3-endpoint."},
	{storage.ErrExists, app.ExitConflict, "pgobj never replaces an object. Does another server write to the same place?"},
	{storage.ErrNotFound, app.ExitDamaged, "An object that has to be there is not. Does a lifecycle rule delete objects in the bucket?"},
	{storage.ErrTransient, app.ExitStorage, "The storage did not answer in time, although pgobj tried again. Check the network, --s3-endpoint and the service's state."},
}

// report prints an error in PostgreSQL's shape and returns its exit code; 0 for nil.
func report(w io.Writer, err error) int {
	if err == nil {
		return 0
	}
	code, hint := app.ExitFailure, ""
	for _, m := range meanings {
		if !errors.Is(err, m.err) {
			continue
		}
		hint = cmp.Or(hint, m.hint)
		if m.code != 0 {
			code = m.code
			break
		}
	}
	if c, ok := errors.AsType[*app.Coded](err); ok {
		code = c.Code
		if c.Err == nil {
			return code
		}
	}
	w = show.Printable{Writer: w}
	first, detail, _ := strings.Cut(err.Error(), "\n")
	fmt.Fprintf(w, "ERROR:  %s\n", shorten(first))
	for line := range strings.SplitSeq(detail, "\n") {
		if line != "" {
			fmt.Fprintf(w, "DETAIL:  %s\n", shorten(line))
		}
	}
	if hint != "" {
		fmt.Fprintf(w, "HINT:  %s\n", hint)
	}
	return code
}

// shorten cuts the middle out of a line that nobody would read to its end: names in a damaged repository may be as long as
// somebody likes.
func shorten(line string) string {
	const most = 1500
	if len(line) <= most {
		return line
	}
	return strings.ToValidUTF8(line[:most*2/3]+" […] "+line[len(line)-most/3:], "?")
}
