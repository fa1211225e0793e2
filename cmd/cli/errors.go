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

// Exit codes, 1 to 125: PostgreSQL's archiver takes a higher one for a crash. wal-fetch has rules of its
// own for its code, because PostgreSQL acts on it. docs/exit-codes.md is made of these lines.
const (
	exitFailure     = 1  // something failed that no other code stands for; the text says what
	exitUsage       = 2  // the command line, a setting or the configuration file is wrong, or the command cannot be tried here
	exitStorage     = 3  // temporary storage error, also after retries
	exitDenied      = 4  // the storage denies access: credentials or permissions
	exitNoStore     = 5  // there is no such bucket or directory, or the storage cannot be used
	exitNotFound    = 6  // no such backup, server, WAL file or file of a backup
	exitConflict    = 7  // something else is there: other content under the same name, another cluster, a plan that has changed
	exitDamaged     = 8  // stored data is damaged or missing
	exitPostgres    = 9  // PostgreSQL does not answer, or does not allow it; or a backup of this moment could not be restored
	exitTarget      = 10 // the directory to restore to cannot be used
	exitWAL         = 11 // WAL is missing, or is not valid
	exitNewer       = 12 // a newer pgobj has written this
	exitPages       = 13 // the backup is complete, but the database has damaged pages
	exitUnreachable = 14 // the recovery target cannot be reached from any backup, or from the one named
	exitRefused     = 15 // a rule of retention forbids the deletion
	exitLocked      = 16 // the storage did not let all objects go: object lock, or no right to delete
	exitDrill       = 17 // the drill failed: the backup did not pass
	exitTimeout     = 18 // not finished within --timeout
	exitUnreadable  = 19 // stored objects cannot be read now: an archive storage class, or a disabled key
	exitInterrupted = 20 // interrupted by a signal
	exitNotReached  = 21 // restore-check: the recovery did not reach its target
	exitRecovering  = 22 // restore-check: the recovery still goes on
)

var (
	errUsage       = errors.New("invalid setting")
	errInterrupted = errors.New("interrupted")
	errTimeout     = errors.New("not finished within --timeout")
	// errNoServer: a name may be mistyped, and then nothing that was done or shown is what was meant.
	errNoServer = errors.New("no such server")
	errStopping = errors.New("the server is stopping, so the storage is not waited for")
	// errDamagedPages: the backup is complete and kept, but what it holds is not all sound.
	errDamagedPages = errors.New("the backup is complete, but the database has damaged pages")
)

// usagef is an error of the user's settings, which the text names.
func usagef(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errUsage, fmt.Sprintf(format, args...))
}

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
	{errInterrupted, exitInterrupted, "Backups that are listed are as they were. Run the command again."},
	{errStopping, 0, "Nothing is lost: the files stay in pg_wal, and PostgreSQL asks again when it runs. pgobj wal-push --all PGDATA archives what waits while it does not."},
	{errTimeout, exitTimeout, "What was finished is safe. Run the command again, with a longer --timeout (PGOBJ_TIMEOUT) if the time was simply too short."},
	{errOutput, exitFailure, "The command has done its work; only its text is lost. See what standard output leads to (a full device, a reader who has gone), and look again: with pgobj backup-list, or by the same command where it only reports."},
}

var kinds = []meaning{
	{errUsage, exitUsage, "See pgobj --help; every flag has an environment variable."},
	{instant.ErrForm, exitUsage, ""},
	{catalog.ErrNewer, exitNewer, "Install the newest pgobj on this host."},
	{manifest.ErrNewer, exitNewer, "Install the newest pgobj on this host."},
	{errNoServer, exitNotFound, "pgobj server-list shows the servers there are. Check --storage and --server. A server is there from its first wal-push or backup-push on."},
	{catalog.ErrNoBackup, exitNotFound, "pgobj backup-list shows the backups there are, and says when the catalog has lost some (pgobj catalog-rebuild mends it). Check --storage and --server."},
	{errDamagedPages, exitPages, "The pages were damaged on this server already. Keep the last backup without damaged pages, and repair the relations (pg_amcheck, REINDEX, or a restore)."},
	{catalog.ErrMoved, exitConflict, "Run the command again when nothing else writes to the catalog."},
	{retention.ErrRefused, exitRefused, "Nothing has been deleted."},
	{retention.ErrPolicy, exitUsage, ""},
	{sweep.ErrChanged, exitConflict, "Nothing has been deleted. Look at the plan that there is now."},
	{errLocked, exitLocked, "The catalog has the deletion: given again, the command may take more. pgobj delete garbage --confirm tries what is left again: run it when the locks have ended, or, where access is denied, with credentials that may delete."},
	{drill.ErrTablespace, exitUsage, "The drill says nothing about the backup. Take a new one, which has the tablespace (pgobj backup-push), and try that; or give a target before it was made."},
	{drill.ErrFailed, exitDrill, "Try again with --keep to look at the copy, and with another backup. If that one is sound: pgobj backup-push --full."},
	{drill.ErrHost, exitUsage, "The backup has not been tried. See pgobj drill --help."},
	{content.ErrNoFile, exitNotFound, "Paths are relative to the data directory (base/5/1259, pg_tblspc/OID/PG_…), or absolute for configuration from outside of it."},
	{outcome.ErrNotReached, exitNotReached, ""},
	{outcome.ErrRecovering, exitRecovering, "Ask again later."},
	{outcome.ErrUnasked, exitPostgres, "Let somebody ask it who may connect: run restore-check as the owner of the data directory, or as root; or give --dsn, PGUSER or PGDATABASE."},
	{outcome.ErrNotRestored, exitUsage, "Name the data directory that pgobj backup-fetch has restored."},
	{backup.ErrServer, exitPostgres, ""},
	{backup.ErrDatabaseLost, exitPostgres, "No backup was entered in the catalog. Run the command again; and not while CREATE DATABASE, DROP DATABASE or ALTER DATABASE … SET TABLESPACE run, or templates change."},
	{backup.ErrUnseen, exitPostgres, "No backup was entered in the catalog. Mount its volume where pgobj runs (in its container, too), at the same path, and run the command again. Of a tablespace that is lost: DROP TABLESPACE; of a stopped server, remove the link if it was left over."},
	{conninfo.ErrSettings, exitUsage, "Connection strings, PG… variables, service files and ~/.pgpass are read as psql of PostgreSQL 18 reads them: does psql connect with the same settings?"},
	{server.ErrConnect, exitPostgres, "Does the server run, and is this where (PGHOST, PGPORT, PGUSER, or --dsn)? A standby answers with hot_standby = on, once it is consistent. Of a stopped server: backup-push --offline."},
	{server.ErrRefused, exitPostgres, "No backup was entered in the catalog."},
	{server.ErrNotStopped, exitPostgres, "No backup was entered in the catalog."},
	{server.ErrSessionLost, exitPostgres, "Was the server stopped, or the session ended by hand? No backup was entered in the catalog. Run the command again."},
	{server.ErrPooler, exitPostgres, "A backup needs one session of the server for itself: set PGHOST and PGPORT (or --dsn) to the server's own address."},
	{server.ErrPromoted, exitPostgres, "No backup was entered in the catalog. Run the command again."},
	{server.ErrVersion, exitPostgres, ""},
	{datadir.ErrControl, exitPostgres, "Is it the data directory of a PostgreSQL server, of version 10 or later? Is its disk in order?"},
	{backup.ErrIncarnation, exitConflict, ""},
	{archiving.ErrElsewhere, exitWAL, "No backup was entered in the catalog. Set archive_command = 'pgobj wal-push %p', with this storage and server, SELECT pg_reload_conf(), and run the command again."},
	{backup.ErrWALMissing, exitWAL, "The backup was not entered in the catalog. See to archiving first: SELECT * FROM pg_stat_archiver, and the server's log."},
	{backup.ErrReplaces, exitNoStore, "pgobj cannot be used with this storage: two servers, or one request that comes twice, could replace WAL, backups and catalog. Use another service or a newer version of it, or a folder. What was archived here may have been replaced, too."},
	{catalog.ErrWALDeleted, exitWAL, "No backup was entered in the catalog, and none can be until the server is past the end of what was deleted: let a standby catch up. A primary that was set back (to a snapshot) needs a --server name of its own (PGOBJ_SERVER), in archive_command, too; or SELECT pg_switch_wal(), after something was written, once for each segment up to there."},
	{backup.ErrTarget, exitTarget, ""},
	{datadir.ErrInside, exitUsage, "Nothing was changed. Move the folder to another place, best on another disk, and change --storage, in archive_command, too. To restore, another folder will do."},
	{backup.ErrRequest, exitUsage, "See pgobj backup-fetch --help."},
	{recovery.ErrUnreachable, exitUnreachable, "Nothing was fetched or changed. With --plan you see what a restore would do."},
	{readback.ErrRefused, exitFailure, "Nothing was entered in the catalog; older backups are as they were. Run the command again, with --full, which reuses nothing of what is stored. If that is refused, too, either pgobj has a fault (please report the line above) or the memory of this host has (memtest86+)."},
	{manifest.ErrDamaged, exitDamaged, "Nothing of this backup can be trusted without its manifest. Restore another one: pgobj backup-list."},
	{part.ErrMispacked, exitFailure, "Nothing was entered in the catalog. Either the memory or the processor of this host makes errors, or the compression does: run the command again, with --compression lz4 (or zstd) if it fails at the same file; and if another one fails, test the memory (memtest86+), or take backups on a standby, until it is in order."},
	{part.ErrDamaged, exitDamaged, "Restore another backup (pgobj backup-list), or bring the named object back from a copy or an older version of the bucket. New backups reuse what is stored, and with it the damage: as long as the server has its data, pgobj backup-push --full stores everything anew."},
	{catalog.ErrDamaged, exitDamaged, "Nothing was changed. Other backups may be unharmed: pgobj backup-list. If the storage keeps versions or a copy, bring the named object back from there; else see what pgobj catalog-rebuild can mend."},
	{receive.ErrRemoved, exitWAL, ""},
	{receive.ErrOtherServer, exitConflict, "Check --dsn (PGOBJ_DSN), or PGHOST and PGPORT. For a new cluster at the old address start wal-receive again."},
	{receive.ErrSpool, exitFailure, "Check space and rights of the folder, or give another one with --spool."},
	{receive.ErrStream, exitWAL, "Nothing wrong was stored. Is it PostgreSQL itself that answers at this address? Start wal-receive again, and see the server's log."},
	{server.ErrReplication, exitPostgres, "The server's own words say what is missing: a slot (--create-slot), the right REPLICATION, wal_level = replica, max_replication_slots. A slot that lost its WAL (wal_status = lost) is made anew by --create-slot, or has to be dropped first."},
	{server.ErrWALRemoved, exitWAL, ""},
	{datadir.ErrTablespace, exitTarget, "Restore a newer backup, which has the tablespace (pgobj backup-push takes one), or on another host. If nobody needs the folder any more, move what is in it away, and start the server again. If recovery is to end before the tablespace is made, though in the same segment, take --new-tablespaces out of restore_command."},
	{object.ErrName, exitUsage, "Give the path of a file of pg_wal to wal-push, as archive_command's %p, and the name of one to wal-fetch, as restore_command's %f."},
	{object.ErrSource, exitWAL, "The archive was not changed. If PostgreSQL cannot read the file either, take a new base backup: recovery cannot get past it."},
	{object.ErrConflict, exitConflict, "The archive was not changed. Two servers that were one (a clone, or a primary that came back after a failover) write to the same place: give one of them a --server of its own. Else see with pg_waldump where the two differ."},
	{admit.ErrForeign, exitConflict, "The archive was not changed, and PostgreSQL keeps its WAL. Another server needs a --server name of its own (PGOBJ_SERVER), in archive_command, too. After pg_upgrade: pgobj backup-push enters the new cluster; after initdb on purpose: pgobj backup-push --new-incarnation. Archiving then goes on by itself."},
	{object.ErrDamaged, exitDamaged, "Bring the object back from a copy or an older version of it, if the storage keeps them. If the file is still in pg_wal, delete the object and archive the file again."},
	{walstore.ErrHole, exitWAL, "Recovery cannot get past the missing file. Look for it in pg_wal of the old server, and archive it with pgobj wal-push. Or recover to a time before it (pgobj pitr-windows); PostgreSQL 15 and later look ahead, and need recovery_prefetch = off for that, which backup-fetch writes when it knows of the hole."},
	{walstore.ErrUnknownArchive, exitWAL, "Check --storage and --server, and that this is the data folder that was meant."},
	{walstore.ErrAbsent, exitNotFound, ""},
	{spool.ErrBusy, exitFailure, ""},
	{object.ErrDest, exitFailure, "Check space and rights of the folder that is written to."},
	{segment.ErrHeader, exitWAL, ""},
	{storage.ErrTooLarge, exitDamaged, "pgobj did not write it. Bring the object back from a copy or an older version of the bucket."},
	{storage.ErrUnreadable, exitUnreadable, "Nothing is damaged. Bring archived objects back (pgobj backup-files BACKUP --target full --url lists them; aws s3api restore-object brings one back), or enable the key again, and run the command again. A lifecycle rule must not archive what backups need: pgobj delete policy removes what none does."},
	{storage.ErrDenied, exitDenied, "The credentials are known, and do not allow it: pgobj has to get, put and list below its prefix, and for deletions to delete."},
	{storage.ErrNoStore, exitNoStore, "Check --storage and --s3-endpoint."},
	{storage.ErrExists, exitConflict, "pgobj never replaces an object. Does another server write to the same place?"},
	{storage.ErrNotFound, exitDamaged, "An object that has to be there is not. Does a lifecycle rule delete objects in the bucket?"},
	{storage.ErrTransient, exitStorage, "The storage did not answer in time, although pgobj tried again. Check the network, --s3-endpoint and the service's state."},
}

// coded is an error with an exit code of its own, for a caller that acts on it; without err it prints
// nothing.
type coded struct {
	code int
	err  error
}

func (e *coded) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}

func (e *coded) Unwrap() error { return e.err }

// report prints an error in PostgreSQL's shape and returns its exit code; 0 for nil.
func report(w io.Writer, err error) int {
	if err == nil {
		return 0
	}
	code, hint := exitFailure, ""
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
	if c, ok := errors.AsType[*coded](err); ok {
		code = c.code
		if c.err == nil {
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
